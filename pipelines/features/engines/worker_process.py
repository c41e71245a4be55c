"""A worker in a process of its own, which may die without taking with it what waits for it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Pipe

from clipmill.pipelines.decode.child_environment import python_path
from clipmill.pipelines.features.attempts import Attempts
from clipmill.pipelines.worker_errors import Told, error_of
from clipmill.schemas.errors import EXIT_RETRYABLE
from clipmill.schemas.task import ShardTask, TaskResult, WorkerSpec


class WorkerDiedError(Exception):
    """The process of a worker ended in the middle of a task; the message says how."""


class WorkerProcess:
    """Runs tasks in one other process. Use it as a context manager; what dies is not started again.

    It ends with this process, however that ends, and is out of the way of its terminal's signals.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._connection, theirs = Pipe()
        life_read, self._life = os.pipe()
        command = [sys.executable, "-P", "-m", "clipmill.pipelines.features.engines.worker_child"]
        try:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(life_read)],
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__,
                pass_fds=(theirs.fileno(), life_read),
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": python_path()},
            )
        finally:
            theirs.close()
            os.close(life_read)
        self._connection.send(spec)

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()
        os.close(self._life)
        self._process.kill()
        self._process.wait()

    def run(self, task: ShardTask, on_video: Callable[[str], None], one_by_one: bool) -> TaskResult:
        """Returns what the worker did.

        Raises:
            WorkerDiedError: its process ended before.
            ClipmillError: the worker's own.
        """
        try:
            self._connection.send((task, one_by_one))
            while True:
                kind, value = self._connection.recv()
                if kind == "result":
                    found: TaskResult = value
                    return found
                if kind == "error":
                    raise error_of(Told(**value)) from None
                on_video(value)
        except (EOFError, ConnectionError):
            raise WorkerDiedError(_ending(self._process.wait())) from None


class RestartedWorker:
    """Runs tasks in one other process at a time; where a video kills it, the next one goes on until the video is found.

    Use it as a context manager. `clipmill.pipelines.features.attempts` has the rules.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._attempts = Attempts(spec)
        self._process: WorkerProcess | None = None

    def __enter__(self) -> "RestartedWorker":
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.__exit__(*error)
        self._process = None

    def run(self, task: ShardTask, on_video: Callable[[str], None] = lambda video_id: None) -> TaskResult:
        """Returns what was done, whichever process did it.

        Raises:
            EngineError: workers die of no video in particular.
            MachineFaultError: too many videos killed their worker.
            ClipmillError: a worker's own.
        """
        while True:
            if self._process is None:
                self._process = WorkerProcess(self._spec)
            try:
                result = self._process.run(task, on_video, self._attempts.is_careful(task))
            except WorkerDiedError as error:
                self.__exit__()
                self._attempts.died(task, str(error))
                continue
            self._attempts.done(result)
            return result


def _ending(code: int) -> str:
    if code < 0:
        return f"a worker killed by {signal.Signals(-code).name}"
    if code == EXIT_RETRYABLE:
        return "a worker that ended itself"
    return f"a worker that ended with exit code {code}"
