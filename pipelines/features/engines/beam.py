"""Apache Beam: its options. Beam itself comes with the engine."""

from typing import Literal

from pydantic import Field, model_validator

from clipmill.pipelines.features.engines.base import Engine, EngineCard
from clipmill.schemas.config import EngineConfig


class BeamConfig(EngineConfig):
    """``engine: {name: beam}``.

    Attributes:
        runner: ``in_process`` and ``multi_processing`` are the direct runner; ``portable`` and ``dask`` run elsewhere.
        workers: processes of the direct runner; partitions on Dask.
        address: of a job service (runner portable), or of a Dask scheduler (runner dask; None: one is started here).
        pipeline_options: further options, as on Beam's command line.
    """

    name: Literal["beam"] = "beam"
    runner: Literal["in_process", "multi_processing", "portable", "dask"] = "in_process"
    workers: int = Field(default=1, ge=1)
    address: str | None = None
    pipeline_options: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _address_of_the_runner(self) -> "BeamConfig":
        if self.runner == "portable" and self.address is None:
            raise ValueError("runner portable: expected address (host:port of a job service), got none")
        if self.runner in ("in_process", "multi_processing") and self.address is not None:
            raise ValueError(f"runner {self.runner}: expected no address, got {self.address}")
        return self

    @property
    def num_workers(self) -> int:
        """How many workers share the cores of a machine."""
        return self.workers


def _make(config: BeamConfig) -> Engine:
    from clipmill.pipelines.features.engines.beam_pipeline import BeamEngine

    return BeamEngine(config.runner, beam_flags(config))


def beam_flags(config: BeamConfig) -> list[str]:
    """Returns the options as on Beam's command line: those given, then those that follow from the other keys."""
    flags = list(config.pipeline_options)
    if config.runner == "portable":
        flags.append(f"--job_endpoint={config.address}")
        if not any(flag.startswith("--environment_type") for flag in flags):
            flags.append("--environment_type=LOOPBACK")
    elif config.runner == "dask":
        flags += [f"--dask_client_address={config.address}"] if config.address else []
        flags.append(f"--dask_npartitions={config.workers}")
    else:
        # The Python direct runner; the default "Prism" would need a binary that is downloaded.
        mode = {"in_process": "in_memory"}.get(config.runner, config.runner)
        flags += [f"--direct_running_mode={mode}", f"--direct_num_workers={config.workers}"]
    return flags


ENGINE = EngineCard("beam", BeamConfig, _make)
