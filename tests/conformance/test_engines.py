"""Every engine: same plan, same bytes; a killed task changes nothing; a second run executes nothing."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clipmill.pipelines.features.build import build
from clipmill.pipelines.features.build_config import parse_build_config
from clipmill.pipelines.features.build_report import BuildReport
from clipmill.stores import FeatureStore
from clipmill.stores.store import Store
from tests.conformance.conftest import ENGINES, POISON, digests, serving, write_config
from tests.outside_packages import found_in

MARKS: dict[str, Any] = {
    "local": (),
    "ray": pytest.mark.ray,
    "beam-in-process": pytest.mark.beam,
    # The kill of a Dask worker below holds processes of Beam to the values of the local engine, too.
    "beam-multi-processing": (pytest.mark.beam, pytest.mark.slow),
    "beam-dask": (pytest.mark.beam, pytest.mark.slow),
    "beam-portable": (pytest.mark.beam, pytest.mark.slow),
}
PARAMS = [pytest.param(name, marks=MARKS[name]) for name in ENGINES]


def _build(path: Path) -> BuildReport:
    return build(parse_build_config(path.read_text()))


@pytest.fixture(scope="session")
def reference(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store the local engine fills."""
    root = tmp_path_factory.mktemp("reference")
    _build(write_config(root / "build.yaml", folder, root / "store", ENGINES["local"]))
    return root / "store"


@pytest.mark.parametrize("name", PARAMS)
def test_same_plan_same_bytes_and_a_second_run_executes_nothing(
    name: str, folder: Path, tmp_path: Path, reference: Path
) -> None:
    with serving(ENGINES[name]) as engine:
        config = write_config(tmp_path / "build.yaml", folder, tmp_path / "store", engine)
        report = _build(config)
        assert report.num_tasks_executed == report.num_tasks >= 3
        assert digests(tmp_path / "store") == digests(reference)
        assert report.num_quarantined == len(POISON)
        assert report.reasons == {reason: 1 for reason in POISON.values()}

        again = _build(config)
    assert (again.num_tasks, again.num_tasks_executed) == (0, 0)
    assert again.num_quarantined == len(POISON)
    assert digests(tmp_path / "store") == digests(reference)
    quarantine = sorted((tmp_path / "store" / "quarantine").iterdir())
    assert len(quarantine) == 1, "a poisonous file is quarantined once"


def test_every_video_has_rows_or_a_reason(reference: Path) -> None:
    store = FeatureStore(str(reference))
    assert set(store["squeezenet"].video_ids) == {
        f"{label}/{index}.mp4" for label in ("left", "right") for index in range(3)
    }
    assert set(store.videos()) - set(store["squeezenet"].video_ids) == set(POISON)


KILLER = '''
"""An extractor from outside the project that kills once: its own process, or the one that waits for it."""

import os
import signal

import numpy as np

from clipmill.extractors.base import EachWindow, ExtractorCard, Layer, Registration, WeightsCard
from clipmill.schemas.recipe import Preprocess, Sampling


class Killer:
    def __init__(self, recipe, device):
        self._recipe = recipe

    def forward(self, frames):
        marker = os.environ["CLIPMILL_TEST_MARKER"]
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return {"values": frames.reshape(len(frames), -1).astype(np.float32).mean(axis=1, keepdims=True)}
        victim = os.getppid() if "CLIPMILL_TEST_KILL_PARENT" in os.environ else os.getpid()
        os.kill(victim, signal.SIGKILL)
        signal.pause()

    def reducer(self, clip):
        return EachWindow(clip, "float32")


KILLER = Registration(
    ExtractorCard(
        name="killer",
        version=1,
        summary="kills its process once",
        layers=(Layer("mean", 1),),
        sampling=Sampling(frames=1),
        weights=(WeightsCard("none", (), "none", "none", Preprocess()),),
    ),
    Killer,
)
'''


@pytest.fixture(scope="module")
def killer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that, on the Python path, provides the extractor through an entry point."""
    root = tmp_path_factory.mktemp("killer") / "plugin"
    info = root / "killer-1.0.dist-info"
    info.mkdir(parents=True)
    (root / "killer_extractor.py").write_text(KILLER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: killer\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[clipmill.extractors]\nkiller = killer_extractor:KILLER\n")
    return root


def _run(config: Path, plugin: Path, marker: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(plugin), os.getcwd()]),
        "CLIPMILL_TEST_MARKER": str(marker),
    }
    environment |= more
    command = [sys.executable, "-m", "clipmill", "build", "--config", str(config), "--json"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)


def _passports(store: Path) -> list[tuple[str, str]]:
    """Each committed video with the digest of its values, as often as it is committed."""
    opened = Store.open(str(store))
    rows = [row for path in opened.commit_paths() for row in opened.read_table(path).to_pylist()]
    return sorted((row["video_id"], row["passport"]["values_sha256"]) for row in rows)


# Each of Ray's actors wants every core, so only one of the two finds a place: the other must not be given a task.
KILLED: dict[str, dict[str, Any]] = {
    name: ENGINES[name] | {"threads": os.cpu_count()} for name in ("local", "ray", "beam-multi-processing")
}
MARKS_OF_KILLED: dict[str, Any] = {
    # tests/pipelines/features/test_fatal_videos.py kills a local build, and the test of Dask below a worker of Beam.
    "local": pytest.mark.slow,
    "ray": pytest.mark.ray,
    "beam-multi-processing": (pytest.mark.beam, pytest.mark.slow),
}


KILLER_FEATURES = {"killer": {"weights": {"random": 0}, "sampling": {"frames": 1, "step": 5}}}


@pytest.fixture(scope="module")
def spared(folder: Path, killer_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """What the local engine commits where nothing is killed."""
    root = tmp_path_factory.mktemp("spared")
    (root / "spared").touch()
    config = write_config(root / "build.yaml", folder, root / "store", KILLED["local"], KILLER_FEATURES)
    with pytest.MonkeyPatch.context() as patched, found_in(killer_path):
        patched.setenv("CLIPMILL_TEST_MARKER", str(root / "spared"))
        assert _build(config).exit_code == 3
    return _passports(root / "store")


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS_OF_KILLED[name]) for name in KILLED])
def test_a_task_killed_on_its_first_attempt_changes_nothing(
    name: str, folder: Path, tmp_path: Path, killer_path: Path, spared: list[tuple[str, str]]
) -> None:
    config = write_config(tmp_path / "killed.yaml", folder, tmp_path / "killed", KILLED[name], KILLER_FEATURES)
    marker = tmp_path / "marker"
    first = _run(config, killer_path, marker)
    assert marker.exists(), "the extractor never ran"
    if first.returncode != 3:
        # Where the worker is the process itself, or its runner does not replace it, the run dies: the next goes on.
        assert first.returncode in (-signal.SIGKILL, 4), first.stderr
        second = _run(config, killer_path, marker)
        assert second.returncode == 3, second.stderr
    # A task whose worker died within a run goes on video by video: its commits are cut otherwise, and hold the same.
    assert _passports(tmp_path / "killed") == spared
    if name == "local":
        assert json.loads(_run(config, killer_path, marker).stdout)["num_tasks"] == 0


@pytest.mark.beam
def test_a_lost_dask_worker_is_replaced_and_the_report_counts_what_is_stored(
    folder: Path, tmp_path: Path, killer_path: Path, spared: list[tuple[str, str]]
) -> None:
    engine = ENGINES["beam-dask"]
    config = write_config(tmp_path / "killed.yaml", folder, tmp_path / "killed", engine, KILLER_FEATURES)
    marker = tmp_path / "marker"
    done = _run(config, killer_path, marker, CLIPMILL_TEST_KILL_PARENT="1")
    assert marker.exists(), "the extractor never ran"
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    feature = FeatureStore(str(tmp_path / "killed"))["killer"]
    stored = sum(len(feature[video_id].values) for video_id in feature.video_ids)
    assert len(feature.video_ids) == 6
    assert list(report["num_rows"].values()) == [stored]
    assert _passports(tmp_path / "killed") == spared, "each once"
