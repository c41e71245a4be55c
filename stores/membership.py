"""Which videos a store serves: what its runs were given, without what the newest full manifest no longer lists.

A run says whether its manifest is *full* (the whole dataset) or *additive*. Of what builds were ever given, the newest
full manifest decides; additive ones since add to it. Items that only an import has brought are no build's to leave out.
`clipmill remove` takes videos out by a record of its own, which a later run that lists them outweighs.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from clipmill.schemas.records import Video
from clipmill.schemas.task import is_imported_fingerprint


@dataclass(frozen=True, slots=True)
class RunVideos:
    """What one run was given.

    Attributes:
        fingerprints: of its videos, by id.
        listed: ids of its whole manifest, where that is a full one (a share of a build has more there than it was
            given); None: an additive one.
    """

    run_id: str
    fingerprints: Mapping[str, str]
    listed: Collection[str] | None = None


@dataclass(frozen=True, slots=True)
class Membership:
    """The videos of a store, each with the fingerprint of its newest entry.

    Attributes:
        served: what readers see.
        unlisted: what the newest full manifest does not list, and nothing has since.
        removed: what `clipmill remove` took out, and nothing has listed since.
    """

    served: dict[str, str] = field(default_factory=dict)
    unlisted: dict[str, str] = field(default_factory=dict)
    removed: dict[str, str] = field(default_factory=dict)


def membership(
    runs: Iterable[RunVideos], removals: Mapping[str, Iterable[str]], newest_full: str | None = None
) -> Membership:
    """Returns the videos of a store with these runs and removals.

    Args:
        runs: oldest first; they are looked at one after the other, as each may be of a million videos.
        removals: ids, by the id of the removal, which is in one order with those of runs.
        newest_full: the newest run whose manifest is a full one, empty where there is none; None: to be found among
            `runs`, which are then all looked at first.
    """
    if newest_full is None:
        runs = list(runs)
        newest_full = max((run.run_id for run in runs if run.listed is not None), default="")
    found = Membership()
    left = sorted(removals)
    for run in runs:
        while left and left[0] < run.run_id:
            _remove(found, removals[left.pop(0)])
        found.served.update(run.fingerprints)
        for video_id in run.fingerprints if found.removed else ():
            found.removed.pop(video_id, None)
        for video_id in run.fingerprints if found.unlisted else ():
            found.unlisted.pop(video_id, None)
        if run.run_id == newest_full and run.listed is not None:
            found.unlisted.update(unlisted_by(run.listed, found.served))
            for video_id in found.unlisted:
                del found.served[video_id]
    for removal in left:
        _remove(found, removals[removal])
    return found


def _remove(found: Membership, ids: Iterable[str]) -> None:
    for video_id in ids:
        for group in (found.served, found.unlisted):
            if video_id in group:
                found.removed[video_id] = group.pop(video_id)


def unlisted_by(listed: Collection[str], served: Mapping[str, str]) -> dict[str, str]:
    """Returns what of `served` a full manifest with the ids `listed` leaves out, each with its fingerprint."""
    gone = served.keys() - (listed if isinstance(listed, set | frozenset) else set(listed))
    return {name: served[name] for name in gone if not is_imported_fingerprint(name, served[name])}


def copies(fingerprints: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Returns the groups of ids whose videos hold the same bytes, each sorted, by their first id."""
    seen: set[str] = set()
    several: set[str] = set()
    for fingerprint in fingerprints.values():
        (several if fingerprint in seen else seen).add(fingerprint)
    # A list for each of a million videos, of which nearly all hold one id, would be as large as their records.
    groups: dict[str, list[str]] = {fingerprint: [] for fingerprint in several if fingerprint}
    for video_id, fingerprint in fingerprints.items():
        if fingerprint in groups:
            groups[fingerprint].append(video_id)
    return sorted(tuple(sorted(group)) for group in groups.values())


def fingerprints_of(videos: Iterable[Video]) -> dict[str, str]:
    """Returns the fingerprints of `videos`, by id."""
    return {video.id: video.fingerprint for video in videos}
