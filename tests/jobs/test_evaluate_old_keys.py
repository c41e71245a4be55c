"""Keys by the names they had before are read for one release, with a line on standard error for each."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from clipmill.pipelines.evaluation.tasks.registry import parse_task_config
from clipmill.schemas.config import dump_config
from clipmill.schemas.errors import ConfigError, RenamedKeyWarning
from tests.jobs.evaluation_command import evaluate, refused
from tests.jobs.test_evaluate_detection import files

FILES = {"ground_truth": "truth", "predictions": "answers"}
OLD_AND_NEW: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"task": "detection", "tious": [0.5], "floors": False}, {"tiou_thresholds": [0.5], "baselines": False}),
    ({"task": "detection", "protocol": "thumos14", "ties": "listed"}, {"ties": "file_order"}),
    ({"task": "proposals", "max_average": 5, "at": [1]}, {"max_avg_num_proposals": 5.0, "cutoffs": [1.0]}),
    (
        {"task": "moments", "at": 1, "ious": [0.7], "order": "listed"},
        {"cutoffs": [1], "iou_thresholds": [0.7], "order": "file_order"},
    ),
    ({"task": "classification", "at": [1]}, {"cutoffs": [1]}),
    ({"task": "landmarks", "at": [1]}, {"cutoffs": [1]}),
    (
        {"task": "moments", "ground_truth": {"file": "truth", "backwards": "drop"}},
        {"ground_truth": {"file": "truth", "drop_prefix": "", "drop_ending": False, "inverted": "drop"}},
    ),
]


@pytest.mark.parametrize(("old", "new"), OLD_AND_NEW, ids=[" ".join(map(str, old)) for old, _ in OLD_AND_NEW])
def test_an_old_name_means_the_new_one_which_is_what_is_dumped(old: dict[str, Any], new: dict[str, Any]) -> None:
    with pytest.warns(RenamedKeyWarning) as noted:
        _, config = parse_task_config(yaml.safe_dump(FILES | old))
    assert len(noted) == len({str(item.message) for item in noted}) >= 1
    dumped = yaml.safe_load(dump_config(config))
    assert {key: dumped[key] for key in new} == new
    assert not set(dumped) & {"tious", "floors", "at", "max_average", "ious"}
    # What is dumped is read again without a word.
    again = parse_task_config(dump_config(config))[1]
    assert again == config


def test_the_command_notes_each_old_name_in_one_line(tmp_path: Path) -> None:
    config = files(tmp_path)
    new = evaluate(tmp_path, config | {"tiou_thresholds": [0.5], "baselines": False})
    assert "note:" not in new.err
    old = evaluate(tmp_path, config | {"tious": [0.5], "floors": False}, "--set", "ties=time")
    assert [line for line in old.err.splitlines() if line.startswith("note: ")] == [
        "note: the key 'tious' is now 'tiou_thresholds'; the old name is read until the next release",
        "note: the key 'floors' is now 'baselines'; the old name is read until the next release",
    ]
    assert old.results_bytes == new.results_bytes
    kept = (tmp_path / "out" / "evaluate.yaml").read_text()
    assert "tiou_thresholds:" in kept
    assert "tious:" not in kept


def test_both_names_of_a_key_are_refused(tmp_path: Path) -> None:
    config = files(tmp_path) | {"tious": [0.5], "tiou_thresholds": [0.7]}
    refused(evaluate(tmp_path, config), "tious is the old name of tiou_thresholds", "leave tious out")


def test_near_names_are_the_new_ones() -> None:
    with pytest.raises(ConfigError, match="baseline: unknown key; did you mean 'baselines'"):
        parse_task_config(yaml.safe_dump(FILES | {"task": "detection", "baseline": True}))
