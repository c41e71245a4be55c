"""Planning: what is missing, cut into tasks of balanced size."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill.extractors.resolve import resolve_recipe
from clipmill.pipelines.features.plan import (
    COMPUTE_GMAC_PER_SECOND,
    DECODE_FRAMES_PER_SECOND,
    MAX_TASK_ROW_BYTES,
    SHOT_GMAC_PER_FRAME,
    Done,
    cut,
    estimate,
    make_plan,
    video_key,
)
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.recipe import SHOT_THRESHOLDS, ClipRule, Recipe, Sampling
from clipmill.schemas.records import Segment, Video, VideoHeader


def _recipe(name: str = "squeezenet", fps: float = 1, clips: ClipRule | None = None) -> Recipe:
    feature = FeatureConfig(extractor="squeezenet", sampling=Sampling(fps=fps), weights=WeightsConfig(random=0))
    return resolve_recipe(name, feature, clips or ClipRule(), DecodeConfig())


def _video(index: int, duration_seconds: float = 10.0) -> Video:
    header = VideoHeader("mp4", "h264", 320, 240, 0, duration_seconds, 25.0, round(duration_seconds * 25))
    return Video(f"v{index:03d}", f"v{index:03d}.mp4", f"{index:032x}", 10**9, header)


def test_everything_is_planned_once_in_manifest_order() -> None:
    videos = [_video(index) for index in range(20)]
    plan = make_plan(videos, [_recipe()], {}, task_seconds=1.0)
    assert [video.id for task in plan.tasks for video in task.videos] == [video.id for video in videos]
    assert plan.num_pairs == 20
    assert len({task.key for task in plan.tasks}) == len(plan.tasks) > 1


def test_what_is_committed_or_quarantined_is_not_planned() -> None:
    videos = [_video(index) for index in range(4)]
    recipe = _recipe()
    done = Done(frozenset({video_key(videos[0], recipe)}), frozenset({(videos[1].id, videos[1].fingerprint)}))
    plan = make_plan(videos, [recipe], {recipe.fingerprint: done}, 100)
    assert [video.id for task in plan.tasks for video in task.videos] == ["v002", "v003"]
    assert (plan.num_complete, plan.num_quarantined) == (1, 1)


def test_changed_bytes_are_planned_again() -> None:
    video, recipe = _video(0), _recipe()
    done = {recipe.fingerprint: Done(frozenset({video_key(video, recipe)}), frozenset())}
    assert make_plan([video], [recipe], done, 100).tasks == ()
    assert make_plan([replace(video, fingerprint="f" * 32)], [recipe], done, 100).num_pairs == 1


def test_changed_annotations_are_planned_again_but_changed_labels_are_not() -> None:
    recipe = _recipe(clips=ClipRule(from_="annotations"))
    video = replace(_video(0), segments=(Segment(1.0, 2.0, "a"),))
    done = {recipe.fingerprint: Done(frozenset({video_key(video, recipe)}), frozenset())}
    assert make_plan([replace(video, segments=(Segment(1.0, 2.0, "b"),))], [recipe], done, 100).tasks == ()
    assert make_plan([replace(video, segments=(Segment(1.0, 2.5, "a"),))], [recipe], done, 100).num_pairs == 1


def test_videos_that_lack_different_recipes_go_to_different_tasks() -> None:
    videos = [_video(index) for index in range(4)]
    one, two = _recipe("one", 1), _recipe("two", 2)
    done = {one.fingerprint: Done(frozenset({video_key(videos[2], one)}), frozenset())}
    plan = make_plan(videos, [one, two], done, 100)
    made = [([video.id for video in task.videos], [recipe.name for recipe in task.recipes]) for task in plan.tasks]
    assert made == [(["v000", "v001", "v003"], ["one", "two"]), (["v002"], ["two"])]


def test_the_key_of_a_task_covers_bytes_clips_and_recipes() -> None:
    def key(video: Video, recipe: Recipe) -> str:
        return make_plan([video], [recipe], {}, 100).tasks[0].key

    video = _video(0)
    keys = {
        key(video, _recipe()),
        key(replace(video, fingerprint="e" * 32), _recipe()),
        key(replace(video, id="other"), _recipe()),
        key(replace(video, segments=(Segment(0, 1),)), _recipe()),
        key(video, _recipe(fps=2)),
    }
    assert len(keys) == 5
    assert key(video, _recipe("renamed")) == key(video, _recipe())


@given(st.lists(st.floats(0.5, 4000), min_size=1, max_size=40), st.floats(0.05, 50))
@settings(max_examples=150, deadline=None)
def test_tasks_are_balanced(durations: list[float], task_seconds: float) -> None:
    recipe = _recipe()
    videos = [_video(index, duration) for index, duration in enumerate(durations)]
    tasks = cut([recipe], videos, task_seconds)
    assert [video for task in tasks for video in task.videos] == videos
    assert all(task.videos for task in tasks)
    costs = [estimate(video, [recipe]).seconds for video in videos]
    # Cut at the borders of equal shares: no task is longer than its share by more than its longest video.
    share = sum(costs) / len(tasks)
    for task in tasks:
        longest = max(estimate(video, [recipe]).seconds for video in task.videos)
        assert task.cost_estimated <= share + longest + 1e-6


def test_a_shard_stays_of_bounded_size() -> None:
    feature = FeatureConfig(layer="pool5", sampling=Sampling(fps=25), weights=WeightsConfig(random=0))
    recipe = resolve_recipe("vgg16", feature, ClipRule(), DecodeConfig())
    videos = [_video(index, 60.0) for index in range(20)]
    tasks = cut([recipe], videos, task_seconds=1e9)
    largest = max(sum(estimate(video, [recipe]).row_bytes for video in task.videos) for task in tasks)
    assert largest <= MAX_TASK_ROW_BYTES + estimate(videos[0], [recipe]).row_bytes


@pytest.mark.parametrize("duration", [None, 0.0])
def test_a_header_without_duration_still_gets_an_estimate(duration: float | None) -> None:
    header = VideoHeader("mkv", "h264", 320, 240, 0, duration, None, None)
    assert estimate(replace(_video(0), header=header), [_recipe()]).seconds > 0


def test_a_header_that_claims_years_does_not_upset_the_plan() -> None:
    videos = [_video(index) for index in range(20)]
    liar = replace(_video(20), num_bytes=2000, header=replace(_video(20).header, duration_seconds=1e9, num_frames=None))
    honest = len(cut([_recipe()], videos, task_seconds=5.0))
    assert len(cut([_recipe()], [*videos, liar], task_seconds=5.0)) <= honest + 1


def test_tasks_of_next_to_no_length_hold_one_video_each() -> None:
    assert len(cut([_recipe()], [_video(index) for index in range(3)], 1e-320)) == 3


def test_a_layer_of_many_rows_a_window_makes_smaller_shards() -> None:
    video = _video(0)
    layers = ("key_features", "frame_descriptors")
    recipes = [resolve_recipe("tracks", FeatureConfig(layer=layer), ClipRule(), DecodeConfig()) for layer in layers]
    features, descriptors = (estimate(video, [recipe]).row_bytes for recipe in recipes)
    # 250 frames of 500 descriptors, 32 bytes each.
    assert descriptors == 250 * 500 * 32
    assert 32 * 250 < features < descriptors / 20
    videos = [_video(index, 600.0) for index in range(4)]
    assert len(cut([recipes[1]], videos, task_seconds=1e9)) == 4


def _resolve(name: str, options: dict[str, Any], clips: ClipRule | None = None, **changes: Any) -> Recipe:
    feature = FeatureConfig(weights=WeightsConfig(random=0), options=options, **changes)
    return resolve_recipe(name, feature, clips or ClipRule(), DecodeConfig())


def test_a_shard_of_many_rows_a_window_stays_of_bounded_size() -> None:
    """I3D's steps: a window of 256 frames makes 19 rows, so that a video's rows are 19 times as many as its windows."""
    recipe = _resolve("i3d", {"steps": True})
    videos = [_video(index, 600.0) for index in range(100)]
    tasks = cut([recipe], videos, task_seconds=1e9)
    # What the reducer makes of a video's 15,000 frames (docs/extractors/i3d.md), in float32.
    video_bytes = (-(-15_000 // 8) - 1) * 1024 * 4
    assert estimate(videos[0], [recipe]).row_bytes == pytest.approx(video_bytes, rel=0.01)
    assert len(tasks) == -(-100 * video_bytes // MAX_TASK_ROW_BYTES) == 3
    assert max(len(task.videos) for task in tasks) * video_bytes <= MAX_TASK_ROW_BYTES + video_bytes


@pytest.mark.parametrize(
    ("name", "options", "changes", "num_windows", "gmac_per_window"),
    [
        ("i3d", {}, {}, 234, 111.2),
        ("i3d", {"stream": "both"}, {}, 234, 213.5),
        ("i3d", {"steps": True}, {}, 98, 444.6),
        ("i3d", {}, {"sampling": {"frames": 16}}, 937, 27.8),
        ("rmac", {}, {}, 600, 240.5),
        ("rmac", {"network": "resnet50"}, {}, 600, 64.1),
    ],
)
def test_options_and_windows_decide_what_a_video_costs(
    name: str, options: dict[str, Any], changes: dict[str, Any], num_windows: int, gmac_per_window: float
) -> None:
    found = estimate(_video(0, 600.0), [_resolve(name, options, **changes)])
    assert found.num_windows == num_windows
    seconds = 15_000 / DECODE_FRAMES_PER_SECOND + num_windows * gmac_per_window / COMPUTE_GMAC_PER_SECOND
    assert found.seconds == pytest.approx(seconds, rel=0.01)


def test_a_bag_of_proposals_is_counted_by_clip_not_by_window() -> None:
    video = replace(_video(0, 600.0), segments=(Segment(0, 60), Segment(90, 300), Segment(300, 400)))
    whole, annotated = (_resolve("rc3d", {}, clip) for clip in (ClipRule(), ClipRule(from_="annotations")))
    row_bytes = 4096 * 4
    assert estimate(video, [whole]).row_bytes == 64 * row_bytes
    assert estimate(video, [annotated]).row_bytes == 3 * 64 * row_bytes
    assert estimate(video, [_resolve("rc3d", {"top": 5})]).row_bytes == 5 * row_bytes


def test_every_shot_detector_has_a_cost() -> None:
    assert SHOT_GMAC_PER_FRAME.keys() == SHOT_THRESHOLDS.keys()
    clips = [ClipRule.model_validate({"from": "shots", "options": {"detector": name}}) for name in SHOT_THRESHOLDS]
    histogram, tracks = (estimate(_video(0), [_recipe(clips=clip)]).seconds for clip in clips)
    assert tracks - histogram == pytest.approx(250 * SHOT_GMAC_PER_FRAME["tracks"] / COMPUTE_GMAC_PER_SECOND)


def test_averaged_crops_cost_as_many_passes() -> None:
    video = _video(0, 60.0)
    seconds = []
    for preprocess in ({}, {"crops": "ten"}):
        feature = FeatureConfig(extractor="squeezenet", preprocess=preprocess, weights=WeightsConfig(random=0))
        recipe = resolve_recipe("frames", feature, ClipRule(), DecodeConfig())
        seconds.append(estimate(video, [recipe]).seconds - 1500 / DECODE_FRAMES_PER_SECOND)
    assert seconds[1] == pytest.approx(10 * seconds[0])


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({"uniform_windows": 8, "fps": None}, 8),
        ({"centred": True, "frames": 1, "step": 5, "fps": None}, 50),
        ({"tail": "before_last", "step": 16, "fps": None}, 16),
        ({"fps": 8, "rounding": "nearest"}, 80),
    ],
)
def test_windows_by_their_own_rules_are_estimated(sampling: dict[str, Any], expected: int) -> None:
    feature = FeatureConfig.model_validate({"sampling": sampling, "weights": {"random": 0}})
    recipe = resolve_recipe("squeezenet", feature, ClipRule(), DecodeConfig())
    # Of 10 seconds, 250 frames.
    assert estimate(_video(0), [recipe]).num_windows == expected
