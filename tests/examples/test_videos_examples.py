"""The examples of training on videos: configs that parse, and thirds of clips that are trained on and tested."""

import runpy
from pathlib import Path

import pytest
import yaml

from clipmill.extractors import registry
from clipmill.pipelines.evaluation.tasks.registry import parse_task_config
from clipmill.pipelines.features.build_config import parse_build_config
from clipmill.pipelines.features.windows import clip_windows
from clipmill.pipelines.training.videos.items import read_video_items
from clipmill.pipelines.training.videos.train import recipe_of, resolve
from clipmill.schemas.config import parse_config
from clipmill.schemas.config_videos import VideoTrainConfig
from tests.encoded_videos import encode_video

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "videos"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_an_example_is_a_config_of_its_verb(path: Path) -> None:
    text = path.read_text()
    keys = yaml.safe_load(text)
    if "task" in keys:
        parse_task_config(text, source=path.name)
    elif "features" in keys:
        parse_build_config(text, (), path.name)
    else:
        config = resolve(parse_config(VideoTrainConfig, text, source=path.name))
        assert config.model.name in registry.BUILT_IN
        assert config.out == f"out/videos/{path.stem}"


def test_two_thirds_of_each_clip_are_trained_on_and_the_last_is_kept(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for name in ("Archery", "Diving"):
        encode_video(tmp_path / "clips" / f"v_{name}_g01_c01.avi", 60, codec="mpeg4")
    runpy.run_path(str(FOLDER / "thirds.py"))["main"](tmp_path / "clips", tmp_path / "out")
    text = (FOLDER / "ucf101.yaml").read_text().replace("out/ucf101/", f"{tmp_path}/out/")
    config = resolve(parse_config(VideoTrainConfig, text, source="ucf101.yaml"))
    recipe = recipe_of(config, registry.learner("c3d"))
    items = read_video_items(config.data, recipe, None, False, clip_windows)
    assert items.classes == ("Archery", "Diving")
    assert [item.frames.tolist() for item in items.items] == [list(range(40))] * 2
    kept = [segments for video, segments in zip(items.videos, items.segments, strict=True) if video.part == "test"]
    assert [(round(one.start_seconds, 2), round(one.stop_seconds, 2)) for (one,) in kept] == [(1.6, 2.4)] * 2
