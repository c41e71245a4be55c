"""How many cores there are, and how they are shared."""

import os

from clipmill.schemas.config import EngineConfig


def num_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def worker_threads(config: EngineConfig) -> int:
    """Returns the compute threads of one worker: as set, or all cores shared by the workers."""
    return config.threads or max(num_cores() // config.num_workers, 1)
