"""A process that has imported what decode children need and forks them, each in milliseconds in place of half a second.

Run as ``python -m`` by `forked`, with the descriptors of its socket and of a pipe that lives as long as its parent. A
message is the numbers that `child.run` takes behind its descriptors, with those descriptors and the one that the child
prints to; the answer is a process id, or a negative errno.

The children are those of the server's parent (``CLONE_PARENT``), not its own: the parent kills them, waits for them and
learns how they ended as if it had started them itself, and none of it depends on the server once a child is there.
"""

import contextlib
import ctypes
import errno
import gc
import json
import os
import platform
import signal
import socket
import sys
import traceback
from collections.abc import Sequence

from clipmill.pipelines.decode import child

MESSAGE_BYTES = 4096
NUM_DESCRIPTORS = 5
CLONE_NUMBERS = {"x86_64": 56, "aarch64": 220}
"""Of the system call, by machine."""
CLONE_PARENT, CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID = 0x8000, 0x200000, 0x1000000
PR_GET_TID_ADDRESS = 40


def main() -> None:
    """Serves until the parent closes its end."""
    descriptor, life = (int(item) for item in sys.argv[1:])
    child.die_with_parent(life)
    from clipmill.pipelines.decode import containers, pyav_frames, thumbnails  # noqa: F401

    with socket.socket(fileno=descriptor) as connection:
        while True:
            text, descriptors, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, NUM_DESCRIPTORS)
            if not text:
                return
            numbers: list[int] = json.loads(text)
            _load(decodes=bool(numbers[-1]))
            try:
                pid = fork_sibling()
            except OSError as error:
                pid = -(error.errno or errno.EINVAL)
            if not pid:
                os.close(life)
                connection.close()
                _be_child(descriptors, numbers)
            for received in descriptors:
                os.close(received)
            connection.send(str(pid).encode())


def _load(decodes: bool) -> None:
    """Imports what decoding needs when the first child is to decode; what cannot be imported is the child's to tell."""
    if decodes and "decord" not in sys.modules:
        with contextlib.suppress(Exception):
            from clipmill.pipelines.decode import decord_frames, serving  # noqa: F401
    # What is there now is not looked at by the children's garbage collections, which would copy its memory.
    gc.freeze()


def _be_child(descriptors: Sequence[int], numbers: Sequence[int]) -> None:
    """Is the child from here on; does not return."""
    code = 1
    try:
        *ends, output = descriptors
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        child.run(*ends, *numbers)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def fork_sibling() -> int:
    """Forks as `os.fork` does, but the new process is a child of this one's parent. This one must have one thread.

    It tells glibc the new thread's number as glibc's own ``fork`` would.

    Raises:
        OSError: ``ENOSYS`` where that cannot be done here; ``EAGAIN`` and ``ENOMEM`` as of ``fork``.
    """
    number = CLONE_NUMBERS.get(platform.machine())
    if sys.platform != "linux" or number is None or len(os.listdir("/proc/self/task")) > 1:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    # PyDLL: it must not let go of the interpreter.
    libc = ctypes.PyDLL(None, use_errno=True)
    place = ctypes.POINTER(ctypes.c_int)()
    asked = libc.prctl(PR_GET_TID_ADDRESS, ctypes.byref(place), 0, 0, 0)
    if asked or not place or place.contents.value != os.getpid():
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    flags = CLONE_PARENT | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | signal.SIGCHLD
    # Machines differ in which of the last two is the thread's number; the other one is not looked at.
    arguments = [ctypes.c_long(number), ctypes.c_long(flags), None, None, place, place]
    libc.syscall.restype = ctypes.c_long
    ctypes.pythonapi.PyOS_BeforeFork()
    pid: int = libc.syscall(*arguments)
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return pid


if __name__ == "__main__":
    main()
