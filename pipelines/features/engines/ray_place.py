"""A worker's place on a node of a Ray cluster. Ray is given this module's code, not its name.

A node that lacks clipmill, or one of its packages, can then still say so. Hence nothing but the standard library is
imported here before `enter` is called, and what comes and goes is bytes.
"""

import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any


class Place:
    """One worker; its models are loaded once and serve every task it is given. Answers are as of `_told`."""

    def __init__(self) -> None:
        self._worker: Any = None

    def enter(self, spec: bytes) -> dict[str, Any]:
        """Returns once the worker has its place, and what it needs."""

        def entered() -> None:
            given = pickle.loads(spec)
            from clipmill.pipelines.features.worker import Worker

            self._worker = Worker(given)
            self._worker.__enter__()

        return _told(entered)

    def run(self, task: bytes, one_by_one: bool = False) -> dict[str, Any]:
        """Returns a `TaskResult`."""
        return _told(lambda: self._worker.run(pickle.loads(task), one_by_one=one_by_one))


def _told(work: Callable[[], Any]) -> dict[str, Any]:
    """Returns ``{"value": pickled}`` of what `work` returns, or ``{"error": ...}``: the fields of `Told`."""
    try:
        return {"value": pickle.dumps(work())}
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        told = {"name": type(error).__name__, "message": str(error), "node": socket.gethostname(), "traceback": text}
        return {"error": told}
