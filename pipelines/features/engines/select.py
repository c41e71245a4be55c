"""From `EngineConfig` to an engine. Ray and Beam are imported only when named."""

import os

from clipmill.pipelines.features.engines.base import Engine
from clipmill.pipelines.features.engines.local import LocalEngine
from clipmill.schemas.config import EngineConfig
from clipmill.schemas.errors import UsageError, describe


def worker_threads(config: EngineConfig) -> int:
    """Returns the compute threads of one worker: as set, or all cores shared by the workers."""
    return config.threads or max(num_cores() // config.workers, 1)


def num_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def select_engine(config: EngineConfig) -> Engine:
    """Returns the engine `config` names, not yet started.

    Raises:
        UsageError: its library is not installed, or an option does not fit it.
    """
    if config.name == "local":
        if config.workers != 1:
            raise UsageError(
                describe(
                    "engine", "workers", "1 for the local engine", str(config.workers), "use engine.name: ray or beam"
                )
            )
        return LocalEngine()
    if config.name == "ray":
        from clipmill.pipelines.features.engines.ray import RayEngine

        return RayEngine(config)
    from clipmill.pipelines.features.engines.beam import BeamEngine

    return BeamEngine(config)
