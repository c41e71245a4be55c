"""JFSSL against its printed objective read in plain NumPy, minimised by SciPy, and on the data it was published on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from clipmill.models.base import Batch, Sizes, Values
from clipmill.models.jfssl import Jfssl, JfsslOptions, alternation, neighbour_graph, problem_of
from tests.models.wikipedia import cosines, mean_average_precision, needs_wikipedia, trained_on_wikipedia

LABELS = 3


def data(num: int = 24, image_dim: int = 5, video_dim: int = 4, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Centred vectors of both sides, of which the first few tell the label, and the labels."""
    random = np.random.default_rng(seed)
    label = np.arange(num) % LABELS
    sides = []
    for dim in (image_dim, video_dim):
        values = random.normal(size=(num, dim))
        values[:, :LABELS] += 1.5 * np.eye(LABELS)[label][:, :dim]
        sides.append(values - values.mean(axis=0))
    return sides[0], sides[1], label


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def printed_objective(
    sides: list[np.ndarray], label: np.ndarray, projections: list[np.ndarray], options: JfsslOptions
) -> float:
    """The objective as the paper prints it, by loops over all pairs of images and videos."""
    num = len(label)
    one_hot = np.eye(LABELS)[label]
    one_hot = one_hot - one_hot.mean(axis=0)
    total = 0.0
    for values, projection in zip(sides, projections, strict=True):
        total += np.linalg.norm(values @ projection - one_hot, "fro") ** 2
        total += options.lambda_1 * num * np.sqrt((projection**2).sum(axis=1) + options.epsilon).sum()
    points = np.concatenate([values @ projection for values, projection in zip(sides, projections, strict=True)])
    joined = np.zeros((2 * num, 2 * num))
    for side, values in enumerate(sides):
        distance = np.array([[np.linalg.norm(one - other) for other in values] for one in values])
        near = [[other for other in np.argsort(row) if other != one] for one, row in enumerate(distance)]
        near = [row[: options.neighbours] for row in near]
        sigma = np.sqrt(np.mean([distance[one][other] ** 2 for one in range(num) for other in near[one]]))
        for one in range(num):
            for other in near[one]:
                weight = options.beta * np.exp(-(distance[one][other] ** 2) / (2 * sigma**2))
                joined[side * num + one, side * num + other] = joined[side * num + other, side * num + one] = weight
    for one in range(num):
        for other in range(num):
            if label[one] == label[other]:
                joined[one, num + other] = joined[num + other, one] = 1.0
    laplacian = np.diag(joined.sum(axis=1)) - joined
    return float(total + options.lambda_2 * np.trace(points.T @ laplacian @ points))


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_the_objective_is_the_printed_one(beta: float) -> None:
    image, video, label = data()
    options = JfsslOptions(lambda_1=0.02, lambda_2=0.7, beta=beta, neighbours=3)
    problem = problem_of(*tensors(image, video, label), LABELS, options)
    random = np.random.default_rng(1)
    projections = random.normal(size=(5, LABELS)), random.normal(size=(4, LABELS))
    parts = problem.parts((torch.from_numpy(projections[0]), torch.from_numpy(projections[1])))
    assert parts["total"] == pytest.approx(printed_objective([image, video], label, list(projections), options))
    expected = parts["regression"] + 0.02 * 24 * parts["selection"] + 0.7 * parts["graph"]
    assert parts["total"] == pytest.approx(expected)


@pytest.mark.parametrize("lambda_1", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("lambda_2", [0.0, 0.1, 10.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_step_lowers_the_objective(lambda_1: float, lambda_2: float, seed: int) -> None:
    """Not only every iteration: the step of the image, and then that of the video."""
    image, video, label = data(num=30, seed=seed)
    problem = problem_of(
        *tensors(image, video, label), LABELS, JfsslOptions(lambda_1=lambda_1, lambda_2=lambda_2, epsilon=1e-9)
    )
    generator = torch.Generator().manual_seed(seed)
    start = [torch.randn(dim, LABELS, generator=generator, dtype=torch.float64) for dim in (5, 4)]
    projections = start[0], start[1]
    values = [problem.parts(projections)["total"]]
    for _ in range(12):
        projections = problem.solved(0, projections, 0.5 / problem.row_norms(projections[0])), projections[1]
        values.append(problem.parts(projections)["total"])
        projections = projections[0], problem.solved(1, projections, 0.5 / problem.row_norms(projections[1]))
        values.append(problem.parts(projections)["total"])
    falls = np.diff(values)
    assert falls[0] < 0
    # Where it stands still, the last bits may differ.
    assert falls.max() <= 1e-12 * abs(values[0])


def test_solve_yields_an_objective_that_falls_until_it_stands_still() -> None:
    image, video, label = data(60, 12, 9)
    model = Jfssl(JfsslOptions(iterations=50, tolerance=1e-7), Sizes({"image": 12, "video": 9}, LABELS))
    sides = tensors(image, video)
    lines = list(model.solve(Batch({"image": Values(sides[0]), "video": Values(sides[1])}, torch.from_numpy(label))))
    totals = [line["total"] for line in lines]
    assert 3 < len(totals) < 50
    assert all(after < before for before, after in zip(totals, totals[1:], strict=False))
    assert totals[-2] - totals[-1] < 1e-7 * totals[-2]
    assert totals[-3] - totals[-2] >= 1e-7 * totals[-3]


def test_it_ends_at_the_minimum_that_scipy_finds_of_the_printed_objective() -> None:
    """The objective is convex: a general minimiser that knows nothing of the alternation ends at the same place."""
    image, video, label = data(12, 4, 3)
    options = JfsslOptions(lambda_1=0.05, lambda_2=0.3, neighbours=2, epsilon=1e-4)
    problem = problem_of(*tensors(image, video, label), LABELS, options)
    *_, (first, second) = alternation(problem, 2000, 1e-15)

    def objective(flat: np.ndarray) -> float:
        parts = [flat[:12].reshape(4, LABELS), flat[12:].reshape(3, LABELS)]
        return printed_objective([image, video], label, parts, options)

    ours = np.concatenate([first.numpy().ravel(), second.numpy().ravel()])
    found = minimize(objective, np.zeros(21), method="L-BFGS-B", options={"maxiter": 200, "ftol": 1e-13})
    assert objective(ours) <= found.fun + 1e-9
    np.testing.assert_allclose(ours, found.x, atol=2e-3)


def test_without_selection_and_graph_it_is_least_squares() -> None:
    image, video, label = data()
    problem = problem_of(*tensors(image, video, label), LABELS, JfsslOptions(lambda_1=0, lambda_2=0))
    *_, found = alternation(problem, 3, 0)
    one_hot = np.eye(LABELS)[label]
    for values, projection in zip((image, video), found, strict=True):
        expected, *_ = np.linalg.lstsq(values, one_hot, rcond=None)
        np.testing.assert_allclose(projection, expected, atol=1e-9)


def test_features_that_tell_nothing_vanish() -> None:
    image, video, label = data(300, 20, 10)
    model = Jfssl(JfsslOptions(lambda_1=0.3, iterations=200), Sizes({"image": 20, "video": 10}, LABELS))
    sides = tensors(image, video)
    batch = Batch({"image": Values(sides[0]), "video": Values(sides[1])}, torch.from_numpy(label))
    *_, last = model.solve(batch)
    # The first three features of each side tell the label.
    assert (last["image_features"], last["video_features"]) == (3, 3)
    assert model.image_projection.norm(dim=1).argsort(descending=True)[:3].sort().values.tolist() == [0, 1, 2]


def test_a_graph_joins_each_item_with_its_nearest_both_ways() -> None:
    values = torch.tensor([[0.0], [1.0], [3.0], [10.0]], dtype=torch.float64)
    graph = neighbour_graph(values, 1, sigma=2.0).to_dense()
    expected = np.zeros((4, 4))
    # 0 and 1 are each other's nearest; 2's is 1; 3's is 2.
    for one, other, distance in ((0, 1, 1), (2, 1, 2), (3, 2, 7)):
        expected[one, other] = expected[other, one] = np.exp(-(distance**2) / 8)
    np.testing.assert_allclose(graph, expected, atol=1e-12)
    # All with all where there are fewer than asked for, and items that are alike do not divide by 0.
    assert int((neighbour_graph(values, 9, None).to_dense() > 0).sum()) == 12
    assert neighbour_graph(torch.zeros(3, 2, dtype=torch.float64), 1, None).to_dense().max() == 1


def test_labels_that_no_training_clip_has_keep_their_place() -> None:
    image, video, label = data()
    model = Jfssl(JfsslOptions(), Sizes({"image": 5, "video": 4}, LABELS + 2))
    sides = tensors(image, video)
    list(model.solve(Batch({"image": Values(sides[0]), "video": Values(sides[1])}, torch.from_numpy(label))))
    embedded: Any = model.embed("query", {"image": Values(sides[0].float())})
    assert embedded["labels"].shape == (24, LABELS + 2)
    assert not embedded["labels"][:, LABELS:].any()


@needs_wikipedia
def test_it_is_above_cca_on_wikipedia(tmp_path: Path) -> None:
    """CCA: .257 and .205. From memory the paper says .306 and .228; the third party's code gives .210 and .218 here."""
    report, image, text, label = trained_on_wikipedia("jfssl", {}, tmp_path / "run")
    totals = [losses["total"] for losses in report.losses]
    assert all(after < before for before, after in zip(totals, totals[1:], strict=False))
    scores = cosines(image["labels"], text["labels"])
    assert mean_average_precision(scores, label, label) > 0.27
    assert mean_average_precision(scores.T, label, label) > 0.21
