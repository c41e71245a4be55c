"""A build: manifest to committed features."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from clipmill.pipelines.features.budgets import Budgets, Spending
from clipmill.pipelines.features.build_report import BuildReport, report_of
from clipmill.pipelines.features.calibration import account_of, foresee
from clipmill.pipelines.features.engines.base import Engine, Observer
from clipmill.pipelines.features.engines.cores import worker_decoders, worker_threads
from clipmill.pipelines.features.engines.registry import make_engine
from clipmill.pipelines.features.heartbeat import HEARTBEAT_SECONDS, NOTES_PER_BEAT, Heartbeat
from clipmill.pipelines.features.planning import Planned, committed_keys, decode_memory_bytes, plan_build
from clipmill.pipelines.features.quarantine import (
    passed,
)
from clipmill.pipelines.features.run_progress import Beat
from clipmill.pipelines.features.run_records import recorded_end, write_start
from clipmill.pipelines.features.throughput import throughput
from clipmill.pipelines.features.visibility import with_witnesses
from clipmill.schemas.config import BuildConfig, dump_config
from clipmill.schemas.records import Video
from clipmill.schemas.task import RunReport, WorkerSpec
from clipmill.stores.key_rows import KeySet
from clipmill.stores.storage_faults import Retries
from clipmill.stores.store import Store
from clipmill.stores.stored_runs import BUILD_FILE

PROBE_TASK_KEY = "probe"
REANNOTATED_KEY = "reannotated"
PASSED_KEY = "passed"


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
        spec = worker_spec(config, run_id)
        expected = foresee(store, tasks, spec, config.engine)
        beats: Sequence[Beat] = ()
        if planned.plan.tasks and not spending.is_spent:
            seen = with_witnesses(spec, planned.recipes, planned.videos_to_do, BUILD_FILE)
            spec = replace(spending.limited(seen), note_seconds=heartbeat_seconds / NOTES_PER_BEAT or None)
            with Heartbeat(store, run_id, heartbeat_seconds, listeners) as heartbeat:
                watching = [*observers, *spending.observers, heartbeat]
                report = (engine or make_engine(config.engine)).run(tasks, spec, watching)
            beats = heartbeat.beats
        committed = {recipe.fingerprint: committed_keys(store, recipe) for recipe in planned.recipes}
        _release_passed(store, run_id, planned, committed)
        store.write_catalog()
        account = account_of(expected, tasks, report, worker_threads(config.engine), config.engine, store.objects.calls)
        result = report_of(config, store, run_id, planned, report, spending, committed)
        result = replace(result, account=account, throughput=throughput(beats, report))
        store.write_run_file(run_id, "report.json", json.dumps(result.as_json(), indent=1, sort_keys=True))
        ending.exit_code, ending.ended_by = result.exit_code, result.ended_by
    return result


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
        num_decoders=worker_decoders(config.engine),
        batch_windows=config.engine.batch_windows,
        decode_deadline_seconds=config.decode.deadline_seconds,
        decode_memory_bytes=decode_memory_bytes(config.decode),
        decode_videos_per_child=config.decode.videos_per_child,
        max_attempts=config.engine.max_attempts,
        max_outside_share=config.annotations.max_outside_share,
        keep_truncated=config.decode.truncated == "keep",
        storage_attempts=config.store.attempts,
        max_fault_share=config.engine.max_fault_share,
        commit_seconds=config.engine.commit_seconds,
        forward_deadline_seconds=config.engine.forward_deadline_seconds,
    )


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
