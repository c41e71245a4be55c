"""What a worker failed by: its own type, its own line, once."""

import subprocess
import sys

import pytest

from clipmill.pipelines.worker_errors import (
    Told,
    WorkerError,
    error_of,
    first_cause,
    found_in,
    plain,
    tell,
)
from clipmill.schemas.errors import (
    ClipmillError,
    EngineError,
    MachineFaultError,
    StorageUnavailableError,
    UsageError,
    WeightsError,
)

LINE = "weights c3d.pth: expected a file, got nothing; correct the path"


@pytest.mark.parametrize("kind", [UsageError, WeightsError, StorageUnavailableError, MachineFaultError, EngineError])
def test_a_domain_error_keeps_its_type_and_its_whole_message(kind: type[ClipmillError]) -> None:
    found = error_of(Told(**tell(kind(LINE + "x" * 1000))))
    assert type(found) is kind
    assert str(found) == LINE + "x" * 1000


def test_a_package_that_a_node_lacks_names_the_node() -> None:
    found = error_of(Told("ModuleNotFoundError", "No module named 'av'", "node-7"))
    assert isinstance(found, UsageError)
    assert str(found).startswith("node node-7: expected clipmill and its packages, got No module named 'av'; install")


def test_a_fault_of_ours_brings_its_traceback() -> None:
    try:
        raise KeyError("a fault")
    except KeyError as error:
        found = error_of(Told(**tell(error)))
    assert isinstance(found, WorkerError)
    assert 'raise KeyError("a fault")' in str(found)


def test_the_text_of_a_traceback_from_another_process() -> None:
    code = (
        "from clipmill.schemas.errors import WeightsError\n"
        f"try:\n    raise WeightsError({LINE!r})\n"
        "except WeightsError as error:\n    raise RuntimeError(\"a step failed [while running 'Run']\") from error\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    found = found_in(f"\x1b[36mray::run()\x1b[39m\n{done.stderr}")
    assert type(found) is WeightsError
    assert str(found) == LINE
    steps = found_in(f"  clipmill.schemas.errors.WeightsError: {LINE} [while running 'Run-ptransform-9']\n")
    assert str(steps) == LINE
    assert found_in("Traceback (most recent call last):\nKeyError: 1\n") is None


def test_a_chain_of_causes() -> None:
    assert str(first_cause(WeightsError(f"{LINE} [while running 'Run']"))) == LINE
    wrapped = RuntimeError("the pipeline failed")
    wrapped.__cause__ = WeightsError(LINE)
    assert str(first_cause(wrapped)) == LINE
    assert isinstance(first_cause(ModuleNotFoundError("No module named 'clipmill'")), UsageError)
    assert first_cause(ValueError("something else")) is None


def test_colours_are_taken_off() -> None:
    assert plain("\x1b[36mray\x1b[39m \x1b[1;31mred\x1b[0m") == "ray red"
