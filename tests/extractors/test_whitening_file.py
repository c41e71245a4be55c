"""The file of a whitening: the same bytes for the same numbers, and one line for what is none."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill.extractors.whitening import read_whitening, write_whitening
from clipmill.schemas.errors import StorageUnavailableError, WeightsError
from clipmill.schemas.whitening import Whitening


def whitening(**changes: Any) -> Whitening:
    generator = np.random.default_rng(0)
    basis = np.linalg.qr(generator.normal(size=(6, 6)))[0]
    values: dict[str, Any] = {
        "mean": generator.normal(size=6),
        "components": basis[:4],
        "eigenvalues": np.array([4.0, 2.0, 1.0, 0.25]),
        "num_floored": 0,
        "num_vectors": 100,
        "feature": "f" * 32,
        "network": {"network": "vgg16", "weights": {"source": "random(0)"}, "mean": [1.5]},
        "videos": ("0" * 32, "1" * 32),
    }
    return Whitening(**values | changes)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "w.npz")
    write_whitening(path, whitening())
    found = read_whitening(path)
    assert found.fingerprint == whitening().fingerprint
    assert (found.videos, found.network, found.about()) == (
        whitening().videos,
        whitening().network,
        whitening().about(),
    )
    np.testing.assert_array_equal(found.components, whitening().components)
    first = Path(path).read_bytes()
    write_whitening(path, whitening())
    assert Path(path).read_bytes() == first
    assert os.listdir(tmp_path / "new") == ["w.npz"]


def test_every_part_is_in_the_fingerprint() -> None:
    own = whitening()
    others = [
        replace(own, mean=own.mean + 1e-12),
        replace(own, components=-own.components),
        replace(own, eigenvalues=own.eigenvalues * 2),
        replace(own, num_floored=1),
        replace(own, num_vectors=101),
        replace(own, feature="e" * 32),
        replace(own, network={}),
        replace(own, videos=own.videos[:1]),
    ]
    assert len({item.fingerprint for item in [own, *others]}) == 9


def test_projection_has_unit_variance_and_zca_keeps_distances() -> None:
    own = whitening(components=np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0], mean=np.zeros(4))
    covariance = own.components.T @ np.diag(own.eigenvalues) @ own.components
    pca, zca = own.projection(rotate_back=False), own.projection(rotate_back=True)
    np.testing.assert_allclose(pca @ covariance @ pca.T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(zca @ covariance @ zca.T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(zca, zca.T, atol=1e-12)
    vectors = np.random.default_rng(2).normal(size=(5, 4))
    np.testing.assert_allclose(vectors @ pca.T @ pca @ vectors.T, vectors @ zca.T @ zca @ vectors.T, atol=1e-12)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"whitening .*none.npz: expected a readable file, got No such file"):
        read_whitening(str(tmp_path / "none.npz"))


@pytest.mark.parametrize("content", [b"", b"no file of ours", b"PK\x03\x04 cut short"])
def test_a_foreign_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.npz").write_bytes(content)
    with pytest.raises(WeightsError, match=r"expected a whitening of clipmill's, got .*; give a file made by clipmill"):
        read_whitening(str(tmp_path / "w.npz"))


def test_another_npz_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", weights=np.zeros(3))
    with pytest.raises(WeightsError, match=r"expected a whitening of clipmill's, got .*about"):
        read_whitening(str(tmp_path / "w.npz"))


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", about=np.array({"format": "clipmill whitening 1"}, dtype=object))
    with pytest.raises(WeightsError, match=r"expected a whitening of clipmill's, got Object arrays cannot be loaded"):
        read_whitening(str(tmp_path / "w.npz"))


def test_a_plain_array_is_no_whitening(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.zeros((3, 3)))
    with pytest.raises(WeightsError, match=r"expected a whitening of clipmill's"):
        read_whitening(str(tmp_path / "w.npy"))


def test_edited_numbers_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    write_whitening(str(path), whitening())
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {"mean": arrays["mean"] + 1})
    with pytest.raises(WeightsError, match=r"expected the numbers of fingerprint \w{8}, got those of .*; fit it again"):
        read_whitening(str(path))


def test_a_folder_that_cannot_be_written_is_retryable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageUnavailableError, match=r"whitening .*: expected a file that can be written"):
        write_whitening(str(tmp_path / "file" / "w.npz"), whitening())
