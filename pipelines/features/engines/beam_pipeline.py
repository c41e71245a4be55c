"""Apache Beam: Create, Reshuffle, ParDo; on the direct runner, a job service, a Dask cluster or Dataflow."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import psutil
from apache_beam.options.pipeline_options import PipelineOptions

from clipmill.pipelines.features.engines.base import Observer
from clipmill.pipelines.features.engines.beam_config import BeamConfig
from clipmill.pipelines.features.engines.beam_options import checked_options
from clipmill.pipelines.features.engines.worker_process import RestartedWorker
from clipmill.pipelines.listening import wait_until_listening
from clipmill.pipelines.process_guard import guarded
from clipmill.pipelines.worker_errors import first_cause, plain
from clipmill.schemas.errors import EngineError, UsageError, describe
from clipmill.schemas.task import RunReport, ShardTask, TaskResult, WorkerSpec
from clipmill.stores.store import Store

logger = logging.getLogger("clipmill.engine")

POLL_SECONDS = 1.0


class _RunTask(beam.DoFn):
    """Runs shard tasks in a process beside the runner's own; setup and teardown bracket it.

    The runner would try the bundle of a dead worker again as it is, or fail; so what may kill is not in its worker.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._worker: RestartedWorker | None = None

    def setup(self) -> None:
        self._worker = RestartedWorker(self._spec)

    def process(self, task: ShardTask) -> Iterator[str]:
        if self._worker is None:
            raise RuntimeError("the runner did not call setup")
        yield self._worker.run(task).key

    def teardown(self) -> None:
        if self._worker is not None:
            self._worker.__exit__(None, None, None)
        self._worker = None


class BeamEngine:
    """Runs tasks as one Beam pipeline. Results come back through the store, where the workers left them.

    Raises:
        UsageError: an option of the pipeline is none of Beam's, or has no effect on this runner.
    """

    def __init__(self, config: BeamConfig) -> None:
        self._config = config
        self._options = checked_options(config)

    def run(self, tasks: Sequence[ShardTask], worker: WorkerSpec, observers: Sequence[Observer]) -> RunReport:
        """Returns the report once the pipeline is done.

        Raises:
            EngineError: the pipeline failed, or nothing listens at its address.
            ClipmillError: a worker's own, such as weights that its node lacks.
        """
        started = time.monotonic()
        if self._config.address is not None:
            _reach(self._config, self._config.address)
        if self._config.runner == "dataflow" and "://" not in worker.store_url:
            remedy = "give it as a URL"
            raise UsageError(describe("store", "url", "one that Dataflow's workers reach", worker.store_url, remedy))
        for observer in observers:
            observer.on_start(tasks)
        store = Store.open(worker.store_url)
        watch = _Watch(store, worker.run_id, observers)
        watch.start()
        try:
            with guarded(), _quiet():
                _finish(lambda: _run_pipeline(tasks, worker, self._config.runner, self._options))
        finally:
            watch.stop()
        found = {result.key: result for result in store.task_results(worker.run_id)}
        if worker.stop_at is not None or store.stop_requested(worker.run_id):
            # A task that was refused because a budget was spent leaves no result in the store.
            for task in tasks:
                left = TaskResult(task.key, executed=False, num_videos=0, num_videos_left=len(task.videos))
                found.setdefault(task.key, left)
        missing = [task.key for task in tasks if task.key not in found]
        if missing:
            raise EngineError(
                f"engine beam: expected {len(tasks)} results, got {len(found)}; run the same command again"
            )
        return RunReport("beam", len(tasks), tuple(found[task.key] for task in tasks), time.monotonic() - started)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Beam and Dask from logging the traceback of what is raised here in one line."""
    loggers = [logging.getLogger(name) for name in ("apache_beam", "distributed")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)


def _reach(config: BeamConfig, address: str) -> None:
    """Waits for what listens at the engine's address; a Dask scheduler's may have another protocol than TCP."""
    expected = "a Dask scheduler" if config.runner == "dask" else "a job service"
    place = address.removeprefix("tcp://")
    if "://" not in place:
        remedy = "start it, or check engine.address"
        wait_until_listening("engine", "beam", place, expected, config.connect_seconds, remedy)


def _run_pipeline(tasks: Sequence[ShardTask], worker: WorkerSpec, runner: str, options: PipelineOptions) -> None:
    with beam.Pipeline(runner=_runner(runner), options=options) as pipeline:
        _ = (
            pipeline
            | "Tasks" >> beam.Create(list(tasks), reshuffle=False)
            | "Spread" >> beam.Reshuffle()
            | "Run" >> beam.ParDo(_RunTask(worker))
        )


def _finish(run: Callable[[], None]) -> None:
    """Runs a pipeline to its end, or until one of its worker processes dies: Beam's direct runner would wait forever.

    The pipeline has a thread of its own, so that this one can watch and be interrupted; on the way out no worker
    process is left behind.

    Raises:
        EngineError: the pipeline failed or a worker process died.
    """
    ended = threading.Event()
    raised: list[BaseException] = []
    hook = threading.excepthook

    def body() -> None:
        try:
            run()
        except BaseException as error:
            raised.append(error)
        finally:
            ended.set()

    def on_thread_error(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None and "Worker subprocess exited" in str(arguments.exc_value):
            raised.append(arguments.exc_value)
            ended.set()
        else:
            hook(arguments)

    before = set(psutil.Process().children(recursive=True))
    threading.excepthook = on_thread_error
    try:
        threading.Thread(target=body, daemon=True, name="beam-pipeline").start()
        ended.wait()
    finally:
        if raised or not ended.is_set():
            for child in set(psutil.Process().children(recursive=True)) - before:
                with contextlib.suppress(psutil.Error):
                    if not any("resource_tracker" in word for word in child.cmdline()):  # of this process, not of Beam
                        child.kill()
        threading.excepthook = hook
    if not raised:
        return
    error = raised[0]
    cause = first_cause(error)
    if cause is not None:
        raise cause from None
    logger.error("%s", plain(str(error)).strip())
    raise EngineError(
        f"engine beam: expected a finished pipeline, got {type(error).__name__}: {_last_line(error)}; "
        "what is committed stands, run the same command again"
    ) from error


class _Watch(threading.Thread):
    """Notifies the observers of every result as it appears in the store."""

    def __init__(self, store: Store, run_id: str, observers: Sequence[Observer]) -> None:
        super().__init__(daemon=True, name="beam-watch")
        self._store, self._run_id, self._observers = store, run_id, observers
        self._seen: set[str] = set()
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            self._notify()

    def stop(self) -> None:
        self._stopped.set()
        self.join()
        self._notify()

    def _notify(self) -> None:
        fresh: list[TaskResult] = [
            result for result in self._store.task_results(self._run_id) if result.key not in self._seen
        ]
        for result in fresh:
            self._seen.add(result.key)
            for observer in self._observers:
                observer.on_task(result)


def _runner(name: str) -> Any:
    if name == "dask":
        from apache_beam.runners.dask.dask_runner import DaskRunner

        return DaskRunner()
    return {"portable": "PortableRunner", "dataflow": "DataflowRunner"}.get(name, "DirectRunner")


def _last_line(error: BaseException) -> str:
    return (plain(str(error)).strip().splitlines() or ["no message"])[-1][:200]
