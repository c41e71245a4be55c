"""The watch over forward passes: what does not end is told once, what ends never."""

import threading

import pytest

from clipmill.extractors.resolve import resolve_recipe
from clipmill.pipelines.features.forward_deadline import DEADLINE_FACTOR, ForwardDeadline, longest_seconds
from clipmill.pipelines.features.plan import COMPUTE_GMAC_PER_SECOND
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.recipe import ClipRule


def test_a_pass_that_does_not_end_is_told_and_one_that_ends_is_not() -> None:
    told: list[str] = []
    expired = threading.Event()

    def on_expiry(what: str) -> None:
        told.append(what)
        expired.set()

    with ForwardDeadline(on_expiry) as deadline:
        with deadline.watching("c3d of a", 1e6):
            pass
        with deadline.watching("c3d of b", 0.001):
            assert expired.wait(240)
        with deadline.watching("c3d of c", 1e6):
            pass
    assert told == ["c3d of b within 0 s"]


def test_one_that_was_never_entered_can_be_left() -> None:
    ForwardDeadline(lambda what: None).__exit__(None, None, None)


def test_a_large_batch_of_a_costly_network_has_longer() -> None:
    feature = FeatureConfig(extractor="c3d", weights=WeightsConfig(random=0))
    recipe = resolve_recipe("c3d", feature, ClipRule(), DecodeConfig())
    alone, many = (longest_seconds(recipe, size, 600.0) for size in (1, 64))
    assert 600 < alone < 610
    # 38.5 GMAC a window.
    assert many - 600 == pytest.approx(64 * (alone - 600))
    assert 1 < DEADLINE_FACTOR * 38.5 / COMPUTE_GMAC_PER_SECOND < 10
