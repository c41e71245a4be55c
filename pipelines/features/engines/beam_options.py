"""Options of Beam's command line, checked before a pipeline is made: Beam only warns of those it does not know."""

import argparse
import difflib
import importlib.util
from typing import NoReturn

from apache_beam.options.pipeline_options import PipelineOptions

from clipmill.pipelines.features.engines.beam_config import BeamConfig, beam_flags
from clipmill.schemas.errors import UsageError, describe, near

_OURS = {
    "--direct_running_mode": "engine.runner",
    "--direct_num_workers": "engine.workers",
    "--dask_npartitions": "engine.workers",
    "--dask_client_address": "engine.address",
    "--dask_connection_timeout": "engine.connect_seconds",
    "--job_endpoint": "engine.address",
    "--job_server_timeout": "engine.connect_seconds",
}
"""Options that keys of the engine set."""

_ONLY = {
    "DirectOptions": ("in_process", "multi_processing"),
    "PortableOptions": ("portable",),
    "FlinkRunnerOptions": ("portable",),
    "SparkRunnerOptions": ("portable",),
    "KafkaStreamsRunnerOptions": ("portable",),
    "PrismRunnerOptions": (),
    "JobServerOptions": (),
}
"""Class of Beam's options to the runners on which they have an effect; others may have one anywhere. Job servers (and
Prism, which is one) are started by whoever runs them, not by a build."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(describe("engine", "pipeline_options", "values that Beam takes", message, "correct it"))


def checked_options(config: BeamConfig) -> PipelineOptions:
    """Returns Beam's options of an engine.

    Raises:
        UsageError: an option is unknown, takes no such value, has no effect on this runner, or is set by a key of the
            engine. What a job service may know itself (runner portable) is left to it, unless it is near a known name.
    """
    if config.runner == "dask":
        from apache_beam.runners.dask import dask_runner  # noqa: F401 (registers its options)
    owners: dict[str, str] = {}
    parser = _Parser(allow_abbrev=False, add_help=False, conflict_handler="resolve")
    for kind in PipelineOptions.__subclasses__():
        before = set(parser._option_string_actions)
        kind._add_argparse_args(parser)  # type: ignore[arg-type]  # of Beam's own class it uses nothing
        owners |= dict.fromkeys(set(parser._option_string_actions) - before, kind.__name__)
    for option in config.pipeline_options:
        name = option.partition("=")[0]
        if name in _OURS:
            remedy = f"set {_OURS[name]}"
            raise UsageError(describe("engine", "pipeline_options", "no option of a key", repr(option), remedy))
        runners = _ONLY.get(owners.get(name, ""))
        if runners is not None and config.runner not in runners:
            remedy = f"set runner: {runners[0]}, or remove it" if runners else "give it to the job service you start"
            got = f"{option!r}, without effect there"
            raise UsageError(describe("engine", "pipeline_options", f"options of runner {config.runner}", got, remedy))
    _, unknown = parser.parse_known_args(list(config.pipeline_options))
    for option in unknown:
        name = option.partition("=")[0]
        is_left = config.runner == "portable" and name.startswith("--")
        if is_left and not difflib.get_close_matches(name, owners, n=1, cutoff=0.85):
            continue
        remedy = near(name, owners) if difflib.get_close_matches(name, owners) else "see Beam's documentation"
        raise UsageError(describe("engine", "pipeline_options", "options of Beam", repr(option), remedy))
    options = PipelineOptions(beam_flags(config))
    if config.runner == "dataflow":
        _check_dataflow(options)
    return options


def _check_dataflow(options: PipelineOptions) -> None:
    """Asks Beam's own validator, which needs no service."""
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

    if importlib.util.find_spec("apitools") is None:
        raise UsageError(
            describe("engine", "runner", "Beam's client of Dataflow", "none", "pip install 'apache-beam[gcp]'")
        )
    problems = PipelineOptionsValidator(options, DataflowRunner()).validate()
    if problems:
        got = " ".join(problems)
        raise UsageError(describe("engine", "pipeline_options", "what Dataflow needs", got, "add it"))
