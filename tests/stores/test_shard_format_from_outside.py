"""A shard format from outside the project, installed and used as a user would; no other file knows of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from clipmill.stores import FeatureStore
from tests.command_line import ROOT, invoke, invoked_result, python, refused, result
from tests.encoded_videos import encode_video
from tests.outside_packages import install

EXAMPLE = ROOT / "examples" / "extending_shard_format"
READ = """
import json, sys
from clipmill.stores import FeatureStore
feature = FeatureStore(sys.argv[1])["squeezenet"]
rows = {name: feature[name] for name in feature.video_ids}
print(json.dumps({name: [item.values.tobytes().hex(), item.start_seconds.tolist()] for name, item in rows.items()}))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two videos, the installed package in ``site``, and what it built in ``npz`` and ``zarr``."""
    root = tmp_path_factory.mktemp("outside")
    for name in ("один", "b/two"):
        encode_video(root / "videos" / f"{name}.mp4", num_frames=20, fps=10)
    install(EXAMPLE, root / "site")
    fresh = result("build", "--config", config(root, "npz"), site=root / "site")
    assert fresh["num_complete"] == build(root, "zarr")["num_complete"] == 2
    return root


def config(root: Path, shard_format: str) -> str:
    data: dict[str, Any] = {
        "store": {"url": str(root / shard_format), "format": shard_format},
        "videos": {"folder": str(root / "videos")},
        "features": {"squeezenet": {"sampling": {"fps": 5}, "weights": {"random": 0}}},
        "engine": {"device": "cpu", "threads": 1},
    }
    path = root / f"{shard_format}.yaml"
    path.write_text(yaml.safe_dump(data, allow_unicode=True))
    return str(path)


def build(root: Path, shard_format: str) -> dict[str, Any]:
    return invoked_result("build", "--config", config(root, shard_format), site=root / "site")


def shard(root: Path) -> Path:
    (path,) = (root / "npz" / "shards").glob("*/*")
    return path


def test_its_store_is_read_as_any_other(root: Path) -> None:
    done = python("-c", READ, str(root / "npz"), site=root / "site")
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    zarr = FeatureStore(str(root / "zarr"))["squeezenet"]
    assert read == {
        name: [zarr[name].values.tobytes().hex(), zarr[name].start_seconds.tolist()] for name in zarr.video_ids
    }
    assert set(read) == {"один.mp4", "b/two.mp4"}
    # NumPy alone reads the shard the commit names.
    assert shard(root).suffix == ".npz"
    with np.load(shard(root)) as file:
        assert file["values"].shape == (20, 512)
        assert file["video_ids"].tolist() == zarr.index().column("video_id").to_pylist()


def test_a_second_build_executes_nothing_and_status_shows_the_format(root: Path) -> None:
    assert build(root, "npz")["num_tasks"] == 0
    status = invoked_result("status", str(root / "npz"), site=root / "site")
    assert (status["format"], status["features"][0]["num_complete"]) == ("npz", 2)


def test_it_is_cleaned_and_verified(root: Path) -> None:
    orphan = shard(root).with_name(f"{'0' * 16}.npz")
    orphan.write_bytes(b"no commit names me")
    cleaned = invoked_result("clean", str(root / "npz"), site=root / "site")
    assert cleaned["paths"] == [orphan.relative_to(root / "npz").as_posix()]
    assert not orphan.exists()
    assert len(invoked_result("verify", str(root / "npz"), "--sample", "1", site=root / "site")["recomputed"]) == 2


def test_damage_to_it_is_found(root: Path) -> None:
    whole = shard(root).read_bytes()
    try:
        shard(root).write_bytes(whole[: len(whole) // 2])
        found = result("verify", str(root / "npz"), "--sample", "0", site=root / "site", code=1)
    finally:
        shard(root).write_bytes(whole)
    (problem,) = found["problems"]
    assert "got no readable .npz (BadZipFile)" in problem


def test_without_the_package_the_store_is_refused_and_names_what_is_missing(root: Path) -> None:
    expected = "expected shards of a registered format (npy, parquet, zarr), got 'npz'; install the package"
    refused(invoke("status", str(root / "npz")), expected)
    expected = "store.format: expected a registered shard format, got 'npz'; did you mean"
    refused(invoke("plan", "--config", config(root, "npz")), expected)


def test_an_unknown_format_lists_it_among_the_near_ones(root: Path) -> None:
    done = invoke("plan", "--config", config(root, "npz"), "--set", "store.format=npzz", site=root / "site")
    refused(done, "store.format: expected a registered shard format, got 'npzz'; did you mean 'npz'")
