"""A ring of shared memory through which frames go from the decode child to its parent.

An unnamed file mapped by both: nothing is left behind however either of them dies. The child writes and keeps the
books; the parent copies out and says so. The ring bounds what the child can decode ahead.
"""

import mmap
import os
import tempfile
from collections import deque

import numpy as np

from clipmill.schemas.arrays import Pixels


def create(num_bytes: int) -> int:
    """Returns the file descriptor of a new unnamed file of `num_bytes` that lies in memory where the system can."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("clipmill-frames", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, num_bytes)
    return descriptor


class RingWriter:
    """The child's end. Space is given out in batches and comes back batch by batch, in order."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, 0)
        self._head = 0
        self._used = 0
        self._batch = 0
        self._sent: deque[int] = deque()

    @property
    def num_bytes(self) -> int:
        """Size of the whole ring."""
        return len(self._map)

    @property
    def batch_bytes(self) -> int:
        """Bytes written since the last `close_batch`."""
        return self._batch

    @property
    def num_batches(self) -> int:
        """Batches sent and not yet freed."""
        return len(self._sent)

    def write(self, pixels: Pixels) -> int | None:
        """Returns the offset `pixels` were copied to, or None while there is no room for them."""
        size = pixels.nbytes
        if self._used == 0:
            self._head = 0
        skipped = len(self._map) - self._head if self._head + size > len(self._map) else 0
        if self._used + skipped + size > len(self._map):
            return None
        offset = 0 if skipped else self._head
        np.frombuffer(self._map, np.uint8, size, offset)[:] = pixels.reshape(-1)
        self._head = offset + size
        self._used += skipped + size
        self._batch += skipped + size
        return offset

    def close_batch(self) -> None:
        """Ends a batch: all written since the last one comes back with one `free`."""
        self._sent.append(self._batch)
        self._batch = 0

    def free(self) -> None:
        """Gives back the oldest batch."""
        self._used -= self._sent.popleft()

    def grow(self, num_bytes: int) -> None:
        """Makes an empty ring large enough for a frame of `num_bytes`; the parent sees it by the file's size."""
        if self._used:
            raise RuntimeError("a ring can grow only while it is empty")
        if num_bytes > len(self._map):
            self._map.close()
            os.ftruncate(self._descriptor, num_bytes)
            self._map = mmap.mmap(self._descriptor, 0)


class RingReader:
    """The parent's end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, 0)

    def read(self, offset: int, shape: tuple[int, int, int]) -> Pixels:
        """Returns a copy of ``uint8[height, width, channels]`` at `offset`.

        Raises:
            ValueError: the span lies outside the ring.
        """
        size = shape[0] * shape[1] * shape[2]
        if offset + size > len(self._map):
            self._map.close()
            self._map = mmap.mmap(self._descriptor, 0)
        return np.frombuffer(self._map, np.uint8, size, offset).reshape(shape).copy()

    def close(self) -> None:
        """Unmaps the ring and closes its file."""
        self._map.close()
        os.close(self._descriptor)
