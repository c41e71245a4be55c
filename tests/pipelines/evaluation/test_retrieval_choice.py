"""Choosing among a few: against drawing, by hand, and its floor."""

from itertools import combinations

import numpy as np
import pytest

from clipmill.pipelines.evaluation.metrics.retrieval_choice import choice_accuracy

SCORES = np.array(
    [[0.5, 0.6, 0.1, 0.2, 0.5], [0.1, 0.9, 0.2, 0.3, 0.4], [9, 8, 7, 6, 5], [1, 2, 3, 4, 0], [5, 5, 5, 5, 5]]
)


def by_drawing(scores: np.ndarray, num: int, groups: list[str] | None = None) -> list[float]:
    """Returns the share of all draws in which the own item is the best alone."""
    found = []
    for query, row in enumerate(scores):
        pool = [item for item in range(len(row)) if item != query and (not groups or groups[item] == groups[query])]
        draws = list(combinations(pool, num - 1))
        right = [all(row[item] < row[query] for item in draw) for draw in draws]
        found.append(float(np.mean(right)) if draws else np.nan)
    return found


@pytest.mark.parametrize("num", [2, 3, 5, 6])
def test_it_is_the_share_of_all_draws(num: int) -> None:
    np.testing.assert_allclose(choice_accuracy(SCORES, num), by_drawing(SCORES, num))
    groups = ["a", "b", "a", "b", "a"]
    np.testing.assert_allclose(choice_accuracy(SCORES, num, groups), by_drawing(SCORES, num, groups))


def test_random_scores_are_right_once_in_ten_and_equal_ones_never() -> None:
    scores = np.random.default_rng(0).normal(size=(400, 400))
    assert choice_accuracy(scores, 10).mean() == pytest.approx(0.1, abs=0.02)
    assert not choice_accuracy(np.zeros((20, 20)), 10).any()


def test_scores_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected scores"):
        choice_accuracy(SCORES[:3], 2)
    with pytest.raises(ValueError, match="n groups"):
        choice_accuracy(SCORES, 2, ["a"])
