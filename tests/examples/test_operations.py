"""The examples for schedulers: parseable, their configs valid, and what their scripts do with each exit code."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from clipmill.jobs.cli import app
from clipmill.pipelines.features.build_config import parse_build_config
from clipmill.stores import FeatureStore
from tests.encoded_videos import encode_video

FOLDER = Path(__file__).parents[2] / "examples" / "operations"
YAML_FILES = sorted(FOLDER.rglob("*.yaml"))
CONFIGS = [path for path in YAML_FILES if "kind" not in yaml.safe_load(path.read_text())]
MANIFESTS = [path for path in YAML_FILES if path not in CONFIGS]
SCRIPTS = sorted([*FOLDER.rglob("*.sh"), *FOLDER.rglob("*.sbatch")])
NIGHTLY, SBATCH = FOLDER / "cron" / "nightly.sh", FOLDER / "slurm" / "build.sbatch"

STAND_IN = """#!/bin/sh
# Ends with the next of the exit codes in the file "codes"; says what it was called with, and by what it was ended.
echo "$@" >> calls
trap 'echo term >> calls; exit 4' TERM
code=$(head -n 1 codes); sed -i 1d codes
if [ "$code" = wait ]; then echo begun >> calls; while :; do sleep 0.05; done; fi
exit "$code"
"""


def _called(path: Path) -> str:
    return str(path.relative_to(FOLDER))


@pytest.mark.parametrize("path", CONFIGS, ids=_called)
def test_build_configs_are_valid(path: Path) -> None:
    parse_build_config(path.read_text(), [], str(path))


def test_there_are_examples_for_every_scheduler_and_storage() -> None:
    assert {path.parent.name for path in YAML_FILES} >= {"kubernetes", "kuberay", "beam", "dask", "storage"}
    assert {path.stem for path in (FOLDER / "storage").iterdir()} == {"s3", "gcs", "azure"}


def _containers(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield from value.get("containers", [])
        for item in value.values():
            yield from _containers(item)
    elif isinstance(value, list):
        for item in value:
            yield from _containers(item)


def _mounts(value: Any) -> Iterator[tuple[set[str], set[str]]]:
    """Yields, for each pod, the volumes that its containers mount and those that it has."""
    if isinstance(value, dict):
        if "containers" in value:
            mounted = {mount["name"] for item in value["containers"] for mount in item.get("volumeMounts", [])}
            yield mounted, {volume["name"] for volume in value.get("volumes", [])}
        for item in value.values():
            yield from _mounts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _mounts(item)


@pytest.mark.parametrize("path", MANIFESTS, ids=_called)
def test_manifests_hold_together(path: Path) -> None:
    (manifest,) = yaml.safe_load_all(path.read_text())
    assert manifest["apiVersion"] in ("batch/v1", "ray.io/v1")
    for mounted, there in _mounts(manifest):
        assert mounted == there
    containers = list(_containers(manifest))
    assert all(item["image"].startswith("registry.example.org/clipmill") for item in containers)
    for item in containers:
        if "args" in item:
            assert subprocess.run(["sh", "-n", "-c", item["args"][0]], check=False).returncode == 0


@pytest.mark.parametrize("path", SCRIPTS, ids=_called)
def test_scripts_are_parseable(path: Path) -> None:
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a stand-in for clipmill and Slurm's scontrol, first on the path."""
    for name in ("clipmill", "scontrol"):
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(STAND_IN if name == "clipmill" else '#!/bin/sh\necho "scontrol $@" >> calls\n')
        tool.chmod(0o755)
    return tmp_path


def _environment(here: Path, **more: str) -> dict[str, str]:
    path = f"{here / 'bin'}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "CLIPMILL_LOCK": str(here / "lock"), "CLIPMILL_PAUSE_SECONDS": "0"} | more


def _run(here: Path, command: Sequence[str], codes: Sequence[Any], **more: str) -> tuple[int, list[str]]:
    (here / "codes").write_text("".join(f"{code}\n" for code in codes))
    done = subprocess.run(command, cwd=here, env=_environment(here, **more), timeout=60, check=False)
    return done.returncode, (here / "calls").read_text().splitlines()


BUILD = "build build.yaml --deadline 06:00"


@pytest.mark.parametrize(
    ("codes", "code", "num_calls"),
    [
        ((0,), 0, 1),
        ((3,), 0, 1),
        ((4, 4, 0), 0, 3),
        ((137, 3), 0, 2),
        ((4, 4, 4, 0), 4, 3),
        ((1, 0), 1, 1),
        ((2, 0), 2, 1),
        ((4, 2, 0), 2, 2),
    ],
)
def test_the_nightly_script_tries_again_what_may_work(
    here: Path, codes: Sequence[int], code: int, num_calls: int
) -> None:
    command = [str(NIGHTLY), "build.yaml", "--deadline", "06:00"]
    assert _run(here, command, codes) == (code, [BUILD] * num_calls)


def test_the_nightly_script_leaves_a_build_at_work_alone(here: Path) -> None:
    command = [str(NIGHTLY), "build.yaml"]
    (here / "codes").write_text("wait\n0\n")
    first = subprocess.Popen(command, cwd=here, env=_environment(here), start_new_session=True)
    try:
        _until_begun(here)
        second = subprocess.run(command, cwd=here, env=_environment(here), timeout=60, check=False)
        assert second.returncode == 0
        assert (here / "calls").read_text().count("build build.yaml") == 1
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()


@pytest.mark.parametrize(
    ("given", "restarts", "code", "requeued"),
    [(0, 0, 0, False), (3, 0, 0, False), (2, 0, 2, False), (4, 0, 0, True), (4, 2, 4, False), (137, 1, 0, True)],
)
def test_the_body_of_the_job_array(here: Path, given: int, restarts: int, code: int, requeued: bool) -> None:
    slurm = {
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_ARRAY_TASK_COUNT": "16",
        "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_RESTART_COUNT": str(restarts),
    }
    expected = ["build build.yaml --shard 3/16", *(["scontrol requeue 77_3"] if requeued else [])]
    assert _run(here, ["bash", str(SBATCH), "build.yaml"], [given], **slurm) == (code, expected)


def test_the_job_array_passes_on_the_signal_before_its_time_is_up(here: Path) -> None:
    slurm = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_JOB_ID": "77"}
    (here / "codes").write_text("wait\n")
    job = subprocess.Popen(["bash", str(SBATCH), "build.yaml"], cwd=here, env=_environment(here, **slurm))
    _until_begun(here)
    job.terminate()
    assert job.wait(60) == 0
    assert (here / "calls").read_text().splitlines()[-2:] == ["term", "scontrol requeue 77_1"]


def _until_begun(here: Path) -> None:
    until = time.monotonic() + 60
    while not ((here / "calls").exists() and "begun" in (here / "calls").read_text()):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_the_nightly_script_builds(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    encode_video(tmp_path / "videos" / "a.mp4", num_frames=10, fps=5)
    config = yaml.safe_load((FOLDER / "build.yaml").read_text())
    config["store"]["url"], config["videos"]["folder"] = str(tmp_path / "store"), str(tmp_path / "videos")
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(config | {"engine": {"device": "cpu", "threads": 1}}))
    tool = tmp_path / "bin" / "clipmill"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m clipmill "$@"\n')
    tool.chmod(0o755)
    environment = _environment(tmp_path) | {"PYTHONPATH": str(FOLDER.parents[1])}
    done = subprocess.run([str(NIGHTLY), str(tmp_path / "build.yaml")], env=environment, timeout=280, check=False)
    assert done.returncode == 0
    assert FeatureStore(str(tmp_path / "store"))["frames"].video_ids == ["a.mp4"]


@pytest.mark.parametrize("path", sorted(path for path in FOLDER.rglob("*") if path.is_file()), ids=_called)
def test_the_options_of_clipmill_are_those_it_has(path: Path) -> None:
    text = path.read_text().replace('", "', " ")
    commands = re.findall(r"clipmill ((?:build|plan|status) [^\n;&]*)", text)
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for command in commands:
        verb, *words = command.split()
        known = {name for parameter in verbs[verb].params for name in parameter.opts}
        assert {word for word in words if re.fullmatch(r"--[a-z-]+", word)} <= known
    if path.suffix in (".sh", ".sbatch", ".py") or path in MANIFESTS:
        assert any(command.startswith("build ") for command in commands)
