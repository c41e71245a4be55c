"""Trials on Ray Tune: several at a time, each in a process that the next one is handed to.

Which trials there are was decided before, and what they found lies in their folders: Tune runs them, and nothing of its
own state is needed to go on. A process is reused because importing PyTorch takes longer than a small training.
"""

import functools
import os
import queue
import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Ray reads these when it is imported.
# Results are kept by us: no CSV, JSON and TensorBoard files of Tune's beside them, and no handler of Ctrl-C.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
# Standard output is for the result of the command.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# Paths of a config start where the command was given.
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")

from clipmill.pipelines.ray_cluster import CONNECT_SECONDS, Connection, cluster  # noqa: E402

# isort: split
import torch  # noqa: E402
from ray import tune  # noqa: E402

from clipmill.pipelines.sweeps.trials import Runner, Trial, TrialResult, run_trial  # noqa: E402
from clipmill.schemas.errors import EngineError, UsageError, describe  # noqa: E402

STATE = ".tune"
_TICK_SECONDS = 0.2


def run_on_tune(
    trials: Sequence[Trial], root: Path, concurrent: int, connect_seconds: float = CONNECT_SECONDS
) -> Iterator[TrialResult]:
    """Runs at most `concurrent` trials at a time and yields what each found as it is done.

    A trial whose process dies is a result with an error, and the others go on.

    Raises:
        EngineError: Ray cannot be started, or broke down.
        KeyboardInterrupt: after Ctrl-C; what is finished is kept.
    """
    concurrent = min(concurrent, len(trials))
    root = root.absolute()
    done: queue.SimpleQueue[TrialResult | BaseException | None] = queue.SimpleQueue()
    with cluster("sweep", "ray", num_cpus=max(concurrent, 1), connect_seconds=connect_seconds) as connection:
        num_threads = max(1, (os.cpu_count() or 1) // concurrent)
        tuner = _tuner(trials, root, concurrent, num_threads, _Finished(done))

        def fit() -> None:
            try:
                tuner.fit()
                done.put(None)
            except BaseException as error:
                done.put(error)

        # In a thread of its own: Ctrl-C reaches the main thread, which ends Ray and with it the thread.
        threading.Thread(target=fit, name="tune", daemon=True).start()
        try:
            yield from _follow(done, connection)
        finally:
            shutil.rmtree(root / STATE, ignore_errors=True)


def _follow(
    done: "queue.SimpleQueue[TrialResult | BaseException | None]", connection: Connection
) -> Iterator[TrialResult]:
    while True:
        try:
            item = done.get(timeout=_TICK_SECONDS)
        except queue.Empty:
            connection.check()
            continue
        if item is None:
            return
        if isinstance(item, TrialResult):
            yield item
            continue
        first = next(iter(str(item).splitlines()), type(item).__name__)[:200]
        raise EngineError(
            describe("sweep", "ray", "trials that are run", first, "run the same command again")
        ) from None


def _tuner(
    trials: Sequence[Trial], root: Path, concurrent: int, num_threads: int, finished: "_Finished"
) -> "tune.Tuner":
    return tune.Tuner(
        tune.with_resources(_TrialProcess, {"cpu": 1}),
        param_space={
            "trial": tune.grid_search([asdict(trial) for trial in trials]),
            "root": str(root),
            "num_threads": num_threads,
            "folder": os.getcwd(),
        },
        tune_config=tune.TuneConfig(max_concurrent_trials=concurrent, reuse_actors=True),
        run_config=tune.RunConfig(
            name=STATE,
            storage_path=str(root),
            verbose=0,
            callbacks=[finished],
            failure_config=tune.FailureConfig(max_failures=0, fail_fast=False),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )


class _TrialProcess(tune.Trainable):
    """Runs one trial in one step."""

    def setup(self, config: dict[str, Any]) -> None:
        """Takes the first trial. Its paths start where the command was given, which a cluster's node has to see."""
        for folder in (config["folder"], config["root"]):
            if not os.path.isdir(folder):
                remedy = "let the nodes share it, or leave RAY_ADDRESS out to run the trials on this machine"
                raise UsageError(
                    describe("folder", folder, f"to see it on node {socket.gethostname()}", "none", remedy)
                )
        os.chdir(config["folder"])
        torch.set_num_threads(config["num_threads"])
        self._given = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes the next one, and so keeps the process."""
        self._given = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Trains and evaluates."""
        result = run_trial(Trial(**self._given["trial"]), Path(self._given["root"]))
        return {"done": True, "found": asdict(result)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Keeps nothing: the trial's own folder has its checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Needs nothing."""


class _Finished(tune.Callback):
    """Hands on what finished trials found."""

    def __init__(self, done: "queue.SimpleQueue[TrialResult | BaseException | None]") -> None:
        self._done = done

    def __getstate__(self) -> dict[str, Any]:
        # Tune writes its callbacks down, to go on with them; we go on without Tune.
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """One is done."""
        self._done.put(TrialResult(**trial.last_result["found"]))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """One broke its process, or hit a fault of ours."""
        given = trial.config["trial"]
        text = str(trial.get_error() or "").strip()
        last = next(iter(text.splitlines()[-1:]), "its process died")[:200]
        self._done.put(TrialResult(given["key"], given["point"], given["seed"], error=last, exit_code=1))


def runner(concurrent: int, connect_seconds: float = CONNECT_SECONDS) -> Runner:
    """Returns a `Runner` that runs at most `concurrent` trials at a time."""
    return functools.partial(run_on_tune, concurrent=concurrent, connect_seconds=connect_seconds)
