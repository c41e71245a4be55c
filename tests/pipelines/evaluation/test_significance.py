"""Significance against exact enumeration, SciPy, and what a test must and must not find."""

import math
from itertools import product

import numpy as np
import pytest

from clipmill.pipelines.evaluation.metrics.significance import bootstrap_score, compare, randomisation_p_value


def test_exact_p_value_counts_all_swaps() -> None:
    gap = [0.3, 0.1, -0.05, 0.2]
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, gap, strict=True))) for signs in product((1, -1), repeat=4)
    ]
    expected = sum(value >= abs(sum(gap)) - 1e-12 for value in sums) / 16
    assert randomisation_p_value(gap) == expected


def test_sampled_p_value_agrees_with_scipy() -> None:
    from scipy.stats import permutation_test

    gap = np.random.default_rng(0).normal(0.1, 0.5, 60)
    theirs = permutation_test(
        (gap, np.zeros(60)), lambda a, b: (a - b).mean(), permutation_type="samples", n_resamples=20000, rng=1
    )
    assert randomisation_p_value(gap, num_swaps=20000) == pytest.approx(theirs.pvalue, abs=0.015)


def test_a_swap_of_equal_values_changes_nothing() -> None:
    assert randomisation_p_value([0.0] * 50) == 1.0
    assert randomisation_p_value([0.5, 0.0, 0.0]) == randomisation_p_value([0.5]) == 1.0


def test_p_value_is_two_sided_and_never_zero() -> None:
    gap = np.full(100, 0.1)
    assert randomisation_p_value(gap, num_swaps=999) == randomisation_p_value(-gap, num_swaps=999) == 1 / 1000


def test_p_values_of_no_difference_are_uniform() -> None:
    random = np.random.default_rng(4)
    values = [randomisation_p_value(random.normal(0, 1, 30), num_swaps=400) for _ in range(200)]
    assert 0.01 <= np.mean(np.array(values) < 0.05) <= 0.11


def test_units_are_paired_by_name_and_not_by_position() -> None:
    ours = {f"q{n}": n / 10 for n in range(10)}
    theirs = {f"q{n}": n / 10 - 0.01 for n in reversed(range(10))}
    got = compare(ours, theirs)
    assert got.difference.value == pytest.approx(0.01)
    assert (got.num_better, got.num_worse, got.num_units) == (10, 0, 10)
    assert got.p_value == pytest.approx(2 / 2**10)


def test_units_of_one_run_alone_are_left_out_and_counted() -> None:
    got = compare({"a": 1.0, "b": 0.0, "nan": math.nan}, {"a": 0.0, "c": 1.0, "nan": 1.0})
    assert (got.num_units, got.num_only_ours, got.num_only_theirs) == (1, 1, 1)
    assert "2 in one run alone" in got.line


def test_the_same_seed_gives_the_same_bits() -> None:
    random = np.random.default_rng(5)
    ours, theirs = ({f"q{n}": float(random.random()) for n in range(50)} for _ in range(2))
    assert compare(ours, theirs, seed=3) == compare(ours, theirs, seed=3)
    assert compare(ours, theirs, seed=3).difference != compare(ours, theirs, seed=4).difference


def test_no_common_units_gives_nan_and_not_an_error() -> None:
    got = compare({"a": 1.0}, {"b": 1.0})
    assert math.isnan(got.p_value)
    assert math.isnan(got.difference.value)


def test_bootstrap_of_a_score_that_is_a_mean_covers_it_as_theory_says() -> None:
    values = np.random.default_rng(6).normal(0, 1, 400)
    got = bootstrap_score(400, lambda rows: float(values[rows].mean()), num_resamples=1000)
    assert got.value == pytest.approx(values.mean())
    assert got.high - got.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    assert math.isnan(bootstrap_score(0, lambda rows: 0.0).value)
