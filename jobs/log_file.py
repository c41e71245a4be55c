"""``--log-file``: all that a command prints, line by line with the time, and without the secrets of URLs."""

import contextlib
import shlex
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, TextIO

from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.secrets import masked

REDRAWN_SECONDS = 30.0
"""ours: a line that a terminal rewrites all the time is logged so often."""


class LogFile:
    """Appends lines to a file, each with the time before it. For several threads at a time.

    Args:
        now: with its zone.

    Raises:
        UsageError: the file cannot be opened.
    """

    def __init__(self, path: str, now: Callable[[], datetime] = lambda: datetime.now().astimezone()) -> None:
        try:
            self._file: TextIO | None = open(path, "a", encoding="utf-8", errors="replace", buffering=1)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            remedy = "name a file in a folder that is there"
            raise UsageError(describe("option", "--log-file", "a file to append to", reason, remedy)) from None
        self._path, self._now = path, now
        self._lock = threading.Lock()

    def write_line(self, line: str) -> None:
        """Appends one line; once the file refuses, that is told and nothing more is logged."""
        with self._lock:
            if self._file is None:
                return
            try:
                self._file.write(f"{self._now().isoformat(timespec='milliseconds')} {masked(line)}\n")
                return
            except OSError as error:
                reason = error.strerror or type(error).__name__
                with contextlib.suppress(OSError):
                    self._file.close()
                self._file = None
        note = f"note: log file {self._path}: expected to write to it, got {reason}; nothing more goes there"
        print(note, file=sys.__stderr__)


class LoggedStream:
    """A text stream whose lines go into a log as well; all else is the stream's own.

    Args:
        clock: seconds; it never goes back.
    """

    def __init__(self, stream: TextIO, log: LogFile, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._log, self._clock = stream, log, clock
        self._begun = ""
        self._redrawn = clock()

    def write(self, text: str) -> int:
        """Writes the text; returns its length."""
        self._stream.write(text)
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._log.write_line(_last_drawn(line))
        if "\r" in self._begun:
            self._begun = "\r" + _last_drawn(self._begun)
            if self._clock() - self._redrawn >= REDRAWN_SECONDS:
                self._redrawn = self._clock()
                self._log.write_line(_last_drawn(self._begun))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes each line."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _last_drawn(line: str) -> str:
    """Returns what a terminal shows in the end of a line that was written over itself."""
    return next((part.rstrip() for part in reversed(line.split("\r")) if part.strip()), "")


def log_to(path: str) -> LogFile:
    """Sends what is printed from now on to the file as well, beginning with the command.

    Raises:
        UsageError: the file cannot be opened.
    """
    log = LogFile(path)
    log.write_line(f"$ clipmill {shlex.join(sys.argv[1:])}")
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None:
            setattr(sys, name, LoggedStream(stream, log))
    return log
