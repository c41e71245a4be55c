"""``clipmill presets`` in a fresh process, and a build that names one."""

from pathlib import Path

import pytest
import yaml

import clipmill as package
from clipmill.extractors.presets import PRESETS
from clipmill.extractors.resolve import resolve_recipe
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.recipe import ClipRule
from tests.command_line import invoke, invoked_result, refused, result
from tests.encoded_videos import encode_video


def test_all_are_listed_with_their_rows() -> None:
    found = result("presets", "--seconds", "30", "--fps", "30")
    assert [item["name"] for item in found["presets"]] == list(PRESETS)
    rows = {item["name"]: item["expected_rows"] for item in found["presets"]}
    # 900 frames: (900 - 1) // 64, (900 - 16) // 8 + 1; 720 at 24 a second: 720 / 8 - 1, two of each 24.
    assert rows["video-features-i3d"] == {"i3d": 14}
    assert rows["activitynet-c3d-500"] == {"c3d": 111}
    assert rows["charades-i3d-lgi"] == {"i3d": 89}
    assert rows["charades-i3d-vslnet"] == {"i3d": 60}
    assert rows["map-ivr"] == {"rc3d": 64, "vgg16": 1}
    listed = invoke("presets").stdout.splitlines()
    assert [line.split()[0] for line in listed[:-1]] == list(PRESETS)


@pytest.mark.parametrize("name", ["charades-i3d-vslnet", "map-ivr"])
def test_one_is_shown_as_the_yaml_one_would_write(name: str) -> None:
    shown = invoke("presets", name).stdout
    assert PRESETS[name].source in shown
    features = yaml.safe_load(shown)["features"]
    assert list(features) == list(PRESETS[name].features)
    for extractor, keys in features.items():
        del keys["weights"]["file"]
        by_hand = FeatureConfig.model_validate(keys | {"weights": keys["weights"] | {"random": 0}})
        by_name = FeatureConfig.model_validate({"preset": name, "weights": {"random": 0}})
        recipes = [resolve_recipe(extractor, item, ClipRule(), DecodeConfig()) for item in (by_hand, by_name)]
        assert recipes[0].fingerprint == recipes[1].fingerprint


def test_near_names_are_suggested() -> None:
    refused(invoke("presets", "charades-i3d-vslnt"), "preset charades-i3d-vslnt", "charades-i3d-vslnet")
    refused(invoke("presets", "--fps", "0"), "--fps", "above zero")


def test_a_build_names_a_preset(tmp_path: Path) -> None:
    encode_video(tmp_path / "videos" / "a.mp4", 60)
    config = tmp_path / "build.yaml"
    config.write_text(
        f"""
store: {{url: {tmp_path / "store"}}}
videos: {{folder: {tmp_path / "videos"}}}
features:
  paintings: {{preset: semart-resnet50, weights: {{random: 0}}}}
"""
    )
    invoked_result("build", "--config", str(config))
    rows = package.open(str(tmp_path / "store"))["paintings"]["a.mp4"]
    # 2.4 seconds: a row of ResNet-50's 1000 outputs a second, rounded up.
    assert rows.values.shape == (3, 1000)
    # The keys written out are the same recipe: nothing is left to do.
    written = yaml.safe_load(invoke("presets", "semart-resnet50").stdout)["features"]["resnet50"]
    written["weights"] = {"random": 0, "card": written["weights"]["card"]}
    by_hand = yaml.safe_load(config.read_text()) | {"features": {"paintings": written}}
    config.write_text(yaml.safe_dump(by_hand))
    planned = invoked_result("plan", "--config", str(config))
    assert (planned["num_tasks"], planned["num_complete"]) == (0, 1)
