"""Procrustes against SciPy's, ridge regression against scikit-learn's, and what both compare."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge, RidgeCV

from clipmill.models.base import Batch, Sizes, Values
from clipmill.models.registry import build, resolve_options
from clipmill.schemas.errors import UsageError
from tests.models.wikipedia import cosines, mean_average_precision, needs_wikipedia, trained_on_wikipedia


def views(num: int, image_dim: int, video_dim: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    image = random.normal(size=(num, image_dim)) * np.linspace(3, 1, image_dim) + 2
    video = image @ random.normal(size=(image_dim, video_dim)) + random.normal(size=(num, video_dim)) - 1
    return image, video


def solved(name: str, image: np.ndarray, video: np.ndarray, **options: Any) -> tuple[Any, dict[str, float]]:
    sizes = Sizes({"image": image.shape[1], "video": video.shape[1]})
    model: Any = build(name, resolve_options(name, options), sizes).double()  # type: ignore[attr-defined]
    inputs = {"image": Values(torch.from_numpy(image)), "video": Values(torch.from_numpy(video))}
    (line,) = model.solve(Batch(inputs))
    return model, dict(line)


def test_a_rotation_is_found_again() -> None:
    image, _ = views(50, 4, 4)
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))
    model, line = solved("procrustes", image, 3 * image @ turn + 5)
    np.testing.assert_allclose(model.weights, turn, atol=1e-9)
    assert line["total"] < 1e-20


def test_procrustes_is_scipys_for_equal_lengths() -> None:
    image, video = views(60, 5, 5)
    model, _ = solved("procrustes", image, video)
    expected, _ = orthogonal_procrustes(image - image.mean(axis=0), video - video.mean(axis=0))
    np.testing.assert_allclose(model.weights, expected, atol=1e-9)


@pytest.mark.parametrize(("image_dim", "video_dim"), [(3, 6), (6, 3)])
def test_procrustes_of_unequal_lengths_is_that_of_vectors_filled_up_with_zeros(image_dim: int, video_dim: int) -> None:
    image, video = views(60, image_dim, video_dim)
    model, line = solved("procrustes", image, video)
    most = max(image_dim, video_dim)
    padded = [np.pad(side - side.mean(axis=0), ((0, 0), (0, most - side.shape[1]))) for side in (image, video)]
    expected, _ = orthogonal_procrustes(*padded)
    np.testing.assert_allclose(model.weights, expected[:image_dim, :video_dim], atol=1e-9)
    assert line["directions"] == 3


def test_procrustes_of_few_clips_uses_no_direction_that_they_do_not_have() -> None:
    image, video = views(4, 9, 7)
    model, line = solved("procrustes", image, video)
    assert line["directions"] == 3
    assert np.linalg.matrix_rank(model.weights.numpy()) == 3
    outside = np.linalg.svd(image - image.mean(axis=0))[2][3:]
    np.testing.assert_allclose(outside @ model.weights.numpy(), 0, atol=1e-9)


@pytest.mark.parametrize(("num", "image_dim"), [(60, 5), (8, 20)])
@pytest.mark.parametrize("ridge", [0.01, 2.0])
def test_ridge_is_scikit_learns(num: int, image_dim: int, ridge: float) -> None:
    image, video = views(num, image_dim, 4)
    model, line = solved("ridge", image, video, ridges=[ridge])
    alpha = ridge * np.square(image - image.mean(axis=0)).sum() / image_dim
    other = Ridge(alpha=alpha).fit(image, video)
    np.testing.assert_allclose(model.weights, other.coef_.T, atol=1e-9)
    assert line["total"] == pytest.approx(np.square(other.predict(image) - video).mean())
    mapped = model.embed("query", {"image": Values(torch.from_numpy(image))})["mapped"]
    np.testing.assert_allclose(mapped, other.predict(image) - video.mean(axis=0), atol=1e-9)


def test_the_ridge_is_chosen_as_scikit_learn_does_by_leaving_one_out() -> None:
    image, video = views(12, 9, 4)
    ridges = (0.0001, 0.01, 0.3, 30.0)
    _, line = solved("ridge", image, video, ridges=ridges)
    scale = np.square(image - image.mean(axis=0)).sum() / 9
    alphas = [ridge * scale for ridge in ridges]
    other = RidgeCV(alphas=alphas, store_cv_results=True).fit(image, video)
    assert line["ridge"] == ridges[alphas.index(float(other.alpha_))]
    by_alpha = other.cv_results_.mean(axis=(0, 1))
    assert line["left_out"] == pytest.approx(by_alpha.min())
    for ridge, expected in zip(ridges, by_alpha, strict=True):
        assert solved("ridge", image, video, ridges=[ridge])[1]["left_out"] == pytest.approx(expected)


def test_leaving_one_out_is_what_solving_without_each_clip_gives() -> None:
    image, video = views(10, 6, 3)
    _, line = solved("ridge", image, video, ridges=[0.5])
    alpha = 0.5 * np.square(image - image.mean(axis=0)).sum() / 6
    missed = []
    for number in range(10):
        others = np.arange(10) != number
        fitted = Ridge(alpha=alpha).fit(image[others], video[others])
        missed.append(fitted.predict(image[[number]])[0] - video[number])
    assert line["left_out"] == pytest.approx(np.square(missed).mean())


@pytest.mark.parametrize("name", ["procrustes", "ridge"])
def test_both_sides_are_centred_and_equal_clips_are_refused(name: str) -> None:
    image, video = views(60, 5, 4)
    model, _ = solved(name, image, video)
    sides = model.embed("query", {"image": Values(torch.from_numpy(image))})
    sides |= model.embed("gallery", {"video": Values(torch.from_numpy(video))})
    assert sides.keys() == {"mapped", "centred"}
    for values in sides.values():
        np.testing.assert_allclose(values.mean(dim=0), 0, atol=1e-9)
    with pytest.raises(UsageError, match=f"{name} image vectors: expected training clips that differ, got 60 alike"):
        solved(name, np.ones((60, 5)), video)


@needs_wikipedia
@pytest.mark.parametrize(("name", "least"), [("procrustes", (0.23, 0.18)), ("ridge", (0.26, 0.21))])
def test_a_floor_is_above_chance_on_wikipedia(name: str, least: tuple[float, float], tmp_path: Path) -> None:
    _, image, text, label = trained_on_wikipedia(name, {}, tmp_path / "run")
    scores = cosines(image["mapped"], text["centred"])
    # Chance is .119.
    assert mean_average_precision(scores, label, label) > least[0]
    assert mean_average_precision(scores.T, label, label) > least[1]
