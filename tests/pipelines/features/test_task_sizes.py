"""Tasks are cut by what earlier runs of the store measured, where there are any."""

import json
from pathlib import Path

import pytest

from clipmill.extractors.resolve import resolve_recipe
from clipmill.pipelines.features.build import build
from clipmill.pipelines.features.build_config import parse_build_config
from clipmill.pipelines.features.forecast import Rates, seconds_by
from clipmill.pipelines.features.plan import estimate, make_plan
from clipmill.pipelines.features.planning import plan_build
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.recipe import ClipRule, Recipe
from clipmill.schemas.records import Video, VideoHeader
from tests.encoded_videos import encode_video


def _recipe() -> Recipe:
    feature = FeatureConfig(extractor="squeezenet", weights=WeightsConfig(random=0))
    return resolve_recipe("squeezenet", feature, ClipRule(), DecodeConfig())


def _rates(key: str, seconds_per_window: float) -> Rates:
    return Rates("a test", "cpu", {key: seconds_per_window}, 0.01, 0.5, 0.0, {key: 1.0}, 1.0, 0.0, 0.0)


def test_what_planning_took_for_one_task_of_five_minutes_and_takes_22_is_cut_in_time() -> None:
    header = VideoHeader("mp4", "h264", 320, 240, 0, 10.0, 25.0, 250)
    videos = [Video(f"v{number:03d}", f"v{number:03d}.mp4", f"{number:032x}", 10**6, header) for number in range(232)]
    recipe = _recipe()
    assert len(make_plan(videos, [recipe], {}, 300).tasks) == 1
    # Windows of a second at 0.3 s each, 250 frames at 10 ms, half a second for the scan: 22 minutes in all.
    seconds_of = seconds_by(_rates(recipe.key, 0.3))
    windows = estimate(videos[0], [recipe]).num_windows
    assert seconds_of(videos[0], [recipe]) == windows * 0.3 + 2.5 + 0.5
    tasks = make_plan(videos, [recipe], {}, 300, seconds_of).tasks
    assert len(tasks) >= 4
    assert all(task.cost_estimated <= 330 for task in tasks)
    assert [video.id for task in tasks for video in task.videos] == [video.id for video in videos]


CONFIG = """
store: {url: store}
videos: {folder: videos}
features: {squeezenet: {weights: {random: 0}}}
engine: {device: cpu, threads: 1}
"""


def test_the_second_build_of_a_store_is_cut_by_what_the_first_one_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = parse_build_config(CONFIG)
    encode_video(tmp_path / "videos" / "first.mp4", num_frames=20, fps=10)
    build(config)
    for number in range(4):
        encode_video(tmp_path / "videos" / f"{number}.mp4", num_frames=21 + number, fps=10)
    assert len(plan_build(config).plan.tasks) == 1
    [path] = (tmp_path / "store" / "runs").glob("*/report.json")
    report = json.loads(path.read_text())
    # As if each window had taken five minutes.
    [key] = report["measured"]["windows"]
    report["measured"]["forward_seconds"][key] = 300.0 * report["measured"]["windows"][key]
    path.write_text(json.dumps(report))
    tasks = plan_build(config).plan.tasks
    assert len(tasks) >= 3
    assert all(task.cost_estimated > 300 for task in tasks)
