"""Which points a sweep has, and where a dotted key leads."""

from typing import Any

import numpy as np
import pytest

from clipmill.pipelines.sweeps.points import points_of, setting_text, short_names, with_settings
from clipmill.schemas.config_sweep import SweepConfig
from clipmill.schemas.errors import ConfigError
from clipmill.schemas.model import validate


def sweep_config(**keys: Any) -> SweepConfig:
    return validate(SweepConfig, {"train": "train.yaml", "out": "out", **keys}, "sweep.yaml")


def test_a_grid_has_every_combination_the_last_key_fastest() -> None:
    points = points_of(sweep_config(grid={"a.b": [1, 2], "c": ["x", [3, 4]]}))
    assert [point.settings for point in points] == [
        {"a.b": 1, "c": "x"},
        {"a.b": 1, "c": [3, 4]},
        {"a.b": 2, "c": "x"},
        {"a.b": 2, "c": [3, 4]},
    ]
    assert points[1].name == "b 1, c [3, 4]"


def test_random_points_are_the_seeds_and_lie_within_their_bounds() -> None:
    keys = {
        "rate": {"log_uniform": [1e-5, 1e-1]},
        "share": {"uniform": [0.2, 0.4]},
        "width": {"integers": [3, 5]},
        "kind": {"choice": ["a", "b"]},
    }
    drawn = points_of(sweep_config(random={"num_points": 400, "seed": 3, "keys": keys}))
    assert drawn == points_of(sweep_config(random={"num_points": 400, "seed": 3, "keys": keys}))
    assert drawn != points_of(sweep_config(random={"num_points": 400, "seed": 4, "keys": keys}))
    rates = np.array([point.settings["rate"] for point in drawn])
    assert 1e-5 <= rates.min() < rates.max() <= 1e-1
    # Of a logarithm drawn evenly, a quarter lies in each of the four decades: 100 of 400, standard deviation 8.7.
    counts, _ = np.histogram(np.log10(rates), bins=[-5, -4, -3, -2, -1])
    assert np.abs(counts - 100).max() < 5 * 8.7
    shares = np.array([point.settings["share"] for point in drawn])
    assert 0.2 <= shares.min() < 0.21 < 0.39 < shares.max() <= 0.4
    assert {point.settings["width"] for point in drawn} == {3, 4, 5}
    assert {point.settings["kind"] for point in drawn} == {"a", "b"}


def test_a_dotted_key_makes_groups_and_counts_places_of_lists() -> None:
    train = {"model": {"name": "map_ivr", "options": {"video_hidden": [500, 200]}}}
    set_ = with_settings(train, {"model.options.video_hidden.1": 50, "loop.epochs": 3}, "sweep")
    assert set_["model"]["options"] == {"video_hidden": [500, 50]}
    assert set_["loop"] == {"epochs": 3}
    assert train["model"]["options"]["video_hidden"] == [500, 200]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.options.video_hidden.2", r"expected a place in a list of 2, got '2'; count from 0"),
        ("model.options.video_hidden.last", r"expected a place in a list of 2, got 'last'"),
        ("model.name.first", r"sweep model.name.first: expected a group or a list at 'first', got 'map_ivr'"),
    ],
)
def test_a_key_that_leads_nowhere_is_one_line(key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_settings({"model": {"name": "map_ivr", "options": {"video_hidden": [500, 200]}}}, {key: 1}, "sweep")


def test_keys_are_called_by_what_tells_them_apart() -> None:
    keys = ("loop.seed", "data.split.seed", "model.options.lambda_v")
    assert short_names(keys) == {
        "loop.seed": "loop.seed",
        "data.split.seed": "split.seed",
        "model.options.lambda_v": "lambda_v",
    }
    assert setting_text({"loop.learning_rate": 0.0001}) == "learning_rate 0.0001"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "expected exactly one of grid, random and points"),
        ({"grid": {"a": [1]}, "points": [{"name": "x"}]}, "expected exactly one of grid, random and points"),
        ({"grid": {"a": []}}, "grid a: expected values, got none"),
        ({"grid": {"a": [1, 1]}}, "grid a: expected each value once"),
        ({"points": [{"name": "x"}, {"name": "x"}]}, "points: expected names that differ"),
        ({"grid": {"loop.seed": [1, 2]}}, "loop.seed takes the seed; give its values as seeds"),
        ({"grid": {"a": [1]}, "seeds": [1, 1]}, "expected different seeds from 0 up"),
        ({"grid": {"a": [1]}, "evaluate": {"run": "x"}}, "run is each training's own"),
        ({"grid": {"a": [1]}, "evaluate": {"task": "detection"}}, "expected task retrieval"),
        (
            {"random": {"num_points": 1, "keys": {"a": {"uniform": [0, 1], "choice": [1]}}}},
            "expected exactly one of uniform, log_uniform, integers and choice",
        ),
        ({"random": {"num_points": 1, "keys": {"a": {"uniform": [1, 0]}}}}, r"expected \[least, greatest\]"),
        ({"random": {"num_points": 1, "keys": {"a": {"log_uniform": [0, 1]}}}}, "expected a least value above 0"),
    ],
)
def test_what_makes_no_sweep_is_one_line(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        sweep_config(**keys)
    assert len(str(caught.value).splitlines()) == 1
