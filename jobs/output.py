"""How every verb ends: its result on standard output, everything else on standard error, and the right exit code."""

import errno
import json
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from clipmill.extractors.precision import SlowPrecisionWarning
from clipmill.jobs.log_file import log_to
from clipmill.schemas.errors import (
    EXIT_COMPLETE,
    EXIT_FAILURE,
    EXIT_RETRYABLE,
    AnnotationsWarning,
    ClipmillError,
    CopiesAcrossSplitWarning,
    EngineError,
    RenamedKeyWarning,
)
from clipmill.schemas.secrets import MaskedStream

OWN_WARNINGS = (RenamedKeyWarning, SlowPrecisionWarning, CopiesAcrossSplitWarning, AnnotationsWarning)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a verb.

    Attributes:
        data: what ``--json`` prints.
        text: what a person reads.
        exit_code: 0; 3 when items are in quarantine; 5 when a gate of an evaluation failed.
    """

    data: dict[str, Any]
    text: str
    exit_code: int = EXIT_COMPLETE


def run_verb(
    verb: Callable[[], Outcome], as_json: bool, resume_hint: str = "", log_file: str | None = None
) -> NoReturn:
    """Runs `verb`, prints its outcome and exits.

    Args:
        resume_hint: what an interrupted user should do next.
        log_file: all that is printed is appended to it as well.

    A domain error is one line and its own exit code; Ctrl-C, SIGTERM and SIGHUP (a terminal that closes) end with 4,
    because running the same command again goes on; under ``nohup`` SIGHUP does nothing. A
    traceback is shown only for a bug of ours.
    """
    mask_output()
    if log_file is not None:
        try:
            log_to(log_file)
        except ClipmillError as error:
            _fail(str(error), type(error).__name__, error.exit_code, as_json)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _terminate)
    try:
        with warnings_noted():
            outcome = verb()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        _abandon(f"interrupted; {resume_hint or 'run the same command again'}", "Interrupted", as_json)
    except EngineError as error:
        _abandon(str(error), "EngineError", as_json)
    except ClipmillError as error:
        _fail(str(error), type(error).__name__, error.exit_code, as_json)
    except BrokenPipeError:
        os._exit(EXIT_FAILURE)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            traceback.print_exc()
            _fail("this is a bug in clipmill; please report it with the lines above", "Bug", EXIT_FAILURE, as_json)
        message = f"open files: expected room for one more, got {error.strerror}; raise the limit (ulimit -n 4096)"
        _fail(message, "TooManyOpenFiles", EXIT_RETRYABLE, as_json)
    except Exception:
        traceback.print_exc()
        _fail("this is a bug in clipmill; please report it with the lines above", "Bug", EXIT_FAILURE, as_json)
    _print_result(json.dumps(outcome.data, sort_keys=True) if as_json else outcome.text)
    sys.exit(outcome.exit_code)


def mask_output() -> None:
    """Keeps the secrets of URLs out of standard output and standard error from now on, a traceback's included."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, MaskedStream):
            setattr(sys, name, MaskedStream(stream))


@contextmanager
def warnings_noted() -> Iterator[None]:
    """Prints one line on standard error for each warning of ours that is given meanwhile, once."""
    seen: set[str] = set()
    with warnings.catch_warnings():
        for own in OWN_WARNINGS:
            warnings.simplefilter("always", own)
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if not issubclass(category, OWN_WARNINGS):
                show(message, category, *place, **more)
            elif str(message) not in seen:
                seen.add(str(message))
                kind = "note" if issubclass(category, RenamedKeyWarning) else "warning"
                print(f"{kind}: {message}", file=sys.stderr)

        warnings.showwarning = note
        yield


def _print_result(text: str) -> None:
    if sys.stdout is None:  # closed by whoever started us
        return
    try:
        print(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(EXIT_FAILURE)
    except OSError as error:
        reason = error.strerror or str(error)
        print(
            f"clipmill: standard output: expected to write the result, got {reason}; the work is done", file=sys.stderr
        )
        # At a usual end Python would try to write the rest once more, and fail once more.
        sys.stderr.flush()
        os._exit(EXIT_RETRYABLE)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _abandon(message: str, kind: str, as_json: bool) -> NoReturn:
    """Ends at once: threads of an engine that is still at work would keep the process waiting, or crash at its end."""
    try:
        _fail(message, kind, EXIT_RETRYABLE, as_json)
    except SystemExit:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_RETRYABLE)


def _fail(message: str, kind: str, exit_code: int, as_json: bool) -> NoReturn:
    for line in message.splitlines():
        print(f"clipmill: {line}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": {"type": kind, "message": message, "exit_code": exit_code}}, sort_keys=True))
    sys.exit(exit_code)
