"""Ray that a verb starts itself listens on the loopback address alone; of `sweep`, test_sweep.py does."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.encoded_videos import encode_video
from tests.jobs.retrieval_store import retrieval_config
from tests.listening_sockets import LOOPBACK, listening

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]


def addresses_of(folder: Path, verb: str, config: dict[str, Any]) -> set[str]:
    """Runs a verb to its end and returns the addresses that it and its processes listened on."""
    path = folder / f"{verb}.yaml"
    path.write_text(yaml.safe_dump(config))
    found: set[str] = set()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "GLOO_"))}
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "clipmill", verb, "--config", str(path)],
            cwd=ROOT,
            env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=output,
        )
        deadline = time.monotonic() + 280
        try:
            while process.poll() is None:
                assert time.monotonic() < deadline, "the verb does not end"
                with contextlib.suppress(psutil.Error):
                    found |= listening(psutil.Process(process.pid))
                time.sleep(0.3)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        assert process.returncode == 0, output.read()
    return found


@pytest.mark.slow
def test_build(tmp_path: Path) -> None:
    encode_video(tmp_path / "videos" / "0.mp4", num_frames=20, fps=10)
    config = {
        "store": {"url": str(tmp_path / "built")},
        "videos": {"folder": str(tmp_path / "videos")},
        "features": {"squeezenet": {"sampling": {"fps": 5}, "weights": {"random": 0}}},
        "engine": {"name": "ray", "device": "cpu", "threads": 1},
    }
    found = addresses_of(tmp_path, "build", config)
    assert found
    assert found <= LOOPBACK


@pytest.mark.slow
def test_train_with_two_workers(tmp_path: Path) -> None:
    small = {"video_hidden": [8], "image_hidden": [8], "decoder_hidden": [8]}
    config = {
        "data": retrieval_config(tmp_path / "store")["data"],
        "model": {"name": "map_ivr", "options": small},
        "loop": {"epochs": 40, "batch": 4, "device": "cpu", "threads": 1},
        "trainer": {"name": "ray", "workers": 2},
        "out": str(tmp_path / "run"),
    }
    found = addresses_of(tmp_path, "train", config)
    assert found
    assert found <= LOOPBACK
    assert json.loads((tmp_path / "run" / "report.json").read_text())["num_workers"] == 2
