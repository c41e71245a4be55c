"""The config of an import: short forms, and one line for what does not go together."""

from typing import Any

import pytest

from clipmill.schemas.config import dump_config, parse_config
from clipmill.schemas.config_import import ImportConfig
from clipmill.schemas.errors import ConfigError

MINIMAL = "store: {url: s}\nmanifest: m.csv\n"


def parse(features: str, rest: str = "") -> ImportConfig:
    return parse_config(ImportConfig, f"{MINIMAL}{rest}features: {features}\n")


def test_short_forms_are_what_the_long_ones_say() -> None:
    config = parse("{x: {file: a.h5, ids: names, steps: {step_seconds: 2}}}")
    feature = config.features["x"]
    assert feature.ids is not None
    assert feature.ids.dataset == "names"
    assert feature.rows == "steps"
    assert [table.file for table in config.manifest] == ["m.csv"]
    assert parse_config(ImportConfig, dump_config(config)) == config
    several = parse_config(
        ImportConfig, "store: {url: s}\nmanifest: [a.csv, {file: b.csv}]\nfeatures: {x: {file: f}}\n"
    )
    assert [table.file for table in several.manifest] == ["a.csv", "b.csv"]


BAD: dict[str, tuple[str, str, str]] = {
    "steps of nothing": ("{x: {file: a, rows: steps}}", "", "rows: steps and steps: {...} go together"),
    "steps and bag": ("{x: {file: a, rows: bag, steps: {evenly: true}}}", "", "go together"),
    "two ways": ("{x: {file: a, steps: {frames: 16, step_seconds: 1}}}", "", "expected exactly one of frames"),
    "a rate of seconds": ("{x: {file: a, steps: {step_seconds: 1, fps: 25}}}", "", "fps and step belong to frames"),
    "a start alone": ("{x: {file: a, steps: {start: t}}}", "", "exactly one of stop and window_seconds"),
    "ids and position": ("{x: {file: a, ids: n, position: row}}", "", "expected ids or position"),
    "a column every feature has": ("{x: {file: a, extras: {mask: m}}}", "", "mask is a column of every feature"),
    "an unknown key": ("{x: {file: a, datset: d}}", "", "unknown key; did you mean 'dataset'"),
    "clips cut here": ("{x: {file: a}}", "clips: {from: shots}\n", "expected from: whole or annotations, got shots"),
    "a video's row of annotated clips": (
        "{x: {file: a, rows: video}}",
        "clips: {from: annotations}\n",
        "features.x: rows: video belongs to clips: {from: whole}",
    ),
    "no feature": ("{}", "", "features"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_go_together_is_one_line(case: str) -> None:
    features, rest, words = BAD[case]
    with pytest.raises(ConfigError) as error:
        parse(features, rest)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("steps", "valid"),
    [
        ({"frames": 16}, True),
        ({"frames": 16, "step": 8, "fps": 25, "offset_seconds": 1}, True),
        ({"step_seconds": 1, "window_seconds": 2}, True),
        ({"start": "a", "stop": "b"}, True),
        ({"start": "a", "window_seconds": 1}, True),
        ({"evenly": True}, True),
        ({"evenly": True, "window_seconds": 1}, False),
        ({"start": "a", "stop": "b", "window_seconds": 1}, False),
        ({"stop": "b", "step_seconds": 1}, False),
        ({}, False),
    ],
)
def test_steps_are_told_in_one_way(steps: dict[str, Any], valid: bool) -> None:
    text = f"{{x: {{file: a, steps: {steps}}}}}".replace("True", "true")
    if valid:
        assert parse(text).features["x"].rows == "steps"
    else:
        with pytest.raises(ConfigError):
            parse(text)
