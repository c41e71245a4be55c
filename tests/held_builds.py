"""A build that is in the middle of its work and stays there, for tests that take something away from it."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.command_line import ROOT
from tests.encoded_videos import encode_video

MARK = "CLIPMILL_TEST_PROCESSES"
LIMIT_SECONDS = 300.0
"""No test measures how quick something is; this only ends one that would wait for ever."""

HOLDER = '''
"""An extractor from outside the project that says where it is and stays there until it is told to go on."""

import os
import time
from pathlib import Path

import numpy as np

from clipmill.extractors.base import EachWindow, ExtractorCard, Layer, Registration, WeightsCard
from clipmill.schemas.recipe import Preprocess, Sampling


class Holder:
    def __init__(self, recipe, device):
        pass

    def forward(self, frames):
        folder = Path(FOLDER)
        (folder / "begun").touch()
        while not (folder / "go_on").exists():
            time.sleep(0.05)
        return {"values": frames.reshape(len(frames), -1).astype(np.float32).mean(axis=1, keepdims=True)}

    def reducer(self, clip):
        return EachWindow(clip, "float32")


HOLDER = Registration(
    ExtractorCard(
        name="holder",
        version=1,
        summary="stays where it is",
        layers=(Layer("mean", 1),),
        sampling=Sampling(frames=1),
        weights=(WeightsCard("none", (), "none", "none", Preprocess()),),
    ),
    Holder,
)
'''


@dataclass(frozen=True, slots=True)
class Held:
    """A build whose extractor has begun.

    Attributes:
        folder: its `output`; the extractor goes on once there is a file ``go_on`` in it.
        mark: value of `MARK` in the environment of all that it started.
    """

    process: "subprocess.Popen[bytes]"
    folder: Path
    mark: str

    def output(self) -> str:
        return (self.folder / "output").read_text()

    def wait(self) -> int:
        """Returns the exit code."""
        return self.process.wait(LIMIT_SECONDS)

    def others(self) -> list[int]:
        """Returns the processes that it started and that are there."""
        return [pid for pid in marked(self.mark) if pid != self.process.pid]


def install_holder(root: Path, folder: Path) -> Path:
    """Returns a folder that, on the Python path, provides the extractor ``holder``."""
    info = root / "holder-1.0.dist-info"
    info.mkdir(parents=True)
    (root / "holder_extractor.py").write_text(HOLDER.replace("FOLDER", repr(str(folder)), 1))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: holder\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[clipmill.extractors]\nholder = holder_extractor:HOLDER\n")
    return root


def build_config(root: Path, engine: dict[str, Any], features: dict[str, Any] | None = None) -> Path:
    """Writes a config over one short video, with ``store`` as a relative URL."""
    if not (root / "videos").exists():
        encode_video(root / "videos" / "0.mp4", num_frames=12, fps=10)
    path = root / "build.yaml"
    config = {
        "store": {"url": "store"},
        "videos": {"folder": "videos"},
        "features": features or {"holder": {"weights": {"random": 0}, "sampling": {"frames": 1, "step": 5}}},
        "engine": {"device": "cpu", "threads": 1} | engine,
    }
    path.write_text(yaml.safe_dump(config))
    return path


def environment(*sites: Path, **values: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "GLOO_"))}
    return kept | {"PYTHONPATH": os.pathsep.join(map(str, (*sites, ROOT))), "OMP_NUM_THREADS": "1"} | values


@contextmanager
def held_build(root: Path, engine: dict[str, Any], ignoring_hup: bool = False, **values: str) -> Iterator[Held]:
    """Starts a build in `root` and gives it once its extractor has begun; leaves no process of it behind."""
    site = install_holder(root / "site", root)
    config = build_config(root, engine)
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "clipmill", "build", "--config", str(config)]
    with (root / "output").open("wb") as output:
        process = subprocess.Popen(
            ["nohup", *command] if ignoring_hup else command,
            cwd=root,
            env=environment(site, **values) | {MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        held = Held(process, root, mark)
        try:
            until = time.monotonic() + LIMIT_SECONDS
            while not (root / "begun").exists():
                assert process.poll() is None, held.output()
                assert time.monotonic() < until, "the extractor never began"
                time.sleep(0.05)
            yield held
        finally:
            for pid in [process.pid, *marked(mark)]:
                try:
                    os.kill(pid, 9)
                except OSError:
                    pass
            process.wait()


def marked(mark: str) -> list[int]:
    """Returns the processes that inherited `mark`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found
