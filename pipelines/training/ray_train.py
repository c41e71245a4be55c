"""Training under Ray Train: the same worker, in several processes joined by gloo (CPU) or nccl (GPU)."""

import concurrent.futures
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

# Ray reads it when it is imported: otherwise it starts metric exporters that nobody reads.
os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")

from clipmill.pipelines.ray_cluster import Connection, cluster  # noqa: E402

# isort: split
import ray  # noqa: E402
import ray.train  # noqa: E402
import ray.train.torch  # noqa: E402
import torch  # noqa: E402
from ray.train.backend import Backend  # noqa: E402

from clipmill.models.checkpoints import checkpoints  # noqa: E402
from clipmill.pipelines.training.interruption import Interruption  # noqa: E402
from clipmill.pipelines.training.parallel import ProcessGroup  # noqa: E402
from clipmill.pipelines.training.run_folder import RunFolder  # noqa: E402
from clipmill.pipelines.training.videos.worker import VideoTrainJob  # noqa: E402
from clipmill.pipelines.training.worker import EpochDone, TrainJob  # noqa: E402
from clipmill.pipelines.worker_errors import first_cause, plain  # noqa: E402
from clipmill.schemas.errors import EngineError, UsageError, describe  # noqa: E402

STOP_FILE = ".stop-requested"
_STATE = ".ray"
_POLL_SECONDS = 0.2
_START_RETRIES = 2
"""ours: how often workers that did not start within Ray's minute are waited for again."""


Job = TrainJob | VideoTrainJob


@dataclass(frozen=True, slots=True)
class _Place:
    """Where workers run: on GPUs or not, and on which cluster."""

    wants_gpu: bool
    connection: Connection


def run_on_ray(job: Job, on_epoch: Callable[[EpochDone], None]) -> tuple[int, str]:
    """Trains on `trainer.workers` processes and returns the last epoch done and the kind of device.

    The run's folder must be reachable from every worker: it carries checkpoints, metrics and the request to stop.

    A lost worker takes the others with it, which wait for it. All are started again, from the last checkpoint.

    Raises:
        EngineError: no cluster there, or workers were lost more often than `trainer.max_failures`; the last checkpoint
            stands.
        UsageError: the cluster has fewer CPUs (or GPUs, where GPUs are asked for) than workers.
    """
    stop = Path(job.folder) / STOP_FILE
    stop.unlink(missing_ok=True)
    trainer = job.config.trainer
    with cluster("trainer", "ray", trainer.address, connect_seconds=trainer.connect_seconds) as connection:
        wants_gpu = _wants_gpu(job)
        try:
            with Interruption(stop.touch):
                _survive(job, _Place(wants_gpu, connection), stop, on_epoch)
        finally:
            stop.unlink(missing_ok=True)
            shutil.rmtree(Path(job.folder) / _STATE, ignore_errors=True)
    return max(checkpoints(job.folder), default=0), "cuda" if wants_gpu else "cpu"


def _survive(job: Job, place: _Place, stop: Path, on_epoch: Callable[[EpochDone], None]) -> None:
    """Trains until the end, or until `stop` is there; each failure of a worker costs the epochs since a checkpoint."""
    told, limit = job.start_epoch, job.config.trainer.max_failures

    def tell(done: EpochDone) -> None:
        # What is trained again was told before.
        nonlocal told
        if done.epoch > told:
            told = done.epoch
            on_epoch(done)

    for failure in range(1, limit + 2):
        try:
            _attempt(job, place, stop, tell)
            return
        except LostWorkerError:
            if stop.exists():
                return
            if failure > limit:
                raise
        start_epoch = max(checkpoints(job.folder), default=0)
        RunFolder(job.folder).go_on(start_epoch)
        shutil.rmtree(Path(job.folder) / _STATE, ignore_errors=True)
        job = replace(job, start_epoch=start_epoch)


def _attempt(job: Job, place: _Place, stop: Path, on_epoch: Callable[[EpochDone], None]) -> None:
    trainer = _trainer(job, place)
    running = _in_thread(trainer.fit)
    try:
        _follow(job, place.connection, running, on_epoch)
    except (KeyboardInterrupt, EngineError):  # the second Ctrl-C
        raise
    except BaseException:
        stop.touch()
        concurrent.futures.wait([running], job.config.trainer.timeout_seconds)
        raise


def _in_thread(work: Callable[[], Any]) -> "concurrent.futures.Future[Any]":
    """Runs `work` in a thread of its own, since Ray would take over Ctrl-C, and end this process with exit code 0.

    A thread that nobody waits for: where the cluster is lost, `work` does not return.
    """
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="ray-train").start()
    return future


class _JoinedByWorkers(ray.train.torch.TorchConfig):
    """Leaves the process group to the workers: that of Ray meets at a port which every machine can reach."""

    @property
    def backend_cls(self) -> type[Backend]:
        return Backend


def _trainer(job: Job, place: _Place) -> Any:
    trainer = job.config.trainer
    # By reference, so that the rows are stored once per machine however many workers it has.
    given: dict[str, Any] = {"job": ray.put(job)}
    torch_config: type[ray.train.torch.TorchConfig] = ray.train.torch.TorchConfig
    if place.connection.is_started_here and not place.wants_gpu:
        torch_config = _JoinedByWorkers
        given["meeting"] = str(Path(job.folder).resolve() / _STATE / f"meeting-{uuid.uuid4().hex}")
    return ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config=given,
        torch_config=torch_config(backend="nccl" if place.wants_gpu else "gloo", timeout_s=trainer.timeout_seconds),
        scaling_config=ray.train.ScalingConfig(num_workers=trainer.workers, use_gpu=place.wants_gpu),
        run_config=ray.train.RunConfig(
            name=_STATE,
            storage_path=job.folder,
            # Ray would start the workers as they were started first; see `_survive`. Without a limit of its own, it
            # would wait for ever for a machine that has gone.
            failure_config=ray.train.FailureConfig(  # type: ignore[call-arg]  # typed as that of Train's version 1
                max_failures=0, max_preemption_failures=0, controller_failure_limit=_START_RETRIES
            ),
        ),
    )


def _worker(config: dict[str, Any]) -> None:
    job: Job = ray.get(config["job"])
    device = ray.train.torch.get_device()
    context = ray.train.get_context()
    on_this_machine = max(1, context.get_local_world_size())
    torch.set_num_threads(job.config.loop.threads or max(1, (os.cpu_count() or 1) // on_this_machine))
    stop = Path(job.folder) / STOP_FILE
    with _met(config.get("meeting"), job.config.trainer.timeout_seconds):
        job.work(ProcessGroup(), device, stop.exists)


@contextmanager
def _met(meeting: str | None, timeout_seconds: int) -> Iterator[None]:
    """Joins the workers of this machine at the file `meeting`; None: they are joined already."""
    if meeting is None:
        yield
        return
    context = ray.train.get_context()
    num_workers = context.get_world_size()
    Path(meeting).parent.mkdir(parents=True, exist_ok=True)
    torch.distributed.init_process_group(
        "gloo",
        store=torch.distributed.FileStore(meeting, num_workers),  # type: ignore[attr-defined]  # public all the same
        rank=context.get_world_rank(),
        world_size=num_workers,
        timeout=timedelta(seconds=timeout_seconds),
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def _follow(
    job: Job,
    connection: Connection,
    running: "concurrent.futures.Future[Any]",
    on_epoch: Callable[[EpochDone], None],
) -> None:
    folder, seen = RunFolder(job.folder), job.start_epoch
    while True:
        finished = running.done()
        for line in folder.metrics()[seen:]:
            seen = line["epoch"]
            on_epoch(EpochDone(seen, job.config.loop.epochs, line["losses"], line["seconds"], job.num_items))
        if finished:
            break
        connection.check()
        time.sleep(_POLL_SECONDS)
    error = running.exception()
    if error is not None:
        raise _cause(error) from None


class LostWorkerError(EngineError):
    """A worker, or its connection, went away: nothing that a worker did wrong."""


def _cause(error: BaseException) -> BaseException:
    """Returns the domain error a worker raised, else an EngineError: of a lost worker, or of a fault of ours."""
    failures = getattr(error, "worker_failures", {})
    for failure in [*failures.values(), error]:
        cause = getattr(failure, "cause", None) or failure
        own = first_cause(cause)
        if own is not None:
            return own
    is_loss = all(_is_loss(failure) for failure in failures.values())
    # Of a lost worker's companions the message only says that they lost it.
    shown = sorted(failures.values(), key=lambda failure: _is_collective(failure) and not is_loss) or [error]
    first = next(iter(plain(str(shown[0])).strip().splitlines()[-1:]), type(shown[0]).__name__)
    if is_loss:
        ranks = ", ".join(str(rank) for rank, failure in failures.items() if not _is_collective(failure))
        first = f"worker {ranks} lost" if ranks else first
    kind = LostWorkerError if is_loss else EngineError
    return kind(
        describe("trainer", "ray", "workers that finish", first[:200], "the last checkpoint stands; run it again")
    )


def _is_loss(failure: BaseException) -> bool:
    """Returns whether a process has gone: then Ray tells of a dead or silent actor, others of their connection."""
    return type(failure).__module__.split(".")[0] == "ray" or _is_collective(failure)


def _is_collective(failure: BaseException) -> bool:
    """Returns whether an exchange between workers failed, which is what a worker sees of another's end."""
    is_network = isinstance(failure, torch.distributed.DistError)
    return is_network or (isinstance(failure, RuntimeError) and any(word in str(failure) for word in ("gloo", "NCCL")))


def _wants_gpu(job: Job) -> bool:
    device, workers = job.config.loop.device, job.config.trainer.workers
    resources = ray.cluster_resources()
    num_gpus, num_cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    wants_gpu = device.startswith("cuda") or (device == "auto" and num_gpus >= workers)
    if wants_gpu and num_gpus < workers:
        raise UsageError(
            describe("trainer.workers", str(workers), f"at most the cluster's {num_gpus} GPUs", "more", "lower it")
        )
    if num_cpus < workers:
        raise UsageError(
            describe("trainer.workers", str(workers), f"at most the cluster's {num_cpus} CPUs", "more", "lower it")
        )
    return wants_gpu
