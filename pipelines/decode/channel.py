"""The child's end of the two pipes to its parent."""

import os
import select
from collections import deque

from clipmill.pipelines.decode.wire import FREE, REQUEST, Message, Unpacker

READ_BYTES = 1 << 16


class Channel:
    """The child's end of the two pipes."""

    def __init__(self, command: int, answer: int) -> None:
        self._command = command
        self._answer = answer
        self._unpacker = Unpacker()
        self._requests: deque[Message] = deque()
        self._num_freed = 0

    def next_request(self) -> Message | None:
        """Waits for and returns the next request; None when the parent has closed its end."""
        while not self._requests:
            if not self._read():
                return None
        return self._requests.popleft()

    def wait_freed(self) -> int:
        """Waits until the parent has freed a batch of frames; returns how many it has since the last call."""
        while not self._num_freed:
            if not self._read():
                # The parent is gone: there is nobody to decode for.
                os._exit(0)
        count, self._num_freed = self._num_freed, 0
        return count

    def freed(self) -> int:
        """Returns how many batches the parent has freed since the last call, without waiting."""
        while select.select([self._command], [], [], 0)[0]:
            if not self._read():
                os._exit(0)
        count, self._num_freed = self._num_freed, 0
        return count

    def send(self, message: bytes) -> None:
        """Sends a whole message."""
        view = memoryview(message)
        while view:
            view = view[os.write(self._answer, view) :]

    def _read(self) -> bool:
        data = os.read(self._command, READ_BYTES)
        self._unpacker.feed(data)
        while (message := self._unpacker.next()) is not None:
            if message.kind == REQUEST:
                self._requests.append(message)
            elif message.kind == FREE:
                self._num_freed += 1
        return bool(data)
