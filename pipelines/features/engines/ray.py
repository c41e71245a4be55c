"""Ray: its options. Ray itself comes with the engine."""

from typing import Any, Literal

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
        connect_seconds: how long Ray may take to answer or to start, and how long it may be gone later on.
        runtime_env: what Ray brings to its workers, in its own words (``py_modules``, ``pip``, ``env_vars``, ...).
    """

    name: Literal["ray"] = "ray"
    workers: int = Field(default=1, ge=1)
    workers_per_gpu: int = Field(default=1, ge=1)
    address: str | None = None
    connect_seconds: float = Field(default=120.0, gt=0)  # ours: see clipmill.pipelines.ray_cluster
    runtime_env: dict[str, Any] = Field(default_factory=dict)

    @property
    def num_workers(self) -> int:
        """How many workers share the cores of a machine."""
        return self.workers


def _make(config: RayConfig) -> Engine:
    from clipmill.pipelines.features.engines.ray_actors import RayEngine

    return RayEngine(config.workers, config.workers_per_gpu, config.address, config.connect_seconds, config.runtime_env)


ENGINE = EngineCard("ray", RayConfig, _make)
