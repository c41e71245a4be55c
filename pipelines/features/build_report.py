"""What a build did, and where the store stands after it."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from clipmill.pipelines.features.budgets import Spending
from clipmill.pipelines.features.calibration import Account
from clipmill.pipelines.features.engines.cores import worker_threads
from clipmill.pipelines.features.listing import Listing
from clipmill.pipelines.features.made import made
from clipmill.pipelines.features.plan import VIDEOS_AT_A_TIME, are_committed
from clipmill.pipelines.features.planning import Planned
from clipmill.pipelines.features.speed import SpeedOfLight, speed_of_light
from clipmill.pipelines.features.throughput import Throughput
from clipmill.schemas.config import BuildConfig
from clipmill.schemas.errors import EXIT_COMPLETE, EXIT_QUARANTINED, EXIT_RETRYABLE
from clipmill.schemas.task import RunReport
from clipmill.stores.annotated_files import Matching
from clipmill.stores.key_rows import KeySet
from clipmill.stores.store import Store
from clipmill.stores.tables import TRUNCATED_AND_JOINED_COLUMNS, truncated_and_joined


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did, and where the store stands after it.

    Attributes:
        num_complete_before, num_complete: (video, recipe) pairs of the manifest that were, and are now, committed.
        listing: see `clipmill.pipelines.features.listing`.
        num_quarantined: videos in quarantine now, of those in the manifest (this run's and earlier ones').
        reasons: how many of them for each reason code.
        matching: how the annotations that listed the videos fit the files; None: no annotations did.
        num_truncated_kept: videos of the manifest that break off and have rows of what is there all the same.
        num_joined: videos of the manifest whose parts, joined end to end, were laid one after the other.
        num_storage_retries: storage calls that had to be made again.
        lowered_batch_windows: per recipe key, the least batch size, where a device had no memory for the one set.
        budgets: those of the run: ``max_quarantine``, ``deadline``, ``shard``.
        ended_by: the budget that was spent before all was done; None: all was done.
        num_videos_left: by task, videos that were not worked on for it.
        account: what it was expected to cost, what it did, and what limited it.
        throughput: its rates while it went on; None: it was over before its first heartbeat, or had none.
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
    matching: Matching | None = None
    budgets: Mapping[str, Any] = field(default_factory=dict)
    ended_by: str | None = None
    num_videos_left: int = 0
    lowered_batch_windows: Mapping[str, int] = field(default_factory=dict)
    account: Account = field(default_factory=Account)
    throughput: Throughput | None = None

    @property
    def exit_code(self) -> int:
        """What the command ends with."""
        if self.ended_by is not None:
            return EXIT_RETRYABLE
        return EXIT_QUARANTINED if self.num_quarantined or self.num_truncated_kept else EXIT_COMPLETE

    def as_json(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
        data = asdict(replace(self, account=Account())) | self.account.as_json() | self.listing.as_json()
        del data["account"], data["listing"], data["matching"]
        data["annotations"] = None if self.matching is None else self.matching.as_json()
        data["speed_of_light"] = self.speed.line() if self.speed else None
        return data


def report_of(
    config: BuildConfig,
    store: Store,
    run_id: str,
    planned: Planned,
    report: RunReport,
    spending: Spending,
    committed: Mapping[str, KeySet],
) -> BuildReport:
    """Returns the report of a run that has ended.

    Args:
        committed: `video_key` of every commit, by recipe fingerprint.
    """
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
        speed=speed_of_light(report, planned.plan.tasks, worker_threads(config.engine) * config.engine.num_workers),
        listing=planned.listing,
        matching=planned.manifest.matching,
        budgets=spending.budgets.as_json(),
        ended_by=spending.name if num_left else None,
        num_videos_left=num_left,
    )


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
