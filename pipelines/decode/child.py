"""The decode child: reads requests, decodes, writes frames into the ring. `process` has it forked, or run by ``-m``."""

import errno
import fcntl
import mmap
import os
import resource
import select
import signal
import sys
from collections.abc import Callable

from clipmill.pipelines.decode import memory_limit
from clipmill.pipelines.decode.channel import Channel
from clipmill.pipelines.decode.ring import RingWriter
from clipmill.pipelines.decode.wire import DONE, FAILED, READY, Message, pack
from clipmill.schemas.errors import VideoError

LEAST_ROOM_BYTES = 64 << 20
"""Ours: with less address space than this beyond its libraries, a child could decode next to nothing."""


def run(command: int, answer: int, life: int, ring: int, memory_bytes: int, num_threads: int, decodes: int) -> None:
    """Serves requests until the parent closes its end; the first four arguments are descriptors."""
    die_with_parent(life)
    remedy = memory_limit.remedy(memory_bytes)
    allowed_bytes = memory_limit.allowed_bytes(memory_bytes)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (allowed_bytes, allowed_bytes))
    channel = Channel(command, answer)
    frames = RingWriter(ring)
    _load(bool(decodes))
    channel.send(pack(READY))
    while (request := channel.next_request()) is not None:
        os.ftruncate(sys.stderr.fileno(), 0)
        _answer(channel, request, _operation(request, channel, frames, num_threads), remedy)


def _load(decodes: bool) -> None:
    """Imports what every request needs, so that where memory does not suffice for it no video is blamed."""
    from clipmill.pipelines.decode import containers  # noqa: F401

    if decodes:
        from clipmill.pipelines.decode import serving  # noqa: F401
    mmap.mmap(-1, LEAST_ROOM_BYTES).close()


def _operation(request: Message, channel: Channel, ring: RingWriter, num_threads: int) -> Callable[[], bytes]:
    from clipmill.pipelines.decode import containers

    path = request.data["path"]
    stream = request.data.get("stream")
    if request.data["operation"] == "probe":
        return lambda: pack(DONE, {"header": containers.read_header(path, stream)})
    if request.data["operation"] == "scan":
        return lambda: pack(DONE, *containers.read_timeline(path, stream))
    if request.data["operation"] == "thumbnails":
        from clipmill.pipelines.decode.thumbnails import draw

        return lambda: pack(DONE, {}, draw(path, request.data["seconds"], request.data["width"], stream))
    if request.data["operation"] == "rate":
        from clipmill.pipelines.decode.rate import measure

        seconds, threads = request.data["seconds"], request.data["num_threads"]
        return lambda: pack(DONE, {"frames_per_second": measure(path, seconds, threads, stream)})
    from clipmill.pipelines.decode.serving import serve

    return lambda: serve(request, channel, ring, num_threads)


def _answer(channel: Channel, request: Message, operation: Callable[[], bytes], remedy: str) -> None:
    path = request.data["path"]
    try:
        answer = operation()
    except VideoError as error:
        answer = pack(FAILED, {"reason": error.reason, "message": error.message})
    except (MemoryError, OSError, ImportError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        answer = pack(
            FAILED,
            {
                "reason": "out_of_memory",
                "message": f"video {path}: expected to fit the decoder's memory, got more; {remedy}",
            },
        )
    channel.send(answer)


def _is_lack_of_memory(error: Exception) -> bool:
    """Returns whether `error` is how a library says that memory, or room for a thread's stack, ran out."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN)):
        return True
    # The dynamic linker's and Python's own words.
    return any(word in str(error) for word in ("failed to map segment", "allocate memory", "can't start new thread"))


def die_with_parent(life: int) -> None:
    """Has the kernel end this process when the parent's end of the pipe closes, whatever this process is doing.

    PR_SET_PDEATHSIG would not do: it also fires when only the thread that started the child ends.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGIO])
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(life, select.POLLIN)
    if poll.poll(0):
        os._exit(0)


if __name__ == "__main__":
    run(*(int(item) for item in sys.argv[1:]))
