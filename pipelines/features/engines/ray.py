"""Ray: its options. Ray itself comes with the engine."""

from typing import Literal

from pydantic import Field

from clipmill.pipelines.features.engines.base import Engine, EngineCard
from clipmill.schemas.config import EngineConfig


class RayConfig(EngineConfig):
    """``engine: {name: ray}``.

    Attributes:
        workers: actors.
        workers_per_gpu: how many actors share a GPU. Each has a decode process of its own, and one of those seldom
            keeps a GPU busy.
        address: of a running cluster; None: one is started here.
    """

    name: Literal["ray"] = "ray"
    workers: int = Field(default=1, ge=1)
    workers_per_gpu: int = Field(default=1, ge=1)
    address: str | None = None

    @property
    def num_workers(self) -> int:
        """How many workers share the cores of a machine."""
        return self.workers


def _make(config: RayConfig) -> Engine:
    from clipmill.pipelines.features.engines.ray_actors import RayEngine

    return RayEngine(config.workers, config.workers_per_gpu, config.address)


ENGINE = EngineCard("ray", RayConfig, _make)
