"""What FFmpeg says about a file while it reads it. Its log goes to the child's standard error, which is a file."""

import os
import sys

import av.logging

from clipmill.pipelines.decode.process import STDERR_TAIL_BYTES, last_line


def listen() -> None:
    """Has the FFmpeg inside PyAV print its errors where decord's prints them."""
    av.logging.restore_default_callback()
    av.logging.set_libav_level(av.logging.ERROR)


class Complaints:
    """What was printed since this was made."""

    def __init__(self) -> None:
        self._start = os.fstat(sys.stderr.fileno()).st_size

    def __bool__(self) -> bool:
        return os.fstat(sys.stderr.fileno()).st_size > self._start

    def line(self) -> str:
        """Returns the last line, or nothing."""
        stop = os.fstat(sys.stderr.fileno()).st_size
        start = max(self._start, stop - STDERR_TAIL_BYTES)
        return last_line(os.pread(sys.stderr.fileno(), stop - start, start)) if stop > start else ""

    def quoted(self) -> str:
        """Returns the last line in brackets, to end a message with, or nothing."""
        line = self.line()
        return f" ({line})" if line else ""
