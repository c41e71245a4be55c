"""How many cores there are, and how they are shared."""

import os

from clipmill.schemas.config import EngineConfig


def num_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def worker_threads(config: EngineConfig) -> int:
    """Returns the compute threads of one worker: as set, or all cores shared by the workers."""
    return config.threads or max(num_cores() // config.num_workers, 1)


def worker_decoders(config: EngineConfig) -> int:
    """Returns how many videos one worker decodes at a time: as set, or one for each of its threads."""
    return worker_threads(config) if config.decoders == "auto" else config.decoders
