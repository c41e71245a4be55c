"""Apache Beam: the options of the engine, and what of Beam's command line follows from them."""

from typing import Literal

from pydantic import Field, model_validator

from clipmill.schemas.config import EngineConfig

_NAMES_OF = {
    "in_process": ("directrunner",),
    "multi_processing": ("directrunner",),
    "portable": ("portablerunner",),
    "dask": ("daskrunner",),
    "dataflow": ("dataflowrunner",),
}
_LOG_LEVEL = "--default_sdk_harness_log_level"
_ELSEWHERE = "start its job service and set runner: portable with its address; docs/engines.md says how"
_RUNNERS = {
    "flink": _ELSEWHERE,
    "portableflink": _ELSEWHERE,
    "spark": _ELSEWHERE,
    "prism": f"Beam would download a binary: get it yourself, {_ELSEWHERE}",
    "dataflow": "set runner: dataflow",
    "dask": "set runner: dask",
    "portable": "set runner: portable",
    "direct": "set runner: in_process or multi_processing",
}


class BeamConfig(EngineConfig):
    """``engine: {name: beam}``.

    Attributes:
        runner: ``in_process`` and ``multi_processing`` are the direct runner; ``portable``, ``dask`` and ``dataflow``
            run elsewhere.
        workers: processes of the direct runner; partitions on Dask.
        address: of a job service (runner portable), or of a Dask scheduler (runner dask; None: one is started here).
        pipeline_options: further options, as on Beam's command line; each must be one that has an effect there.
        connect_seconds: how long a job service or a scheduler may take to answer.
    """

    name: Literal["beam"] = "beam"
    runner: Literal["in_process", "multi_processing", "portable", "dask", "dataflow"] = "in_process"
    workers: int = Field(default=1, ge=1)
    address: str | None = None
    pipeline_options: tuple[str, ...] = ()
    connect_seconds: float = Field(default=120.0, gt=0)  # ours: as engine ray

    @model_validator(mode="after")
    def _address_of_the_runner(self) -> "BeamConfig":
        if self.runner == "portable" and self.address is None:
            raise ValueError("runner portable: expected address (host:port of a job service), got none")
        if self.runner in ("in_process", "multi_processing", "dataflow") and self.address is not None:
            raise ValueError(f"runner {self.runner}: expected no address, got {self.address}")
        return self

    @model_validator(mode="after")
    def _no_second_runner(self) -> "BeamConfig":
        for option, following in zip(self.pipeline_options, (*self.pipeline_options[1:], ""), strict=False):
            name, is_whole, value = option.partition("=")
            value = value if is_whole else following
            if name.strip() == "--runner" and value.strip().lower() not in _NAMES_OF[self.runner]:
                remedy = _RUNNERS.get(value.strip().lower().removesuffix("runner"), "set engine.runner instead")
                raise ValueError(f"pipeline_options {option}: expected the runner of engine.runner alone; {remedy}")
        return self

    @property
    def num_workers(self) -> int:
        """How many workers share the cores of a machine."""
        return self.workers


def _whole(config: BeamConfig) -> int:
    return max(round(config.connect_seconds), 1)


def beam_flags(config: BeamConfig) -> list[str]:
    """Returns the options as on Beam's command line: those given, then those that follow from the other keys."""
    flags = list(config.pipeline_options)
    if config.runner == "portable":
        flags.append(f"--job_endpoint={config.address}")
        flags.append(f"--job_server_timeout={_whole(config)}")
        if not any(flag.startswith("--environment_type") for flag in flags):
            flags.append("--environment_type=LOOPBACK")
    elif config.runner == "dask":
        flags += [f"--dask_client_address={config.address}"] if config.address else []
        flags += [
            f"--dask_npartitions={config.workers}",
            f"--dask_connection_timeout={_whole(config)}",
        ]
    elif config.runner in ("in_process", "multi_processing"):
        # The Python direct runner; the default "Prism" would need a binary that is downloaded.
        mode = {"in_process": "in_memory"}.get(config.runner, config.runner)
        flags += [f"--direct_running_mode={mode}", f"--direct_num_workers={config.workers}"]
        if config.runner == "multi_processing" and not any(flag.startswith(_LOG_LEVEL) for flag in flags):
            # Their standard error is ours, where the worker's own line shall stand once and without Beam's tracebacks.
            flags.append(f"{_LOG_LEVEL}=CRITICAL")
    return flags
