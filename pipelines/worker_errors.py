"""What a worker failed by, brought back whole from wherever it ran: one table for every engine.

Engines wrap it: Ray in a message with colours and a dead actor's id, Beam in text, with the names of its steps. What a
user reads is the worker's own line, once, and what the command ends with is that error's own exit code.
"""

import platform
import re
import socket
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from clipmill.schemas import errors
from clipmill.schemas.errors import ClipmillError, EngineError, UsageError, describe

_DOMAIN = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, ClipmillError)
}
_LAST_LINE = re.compile(r"^(?:\s*)([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning)): (.*)$", re.MULTILINE)
_STEP = re.compile(r" \[while running '.*$")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

NODES = "docs/engines.md says what nodes need"


@dataclass(frozen=True, slots=True)
class Told:
    """An exception as data, which needs no class of ours where it is read.

    Attributes:
        name: of its class.
        message: the whole of it.
        node: where it happened.
        traceback: for a fault of ours.
    """

    name: str
    message: str
    node: str = ""
    traceback: str = ""


class WorkerError(Exception):
    """A worker failed by what is no error of a user; the message is its traceback."""


def tell(error: BaseException) -> dict[str, str]:
    """Returns the fields of `Told`."""
    text = "".join(traceback.format_exception(error))
    return {"name": type(error).__name__, "message": str(error), "node": this_node(), "traceback": text}


def this_node() -> str:
    """Returns what this machine calls itself."""
    return socket.gethostname() or platform.node() or "unknown"


def error_of(told: Told) -> Exception:
    """Returns what to raise where the command runs.

    A domain error as it was; a package that a node lacks, memory that it lacks; anything else with its traceback.
    """
    kind = _DOMAIN.get(told.name)
    if kind is not None and kind is not errors.VideoError:
        return kind(told.message)
    node = told.node or "of the cluster"
    if told.name in ("ImportError", "ModuleNotFoundError"):
        remedy = f"install there what this machine has; {NODES}"
        return UsageError(describe("node", node, "clipmill and its packages", told.message, remedy))
    if told.name in ("MemoryError", "OutOfMemoryError"):
        got = _first_line(told.message) or told.name
        return EngineError(describe("node", node, "memory for a worker", got, "lower engine.workers or batch_windows"))
    return WorkerError(f"on node {node}:\n{plain(told.traceback or f'{told.name}: {told.message}')}")


def found_in(text: str) -> Exception | None:
    """Returns the error that the text of a traceback from elsewhere ends in; None: it holds none."""
    lines = list(_LAST_LINE.finditer(plain(text)))
    known = [match for match in lines if _name(match) in (*_DOMAIN, "ImportError", "ModuleNotFoundError")]
    if not known:
        return None
    # What the others say follows from the first.
    return error_of(Told(_name(known[0]), _STEP.sub("", known[0][2])))


def first_cause(error: BaseException) -> Exception | None:
    """Returns the worker's own error behind `error`: in its chain of causes, or in their text."""
    for item in _chain(error):
        if isinstance(item, ClipmillError):
            # Beam makes the error anew, with the name of its step behind the message.
            return error_of(Told(type(item).__name__, _STEP.sub("", str(item)))) if _STEP.search(str(item)) else item
    for item in _chain(error):
        found = found_in(str(item)) or (found_in(f"{type(item).__name__}: {item}") if _is_import(item) else None)
        if found is not None:
            return found
    return None


def plain(text: str) -> str:
    """Returns `text` without the colours of a terminal."""
    return _COLOUR.sub("", text)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_import(error: BaseException) -> bool:
    return isinstance(error, ImportError)


def _name(match: re.Match[str]) -> str:
    return match[1].rpartition(".")[2]


def first_line(error: BaseException) -> str:
    """Returns what `error` says first, or its name."""
    return _first_line(str(error)) or type(error).__name__


def _first_line(text: str) -> str:
    return next((line.strip() for line in plain(text).splitlines() if line.strip()), "")[:200]
