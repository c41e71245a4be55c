"""The thread of zarr's event loop ends before zarr closes the loop.

At the end of a process zarr gives that thread 0.2 s; on a busy machine that is too little, and what then went well was
followed by a traceback: "Cannot close a running event loop".
"""

import atexit
from functools import cache

END_SECONDS = 10.0
"""ours: how long the thread may take to end."""


@cache
def end_at_exit() -> None:
    """Registers the wait, once. To be called after zarr was imported, whose own is called after it then."""
    from zarr.core import sync

    def end() -> None:
        loop, thread = sync.loop[0], sync.iothread[0]
        if loop is not None and thread is not None and not loop.is_closed():
            loop.call_soon_threadsafe(loop.stop)
            thread.join(END_SECONDS)

    atexit.register(end)
