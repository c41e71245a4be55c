"""A build: manifest to committed features."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from clipmill.extractors import registry
from clipmill.extractors.flow_files import FLOW_MARK
from clipmill.extractors.resolve import resolve_recipe
from clipmill.pipelines.decode.inspection import InspectionLimits
from clipmill.pipelines.features.budgets import Budgets, JobShard, Spending
from clipmill.pipelines.features.calibration import Account, account_of, earlier_rates, foresee
from clipmill.pipelines.features.clips import check_annotated, check_clip_rule
from clipmill.pipelines.features.engines.base import Engine, Observer
from clipmill.pipelines.features.engines.cores import worker_threads
from clipmill.pipelines.features.engines.registry import ENGINES, make_engine
from clipmill.pipelines.features.forecast import seconds_by
from clipmill.pipelines.features.heartbeat import HEARTBEAT_SECONDS, NOTES_PER_BEAT, Heartbeat
from clipmill.pipelines.features.listing import Listing, check_unlisted, listing_of
from clipmill.pipelines.features.machine_faults import check_share, is_machine_fault
from clipmill.pipelines.features.made import made
from clipmill.pipelines.features.plan import VIDEOS_AT_A_TIME, Done, Plan, SecondsOf, are_committed, make_plan
from clipmill.pipelines.features.prepare import CHANGED_FILE
from clipmill.pipelines.features.probing import ProbedVideo, ProbeKey, digest_files, place_of, probe_videos
from clipmill.pipelines.features.quarantine import (
    left_out,
    passed,
    reannotated,
    truncated_to_keep,
    with_other_files,
)
from clipmill.pipelines.features.remote_videos import address_of
from clipmill.pipelines.features.run_progress import Beat
from clipmill.pipelines.features.run_records import recorded_end, write_start
from clipmill.pipelines.features.speed import SpeedOfLight, speed_of_light
from clipmill.pipelines.features.visibility import with_witnesses
from clipmill.schemas.config import BuildConfig, DecodeConfig, dump_config
from clipmill.schemas.errors import EXIT_COMPLETE, EXIT_QUARANTINED, EXIT_RETRYABLE
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Quarantined, Video
from clipmill.schemas.tables import PROBES, QUARANTINE
from clipmill.schemas.task import RunReport, WorkerSpec
from clipmill.stores.key_rows import KeySet
from clipmill.stores.manifests import Manifest, read_manifest
from clipmill.stores.membership import Membership
from clipmill.stores.storage_faults import RetriedCalls, Retries
from clipmill.stores.store import BUILD_FILE, Probe, ProbeTable, Store
from clipmill.stores.tables import TRUNCATED_AND_JOINED_COLUMNS, gather, in_force, truncated_and_joined

PROBE_TASK_KEY = "probe"
REANNOTATED_KEY = "reannotated"
PASSED_KEY = "passed"

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


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did, and where the store stands after it.

    Attributes:
        num_complete_before, num_complete: (video, recipe) pairs of the manifest that were, and are now, committed.
        listing: see `clipmill.pipelines.features.listing`.
        num_quarantined: videos in quarantine now, of those in the manifest (this run's and earlier ones').
        reasons: how many of them for each reason code.
        num_truncated_kept: videos of the manifest that break off and have rows of what is there all the same.
        num_joined: videos of the manifest whose parts, joined end to end, were laid one after the other.
        num_storage_retries: storage calls that had to be made again.
        lowered_batch_windows: per recipe key, the least batch size, where a device had no memory for the one set.
        budgets: those of the run: ``max_quarantine``, ``deadline``, ``shard``.
        ended_by: the budget that was spent before all was done; None: all was done.
        num_videos_left: by task, videos that were not worked on for it.
        account: what it was expected to cost, what it did, and what limited it.
        num_rows, num_frames_substituted, num_tail_windows_dropped, num_tail_windows_padded, num_segments_clamped,
            num_segments_emptied: of what this run's tasks committed, counted in the commits; what was decoded and how
            long it took is told by the tries that lived to tell it.
    """

    run_id: str
    store: str
    dataset: str
    engine: str
    num_videos: int
    num_left_out: Mapping[str, int]
    num_tasks: int
    num_tasks_executed: int
    num_rows: Mapping[str, int]
    num_complete_before: int
    num_complete: int
    num_quarantined: int
    reasons: Mapping[str, int]
    num_frames_decoded: int
    num_frames_substituted: int
    num_tail_windows_dropped: int
    num_tail_windows_padded: int
    num_segments_clamped: int
    num_segments_emptied: int
    num_truncated_kept: int
    num_joined: int
    seconds: Mapping[str, float]
    num_storage_retries: int
    peak_memory_bytes: int
    speed: SpeedOfLight | None
    listing: Listing
    budgets: Mapping[str, Any] = field(default_factory=dict)
    ended_by: str | None = None
    num_videos_left: int = 0
    lowered_batch_windows: Mapping[str, int] = field(default_factory=dict)
    account: Account = field(default_factory=Account)

    @property
    def exit_code(self) -> int:
        """What the command ends with."""
        if self.ended_by is not None:
            return EXIT_RETRYABLE
        return EXIT_QUARANTINED if self.num_quarantined or self.num_truncated_kept else EXIT_COMPLETE

    def as_json(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
        data = asdict(replace(self, account=Account())) | self.account.as_json() | self.listing.as_json()
        del data["account"], data["listing"]
        data["speed_of_light"] = self.speed.line() if self.speed else None
        return data


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


def build(
    config: BuildConfig,
    observers: Sequence[Observer] = (),
    on_probed: Callable[[int, int], None] | None = None,
    engine: Engine | None = None,
    recheck_bytes: bool = False,
    budgets: Budgets = Budgets(),  # noqa: B008 (a frozen record)
    listeners: Sequence[Callable[[Beat], None]] = (),
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
) -> BuildReport:
    """Makes every feature the store lacks; returns what was done.

    Args:
        engine: overrides the one `config.engine` names.
        recheck_bytes: see `plan_build`.
        budgets: where one is spent the run ends early, and what is done is committed.
        listeners: are told every `heartbeat_seconds` how far the run is (0: never).

    Raises:
        UsageError: config, manifest, weights or store cannot be used as given.
        StorageUnavailableError, EngineError: run the build again; what is committed stands.
    """
    planned = plan_build(config, on_probed, recheck_bytes, budgets.shard)
    store = Store.create(
        config.store.url,
        config.store.format,
        config.store.dataset or planned.manifest.dataset,
        Retries(config.store.attempts),
    )
    run_id = store.new_run_id()
    _record_start(store, run_id, planned, budgets)
    with recorded_end(store, run_id) as ending:
        spending = Spending(budgets, store, run_id, len(planned.probed), [item.video_id for item in planned.unreadable])
        report, tasks = RunReport(config.engine.name, 0, (), 0.0), planned.plan.tasks
        expected = foresee(store, tasks, worker_spec(config, run_id), config.engine)
        if planned.plan.tasks and not spending.is_spent:
            seen = with_witnesses(worker_spec(config, run_id), planned.recipes, planned.videos_to_do, BUILD_FILE)
            spec = replace(spending.limited(seen), note_seconds=heartbeat_seconds / NOTES_PER_BEAT or None)
            with Heartbeat(store, run_id, heartbeat_seconds, listeners) as heartbeat:
                watching = [*observers, *spending.observers, heartbeat]
                report = (engine or make_engine(config.engine)).run(tasks, spec, watching)
        committed = {recipe.fingerprint: _committed(store, recipe) for recipe in planned.recipes}
        _release_passed(store, run_id, planned, committed)
        store.write_catalog()
        account = account_of(expected, tasks, report, worker_threads(config.engine), config.engine, store.objects.calls)
        result = replace(_report(config, store, run_id, planned, report, spending, committed), account=account)
        store.write_run_file(run_id, "report.json", json.dumps(result.as_json(), indent=1, sort_keys=True))
        ending.exit_code, ending.ended_by = result.exit_code, result.ended_by
    return result


def _measured_seconds(config: BuildConfig, store: Store | None, recipes: Sequence[Recipe]) -> SecondsOf | None:
    """Returns what videos take by what earlier runs of the store measured; None where none had these features."""
    engine = config.engine
    rates = earlier_rates(store, recipes, engine.device, worker_threads(engine), engine.num_workers)
    return seconds_by(rates) if rates is not None else None


def worker_spec(config: BuildConfig, run_id: str) -> WorkerSpec:
    """Returns what a worker of this build needs to know, wherever it runs."""
    url = config.store.url
    return WorkerSpec(
        # A worker's working directory need not be this one.
        store_url=url if "://" in url else os.path.abspath(os.path.expanduser(url)),
        store_format=config.store.format,
        run_id=run_id,
        device=config.engine.device,
        num_threads=worker_threads(config.engine),
        batch_windows=config.engine.batch_windows,
        decode_deadline_seconds=config.decode.deadline_seconds,
        decode_memory_bytes=_decode_memory_bytes(config.decode),
        decode_videos_per_child=config.decode.videos_per_child,
        max_attempts=config.engine.max_attempts,
        max_outside_share=config.annotations.max_outside_share,
        keep_truncated=config.decode.truncated == "keep",
        storage_attempts=config.store.attempts,
        max_fault_share=config.engine.max_fault_share,
        commit_seconds=config.engine.commit_seconds,
        forward_deadline_seconds=config.engine.forward_deadline_seconds,
    )


def _decode_memory_bytes(config: DecodeConfig) -> int:
    return int(config.memory_gib * (1 << 30))


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
        config.decode.deadline_seconds, _decode_memory_bytes(config.decode), config.engine.max_attempts
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


def _committed(store: Store, recipe: Recipe) -> KeySet:
    """Returns the `video_key` of every commit of `recipe`."""
    return KeySet(store.commits(recipe.fingerprint, COMMITTED_KEY), COMMITTED_KEY)


def _done(store: Store | None, recipe: Recipe, quarantined: Mapping[str, set[tuple[str, str]]]) -> Done:
    if store is None:
        return Done()
    return Done(_committed(store, recipe), frozenset(quarantined.get(recipe.fingerprint, ())))


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


def _record_start(store: Store, run_id: str, planned: Planned, budgets: Budgets) -> None:
    videos: list[Video] = [item.video for item in planned.probed]
    store.write_probes(run_id, planned.learnt)
    store.write_manifest(run_id, videos)
    store.write_run_file(run_id, "config.yaml", dump_config(planned.config))
    for recipe in planned.recipes:
        store.write_recipe(recipe)
    features = {recipe.name: recipe.fingerprint for recipe in planned.recipes}
    others = planned.listed if len(planned.listed) != len(videos) else ()
    store.write_build(run_id, features, planned.config.store.manifest == "full", others)
    engine = planned.config.engine
    write_start(store, run_id, engine.name, engine.num_workers, budgets.as_json())
    store.write_quarantine(run_id, REANNOTATED_KEY, planned.released, released=True)
    if planned.unreadable:
        store.write_quarantine(run_id, PROBE_TASK_KEY, list(planned.unreadable))


def _release_passed(store: Store, run_id: str, planned: Planned, committed: Mapping[str, KeySet]) -> None:
    standing = store.quarantine().to_pylist()
    ids = {row["video_id"] for row in standing}
    if not ids:
        return
    read = {item.video.id for item in planned.probed if item.error is None and item.video.id in ids}
    complete = {(name, *key[:2]) for name, keys in committed.items() for key in keys.keys() if key[0] in ids}
    store.write_quarantine(run_id, PASSED_KEY, list(passed(standing, read, complete)), released=True)


def _num_complete(planned: Planned, committed: Mapping[str, KeySet]) -> int:
    videos = [item.video for item in planned.probed]
    num_complete = 0
    for recipe in planned.recipes:
        for start in range(0, len(videos), VIDEOS_AT_A_TIME):
            part = videos[start : start + VIDEOS_AT_A_TIME]
            num_complete += sum(are_committed(part, recipe, committed[recipe.fingerprint]))
    return num_complete


def _counted_passports(store: Store, planned: Planned) -> tuple[int, int]:
    """Returns how many videos of the manifest have rows although they break off, and how many were joined."""
    truncated: set[str] = set()
    joined: set[str] = set()
    for recipe in planned.recipes:
        # Such videos are few: only theirs are looked up among the commits in force.
        concerned = set[str]().union(
            *truncated_and_joined(store.commits(recipe.fingerprint, TRUNCATED_AND_JOINED_COLUMNS))
        )
        if concerned:
            manifest = {item.video.id: item.video for item in planned.probed if item.video.id in concerned}
            commits = store.commits_in_force(recipe.fingerprint, manifest, TRUNCATED_AND_JOINED_COLUMNS)
            broken, parts = truncated_and_joined(commits)
            truncated |= broken
            joined |= parts
    return len(truncated), len(joined)


def _least_batches(report: RunReport) -> dict[str, int]:
    found: dict[str, int] = {}
    for result in report.results:
        for key, size in result.lowered_batch_windows.items():
            found[key] = min(size, found.get(key, size))
    return found


def _report(
    config: BuildConfig,
    store: Store,
    run_id: str,
    planned: Planned,
    report: RunReport,
    spending: Spending,
    committed: Mapping[str, KeySet],
) -> BuildReport:
    standing = store.quarantine().to_pylist()
    ids = {row["video_id"] for row in standing}
    current = {(item.video.id, item.video.fingerprint) for item in planned.probed if item.video.id in ids}
    wanted = {recipe.fingerprint for recipe in planned.recipes}
    reasons: Counter[str] = Counter()
    quarantined: set[str] = set()
    for row in standing:
        if (row["video_id"], row["video_fingerprint"]) in current and wanted.intersection(row["recipes"]):
            if row["video_id"] not in quarantined:
                reasons[row["reason"]] += 1
            quarantined.add(row["video_id"])
    seconds: dict[str, float] = defaultdict(float)
    for result in report.results:
        for stage, spent in result.seconds.items():
            seconds[stage] += spent
    seconds["wall"] = report.seconds
    truncated, joined = _counted_passports(store, planned)
    num_left = spending.num_videos_left(planned.plan.tasks, report)
    counted = made(store, planned.recipes, planned.plan.tasks)
    return BuildReport(
        run_id=run_id,
        store=config.store.url,
        dataset=store.dataset,
        engine=report.engine,
        num_videos=len(planned.probed),
        num_left_out=dict(planned.manifest.num_left_out),
        num_tasks=report.num_tasks,
        num_tasks_executed=report.num_executed,
        num_rows=counted.num_rows,
        num_complete_before=planned.plan.num_complete,
        num_complete=_num_complete(planned, committed),
        num_quarantined=len(quarantined),
        reasons=dict(sorted(reasons.items())),
        num_frames_decoded=sum(result.num_frames_decoded for result in report.results),
        num_frames_substituted=counted.num_frames_substituted,
        num_tail_windows_dropped=counted.num_tail_windows_dropped,
        num_tail_windows_padded=counted.num_tail_windows_padded,
        num_segments_clamped=counted.num_segments_clamped,
        num_segments_emptied=counted.num_segments_emptied,
        num_truncated_kept=truncated,
        num_joined=joined,
        seconds={key: round(value, 3) for key, value in sorted(seconds.items())},
        lowered_batch_windows=_least_batches(report),
        num_storage_retries=planned.num_storage_retries
        + store.objects.num_retries
        + sum(result.num_storage_retries for result in report.results),
        peak_memory_bytes=max((result.peak_memory_bytes for result in report.results), default=0),
        speed=speed_of_light(report, planned.plan.tasks),
        listing=planned.listing,
        budgets=spending.budgets.as_json(),
        ended_by=spending.name if num_left else None,
        num_videos_left=num_left,
    )
