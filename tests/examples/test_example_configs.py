"""Every config of a training or a sweep in `examples/` is one that its verb takes, with the options of its model."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from clipmill.jobs.sweep import train_keys_of
from clipmill.models import registry
from clipmill.pipelines.sweeps.points import points_of, with_settings
from clipmill.pipelines.training.videos.train import resolve
from clipmill.schemas.config import TrainConfig, parse_config
from clipmill.schemas.config_images import ImageTrainConfig
from clipmill.schemas.config_sweep import SweepConfig
from clipmill.schemas.config_videos import VideoTrainConfig
from clipmill.schemas.model import validate

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = {
    str(path.relative_to(ROOT)): keys
    for path in sorted((ROOT / "examples").rglob("*.yaml"))
    if isinstance(keys := yaml.safe_load(path.read_text("utf-8")), dict)
}
TRAININGS = [name for name, keys in EXAMPLES.items() if "model" in keys]
SWEEPS = [name for name, keys in EXAMPLES.items() if "train" in keys]


def check(keys: dict[str, Any], source: str) -> None:
    if "videos" in keys["data"]:
        resolve(validate(VideoTrainConfig, keys, source))
        return
    if "images" in keys["data"]:
        config: ImageTrainConfig | TrainConfig = validate(ImageTrainConfig, keys, source)
    else:
        config = validate(TrainConfig, keys, source)
    registry.resolve_options(config.model.name, config.model.options)


def test_there_are_examples() -> None:
    assert len(TRAININGS) > 20
    assert len(SWEEPS) > 4


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_fits_its_model(name: str) -> None:
    check(EXAMPLES[name], name)


@pytest.mark.parametrize("name", SWEEPS)
def test_every_point_of_a_sweep_fits_the_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = parse_config(SweepConfig, (ROOT / name).read_text("utf-8"), source=name)
    train = train_keys_of(config)
    for point in points_of(config):
        check(with_settings(with_settings(train, config.set, name), point.settings, name), f"{name}: {point.name}")
