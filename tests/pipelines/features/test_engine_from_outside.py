"""An engine from outside the project, installed and used as a user would; no other file knows of it."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipmill.stores import FeatureStore
from tests.command_line import ROOT, clipmill, invoke, invoked_result, refused, result
from tests.encoded_videos import encode_video
from tests.outside_packages import install

EXAMPLE = ROOT / "examples" / "extending_engine"
ENGINES = {"process_pool": {"name": "process_pool", "processes": 2}, "local": {"name": "local"}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three videos and the installed package in ``site``."""
    root = tmp_path_factory.mktemp("outside")
    for index in range(3):
        encode_video(root / "videos" / f"{index}.mp4", num_frames=20 + index, fps=10)
    install(EXAMPLE, root / "site")
    return root


def config(root: Path, engine: str) -> str:
    data: dict[str, Any] = {
        "store": {"url": str(root / engine)},
        "videos": {"folder": str(root / "videos")},
        "features": {"squeezenet": {"sampling": {"fps": 5}, "weights": {"random": 0}}},
        "engine": {"device": "cpu", "threads": 1, "task_seconds": 0.05} | ENGINES[engine],
    }
    path = root / f"{engine}.yaml"
    path.write_text(yaml.safe_dump(data))
    return str(path)


def digests(store: Path) -> dict[str, str]:
    return {
        str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest()
        for name in ("shards", "commits", "recipes")
        for file in sorted((store / name).rglob("*"))
        if file.is_file()
    }


def test_it_builds_the_bytes_every_engine_builds(root: Path) -> None:
    reports = {}
    # Its processes find the package as any fresh one does.
    reports["process_pool"] = result("build", "--config", config(root, "process_pool"), site=root / "site")
    reports["local"] = invoked_result("build", "--config", config(root, "local"))
    report, store = reports["process_pool"], root / "process_pool"
    assert report["engine"] == "process_pool"
    assert report["num_tasks_executed"] == report["num_tasks"] == reports["local"]["num_tasks"] >= 2
    assert digests(store) == digests(root / "local")
    assert FeatureStore(str(store))["squeezenet"].video_ids == ["0.mp4", "1.mp4", "2.mp4"]
    (saved,) = (store / "runs").glob("*/config.yaml")
    assert yaml.safe_load(saved.read_text())["engine"] == {
        "name": "process_pool",
        "device": "cpu",
        "threads": 1,
        "task_seconds": 0.05,
        "commit_seconds": 300.0,
        "decoders": "auto",
        "forward_deadline_seconds": 600.0,
        "max_attempts": 2,
        "max_fault_share": 0.2,
        "processes": 2,
    }
    # Neither needs the package: a store says nothing of the engine that filled it.
    assert invoked_result("verify", str(store), "--sample", "0")["problems"] == []
    assert invoked_result("clean", str(store))["paths"] == []
    assert invoked_result("build", "--config", str(saved), site=root / "site")["num_tasks"] == 0


BAD = [
    ("engine.proceses=2", "engine.proceses: unknown key; did you mean 'processes'?"),
    ("engine.processes=0", "engine.processes: Input should be greater than or equal to 1; got 0"),
    ("engine.name=proces_pool", "expected a registered engine, got 'proces_pool'; did you mean 'process_pool'?"),
    ("engine.runner=dask", "engine.runner: expected a key of engine process_pool, got one of beam; remove it"),
    ("engine.name=local", "engine.processes: expected a key of engine local, got one of process_pool; remove it"),
]


@pytest.mark.parametrize(("setting", "message"), BAD, ids=[setting for setting, _ in BAD])
def test_its_keys_are_checked_like_those_of_any_other(setting: str, message: str, root: Path) -> None:
    done = invoke("plan", "--config", config(root, "process_pool"), "--set", setting, site=root / "site")
    refused(done, message)


def test_without_the_package_it_is_refused(root: Path) -> None:
    done = clipmill("plan", "--config", config(root, "process_pool"))
    refused(done, "expected a registered engine, got 'process_pool'; known: beam, local, ray")


BROKEN = [
    ("import a_library_that_is_not_there\n", "got ModuleNotFoundError: No module named 'a_library_that_is_not_there'"),
    ("ENGINE = 'a string'\n", "expected a clipmill.pipelines.features.engines.base.EngineCard, got str"),
    ("", "expected a package that imports, got AttributeError"),
    (
        "from clipmill.pipelines.features.engines.local import ENGINE\n",
        "engine process_pool: expected a engine of that name, got local; give the entry point the name of its engine",
    ),
]


@pytest.mark.parametrize(("module", "message"), BROKEN, ids=["import", "type", "attribute", "name"])
def test_a_broken_package_is_named_and_hinders_no_other_engine(
    module: str, message: str, root: Path, tmp_path: Path
) -> None:
    site = install(EXAMPLE, tmp_path / "site")
    (site / "process_pool.py").write_text(module)
    done = invoke("plan", "--config", config(root, "process_pool"), site=site)
    refused(done, message)
    other = invoke("plan", "--config", config(root, "local"), "--set", "engine.runner=dask", site=site)
    refused(other, "engine.runner: expected a key of engine local, got one of beam")


def test_a_built_in_name_cannot_be_taken_from_outside(root: Path, tmp_path: Path) -> None:
    site = install(EXAMPLE, tmp_path / "site")
    (points,) = site.glob("*/entry_points.txt")
    points.write_text("[clipmill.engines]\nlocal = process_pool:ENGINE\n")
    done = invoke("plan", "--config", config(root, "local"), site=site)
    assert done.returncode == 0, done.stderr
