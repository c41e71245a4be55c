"""The engine and the shard format of a build file: each engine's own keys, and one line for what is not among them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipmill.pipelines.features.build_config import parse_build_config
from clipmill.pipelines.features.engines.beam_config import BeamConfig, beam_flags
from clipmill.pipelines.features.engines.cores import num_cores, worker_threads
from clipmill.pipelines.features.engines.ray import RayConfig
from clipmill.pipelines.features.engines.registry import ENGINES, make_engine
from clipmill.schemas.config import EngineConfig, dump_config
from clipmill.schemas.errors import ConfigError, UsageError

MINIMAL = "store: {url: s}\nvideos: {folder: v}\nfeatures: {c3d: {}}\n"


def _engine(**keys: Any) -> EngineConfig:
    return parse_build_config(MINIMAL + yaml.safe_dump({"engine": keys}), source="b.yaml").engine


def _refused(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parse_build_config(text, overrides, "b.yaml")
    return str(raised.value).splitlines()


COMMON = {
    "device": "cpu",
    "threads": 3,
    "task_seconds": 20.0,
    "commit_seconds": 60.0,
    "forward_deadline_seconds": 900.0,
    "max_attempts": 1,
    "batch_windows": 7,
    "max_fault_share": 0.5,
    "decoders": 3,
}
OWN: dict[str, dict[str, Any]] = {
    "local": {},
    "ray": {
        "workers": 2,
        "workers_per_gpu": 4,
        "address": "auto",
        "connect_seconds": 7.5,
        "runtime_env": {"env_vars": {"A": "b"}},
    },
    "beam": {
        "runner": "dask",
        "workers": 5,
        "address": "tcp://host:1",
        "pipeline_options": ["--a"],
        "connect_seconds": 7.5,
    },
}


@pytest.mark.parametrize("name", OWN)
def test_an_engine_takes_its_own_keys_and_what_is_saved_reads_back(name: str) -> None:
    written = {"name": name} | COMMON | OWN[name]
    config = parse_build_config(MINIMAL + yaml.safe_dump({"engine": written}))
    assert type(config.engine) is ENGINES.get(name).config
    saved = dump_config(config)
    assert yaml.safe_load(saved)["engine"] == written
    assert parse_build_config(saved) == config


def test_without_an_engine_it_is_the_local_one() -> None:
    assert _engine() == parse_build_config(MINIMAL).engine == EngineConfig(name="local")
    assert yaml.safe_load(dump_config(parse_build_config(MINIMAL)))["engine"] == {
        "name": "local",
        "device": "auto",
        "threads": 0,
        "task_seconds": 300.0,
        "commit_seconds": 300.0,
        "forward_deadline_seconds": 600.0,
        "max_attempts": 2,
        "max_fault_share": 0.2,
        "decoders": "auto",
    }


def test_keys_of_another_engine_are_refused_and_say_whose_they_are() -> None:
    lines = _refused(MINIMAL + "engine: {name: local, runner: dask, address: 'host:1', workers_per_gpu: 4}\n")
    remove = "remove it, or set engine.name to"
    assert lines == [
        f"b.yaml engine.address: expected a key of engine local, got one of beam and ray; {remove} beam or ray",
        f"b.yaml engine.runner: expected a key of engine local, got one of beam; {remove} beam",
        f"b.yaml engine.workers_per_gpu: expected a key of engine local, got one of ray; {remove} ray",
    ]
    assert _refused(MINIMAL, "engine.name=beam", "engine.workers_per_gpu=1") == [
        f"--set engine.workers_per_gpu: expected a key of engine beam, got one of ray; {remove} ray"
    ]
    assert _refused(MINIMAL, "engine.workers=1")[0].startswith("--set engine.workers: expected a key of engine local")


BAD = [
    ({"name": "spark"}, "engine.name: expected a registered engine, got 'spark'; known: beam, local, ray"),
    ({"name": "rai"}, "engine.name: expected a registered engine, got 'rai'; did you mean 'ray'"),
    ({"name": 3}, "engine.name: expected a registered engine, got 3; known: beam, local, ray"),
    ({"name": None}, "engine.name: expected a registered engine, got None; known: beam, local, ray"),
    ({"name": "ray", "adress": "a"}, "engine.adress: unknown key; did you mean 'address'?"),
    ({"nam": "ray"}, "engine.nam: unknown key; did you mean 'name'?"),
    ({"name": "ray", "workers": 0}, "engine.workers: Input should be greater than or equal to 1; got 0"),
    ({"name": "ray", "workers": "many"}, "engine.workers: Input should be a valid integer"),
    ({"name": "beam", "runner": "flink"}, "engine.runner: Input should be 'in_process', 'multi_processing', "),
    ({"name": "beam", "runner": "portable"}, "engine: runner portable: expected address (host:port of a job service)"),
    ({"name": "beam", "address": "a:1"}, "engine: runner in_process: expected no address, got a:1"),
    ({"device": "banana"}, "engine.device: String should match pattern"),
]


@pytest.mark.parametrize(("keys", "message"), BAD, ids=[str(keys) for keys, _ in BAD])
def test_a_bad_engine_meets_its_line(keys: dict[str, Any], message: str) -> None:
    (line,) = _refused(MINIMAL + yaml.safe_dump({"engine": keys}))
    assert line.startswith("b.yaml " + message)


@pytest.mark.parametrize("value", ["ray", "[a]", "null"])
def test_an_engine_that_is_no_mapping_is_refused(value: str) -> None:
    (line,) = _refused(MINIMAL + f"engine: {value}\n")
    assert line.startswith("b.yaml engine: expected keys, as name, device, ")


def test_an_unknown_shard_format_lists_the_near_ones_and_every_problem_is_listed() -> None:
    assert _refused(MINIMAL, "store.format=parqet") == [
        "--set store.format: expected a registered shard format, got 'parqet'; did you mean 'parquet'?"
    ]
    assert _refused("videos: {folder: v}\nfeatures: {c3d: {}}\nengine: {name: rai}\n") == [
        "b.yaml engine.name: expected a registered engine, got 'rai'; did you mean 'ray'?",
        "b.yaml store: expected a value, got none; add the key",
    ]


# As the config.yaml of a run held them while one model had the keys of every engine.
SAVED = {
    "local": "{name: local, device: cpu, threads: 1, workers: 1, workers_per_gpu: 1, runner: in_process, "
    "pipeline_options: [], task_seconds: 300.0, max_attempts: 2}",
    "ray": "{name: ray, device: auto, threads: 0, workers: 2, runner: in_process, pipeline_options: [], "
    "task_seconds: 0.15, max_attempts: 2}",
    "beam": "{name: beam, device: auto, threads: 0, workers: 2, workers_per_gpu: 1, address: 'tcp://host:1', "
    "runner: dask, pipeline_options: [--a], task_seconds: 20.0, max_attempts: 3, batch_windows: 4}",
}


def test_what_older_runs_saved_can_be_built_again() -> None:
    saved = {name: parse_build_config(MINIMAL + f"engine: {text}\n").engine for name, text in SAVED.items()}
    assert saved == {
        "local": EngineConfig(device="cpu", threads=1),
        "ray": RayConfig(workers=2, task_seconds=0.15),
        "beam": BeamConfig(
            workers=2,
            address="tcp://host:1",
            runner="dask",
            pipeline_options=("--a",),
            task_seconds=20,
            max_attempts=3,
            batch_windows=4,
        ),
    }
    # What it does say of another engine is no default and stays refused.
    (line,) = _refused(MINIMAL + f"engine: {SAVED['local'].replace('in_process', 'dask')}\n")
    assert "engine.runner: expected a key of engine local, got one of beam" in line


def test_workers_share_the_cores() -> None:
    assert worker_threads(_engine()) == num_cores()
    assert worker_threads(_engine(name="ray", workers=num_cores())) == 1
    assert worker_threads(_engine(name="beam", workers=10 * num_cores())) == 1
    assert worker_threads(_engine(name="ray", workers=2, threads=3)) == 3


def test_flags_of_beam() -> None:
    assert beam_flags(BeamConfig()) == ["--direct_running_mode=in_memory", "--direct_num_workers=1"]
    assert beam_flags(BeamConfig(runner="multi_processing", workers=2)) == [
        "--direct_running_mode=multi_processing",
        "--direct_num_workers=2",
        "--default_sdk_harness_log_level=CRITICAL",
    ]
    portable = BeamConfig(runner="portable", address="h:1")
    assert beam_flags(portable) == [
        "--job_endpoint=h:1",
        "--job_server_timeout=120",
        "--environment_type=LOOPBACK",
    ]
    other = portable.model_copy(update={"pipeline_options": ("--environment_type=DOCKER",)})
    assert beam_flags(other) == [
        "--environment_type=DOCKER",
        "--job_endpoint=h:1",
        "--job_server_timeout=120",
    ]
    dask = BeamConfig(runner="dask", connect_seconds=7.4)
    assert beam_flags(dask) == ["--dask_npartitions=1", "--dask_connection_timeout=7"]
    assert beam_flags(BeamConfig(runner="dataflow", pipeline_options=("--region=r",))) == ["--region=r"]


@pytest.mark.parametrize(
    ("runner", "options", "words"),
    [
        ("portable", ["--runner=FlinkRunner"], "start its job service and set runner: portable with its address"),
        ("in_process", ["--runner", "PrismRunner"], "Beam would download a binary: get it yourself, start its job"),
        ("in_process", ["--runner=DataflowRunner"], "set runner: dataflow"),
        ("portable", ["--runner=DirectRunner"], "set runner: in_process or multi_processing"),
    ],
)
def test_a_second_runner_among_the_options_is_refused(runner: str, options: list[str], words: str) -> None:
    address = {"address": "host:1"} if runner == "portable" else {}
    keys = {"name": "beam", "runner": runner, "pipeline_options": options} | address
    (line,) = _refused(MINIMAL + yaml.safe_dump({"engine": keys}))
    assert line.startswith("b.yaml engine: pipeline_options --runner")
    assert words in line


def test_the_runner_of_the_engine_may_be_named_once_more() -> None:
    assert BeamConfig(runner="portable", address="h:1", pipeline_options=("--runner=PortableRunner",))


def test_options_of_another_model_are_refused() -> None:
    with pytest.raises(UsageError, match="engine ray: expected RayConfig, got EngineConfig; read the file with"):
        make_engine(EngineConfig(name="ray"))


def test_reading_a_file_loads_no_engine() -> None:
    text = MINIMAL + "engine: {name: ray, runner: dask}\n"
    code = (
        "import sys\n"
        "from clipmill.pipelines.features.build_config import parse_build_config\n"
        "from clipmill.schemas.errors import ConfigError\n"
        f"try:\n    parse_build_config({text!r})\n"
        "except ConfigError as error:\n    print(error)\n"
        "print(sorted({'ray', 'apache_beam', 'dask', 'torch', 'zarr'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[3],
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "engine.runner: expected a key of engine ray, got one of beam" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
