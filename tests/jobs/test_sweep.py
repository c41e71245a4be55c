"""``clipmill sweep`` as a user runs it: on Ray Tune, killed and run again, with trials that die, and without Ray."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.command_line import invoke, refused
from tests.jobs.retrieval_store import retrieval_config
from tests.listening_sockets import LOOPBACK, listening
from tests.outside_packages import install

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = ROOT / "tests" / "pipelines" / "sweeps" / "outside"
SMALL = {"appearance_dim": 8, "motion_dim": 8, "latent_dim": 4, "video_hidden": [8], "image_hidden": [8]}


def written(folder: Path, **keys: Any) -> Path:
    """Writes a sweep over a small store and returns its config's path."""
    train = {
        "data": retrieval_config(folder / "store")["data"],
        "model": {"name": "map_ivr", "options": {**SMALL, "decoder_hidden": [8]}},
        "loop": {"epochs": 2, "batch": 4, "device": "cpu"},
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(train))
    sweep = {
        "train": str(folder / "train.yaml"),
        "evaluate": {"cutoffs": [1, 2]},
        "grid": {"model.options.lambda_v": [0.0, 1.0]},
        "seeds": [0, 1],
        "out": str(folder / "sweep"),
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**sweep, **keys}))
    return folder / "sweep.yaml"


def command(path: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "clipmill", "sweep", "--config", str(path), *arguments]


def environment(site: Path | None = None) -> dict[str, str]:
    paths = [str(ROOT), *([str(site)] if site is not None else [])]
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def ran(path: Path, *arguments: str, site: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(path, *arguments),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(site),
        timeout=280,
        check=False,
    )


def finished(folder: Path) -> dict[Path, int]:
    """Returns when each trial's result was written, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in (folder / "sweep" / "trials").glob("*/trial.json")}


def test_a_killed_sweep_goes_on_without_running_a_finished_trial_again(tmp_path: Path) -> None:
    path = written(tmp_path)
    process = subprocess.Popen(
        command(path), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    addresses: set[str] = set()
    below: list[psutil.Process] = []
    while not finished(tmp_path):
        assert process.poll() is None, "the sweep ended before it could be killed"
        with contextlib.suppress(psutil.Error):
            addresses |= listening(psutil.Process(process.pid))
            below = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert addresses
    assert addresses <= LOOPBACK
    # Agents look for their raylet every some seconds, and give it some tries.
    _, alive = psutil.wait_procs(below, timeout=280)
    assert not alive, "Ray outlives a driver that was killed"
    # A worker may finish what it was at after its driver is gone.
    before = finished(tmp_path)
    assert 1 <= len(before) < 4

    done = ran(path, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["num_trials"] == 4
    assert result["num_failed"] == 0
    after = finished(tmp_path)
    assert len(after) == 4
    assert {path: when for path, when in after.items() if path in before} == before
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [event["done"] for event in events] == list(range(len(before) + 1, 5))
    assert {event["of"] for event in events} == {4}

    out = tmp_path / "sweep"
    assert not (out / ".tune").exists()
    saved = json.loads((out / "results.json").read_text())
    assert saved.items() <= result.items()
    rows = list(csv.DictReader((out / "trials.csv").read_text().splitlines()))
    assert {(row["model.options.lambda_v"], row["seed"]) for row in rows} == {
        (value, seed) for value in ("0.0", "1.0") for seed in "01"
    }
    point = saved["points"][1]
    given = [float(row["combined/map@2"]) for row in rows if row["point"] == point["name"]]
    assert given == pytest.approx(point["metrics"]["combined/map@2"]["values"], abs=1e-9)
    assert point["metrics"]["combined/map@2"]["mean"] == pytest.approx(sum(given) / 2, abs=1e-9)
    page = (out / "report.html").read_text()
    assert page.count('<svg class="chart"') == 2
    assert "chance" in page
    best = yaml.safe_load((out / "best.yaml").read_text())
    assert best["model"]["options"]["lambda_v"] == saved["best"]["settings"]["model.options.lambda_v"]


def test_a_trial_whose_process_dies_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    site = install(OUTSIDE, tmp_path / "site")
    path = written(
        tmp_path, grid={"model.options.fails": ["dies", "raises", "never"]}, seeds=[0], concurrent=2, metric=None
    )
    train = yaml.safe_load((tmp_path / "train.yaml").read_text())
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(train | {"model": {"name": "brittle_ridge"}, "loop": {}}))
    done = ran(path, site=site)
    assert done.returncode == 3, done.stderr
    assert "3 points with 1 seed each, 3 trials, 2 failed" in done.stdout
    assert "failed: fails raises, seed 0: RuntimeError: the factorisation could not be completed" in done.stdout
    assert "failed: fails dies, seed 0: " in done.stdout
    assert "best: fails never" in done.stdout
    assert "Trials that failed" in (tmp_path / "sweep" / "report.html").read_text()


def test_without_ray_it_is_one_line(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "ray.py").write_text("raise ModuleNotFoundError(\"No module named 'ray'\", name='ray')\n")
    path = written(tmp_path)
    env = environment(site) | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    done = subprocess.run(command(path), capture_output=True, text=True, cwd=ROOT, env=env, timeout=280, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "clipmill: sweep ray: expected Ray with its Tune, got no module ray; pip install 'clipmill[ray]'"
    )
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"train": "none.yaml"}, "clipmill: config none.yaml: expected a readable YAML file, got No such file or"),
        ({"grid": {"model.name": ["map_ivx"]}}, "clipmill: model map_ivx: expected one of acmr"),
        ({"points": [{"name": "x"}]}, "expected exactly one of grid, random and points"),
    ],
)
def test_what_cannot_be_swept_is_one_line_and_starts_nothing(tmp_path: Path, keys: dict[str, Any], line: str) -> None:
    refused(invoke("sweep", "--config", str(written(tmp_path, **keys))), line)
    assert not (tmp_path / "sweep").exists()
