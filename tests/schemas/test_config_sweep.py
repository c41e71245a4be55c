"""Keys of a train config in the configs of sweeps and tables: dotted, or as groups, as ``--set`` writes them."""

from clipmill.schemas.config import parse_config
from clipmill.schemas.config_sweep import SweepConfig
from clipmill.schemas.config_table import MapIvrTableConfig

SWEEP = """
train: train.yaml
set: {loop.epochs: 100, loop.batch: 50, data.split: {from: random, seed: 3}}
points:
  - {name: one, set: {model: {options: {dim: 8}}, loop.select: total}}
"""
TABLE = """
data: {store: store, image: a, video: b, split: {from: manifest}}
set:
  all: {loop.epochs: 100, loop.batch: 50}
  acmr: {loop.epochs: 1000}
"""


def test_a_key_of_a_group_that_is_set_leaves_the_groups_other_keys() -> None:
    config = parse_config(SweepConfig, SWEEP, ["set.loop.threads=1", "set.loop.batch=7", "set.data.split.seed=4"])
    assert list(config.set.items()) == [
        ("loop.epochs", 100),
        ("data.split", {"from": "random", "seed": 3}),
        ("loop.threads", 1),
        ("loop.batch", 7),
        ("data.split.seed", 4),
    ]
    assert config.points[0].set == {"model.options.dim": 8, "loop.select": "total"}


def test_a_grid_takes_groups() -> None:
    text = "train: train.yaml\ngrid: {loop: {batch: [32, 64], rates: {a: [1]}}, loop.epochs: [5]}"
    grid = {"loop.batch": (32, 64), "loop.rates.a": (1,), "loop.epochs": (5,)}
    assert parse_config(SweepConfig, text).grid == grid


def test_a_key_that_is_set_for_all_rows_of_a_table_leaves_the_others() -> None:
    config = parse_config(MapIvrTableConfig, TABLE, ["set.all.loop.threads=1"])
    assert config.set["all"] == {"loop.epochs": 100, "loop.batch": 50, "loop.threads": 1}
    assert config.set["acmr"] == {"loop.epochs": 1000}
