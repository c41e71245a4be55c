"""Messages between this process and its decode child, over two pipes; frames themselves go through `ring`.

A message is one byte of kind, eight bytes of length, then a JSON object followed by raw arrays. No pickles: what comes
out of a process that parses hostile files is only ever data.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

PREFIX = struct.Struct("<cQ")
NUMBER = struct.Struct("<Q")

REQUEST = b"R"
"""Parent to child: do something; the answer is one or more messages ending with `DONE` or `FAILED`."""
FREE = b"F"
"""Parent to child: the oldest unacknowledged `FRAMES` message has been copied out of the ring."""
FRAMES = b"P"
"""Child to parent: array ``frames``, ``int64[N, 6]``: view, frame, offset in the ring, height, width, channels;
``ahead``: batches sent before that wait in the ring."""
RESTARTED = b"S"
"""Child to parent: forget the frames of the current request, they come again."""
DONE = b"D"
FAILED = b"E"
READY = b"Y"
"""Child to parent, once: it has started, and waits for requests."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its kind, a JSON object, and named arrays."""

    kind: bytes
    data: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)


def pack(kind: bytes, data: Mapping[str, Any] | None = None, arrays: Mapping[str, Array] | None = None) -> bytes:
    """Returns the bytes of one message."""
    arrays = {name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}
    head = {"data": dict(data or {}), "arrays": [[name, a.dtype.str, list(a.shape)] for name, a in arrays.items()]}
    text = json.dumps(head).encode()
    body = NUMBER.pack(len(text)) + text + b"".join(array.tobytes() for array in arrays.values())
    return PREFIX.pack(kind, len(body)) + body


class Unpacker:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Takes what was read."""
        self._buffer += data

    def next(self) -> Message | None:
        """Returns the next complete message, or None until more is read."""
        if len(self._buffer) < PREFIX.size:
            return None
        kind, length = PREFIX.unpack_from(self._buffer)
        stop = PREFIX.size + length
        if len(self._buffer) < stop:
            return None
        body = bytes(memoryview(self._buffer)[PREFIX.size : stop])
        del self._buffer[:stop]
        (text_length,) = NUMBER.unpack_from(body)
        position = NUMBER.size + text_length
        head = json.loads(body[NUMBER.size : position])
        arrays: dict[str, Array] = {}
        for name, dtype, shape in head["arrays"]:
            count = math.prod(shape)
            arrays[name] = np.frombuffer(body, dtype=dtype, count=count, offset=position).reshape(shape)
            position += arrays[name].nbytes
        return Message(kind, head["data"], arrays)
