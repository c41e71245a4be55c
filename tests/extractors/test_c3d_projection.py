"""The published 500-d projection of C3D's fc7: scikit-learn's PCA in the published layout, both ways round."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from sklearn.decomposition import PCA

from clipmill.extractors import registry
from clipmill.extractors.c3d.build import C3DExtractor
from clipmill.extractors.c3d.projection import read_projection, read_variances
from clipmill.extractors.resolve import resolve_recipe
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.errors import ConfigError, UsageError, WeightsError
from clipmill.schemas.recipe import ClipRule, Recipe
from tests.extractors.registered import frames_for

DIM = 20


def resolve(layer: str = "fc7", **options: Any) -> Recipe:
    written = {"layer": layer, "weights": {"random": 0}, "options": options}
    return resolve_recipe("c3d", FeatureConfig.model_validate(written), ClipRule(), DecodeConfig())


def like_fc7(num: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Never negative, half of it zero, and far from centred."""
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(num, 40)) * np.logspace(0, -1, 40) @ generator.normal(size=(40, 4096))
    return np.maximum(mixed, 0).astype(np.float32)


def write(path: Path, pca: PCA, orientation: str) -> str:
    """Writes the published layout, 4096 x 4096; directions after the known ones are zero and take no room."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        num = len(pca.components_)
        chunks = (4096, num) if orientation == "columns" else (num, 4096)
        matrix = data.create_dataset("U", (4096, 4096), np.float32, chunks=chunks, fillvalue=0)
        if orientation == "columns":
            matrix[:, :num] = pca.components_.T
        else:
            matrix[:num] = pca.components_
        data["S"] = np.pad(pca.explained_variance_, (0, 4096 - num)).astype(np.float32)
        data["x_mean"] = pca.mean_[None].astype(np.float32)
    return str(path)


@pytest.fixture(scope="module")
def pca() -> PCA:
    return PCA(64, svd_solver="full").fit(like_fc7(80))


@pytest.fixture(scope="module", params=["columns", "rows"])
def published(request: pytest.FixtureRequest, pca: PCA, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    orientation = request.param
    return write(tmp_path_factory.mktemp(orientation) / "PCA.hdf5", pca, orientation), orientation


def test_it_is_scikit_learns_transform_without_whitening(published: tuple[str, Any], pca: PCA) -> None:
    path, orientation = published
    values = like_fc7(30, seed=1)
    found = read_projection(path, orientation, DIM)(values)
    expected = pca.transform(values)[:, :DIM]
    assert (found.dtype, found.shape) == (np.float32, (30, DIM))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(read_variances(path)[:64], pca.explained_variance_, rtol=1e-6)


def test_the_other_orientation_gives_other_numbers(published: tuple[str, Any]) -> None:
    path, orientation = published
    other: Any = {"columns": "rows", "rows": "columns"}[orientation]
    values = like_fc7(30, seed=1)
    own, wrong = (read_projection(path, way, DIM)(values) for way in (orientation, other))
    assert not np.allclose(own, wrong, atol=0.1 * np.abs(own).max())


def test_an_extractor_projects_the_rows_of_its_layer(pca: PCA, tmp_path: Path) -> None:
    path = write(tmp_path / "PCA.hdf5", pca, "columns")
    recipe = resolve(pca=path, pca_orientation="columns", pca_dim=DIM)
    assert recipe.dim == DIM
    extractor = registry.build(recipe, "cpu")
    assert isinstance(extractor, C3DExtractor)
    frames = frames_for(recipe, 1)
    fc7 = extractor.network(extractor.prepare(frames)).detach().numpy()
    assert fc7.shape == (1, 4096)
    expected = pca.transform(fc7)[:, :DIM]
    found = extractor.forward(frames)["values"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * float(np.abs(expected).max()))


def test_five_hundred_directions_unless_told_otherwise(pca: PCA, tmp_path: Path) -> None:
    path = write(tmp_path / "PCA.hdf5", pca, "rows")
    recipe = resolve(pca=path, pca_orientation="rows")
    assert (recipe.dim, recipe.options["pca_dim"]) == (500, 500)
    assert resolve("fc6", pca=path, pca_orientation="rows", pca_dim=7).dim == 7


def test_the_files_bytes_and_not_its_path_are_in_the_fingerprint(pca: PCA, tmp_path: Path) -> None:
    path = write(tmp_path / "PCA.hdf5", pca, "columns")
    recipe = resolve(pca=path, pca_orientation="columns")
    copied = tmp_path / "copied.hdf5"
    copied.write_bytes(Path(path).read_bytes())
    assert resolve(pca=str(copied), pca_orientation="columns").fingerprint == recipe.fingerprint
    assert resolve(pca=path, pca_orientation="rows").fingerprint != recipe.fingerprint != resolve().fingerprint
    assert recipe.files == {"pca": path}
    with h5py.File(path, "r+") as file:
        file["data/x_mean"][0, 0] += 1
    # Written back within one tick of the file system's clock, the digest would be the remembered one.
    changed = resolve(pca=str(Path(path).rename(tmp_path / "changed.hdf5")), pca_orientation="columns")
    assert changed.fingerprint != recipe.fingerprint
    moved = recipe.model_copy(update={"files": changed.files})
    with pytest.raises(WeightsError, match=r"expected SHA-256 \w{12}\.\.\., got \w{12}\.\.\.; put the file back"):
        registry.build(moved, "cpu")


def test_without_a_projection_recipes_are_what_they_were() -> None:
    identity = resolve().identity()
    assert {key for key, value in identity["options"].items() if value} == {"pool5"}


def test_the_orientation_must_be_said(pca: PCA, tmp_path: Path) -> None:
    path = write(tmp_path / "PCA.hdf5", pca, "columns")
    message = r"features.c3d.options pca_orientation: expected columns or rows, got none; clipmill orient STORE"
    with pytest.raises(UsageError, match=message):
        resolve(pca=path)


def test_layers_without_4096_values_are_refused(pca: PCA, tmp_path: Path) -> None:
    path = write(tmp_path / "PCA.hdf5", pca, "columns")
    with pytest.raises(UsageError, match=r"features.c3d layer: expected fc7 or fc6, for options.pca, got pool5"):
        resolve("pool5", pca=path, pca_orientation="columns")


def test_an_orientation_without_a_file_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"pca_orientation and pca_dim belong to pca: expected pca: FILE, got none"):
        resolve(pca_orientation="columns")


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(WeightsError, match=r"pca .*none.hdf5: expected a readable file, got none; correct the path"):
        resolve(pca="none.hdf5", pca_orientation="columns")


def test_a_file_that_is_no_hdf5(tmp_path: Path) -> None:
    (tmp_path / "PCA.hdf5").write_text("a page that says not found")
    with pytest.raises(WeightsError, match=r"pca .*: expected an HDF5 file of numbers, got .*; fetch it again"):
        resolve(pca=str(tmp_path / "PCA.hdf5"), pca_orientation="columns")


def test_another_hdf5_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["v_one/c3d_features"] = np.zeros((3, 500))
    message = r"expected the published layout, got none of data/U, data/S, data/x_mean \(it holds v_one\)"
    with pytest.raises(WeightsError, match=message):
        resolve(pca=str(tmp_path / "other.hdf5"), pca_orientation="columns")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("U", np.zeros((500, 512)), r"expected data/U of 4096 x 4096, or at least 20 columns of 4096, got 500 x 512"),
        ("U", np.zeros((4096, 19)), r"expected data/U of 4096 x 4096, or at least 20 columns of 4096, got 4096 x 19"),
        ("U", np.full((4096, 20), np.nan), r"expected finite numbers, got NaN or infinity in data/U; fetch it again"),
        ("x_mean", np.zeros((1, 500)), r"expected data/x_mean of 4096 numbers, got 1 x 500; give the published file"),
        ("x_mean", np.full((1, 4096), np.inf), r"expected finite numbers, got NaN or infinity in data/x_mean"),
        ("U", np.array(b"text"), r"expected data/U of 4096"),
    ],
)
def test_numbers_of_another_shape(name: str, values: npt.NDArray[Any], message: str, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"U": np.zeros((4096, 20)), "S": np.zeros(4096), "x_mean": np.zeros((1, 4096))}
    with h5py.File(tmp_path / "PCA.hdf5", "w") as file:
        for key, array in (arrays | {name: values}).items():
            file[f"data/{key}"] = array
    with pytest.raises(WeightsError, match=message):
        resolve(pca=str(tmp_path / "PCA.hdf5"), pca_orientation="columns", pca_dim=20)
