"""Graph, attention and subspaces of bags: by hand, by loops and least squares in NumPy, and by finite differences."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from clipmill.models.proposal_bags import (
    BagAttention,
    GraphConvolution,
    filled_up,
    heaviest,
    masked_softmax,
    projector,
    squared_distance,
)

LENGTHS = (3, 1, 5)


def bags(dim: int = 4, longest: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Three bags of 3, 1 and 5 rows, filled up with what must not count."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 5, dim, generator=generator, dtype=torch.float64)
    filled = torch.full((3, longest, dim), 9.0, dtype=torch.float64)
    filled[:, :5] = rows
    return filled, torch.arange(longest) < torch.tensor(LENGTHS)[:, None]


def test_masked_softmax_by_hand_and_of_nothing() -> None:
    values = torch.tensor([[math.log(1.0), 50.0, math.log(3.0)], [1.0, 2.0, 3.0]])
    found = masked_softmax(values, torch.tensor([[True, False, True], [False, False, False]]))
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.0, 0.75], [0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_graph_agrees_with_loops(similarity: Any) -> None:
    torch.manual_seed(0)
    graph = GraphConvolution(4, similarity).double()
    rows, mask = bags()
    found, weight = graph(rows, mask).detach().numpy(), graph.weight.weight.detach().numpy().T
    for bag, length in enumerate(LENGTHS):
        h = rows[bag, :length].numpy()
        for i in range(length):
            likeness = [h[i] @ h[j] for j in range(length)]
            if similarity == "cosine":
                likeness = [likeness[j] / math.sqrt((h[i] @ h[i]) * (h[j] @ h[j])) for j in range(length)]
            mass = [math.exp(value) for value in likeness]
            expected = sum(m / sum(mass) * row for m, row in zip(mass, h, strict=True)) @ weight
            np.testing.assert_allclose(found[bag, i], expected)


def test_attention_agrees_with_loops_and_its_weights_sum_to_1() -> None:
    torch.manual_seed(0)
    attention = BagAttention(4, 6).double()
    rows, mask = bags()
    vectors, weights = (value.detach().numpy() for value in attention(rows, mask))
    parameters = {name: value.detach().numpy() for name, value in attention.named_parameters()}
    for bag, length in enumerate(LENGTHS):
        hidden = np.tanh(rows[bag, :length].numpy() @ parameters["hidden.weight"].T + parameters["hidden.bias"])
        mass = np.exp(hidden @ parameters["scores.weight"][0] + parameters["scores.bias"])
        np.testing.assert_allclose(weights[bag], [*(mass / mass.sum()), *[0.0] * (5 - length)])
        values = hidden @ parameters["values.weight"].T + parameters["values.bias"]
        np.testing.assert_allclose(vectors[bag], (mass / mass.sum()) @ values)


def test_nothing_depends_on_what_fills_up() -> None:
    torch.manual_seed(0)
    graph, attention = GraphConvolution(4, "cosine").double(), BagAttention(4, 6).double()
    results = []
    for longest in (5, 9):
        rows, mask = bags(longest=longest)
        mixed = graph(rows, mask)
        vectors, weights = attention(mixed, mask)
        spans = [projector(heaviest(rows, weights, mask, number), 1e-3) for number in (2, 4)]
        results.append((mixed[:, :5] * mask[:, :5, None], vectors, weights[:, :5], *spans))
    for short, long in zip(*results, strict=True):
        torch.testing.assert_close(short, long)


def test_the_heaviest_proposals_by_hand() -> None:
    rows = torch.arange(1.0, 5.0)[None, :, None].repeat(2, 1, 1)
    weights = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.2, 0.8, 0.0, 0.0]])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    assert heaviest(rows, weights, mask, 3)[..., 0].tolist() == [[2.0, 4.0, 3.0], [2.0, 1.0, 0.0]]


def test_a_short_bag_is_filled_up_with_its_last_row() -> None:
    rows = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]])[..., None]
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert filled_up(rows, mask, 4)[..., 0].tolist() == [[1.0, 2.0, 2.0, 2.0], [3.0, 3.0, 3.0, 3.0]]


def test_the_projector_of_an_axis_by_hand() -> None:
    rows = torch.tensor([[[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]])
    # Squared norm 4, ridge 0.5 x 4: 4 / (4 + 2) of what lies on the axis.
    torch.testing.assert_close(projector(rows, 0.5)[0], torch.diag(torch.tensor([0.0, 2 / 3, 0.0])))
    distance = squared_distance(torch.tensor([[3.0, 6.0, 4.0]]), projector(rows, 1e-9))
    assert distance.item() == pytest.approx(3**2 + 4**2)


def test_the_distance_is_what_least_squares_leave() -> None:
    """NumPy's lstsq: the least ||u - X' a||^2 over a."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(6, 3, 5, generator=generator, dtype=torch.float64)
    points = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    found = squared_distance(points, projector(rows, 1e-13))
    for bag in range(6):
        _, left, _, _ = np.linalg.lstsq(rows[bag].numpy().T, points[bag].numpy(), rcond=None)
        assert found[bag].item() == pytest.approx(left[0])


def test_the_projector_of_as_many_rows_as_dimensions_is_the_identity() -> None:
    """So with 64 proposals in 64 dimensions, as released, every distance is 0 and no bag is nearer than another."""
    rows = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(projector(rows, 1e-13), torch.eye(5, dtype=torch.float64).expand(2, 5, 5))


def test_a_bag_of_nothing_spans_nothing_and_has_a_finite_slope() -> None:
    rows = torch.zeros(1, 2, 3, requires_grad=True)
    found = projector(rows, 1e-4)
    assert torch.equal(found, torch.zeros(1, 3, 3))
    found.sum().backward()
    assert torch.isfinite(rows.grad).all()


def test_rows_that_hardly_differ_span_one_direction() -> None:
    row = torch.tensor([1.0, 2.0, 2.0])
    rows = torch.stack([row, row + torch.tensor([0.0, 1e-4, -1e-4])])[None]
    trace = projector(rows, 1e-3).diagonal(dim1=1, dim2=2).sum().item()
    assert trace == pytest.approx(1.0, abs=2e-3)


def test_slopes_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    graph, attention = GraphConvolution(4, "cosine").double(), BagAttention(4, 3).double()
    rows, mask = bags()
    points = torch.randn(3, 4, dtype=torch.float64)

    def everything(given: torch.Tensor, points: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        names = [name for name, _ in graph.named_parameters()]
        mixed = torch.func.functional_call(graph, dict(zip(names, weights, strict=True)), (given, mask))
        vectors, heavy = attention(mixed, mask)
        spans = projector(heaviest(given, heavy, mask, 2), 1e-2)
        return torch.cat([squared_distance(points, spans), vectors.flatten()])

    inputs = [rows, points, *(value.detach() for value in graph.parameters())]
    assert torch.autograd.gradcheck(everything, [value.clone().requires_grad_() for value in inputs])
