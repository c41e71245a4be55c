"""What a build would do: its videos read, its recipes resolved, its tasks cut; nothing is decoded or written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from clipmill.extractors import registry
from clipmill.extractors.flow_files import FLOW_MARK
from clipmill.extractors.resolve import resolve_recipe
from clipmill.pipelines.decode.inspection import InspectionLimits
from clipmill.pipelines.features.budgets import JobShard
from clipmill.pipelines.features.calibration import earlier_rates
from clipmill.pipelines.features.clips import check_annotated, check_clip_rule
from clipmill.pipelines.features.engines.cores import worker_threads
from clipmill.pipelines.features.engines.registry import ENGINES
from clipmill.pipelines.features.forecast import seconds_by
from clipmill.pipelines.features.listing import Listing, check_unlisted, listing_of
from clipmill.pipelines.features.machine_faults import check_share, is_machine_fault
from clipmill.pipelines.features.plan import Done, Plan, SecondsOf, make_plan
from clipmill.pipelines.features.prepare import CHANGED_FILE
from clipmill.pipelines.features.probing import ProbedVideo, ProbeKey, digest_files, place_of, probe_videos
from clipmill.pipelines.features.quarantine import (
    left_out,
    reannotated,
    truncated_to_keep,
    with_other_files,
)
from clipmill.pipelines.features.remote_videos import address_of
from clipmill.schemas.config import BuildConfig, DecodeConfig
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Quarantined, Video
from clipmill.schemas.tables import PROBES, QUARANTINE
from clipmill.stores.key_rows import KeySet
from clipmill.stores.manifests import Manifest, read_manifest
from clipmill.stores.membership import Membership
from clipmill.stores.storage_faults import RetriedCalls, Retries
from clipmill.stores.store import Probe, ProbeTable, Store
from clipmill.stores.tables import gather, in_force

COMMITTED_KEY = ("video_id", "video_fingerprint", "clips_fingerprint")

NO_PROBES = ProbeTable(gather(PROBES, []))


@dataclass(frozen=True, slots=True)
class Planned:
    """A build up to the point where work would start.

    Attributes:
        listed: ids of the whole manifest; `probed` may be a share of it.
    """

    config: BuildConfig
    recipes: tuple[Recipe, ...]
    manifest: Manifest
    probed: tuple[ProbedVideo, ...]
    plan: Plan
    unreadable: tuple[Quarantined, ...]
    num_unreadable_known: int
    listed: frozenset[str]
    listing: Listing
    learnt: Mapping[Any, Any] = field(default_factory=dict)
    released: tuple[Quarantined, ...] = ()
    num_storage_retries: int = 0

    @property
    def videos_to_do(self) -> list[Video]:
        """The videos of all tasks."""
        return [video for task in self.plan.tasks for video in task.videos]

    def as_json(self) -> dict[str, Any]:
        """Returns what ``--dry-run`` prints."""
        return {
            "dataset": self.config.store.dataset or self.manifest.dataset,
            "num_videos": self.plan.num_videos + len(self.unreadable) + self.num_unreadable_known,
            "num_left_out": dict(self.manifest.num_left_out),
            "annotations": None if self.manifest.matching is None else self.manifest.matching.as_json(),
            **self.listing.as_json(),
            "recipes": {recipe.name: recipe.key for recipe in self.recipes},
            "num_complete": self.plan.num_complete,
            "num_quarantined_before": self.plan.num_quarantined + self.num_unreadable_known,
            "num_unreadable": len(self.unreadable),
            "num_tasks": len(self.plan.tasks),
            "tasks": [
                {
                    "key": task.key,
                    "num_videos": len(task.videos),
                    "recipes": [recipe.name for recipe in task.recipes],
                    "num_windows_estimated": task.num_windows_estimated,
                    "seconds_estimated": round(task.cost_estimated, 1),
                }
                for task in self.plan.tasks
            ],
            "unreadable": [asdict(item) for item in self.unreadable],
        }


def plan_build(
    config: BuildConfig,
    on_probed: Callable[[int, int], None] | None = None,
    recheck_bytes: bool = False,
    shard: JobShard | None = None,
) -> Planned:
    """Returns what a build of `config` would do; writes nothing and decodes nothing.

    Args:
        recheck_bytes: read every file again, those too whose size and modification time are known.
        shard: leave out the videos of all other shares.

    Raises:
        UsageError: config, manifest, weights or store cannot be used as given.
        MachineFaultError: too many videos cannot be read for reasons that are none of theirs, or no decoder starts.
    """
    check_clip_rule(config.clips)
    ENGINES.get(config.engine.name).check(config.engine)
    recipes = tuple(
        resolve_recipe(name, feature, config.clip_rule, config.decode) for name, feature in config.features.items()
    )
    manifest = read_manifest(config.videos, Retries(config.store.attempts))
    listed = frozenset(video.id for video in manifest.videos)
    check_annotated(config.clips, manifest.videos)
    if shard is not None:
        manifest = replace(manifest, videos=tuple(video for video in manifest.videos if shard.holds(video.id)))
    store = _existing(config, manifest)
    held = store.membership() if store else Membership()
    check_unlisted(config.store, held, listed)
    history = store.quarantine_history() if store else gather(QUARANTINE, [])
    standing = in_force(history).to_pylist()
    calls = RetriedCalls(Retries(config.store.attempts))
    earlier = {**held.removed, **held.unlisted, **held.served}
    probed, learnt = _probed(config, recipes, manifest, store, standing, recheck_bytes, on_probed, calls, earlier)
    readable = [item.video for item in probed if item.error is None]
    for recipe in recipes:
        card = registry.card_of(recipe)
        if card.check_videos is not None:
            card.check_videos(recipe, readable)
    released: list[Quarantined] = []
    if store is not None:
        released += reannotated(standing, manifest.videos, recipes, store.run_manifest)
        released += with_other_files(standing, readable, store.run_manifest)
    if config.decode.truncated == "keep":
        released += truncated_to_keep(standing, recipes)
    quarantined = left_out(history, released, datetime.now(UTC))
    unreadable, num_known = _unreadable(probed, recipes, quarantined)
    plan = make_plan(
        readable,
        recipes,
        {recipe.fingerprint: _done(store, recipe, quarantined) for recipe in recipes},
        config.engine.task_seconds,
        _measured_seconds(config, store, recipes),
    )
    return Planned(
        config,
        recipes,
        manifest,
        tuple(probed),
        plan,
        unreadable,
        num_known,
        listed,
        listing_of(config.store, held, listed, [item.video for item in probed]),
        learnt,
        tuple(released),
        calls.num_retries,
    )


def _measured_seconds(config: BuildConfig, store: Store | None, recipes: Sequence[Recipe]) -> SecondsOf | None:
    """Returns what videos take by what earlier runs of the store measured; None where none had these features."""
    engine = config.engine
    rates = earlier_rates(store, recipes, engine.device, worker_threads(engine), engine.num_workers)
    return seconds_by(rates) if rates is not None else None


def _existing(config: BuildConfig, manifest: Manifest) -> Store | None:
    """Returns the store if there is one, after checking that it is this dataset's."""
    retries = Retries(config.store.attempts)
    if not Store.exists(config.store.url, retries):
        return None
    store = Store.open(config.store.url, retries)
    store.require(config.store.format, config.store.dataset or manifest.dataset)
    return store


def _probed(
    config: BuildConfig,
    recipes: Sequence[Recipe],
    manifest: Manifest,
    store: Store | None,
    standing: Sequence[Mapping[str, Any]],
    recheck_bytes: bool,
    on_probed: Callable[[int, int], None] | None,
    calls: RetriedCalls,
    earlier: Mapping[str, str],
) -> tuple[list[ProbedVideo], dict[ProbeKey, Probe]]:
    """Returns the videos as planning has read them, and what was newly learnt.

    What earlier runs learnt takes as much memory as the rest of a plan's tables; it goes when this returns.

    Args:
        standing: rows of the quarantine in force.
        calls: to storage, which are counted.
        earlier: fingerprints by video id, of all that the store knows.
    """
    probes = store.read_probes() if store else NO_PROBES
    known = NO_PROBES if recheck_bytes else _trusted(probes, standing)
    limits = InspectionLimits(
        config.decode.deadline_seconds, decode_memory_bytes(config.decode), config.engine.max_attempts
    )
    probed, learnt = probe_videos(manifest.videos, known, on_probed, limits, calls=calls, earlier=earlier)
    _check_faults(config, probed, probes)
    probed, of_files = digest_files(probed, recipes, known, lambda: _earlier_digests(store))
    return probed, learnt | of_files


def _trusted(probes: ProbeTable, standing: Sequence[Mapping[str, Any]]) -> ProbeTable:
    """Returns what earlier runs read of files, without those that a worker found to hold other bytes."""
    changed = {row["uri"] for row in standing if row["reason"] == CHANGED_FILE}
    if not changed:
        return probes
    # Of what lies beside a video the quarantine does not name the files.
    return probes.without_uris(lambda uri: place_of(uri) in changed or FLOW_MARK in uri)


def _earlier_digests(store: Store | None) -> dict[tuple[str, str], str]:
    """Returns what earlier runs found beside videos, by video id and recipe fingerprint."""
    videos = store.every_video().values() if store is not None else ()
    return {(video.id, recipe): digest for video in videos for recipe, digest in video.file_digests}


def _check_faults(config: BuildConfig, probed: Sequence[ProbedVideo], probes: Mapping[ProbeKey, Probe]) -> None:
    failed = [(item.video.uri, item.error) for item in probed if item.error is not None]
    # A folder was listed a moment ago.
    is_listed = config.videos.folder is not None
    seen = {place_of(uri) for uri, _, _ in probes} if failed and not is_listed else set()
    faults = [error for uri, error in failed if is_machine_fault(uri, error, is_listed or address_of(uri) in seen)]
    check_share(faults, len(probed), config.engine.max_fault_share, are_all=True)


def committed_keys(store: Store, recipe: Recipe) -> KeySet:
    """Returns the `video_key` of every commit of `recipe`."""
    return KeySet(store.commits(recipe.fingerprint, COMMITTED_KEY), COMMITTED_KEY)


def _done(store: Store | None, recipe: Recipe, quarantined: Mapping[str, set[tuple[str, str]]]) -> Done:
    if store is None:
        return Done()
    return Done(committed_keys(store, recipe), frozenset(quarantined.get(recipe.fingerprint, ())))


def _unreadable(
    probed: Sequence[ProbedVideo], recipes: Sequence[Recipe], quarantined: Mapping[str, set[tuple[str, str]]]
) -> tuple[tuple[Quarantined, ...], int]:
    """Returns the videos planning itself must quarantine, and how many are in quarantine for it already."""
    fresh, num_known = [], 0
    for item in probed:
        if item.error is None:
            continue
        video = item.video
        missing = tuple(
            recipe.fingerprint
            for recipe in recipes
            if (video.id, video.fingerprint) not in quarantined.get(recipe.fingerprint, ())
        )
        if not missing:
            num_known += 1
            continue
        error = item.error
        fresh.append(
            Quarantined(video.id, video.fingerprint, video.uri, missing, error.stage, error.reason, error.message, 1)
        )
    return tuple(fresh), num_known


def decode_memory_bytes(config: DecodeConfig) -> int:
    """Returns how much memory a decoding child may take."""
    return int(config.memory_gib * (1 << 30))
