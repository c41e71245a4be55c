"""``clipmill build`` and ``clipmill plan``: make every feature the store lacks, or say what that would be."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from clipmill.jobs.configs import read_text_of, tell_config
from clipmill.jobs.observation import Observation, watching
from clipmill.jobs.output import Outcome
from clipmill.jobs.progress import Progress
from clipmill.jobs.run_reports import write_build_report
from clipmill.pipelines.features.budgets import Budgets, JobShard, parse_deadline, parse_max_quarantine, parse_shard
from clipmill.pipelines.features.build import build, worker_spec
from clipmill.pipelines.features.build_config import parse_build_config
from clipmill.pipelines.features.build_report import BuildReport
from clipmill.pipelines.features.calibration import foresee
from clipmill.pipelines.features.forecast import forecast_lines, parse_prices
from clipmill.pipelines.features.listing import Listing
from clipmill.pipelines.features.planning import Planned, plan_build
from clipmill.schemas.config import BuildConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.stores.store import Store


def run_build(
    path: str,
    overrides: Sequence[str],
    recheck: str | None = None,
    budgets: Budgets = Budgets(),  # noqa: B008 (a frozen record)
    observation: Observation = Observation(),  # noqa: B008 (a frozen record)
) -> Outcome:
    """Runs the build of the config at `path`.

    Exit code 3 when videos are in quarantine, or kept though truncated; 4 when a budget was spent before all was done.

    Args:
        recheck: ``bytes`` reads every file again, whatever its size and modification time say.
    """
    recheck_bytes = _recheck_bytes(recheck)
    config = parse_build_config(read_text_of(path), overrides, path)
    tell_config(config)
    _warn_random(config)
    progress = Progress(every_seconds=observation.heartbeat_seconds)
    with watching(observation, config, progress) as watchers:
        report = build(
            config,
            watchers.observers,
            progress.on_probed,
            recheck_bytes=recheck_bytes,
            budgets=budgets,
            listeners=watchers.listeners,
            heartbeat_seconds=observation.heartbeat_seconds,
        )
        watchers.ended(report.exit_code)
    page = write_build_report(report)
    return Outcome(report.as_json() | {"report": page}, f"{_build_text(report)}\n  report: {page}", report.exit_code)


def run_plan(
    path: str,
    overrides: Sequence[str],
    recheck: str | None = None,
    shard: JobShard | None = None,
    prices: str | None = None,
    sample_seconds: float = 0.0,
) -> Outcome:
    """Says what a build would do and what it would cost; writes nothing to the store. `recheck` as in `run_build`.

    Args:
        prices: of units, see `parse_prices`.
        sample_seconds: where no earlier run tells, at most so much time is spent on a few videos; 0: none.
    """
    priced = parse_prices(prices) if prices is not None else {}
    recheck_bytes = _recheck_bytes(recheck)
    config = parse_build_config(read_text_of(path), overrides, path)
    tell_config(config)
    _warn_random(config)
    planned = plan_build(config, Progress().on_probed, recheck_bytes, shard)
    store = Store.open(config.store.url) if Store.exists(config.store.url) else None
    spec = worker_spec(config, "sample")
    expected = foresee(store, planned.plan.tasks, spec, config.engine, sample_seconds)
    data: dict[str, Any] = {"forecast": asdict(expected)}
    if priced:
        data["price"] = expected.price(priced)
    lines = [_plan_text(planned), *(f"  {line}" for line in forecast_lines(expected, priced))]
    return Outcome(planned.as_json() | data, "\n".join(lines))


def budgets_of(max_quarantine: str | None, deadline: str | None, shard: str | None) -> Budgets:
    """Returns the budgets that options ask for.

    Raises:
        UsageError: one is not of its form.
    """
    return Budgets(
        None if max_quarantine is None else parse_max_quarantine(max_quarantine),
        None if deadline is None else parse_deadline(deadline, datetime.now(UTC)),
        None if shard is None else parse_shard(shard),
    )


def _recheck_bytes(recheck: str | None) -> bool:
    if recheck not in (None, "bytes"):
        raise UsageError(
            describe("option", "--recheck", "bytes", repr(recheck), "leave it out to trust sizes and times")
        )
    return recheck is not None


def _warn_random(config: BuildConfig) -> None:
    random = [
        name for name, feature in config.features.items() if feature.weights and feature.weights.random is not None
    ]
    if random:
        print(
            f"warning: random weights for {', '.join(random)}: rows are real outputs of an untrained network and are "
            "marked random(seed) in every passport; use them to try the pipeline, not to judge a method "
            "(docs/weights.md)",
            file=sys.stderr,
        )


def _left_out(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(counts.items()))


def _listing_lines(listing: Listing, store: str) -> list[str]:
    lines = []
    if listing.unlisted:
        renamed = (
            f" ({len(listing.renamed)} of them renamed: their bytes have another id now)" if listing.renamed else ""
        )
        lines.append(
            f"  no longer in the manifest, so no longer served: {len(listing.unlisted)} videos{renamed}; "
            f"clipmill remove {store} --missing takes their rows out"
        )
    if listing.copies:
        num_copies = sum(len(group) - 1 for group in listing.copies)
        lines.append(
            f"  copies (the same bytes under several ids): {num_copies}, such as {' = '.join(listing.copies[0])}"
        )
    return lines


def _build_text(report: BuildReport) -> str:
    lines = [f"run {report.run_id}: dataset {report.dataset} in {report.store}"]
    lines.append(
        f"  videos {report.num_videos}; tasks {report.num_tasks_executed} executed of {report.num_tasks}; "
        f"pairs complete {report.num_complete} (before: {report.num_complete_before}); "
        f"{report.seconds.get('wall', 0):.1f} s"
    )
    if report.num_left_out:
        lines.append(f"  left out (no media by their extension): {_left_out(dict(report.num_left_out))}")
    lines += [f"  {line}" for line in report.matching.lines()] if report.matching else []
    lines += _listing_lines(report.listing, report.store)
    for key, rows in report.num_rows.items():
        lines.append(f"  {key}: {rows} rows")
    if report.num_frames_substituted:
        lines.append(f"  substituted frames: {report.num_frames_substituted} of {report.num_frames_decoded}")
    if report.num_truncated_kept:
        lines.append(f"  truncated videos kept: {report.num_truncated_kept}; each passport says how much is there")
    if report.num_joined:
        lines.append(f"  recordings joined end to end, laid one after the other: {report.num_joined}")
    if report.num_tail_windows_dropped or report.num_tail_windows_padded:
        lines.append(
            f"  short tails: {report.num_tail_windows_dropped} dropped, {report.num_tail_windows_padded} padded"
        )
    for key, size in report.lowered_batch_windows.items():
        lines.append(f"  batches of {key} lowered to {size} windows: the device has no memory for more")
    if report.num_storage_retries:
        lines.append(f"  storage calls made again: {report.num_storage_retries}")
    if report.num_segments_clamped or report.num_segments_emptied:
        lines.append(
            f"  annotated segments outside their video: {report.num_segments_emptied} wholly (empty clips), "
            f"{report.num_segments_clamped} in part (cut)"
        )
    if report.num_quarantined:
        reasons = ", ".join(f"{reason} {count}" for reason, count in report.reasons.items())
        lines.append(f"  quarantined {report.num_quarantined}: {reasons}; see clipmill status {report.store}")
    if report.ended_by:
        lines.append(f"  {_ended_early(report)}")
    if report.speed:
        lines.append(f"  {report.speed.line()}")
    if report.account.limits:
        lines.append(f"  {report.account.limits.line()}")
    return "\n".join(lines)


def _ended_early(report: BuildReport) -> str:
    cause = {
        "deadline": f"the deadline {report.budgets.get('deadline')} was near",
        "max_quarantine": f"more videos in quarantine than --max-quarantine {report.budgets.get('max_quarantine')}",
    }[report.ended_by or ""]
    return f"ended early: {cause}; {report.num_videos_left} videos left, run the same command again to go on"


def _plan_text(planned: Planned) -> str:
    data: dict[str, Any] = planned.as_json()
    lines = [f"dataset {data['dataset']}: {data['num_videos']} videos, {data['num_tasks']} tasks to run"]
    if data["num_left_out"]:
        lines.append(f"  left out (no media by their extension): {_left_out(data['num_left_out'])}")
    matching = planned.manifest.matching
    lines += [f"  {line}" for line in matching.lines()] if matching else []
    lines += _listing_lines(planned.listing, planned.config.store.url)
    lines.append(
        f"  pairs complete {data['num_complete']}, in quarantine {data['num_quarantined_before']}, "
        f"unreadable {data['num_unreadable']}"
    )
    for name, key in data["recipes"].items():
        lines.append(f"  {name}: {key}")
    for item in data["unreadable"]:
        lines.append(f"  unreadable {item['reason']}: {item['message']}")
    for task in data["tasks"]:
        lines.append(
            f"  task {task['key']}: {task['num_videos']} videos x {'+'.join(task['recipes'])}, "
            f"about {task['num_windows_estimated']} windows, {task['seconds_estimated']} s"
        )
    return "\n".join(lines)
