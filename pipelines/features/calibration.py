"""What work took before: the rates of a forecast, from earlier runs of the store or from a sample of the videos."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from clipmill.pipelines.features.forecast import (
    Forecast,
    Machines,
    Measured,
    Rates,
    Work,
    actual,
    forecast,
    measured_of,
    rates_of,
    rough_rates,
    work_of,
)
from clipmill.pipelines.features.limits import Limits, limits_of
from clipmill.pipelines.features.plan import estimate
from clipmill.pipelines.features.run_records import run_file
from clipmill.schemas.config import EngineConfig
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video
from clipmill.schemas.task import RunReport, ShardTask, WorkerSpec
from clipmill.stores.objects import Calls
from clipmill.stores.store import Store

LOOKED_AT = 20
"""ours: so many of the newest runs are looked at for what they measured, and"""
RUNS_USED = 3
"""ours: so many of them are used: machines and code change."""

SAMPLE_SECONDS = 30.0
SAMPLE_VIDEOS = 8
"""ours"""


def machines_of(engine: EngineConfig, num_threads: int) -> Machines:
    """Returns what a run on this engine is given; a GPU counts only where the device turns out to be one."""
    gpus = engine.num_workers / max(getattr(engine, "workers_per_gpu", engine.num_workers), 1)
    return Machines(engine.num_workers, num_threads, gpus)


def earlier_rates(
    store: Store | None, recipes: Sequence[Recipe], device: str, num_threads: int, num_workers: int
) -> Rates | None:
    """Returns the rates of the newest runs that made all of `recipes` under the same conditions, or None.

    Those come first that had as many threads and workers, and no other features; else any on such a device.
    """
    if store is None:
        return None
    wanted = {recipe.key for recipe in recipes}
    ids = store.runs()[: -LOOKED_AT - 1 : -1]
    found = []
    for report in store.objects.each(lambda run_id: run_file(store, run_id, "report.json"), ids):
        run = measured_from(report.get("measured"))
        # Of ``auto`` nothing is known before a worker has started.
        if run is not None and wanted <= run.windows.keys() and _fits(device, run.device):
            found.append(run)
    if not found:
        return None
    conditions = (num_threads, num_workers, wanted)
    alike = [run for run in found if (run.num_threads, run.num_workers, set(run.windows)) == conditions]
    used = [run for run in alike or found if run.device == (alike or found)[0].device][:RUNS_USED]
    count = "the last run" if len(used) == 1 else f"the last {len(used)} runs"
    note = "" if alike else ", which had other threads, workers or features beside them"
    return rates_of(used, f"by {count} with these features{note}")


def _fits(wanted: str, device: str) -> bool:
    return wanted == "auto" or wanted.partition(":")[0] == device.partition(":")[0]


def measured_from(data: Any) -> Measured | None:
    """Returns what `report.json` keeps under ``measured``; None where there is nothing, or nothing known."""
    if not isinstance(data, Mapping):
        return None
    try:
        return Measured(**{**data, "work": Work(**data["work"])})
    except (TypeError, KeyError):
        return None


def sampled_rates(tasks: Sequence[ShardTask], spec: WorkerSpec, seconds: float = SAMPLE_SECONDS) -> Rates | None:
    """Returns the rates of a few of the tasks' videos, worked on for at most `seconds` into a store that is deleted.

    None where not even a window was made in that time.
    """
    # Only here, as it brings the decoders along.
    from clipmill.pipelines.features.worker import Worker

    task = _sample(tasks)
    with tempfile.TemporaryDirectory(prefix="clipmill-sample-") as folder:
        url = f"{folder}/store"
        Store.create(url, spec.store_format, "sample")
        limited = replace(spec, store_url=url, run_id="sample", stop_at=time.time() + seconds, max_fault_share=1.0)
        started = time.monotonic()
        with Worker(limited) as worker:
            result = worker.run(task)
        spent = time.monotonic() - started
    measured = measured_of([task], [result], spent, spec.num_threads, 1)
    if measured is None or not sum(measured.windows.values()):
        return None
    return rates_of([measured], f"by a sample of {spent:.0f} s on this machine")


def _sample(tasks: Sequence[ShardTask]) -> ShardTask:
    """Returns a task of videos spread over all tasks, shorter ones first, with all their recipes."""
    recipes = {recipe.fingerprint: recipe for task in tasks for recipe in task.recipes}
    videos = [video for task in tasks for video in task.videos]
    step = max(len(videos) // SAMPLE_VIDEOS, 1)
    chosen = sorted(videos[::step][:SAMPLE_VIDEOS], key=_duration)
    made = tuple(recipes.values())
    return ShardTask(tuple(chosen), made, sum(estimate(video, made).num_windows for video in chosen))


def _duration(video: Video) -> float:
    return (video.header.duration_seconds if video.header else None) or 0.0


def rates_for(
    store: Store | None,
    tasks: Sequence[ShardTask],
    spec: WorkerSpec,
    num_workers: int,
    sample_seconds: float = 0.0,
) -> Rates:
    """Returns the rates to forecast `tasks` by: of earlier runs, else of a sample, else rough ones.

    Args:
        sample_seconds: most time of a sample; 0: none is made.
    """
    recipes = list({recipe.fingerprint: recipe for task in tasks for recipe in task.recipes}.values())
    rates = earlier_rates(store, recipes, spec.device, spec.num_threads, num_workers) if recipes else None
    if rates is None and tasks and sample_seconds:
        rates = sampled_rates(tasks, spec, sample_seconds)
    return rates or rough_rates(recipes, spec.device if spec.device != "auto" else "cpu")


def foresee(
    store: Store | None,
    tasks: Sequence[ShardTask],
    spec: WorkerSpec,
    engine: EngineConfig,
    sample_seconds: float = 0.0,
) -> Forecast:
    """Returns what `tasks` will cost on `engine`; `sample_seconds` as in `rates_for`."""
    rates = rates_for(store, tasks, spec, engine.num_workers, sample_seconds)
    return forecast(work_of(tasks), rates, machines_of(engine, spec.num_threads), len(tasks))


@dataclass(frozen=True, slots=True)
class Account:
    """What a run was expected to cost, what it did, and what limited it; None where it executed nothing."""

    forecast: Forecast | None = None
    actual: Forecast | None = None
    measured: Measured | None = None
    limits: Limits | None = None

    def as_json(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return {
            "forecast": self.forecast and asdict(self.forecast),
            "actual": self.actual and asdict(self.actual),
            "measured": self.measured and asdict(self.measured),
            "limits": self.limits and self.limits.as_json(),
        }


def account_of(
    expected: Forecast,
    tasks: Sequence[ShardTask],
    report: RunReport,
    num_threads: int,
    engine: EngineConfig,
    calls: Calls,
) -> Account:
    """Returns what a run cost beside what was expected.

    Args:
        calls: storage calls of the run beside those of its tasks.
    """
    others = (calls.num_reads, calls.num_writes)
    measured = measured_of(tasks, report.results, report.seconds, num_threads, engine.num_workers, others)
    if measured is None:
        return Account()
    did = actual(measured, machines_of(engine, num_threads))
    return Account(expected, did, measured, limits_of(report, engine.num_workers))
