"""What a build's list of videos says beside those the store has: which it no longer lists, and which are copies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.records import Video
from clipmill.stores.membership import Membership, copies, fingerprints_of, unlisted_by

if TYPE_CHECKING:  # `clipmill status` reads no config, and its models take a tenth of its time
    from clipmill.schemas.config import BuildStoreConfig

LEAST_UNLISTED = 5
"""ours: a list that lacks fewer videos than this is never refused, whatever their share."""

COPIES_SHOWN = 20
"""ours: groups of copies that a report names; `clipmill status` has all."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a build was given, beside what the store has.

    Attributes:
        unlisted: ids of the store's videos that the manifest does not list, sorted; none for an additive one.
        renamed: of those, the ones whose bytes it lists under another id.
        copies: ids of its videos that hold the same bytes, a group each.
    """

    unlisted: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()
    copies: tuple[tuple[str, ...], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Returns what plans and reports hold of it."""
        return {
            "num_unlisted": len(self.unlisted),
            "num_renamed": len(self.renamed),
            "num_copies": sum(len(group) - 1 for group in self.copies),
            "copies": [list(group) for group in self.copies[:COPIES_SHOWN]],
        }


def check_unlisted(config: "BuildStoreConfig", held: Membership, listed: frozenset[str]) -> None:
    """Refuses a full manifest that lacks too many of the videos the store serves.

    Raises:
        UsageError: at least `LEAST_UNLISTED` of them, and a larger share than `config.max_unlisted_share`.
    """
    if config.manifest == "additive":
        return
    gone = unlisted_by(listed, held.served)
    if len(gone) < LEAST_UNLISTED or len(gone) <= config.max_unlisted_share * len(held.served):
        return
    raise UsageError(
        describe(
            "store",
            "manifest",
            f"a full list of the dataset, with most of the {len(held.served):,} videos the store serves",
            f"one without {len(gone):,} of them, such as {min(gone)!r}",
            "set store.manifest: additive to add to them, or store.max_unlisted_share: 1 to leave them out",
        )
    )


def listing_of(
    config: "BuildStoreConfig", held: Membership, listed: frozenset[str], videos: Sequence[Video]
) -> Listing:
    """Returns what `videos`, read by now, are beside those the store has.

    Args:
        listed: ids of the whole manifest, of which `videos` may be a share.
    """
    fingerprints = fingerprints_of(videos)
    gone: dict[str, str] = {}
    if config.manifest == "full":
        gone = {name: held.unlisted[name] for name in held.unlisted if name not in listed}
        gone |= unlisted_by(listed, held.served)
    here = {value for value in fingerprints.values() if value} if gone else set()
    renamed = sorted(name for name, value in gone.items() if value in here)
    return Listing(tuple(sorted(gone)), tuple(renamed), tuple(copies(fingerprints)))
