"""``clipmill orient`` on stores whose features were made from a known PCA, and what it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from clipmill.extractors.resolve import resolve_recipe
from clipmill.jobs.orient import run_orient
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.errors import UsageError
from clipmill.schemas.recipe import ClipRule, Recipe
from clipmill.schemas.records import Video
from clipmill.schemas.rows import Rows
from clipmill.schemas.tables import COMMITS
from clipmill.schemas.task import clips_fingerprint
from clipmill.stores.store import Store
from clipmill.stores.verify import values_sha256
from tests.command_line import result

Floats = npt.NDArray[np.float32]
DIM = 4096


class Basis(NamedTuple):
    """An orthogonal matrix: a permutation, then reflections; too large to make by a decomposition in a test."""

    order: npt.NDArray[np.int64]
    mirrors: Floats

    def __call__(self, rows: Floats) -> Floats:
        """Returns ``[N, 4096]`` with column k of `rows` along direction k."""
        found = np.empty_like(rows)
        found[:, self.order] = rows
        for mirror in self.mirrors:
            found -= np.outer(found @ mirror, 2 * mirror)
        return found


@pytest.fixture(scope="module")
def basis() -> Basis:
    generator = np.random.default_rng(0)
    mirrors = generator.normal(size=(4, DIM))
    mirrors /= np.linalg.norm(mirrors, axis=1, keepdims=True)
    return Basis(generator.permutation(DIM), mirrors.astype(np.float32))


VARIANCES = np.logspace(2, -3, DIM)


@pytest.fixture(scope="module")
def files(basis: Basis, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The published layout with the same directions as rows, and as columns."""
    folder = tmp_path_factory.mktemp("pca")
    rows = basis(np.eye(DIM, dtype=np.float32))
    found = {}
    for orientation, matrix in (("rows", rows), ("columns", rows.T)):
        found[orientation] = str(folder / f"{orientation}.hdf5")
        with h5py.File(found[orientation], "w") as file:
            file["data/U"], file["data/S"] = matrix, VARIANCES.astype(np.float32)
            file["data/x_mean"] = np.full((1, DIM), 2.0, dtype=np.float32)
    return found


WriteStore = Callable[..., str]


@pytest.fixture
def write_store(tmp_path: Path) -> WriteStore:
    """Writes rows as a build's feature ``c3d``, two videos each in its own shard, and returns the store's path."""

    def write(values: Floats, extractor: str = "c3d", **written: Any) -> str:
        feature = FeatureConfig.model_validate({"weights": {"random": 0}, "layer": "fc7"} | written)
        recipe = resolve_recipe(extractor, feature, ClipRule(), DecodeConfig())
        store = Store.create(str(tmp_path / "store"), "zarr", "test")
        store.write_recipe(recipe)
        for number, part in enumerate(np.array_split(values, 2)):
            commit(store, recipe, f"task{number}", Video(f"v{number}", f"v{number}.mp4", f"{number:032x}"), part)
        return str(tmp_path / "store")

    return write


def commit(store: Store, recipe: Recipe, task: str, video: Video, values: Floats) -> None:
    seconds = np.arange(len(values), dtype=np.float64)
    clip, mask = np.zeros(len(values), dtype=np.int32), np.ones(len(values), dtype=np.bool_)
    shard = store.write_shard(
        recipe, task, Rows(values, clip, seconds, seconds + 1, mask), [(video.id, 0, len(values))]
    )
    row = {
        "video_id": video.id,
        "video_fingerprint": video.fingerprint,
        "clips_fingerprint": clips_fingerprint(video),
        "recipe_fingerprint": recipe.fingerprint,
        "shard": shard,
        "row_start": 0,
        "row_stop": len(values),
        "clips": [{"start_seconds": 0.0, "stop_seconds": float(len(values)), "label": None}],
        "passport": {"weights": "random(0)", "values_sha256": values_sha256(values)},
    }
    store.write_commit(recipe, task, pa.Table.from_pylist([row], schema=COMMITS))
    store.write_manifest(f"run-{task}", [video])


def features(basis: Basis, num: int = 600) -> Floats:
    """Rows with the variances of `VARIANCES` along the directions, about a mean that is not the file's."""
    scaled = np.random.default_rng(1).normal(size=(num, DIM)) * np.sqrt(VARIANCES)
    return basis(scaled.astype(np.float32)) + np.float32(1.5)


def key_of(store: str) -> str:
    return Store.open(store).recipes()[0].key


def test_it_tells_columns_from_rows(basis: Basis, files: dict[str, str], write_store: WriteStore) -> None:
    store = write_store(features(basis))
    for orientation, path in files.items():
        outcome = run_orient(store, key_of(store), path)
        assert outcome.data["pca_orientation"] == orientation
        assert outcome.data["num_rows"] == 600
        found = dict(outcome.data["correlation"])
        assert found.pop(orientation) > 0.95
        assert abs(found.popitem()[1]) < 0.2
        assert outcome.text.startswith(f"{path}: pca_orientation: {orientation}")
    # As a user runs it: in a process that has imported nothing else.
    assert result("orient", store, "--feature", key_of(store), "--pca", path) == outcome.data


def test_features_the_file_was_not_made_for_fit_neither_way(files: dict[str, str], write_store: WriteStore) -> None:
    store = write_store(np.random.default_rng(2).normal(size=(600, DIM)).astype(np.float32))
    with pytest.raises(UsageError, match=r"expected variances that follow data/S in one orientation, got correlations"):
        run_orient(store, key_of(store), files["rows"])


def test_too_few_rows_are_refused(basis: Basis, files: dict[str, str], write_store: WriteStore) -> None:
    store = write_store(features(basis, 40))
    with pytest.raises(UsageError, match=r"feature c3d-\w{8}: expected at least 500 rows, got 40; build more videos"):
        run_orient(store, key_of(store), files["rows"])


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"layer": "pool5"}, r"expected fc7 \(or fc6\) of c3d, got pool5 of c3d"),
        ({"extractor": "vgg16"}, r"expected fc7 \(or fc6\) of c3d, got fc7 of vgg16"),
        ({"pooling": "mean_l2"}, r"expected rows as the network gives them, got pooling: mean_l2; build it without"),
    ],
)
def test_other_features_are_refused(
    written: dict[str, Any], message: str, files: dict[str, str], write_store: WriteStore
) -> None:
    dim = 8192 if written.get("layer") == "pool5" else DIM
    store = write_store(np.zeros((4, dim), dtype=np.float32), **written)
    with pytest.raises(UsageError, match=message):
        run_orient(store, key_of(store), files["rows"])


def test_projected_rows_are_refused(files: dict[str, str], write_store: WriteStore) -> None:
    options = {"pca": files["rows"], "pca_orientation": "rows"}
    store = write_store(np.zeros((4, 500), dtype=np.float32), options=options)
    with pytest.raises(UsageError, match=r"expected rows as the network gives them, got projected rows"):
        run_orient(store, key_of(store), files["rows"])
