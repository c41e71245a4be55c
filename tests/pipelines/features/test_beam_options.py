"""Options for Beam: each is Beam's own and has an effect, or is refused in one line; no service is asked."""

import pytest
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    PortableOptions,
    SetupOptions,
    WorkerOptions,
)

from clipmill.pipelines.features.engines.beam_config import BeamConfig
from clipmill.pipelines.features.engines.beam_options import checked_options
from clipmill.schemas.errors import UsageError

pytestmark = pytest.mark.beam


def config(runner: str, *options: str) -> BeamConfig:
    address = "host:1" if runner == "portable" else None
    return BeamConfig.model_validate({"runner": runner, "pipeline_options": options, "address": address})


REFUSED = [
    ("in_process", "--experimens=a", "got '--experimens=a'; did you mean '--experiments'"),
    ("portable", "--paralelism=3", "got '--paralelism=3'; did you mean '--parallelism'"),
    ("in_process", "stray", "expected options of Beam, got 'stray'"),
    ("in_process", "--zzqq=1", "expected options of Beam, got '--zzqq=1'; see Beam's documentation"),
    ("in_process", "--num_workers=x", "invalid int value: 'x'"),
    ("dask", "--flink_master=host", "options of runner dask, got '--flink_master=host', without effect there"),
    ("multi_processing", "--environment_type=DOCKER", "set runner: portable, or remove it"),
    ("portable", "--prism_location=/bin/prism", "give it to the job service you start"),
    ("multi_processing", "--direct_num_workers=4", "set engine.workers"),
    ("portable", "--job_endpoint=other:2", "set engine.address"),
    ("dask", "--dask_client_address=other:2", "set engine.address"),
]


@pytest.mark.parametrize(("runner", "option", "words"), REFUSED, ids=[f"{r}{o}" for r, o, _ in REFUSED])
def test_one_line(runner: str, option: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError) as caught:
        checked_options(config(runner, option))
    assert str(caught.value).startswith("engine pipeline_options: expected ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_what_is_given_reaches_beam() -> None:
    options = checked_options(config("multi_processing", "--experiments=a", "--setup_file=./setup.py"))
    assert options.view_as(DebugOptions).experiments == ["a"]
    assert options.view_as(SetupOptions).setup_file == "./setup.py"
    assert options.view_as(DirectOptions).direct_running_mode == "multi_processing"
    portable = checked_options(config("portable", "--environment_type", "DOCKER", "--environment_config=image:1"))
    assert portable.view_as(PortableOptions).environment_type == "DOCKER"
    assert portable.view_as(PortableOptions).environment_config == "image:1"
    assert portable.view_as(PortableOptions).job_endpoint == "host:1"
    assert checked_options(config("in_process", "--num_workers=3")).view_as(WorkerOptions).num_workers == 3


def test_what_only_a_job_service_knows_is_left_to_it() -> None:
    options = checked_options(config("portable", "--checkpointing_interval_of_it=3"))
    shown = options.get_all_options(retain_unknown_options=True)
    assert shown["checkpointing_interval_of_it"] == "3"


def test_dataflow_is_refused_without_its_client() -> None:
    pytest.importorskip("apache_beam.runners.dataflow")
    with pytest.raises(UsageError, match="apache-beam|Dataflow needs"):
        checked_options(config("dataflow", "--project=p"))
