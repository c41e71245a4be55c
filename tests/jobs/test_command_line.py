"""What a shell sees of ``clipmill``: how a job's file is named, what is said of it, where errors come."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import clipmill
from tests.command_line import invoke


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m clipmill`` in a fresh process."""
    return subprocess.run(
        [sys.executable, "-m", "clipmill", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | environment,
    )


@pytest.fixture
def plan_config(tmp_path: Path) -> str:
    path = tmp_path / "build.yaml"
    (tmp_path / "videos").mkdir()
    path.write_text(
        f"store: {{url: {tmp_path / 'store'}}}\nvideos: {{folder: {tmp_path / 'videos'}}}\n"
        "features: {c3d: {sampling: {frames: 16, step: 16}, weights: {random: 0}}}\n"
    )
    return str(path)


def test_the_version_is_the_package_s() -> None:
    assert command("--version").stdout == f"clipmill {clipmill.__version__}\n"


def test_a_file_is_an_argument_or_an_option_but_not_both_and_not_none(plan_config: str) -> None:
    as_argument, as_option = command("plan", plan_config), invoke("plan", "--config", plan_config)
    assert as_argument.stderr == as_option.stderr != ""
    assert as_argument.returncode == as_option.returncode
    twice = invoke("plan", plan_config, "--config", plan_config)
    assert (twice.returncode, twice.stderr.count("\n")) == (2, 1)
    assert "option --config: expected one config file" in twice.stderr
    for verb in ("build", "evaluate", "search"):
        none = invoke(verb)
        assert (none.returncode, none.stderr) == (
            2,
            "clipmill: argument FILE: expected the YAML file of the job, got none; name it behind the verb\n",
        ), verb


def test_the_resolved_config_is_told_when_asked_and_an_error_comes_last(plan_config: str) -> None:
    quiet, verbose = (invoke("plan", plan_config, *more) for more in ((), ("--verbose",)))
    assert "max_fault_share" not in quiet.stderr
    assert "max_fault_share" in verbose.stderr
    assert quiet.returncode == verbose.returncode == 2  # an empty folder
    assert quiet.stderr.splitlines()[-1] == verbose.stderr.splitlines()[-1]
    assert quiet.stderr.splitlines()[-1].startswith("clipmill: ")


def test_a_value_of_set_is_blamed_as_set_and_one_of_the_file_as_the_file_s(plan_config: str) -> None:
    text = Path(plan_config).read_text()
    Path(plan_config).write_text(f"{text}decode: {{memory_gib: none}}\n")
    found = command("plan", plan_config, "--set", "engine.threads=few", "--set", "features.c3d.lyer=fc6")
    assert found.returncode == 2
    lines = found.stderr.splitlines()
    assert any(line.startswith("clipmill: --set engine.threads: ") for line in lines)
    assert "clipmill: --set features.c3d.lyer: unknown key; did you mean 'layer'?" in lines
    assert any(line.startswith(f"clipmill: {plan_config} decode.memory_gib: ") for line in lines)
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("verb", "settings", "blamed"),
    [
        ("evaluate", ["task=detektion"], "--set task: expected one of"),
        ("evaluate", ["task=detection", "confidence=high"], "--set confidence: "),
        ("train", ["loop.epochs=many"], "--set loop.epochs: "),
        ("build", ["engine.name=rey"], "--set engine.name: expected a registered engine"),
    ],
)
def test_every_verb_blames_set(tmp_path: Path, verb: str, settings: list[str], blamed: str) -> None:
    (tmp_path / "empty.yaml").write_text("")
    overrides = [word for setting in settings for word in ("--set", setting)]
    found = invoke(verb, str(tmp_path / "empty.yaml"), *overrides)
    assert found.returncode == 2
    assert f"clipmill: {blamed}" in found.stderr


def test_a_dry_run_refuses_a_gpu_that_is_not_there(plan_config: str) -> None:
    # CUDA sees no device where none is visible, so that the test means the same on a machine that has one.
    found = command("build", plan_config, "--dry-run", "--set", "engine.device=cuda", CUDA_VISIBLE_DEVICES="")
    assert found.returncode == 2
    last = "clipmill: engine device: expected a CUDA GPU, got none on this machine; use device: auto or cpu"
    assert found.stderr.splitlines()[-1] == last


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not on PATH")
def test_bash_completes_verbs_options_and_files(tmp_path: Path) -> None:
    script = command("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1").stdout
    assert "complete " in script
    (tmp_path / "completion.sh").write_text(script)
    sourced = subprocess.run(
        ["bash", "-c", f"source {tmp_path / 'completion.sh'} && complete -p clipmill"], capture_output=True, text=True
    )
    assert "-o default" in sourced.stdout  # where the program names none, bash completes files

    def completions(line: str) -> list[str]:
        words = line.split(" ")
        found = command(_CLIPMILL_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1)).stdout
        return found.split()

    assert completions("clipmill ev") == ["evaluate"]
    assert "--dry-run" in completions("clipmill build --")
