"""The command ``clipmill``; ``python -m clipmill`` is the same."""

import os
import signal
from types import FrameType

from clipmill.schemas.errors import EXIT_RETRYABLE


def main() -> None:
    """Runs the command line.

    Process 1, as in a container, has no default action for SIGTERM: while libraries are imported, before a verb
    handles it, the signal would be lost.
    """
    signal.signal(signal.SIGTERM, _end)
    from clipmill.jobs.cli import main as run

    run()


def _end(number: int, frame: FrameType | None) -> None:
    """Ends the process where it stands: no work has begun, and an exception could be lost in what is imported."""
    os.write(2, b"clipmill: interrupted; run the same command again\n")
    os._exit(EXIT_RETRYABLE)


if __name__ == "__main__":
    main()
