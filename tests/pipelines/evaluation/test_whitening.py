"""Fitting a whitening: scikit-learn's PCA on the same vectors, however they are cut, in bounded memory."""

import tracemalloc
from typing import Any

import dask.array
import numpy as np
import numpy.typing as npt
import pytest
from sklearn.decomposition import PCA

from clipmill.pipelines.evaluation.retrieval.blocks import computing
from clipmill.pipelines.evaluation.whitening import Fit, fit_whitening
from clipmill.schemas.errors import UsageError


def correlated(num: int, dim: int, offset: float = 0.0, seed: int = 0) -> npt.NDArray[np.float32]:
    """Vectors whose variances fall over three orders of magnitude along random directions."""
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.normal(size=(dim, dim)))[0]
    values = generator.normal(size=(num, dim)) * np.logspace(0, -1.5, dim)
    return (values @ basis + offset).astype(np.float32)


def fitted(vectors: Any, components: int | None = None, floor: float = 1e-6, threads: int = 1) -> Fit:
    with computing(None, threads) as workers:
        return fit_whitening(vectors, components, floor, workers.run)


def cut(vectors: npt.NDArray[np.float32], *rows: int) -> Any:
    return dask.array.from_array(vectors, chunks=(rows, vectors.shape[1]))


def whitened(fit: Fit, vectors: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return (vectors - fit.mean) @ (fit.components / np.sqrt(fit.eigenvalues)[:, None]).T


@pytest.mark.parametrize("offset", [0.0, 1000.0], ids=["centred", "far-from-zero"])
@pytest.mark.parametrize("components", [None, 7])
def test_it_is_scikit_learns_pca(components: int | None, offset: float) -> None:
    vectors = correlated(2000, 24, offset)
    # 19 blocks: more than two groups of them, one block of a single row.
    fit = fitted(cut(vectors, 1, 99, *[100] * 15, 250, 150), components)
    theirs = PCA(components, whiten=True, svd_solver="full").fit(vectors.astype(np.float64))
    np.testing.assert_allclose(fit.eigenvalues, theirs.explained_variance_, rtol=1e-8)
    np.testing.assert_allclose(fit.mean, theirs.mean_, rtol=1e-12)
    expected = theirs.transform(vectors.astype(np.float64))
    signs = np.sign((fit.components * theirs.components_).sum(axis=1))
    np.testing.assert_allclose(whitened(fit, vectors), expected * signs, rtol=0, atol=1e-6)
    assert (fit.num_vectors, fit.num_floored, fit.num_dead) == (2000, 0, 0)
    # The greatest entry of each component is positive.
    assert (fit.components[np.arange(len(fit.components)), np.abs(fit.components).argmax(axis=1)] > 0).all()


def test_a_block_longer_than_a_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = correlated(1000, 8)
    whole = fitted(cut(vectors, 1000))
    monkeypatch.setattr("clipmill.pipelines.evaluation.whitening.SLAB_ROWS", 64)
    np.testing.assert_allclose(fitted(cut(vectors, 1000)).components, whole.components, rtol=0, atol=1e-10)


def test_threads_give_the_same_numbers() -> None:
    vectors = cut(correlated(1200, 16), *[60] * 20)
    one, many = fitted(vectors), fitted(vectors, threads=4)
    np.testing.assert_array_equal(one.components, many.components)
    np.testing.assert_array_equal(one.eigenvalues, many.eigenvalues)


def test_dead_channels_and_flat_directions_are_floored_and_counted() -> None:
    vectors = correlated(500, 10)
    vectors[:, 3] = 0.0
    vectors[:, 7] = vectors[:, 6]
    fit = fitted(cut(vectors, 250, 250), floor=1e-6)
    assert (fit.num_dead, fit.num_floored) == (1, 2)
    np.testing.assert_allclose(fit.eigenvalues[-2:], 1e-6 * fit.eigenvalues[0])
    assert np.isfinite(whitened(fit, vectors)).all()
    assert fitted(cut(vectors, 250, 250), components=8).num_floored == 0


def test_memory_is_bounded_by_blocks_not_by_vectors() -> None:
    rows, dim, num_blocks = 10_000, 32, 48

    def block(block_info: Any = None) -> npt.NDArray[np.float32]:
        return np.random.default_rng(block_info[None]["chunk-location"][0]).random((rows, dim), dtype=np.float32)

    vectors = dask.array.map_blocks(block, chunks=((rows,) * num_blocks, (dim,)), dtype=np.float32)
    tracemalloc.start()
    try:
        fit = fitted(vectors)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert fit.num_vectors == rows * num_blocks
    # One block in float32 and a slab of it twice in float64 are 6 MB; all vectors would be 61 MB.
    assert peak < 16e6


def test_fewer_vectors_than_components_are_refused() -> None:
    vectors = cut(correlated(24, 24), 24)
    with pytest.raises(UsageError, match=r"whitening vectors: expected more vectors than the 24 components, got 24; "):
        fitted(vectors)
    assert fitted(vectors, components=23).num_floored == 0


def test_more_components_than_channels_are_refused() -> None:
    with pytest.raises(UsageError, match=r"whitening components: expected at most 8, the channels, got 9; lower it"):
        fitted(cut(correlated(50, 8), 50), components=9)


def test_vectors_that_never_vary_are_refused() -> None:
    with pytest.raises(UsageError, match=r"whitening vectors: expected vectors that vary, got equal ones only"):
        fitted(cut(np.ones((50, 8), dtype=np.float32), 25, 25))
