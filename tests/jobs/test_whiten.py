"""``clipmill whiten`` from videos to whitened descriptors of other videos, as a user does it, and what it refuses."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from sklearn.decomposition import PCA

from clipmill.extractors.whitening import read_whitening
from clipmill.jobs.build import run_build, run_plan
from clipmill.jobs.whiten import run_whiten
from clipmill.pipelines.features.planning import plan_build
from clipmill.pipelines.features.recompute import recompute
from clipmill.schemas.config import BuildConfig, parse_config
from clipmill.schemas.errors import ConfigError, StoreError, UsageError
from clipmill.stores import FeatureStore, Store
from tests.encoded_videos import encode_video

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = 6
RMAC = {
    "extractor": "rmac",
    "sampling": {"fps": 5},
    "preprocess": {"size": [96]},
    "options": {"last_pool": False},
    "weights": {"random": 0},
}


def write(folder: Path, name: str, data: Mapping[str, Any]) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(dict(data)))
    return str(path)


def build_config(folder: Path, videos: str, features: Mapping[str, Any]) -> str:
    data = {
        "store": {"url": str(folder / f"store of {videos}")},
        "videos": {"folder": str(folder / videos)},
        "features": dict(features),
        "engine": {"device": "cpu", "threads": 1, "batch_windows": 4},
    }
    return write(folder, f"build-{videos}", data)


def whiten_config(folder: Path, **changes: Any) -> str:
    data = {
        "store": str(folder / "store of independent"),
        "feature": "regions",
        "out": str(folder / "w.npz"),
        "components": COMPONENTS,
    }
    return write(folder, "whiten", data | changes)


class World(NamedTuple):
    folder: Path
    outcome: Any
    regions: npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Regional vectors of one wide and one upright video, a whitening of them, and a third video."""
    folder = tmp_path_factory.mktemp("world")
    for name in ("independent", "described"):
        (folder / name).mkdir()
    encode_video(folder / "independent" / "wide.mp4", 25, width=96, height=64)
    encode_video(folder / "independent" / "upright.mp4", 25, width=64, height=96, pattern="noise")
    encode_video(folder / "described" / "other.mp4", 25, width=128, height=64)
    run_build(build_config(folder, "independent", {"regions": RMAC | {"layer": "regions"}}), [])
    outcome = run_whiten(whiten_config(folder), [])
    store = FeatureStore(str(folder / "store of independent"))
    return World(folder, outcome, store["regions"].dask().compute(scheduler="synchronous"))


def test_videos_of_different_shapes_share_a_build(world: World) -> None:
    store = FeatureStore(str(world.folder / "store of independent"))
    feature = store["regions"]
    for video_id, video in store.videos().items():
        rows = feature[video_id]
        # 5 frames with maps of 6 x 4 or 4 x 6 cells: 20 regions each.
        assert rows.values.shape == (100, 512)
        assert len(np.unique(rows.start_seconds)) == 5
        alone = recompute(video, feature.recipe, "cpu")
        np.testing.assert_allclose(rows.values, alone.values, rtol=0, atol=1e-5)


def test_the_whitening_says_what_it_was_fitted_on(world: World) -> None:
    store = FeatureStore(str(world.folder / "store of independent"))
    found = read_whitening(str(world.folder / "w.npz"))
    assert found.feature == store["regions"].recipe.fingerprint
    assert (found.num_vectors, found.num_floored, len(found.eigenvalues)) == (200, 0, COMPONENTS)
    assert found.videos == tuple(sorted(video.fingerprint for video in store.videos().values()))
    assert world.outcome.data["fingerprint"] == found.fingerprint
    assert world.outcome.data["num_videos"] == 2
    assert "fitted on 200 vectors of 2 videos" in world.outcome.text
    theirs = PCA(COMPONENTS, whiten=True, svd_solver="full").fit(world.regions.astype(np.float64))
    np.testing.assert_allclose(found.eigenvalues, theirs.explained_variance_, rtol=1e-7)


def test_other_videos_are_described_with_it(world: World) -> None:
    described = RMAC | {"options": RMAC["options"] | {"whitening": str(world.folder / "w.npz")}}  # type: ignore[operator]
    features = {
        "rmac": described,
        "clip": described | {"pooling": "mean_l2"},
        "regions": RMAC | {"layer": "regions"},
    }
    run_build(build_config(world.folder, "described", features), [])
    store = FeatureStore(str(world.folder / "store of described"))
    rows = store["rmac"]["other.mp4"]
    assert rows.values.shape == (5, COMPONENTS)
    theirs = PCA(COMPONENTS, whiten=True, svd_solver="full").fit(world.regions.astype(np.float64))
    signs = np.sign((read_whitening(str(world.folder / "w.npz")).components * theirs.components_).sum(axis=1))
    vectors = store["regions"]["other.mp4"].values.astype(np.float64)
    whitened = theirs.transform(vectors).reshape(5, -1, COMPONENTS) * signs
    whitened /= np.linalg.norm(whitened, axis=2, keepdims=True)
    expected = whitened.sum(axis=1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(rows.values, expected, rtol=0, atol=1e-4)
    mean = expected.mean(axis=0)
    np.testing.assert_allclose(store["clip"]["other.mp4"].values[0], mean / np.linalg.norm(mean), rtol=0, atol=1e-4)


def test_the_videos_it_was_fitted_on_are_refused_unless_told_otherwise(world: World) -> None:
    options = {"last_pool": False, "whitening": str(world.folder / "w.npz")}
    config = build_config(world.folder, "independent", {"rmac": RMAC | {"options": options}})
    with pytest.raises(UsageError, match=r"w.npz, fitted on 2 of these 2 videos, such as .*; fit it on an independent"):
        run_plan(config, [])
    allowed = run_plan(config, ["features.rmac.options.whitening_of_these_videos=true"])
    assert allowed.data["num_tasks"] == 1


def test_the_same_vectors_give_the_same_file(world: World) -> None:
    path = world.folder / "again.npz"
    run_whiten(whiten_config(world.folder, out=str(path)), [])
    assert path.read_bytes() == (world.folder / "w.npz").read_bytes()


def test_too_few_vectors_for_all_channels_are_refused(world: World) -> None:
    with pytest.raises(UsageError, match=r"whitening vectors: expected more vectors than the 512 components, got 200"):
        run_whiten(whiten_config(world.folder, components=None), [])


def test_flat_directions_are_told(world: World) -> None:
    # A floor so high that all but the first directions are below it.
    outcome = run_whiten(whiten_config(world.folder, out=str(world.folder / "floored.npz"), floor=0.9), [])
    assert outcome.data["num_floored"] > 0
    assert f"warning: {outcome.data['num_floored']} components had less than 0.9 of the greatest" in outcome.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": "descriptor"}, r"feature other: expected layer regions of extractor rmac, got layer descriptor"),
        ({"layer": "regions", "pooling": "mean"}, r"expected layer regions .*, one row per region, got pooling: mean"),
        ({"layer": "regions", "whitened": True}, r"without a whitening, got vectors whitened already \(\w{8}\)"),
        (
            {"extractor": "squeezenet", "preprocess": {}, "options": {}},
            r"expected layer regions of extractor rmac, got features of squeezenet",
        ),
    ],
)
def test_other_features_are_refused(changes: dict[str, Any], message: str, world: World, tmp_path: Path) -> None:
    changes = dict(changes)
    if changes.pop("whitened", False):
        changes["options"] = {"last_pool": False, "whitening": str(world.folder / "w.npz")}
    (tmp_path / "videos").symlink_to(world.folder / "described")
    config = build_config(tmp_path, "videos", {"other": RMAC | changes})
    planned = plan_build(parse_config(BuildConfig, Path(config).read_text()))
    store = Store.create(planned.config.store.url, "zarr", "test")
    store.write_recipe(planned.recipes[0])
    with pytest.raises(UsageError, match=message.replace("feature other", f"feature {planned.recipes[0].key}")):
        run_whiten(whiten_config(tmp_path, store=store.url, feature=planned.recipes[0].key), [])


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        run_whiten(whiten_config(tmp_path), [])


def test_an_unknown_key_names_the_near_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"flor: unknown key; did you mean 'floor'"):
        run_whiten(whiten_config(tmp_path, flor=0.1), [])


def test_the_command_line_says_it_in_one_line(world: World) -> None:
    config = whiten_config(world.folder, feature="regoins")
    done = subprocess.run(
        [sys.executable, "-m", "clipmill", "whiten", "--config", config],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=280,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "feature regoins: expected one of store" in done.stderr
    assert "did you mean 'regions'" in done.stderr
