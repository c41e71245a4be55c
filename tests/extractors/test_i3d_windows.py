"""Rows of I3D by VSLNet's and video_features' windows, through the whole pipeline on small crops of a real encoding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipmill.extractors import registry
from clipmill.extractors.i3d.window_steps import WindowStepRows
from clipmill.extractors.preprocess import apply_geometry
from clipmill.extractors.resolve import resolve_recipe
from clipmill.pipelines.decode.probe import content_fingerprint
from clipmill.pipelines.features.recompute import recompute
from clipmill.pipelines.features.row_counts import expected_rows
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.errors import ConfigError
from clipmill.schemas.recipe import ClipRule, Recipe, Sampling
from clipmill.schemas.records import Clip, Video, Window
from tests.encoded_videos import encode_video
from tests.ffmpeg_frames import rgb_frames

SMALL = {"resize": "exact", "size": [32, 32], "crop": [32, 32], "resize_rounding": None}


def recipe(preset: str, **written: Any) -> Recipe:
    keys = {"preset": preset, "preprocess": SMALL, "weights": {"random": 0}} | written
    return resolve_recipe("i3d", FeatureConfig.model_validate(keys), ClipRule(), DecodeConfig())


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Video]:
    folder = tmp_path_factory.mktemp("videos")
    found = {}
    for num_frames in (22, 70, 129):
        path = encode_video(folder / f"{num_frames}.mp4", num_frames, fps=24, width=64, height=48)
        found[num_frames] = Video(path.name, str(path), fingerprint=content_fingerprint(str(path)))
    return found


@pytest.mark.parametrize(
    ("preset", "rows"),
    [
        # One window of 21 frames: ceil(21 / 8) - 1; then three windows of 24, and six.
        ("charades-i3d-vslnet", {22: 2, 70: 6, 129: 12}),
        # Of 129 frames LGI's rows are counted below, too.
        pytest.param("charades-i3d-lgi", {22: 2, 70: 8, 129: 16}, marks=pytest.mark.slow),
        pytest.param("activitynet-i3d-vslnet", {22: 2, 70: 5, 129: 9}, marks=pytest.mark.slow),
        ("video-features-i3d", {70: 1, 129: 2}),
    ],
)
def test_rows_are_as_many_as_published(videos: dict[int, Video], preset: str, rows: dict[int, int]) -> None:
    found = recipe(preset)
    extractor = registry.build(found, "cpu")
    for num_frames, expected in rows.items():
        made = recompute(videos[num_frames], found, "cpu", extractor)
        assert made.values.shape == (expected, 1024)
        assert expected_rows(found, num_frames, 24.0) == expected
        assert (made.start_seconds < made.stop_seconds).all()
        assert made.stop_seconds.max() <= num_frames / 24 + 1e-6


def test_vslnets_last_window_ends_before_the_last_frame(videos: dict[int, Video]) -> None:
    made = recompute(videos[70], recipe("charades-i3d-vslnet"), "cpu")
    # Windows of 24 frames at 0, 24 and 45; two rows each, 8 frames apart and 16 long.
    starts = np.array([0, 8, 24, 32, 45, 53]) / 24
    np.testing.assert_allclose(made.start_seconds, starts, atol=1e-6)
    np.testing.assert_allclose(made.stop_seconds, starts + 16 / 24, atol=1e-6)


def test_rows_of_windows_of_different_lengths_follow_each_other() -> None:
    reducer = WindowStepRows(Clip(1, 0.0, 4.0), "float32", Sampling(fps=8, frames=24))
    reducer.add(Window(1, tuple(range(24)), 0.0, 3.0), {"values": np.array([[1.0], [2.0]])})
    reducer.add(Window(1, tuple(range(20, 32)), 2.5, 4.0), {"values": np.array([[3.0]])})
    rows = reducer.rows()
    assert rows.values.tolist() == [[1.0], [2.0], [3.0]]
    assert (rows.start_seconds.tolist(), rows.stop_seconds.tolist()) == ([0.0, 1.0, 2.5], [2.0, 3.0, 4.0])
    assert rows.clip.tolist() == [1, 1, 1]


def test_steps_and_window_steps_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="expected one of them, got both"):
        recipe("charades-i3d-vslnet", options={"steps": True})


def test_the_charades_crop_of_flow_is_rounded_half_to_even() -> None:
    keys = {"options": {"stream": "flow"}, "weights": {"random": 0, "card": "charades-flow"}}
    found = resolve_recipe("i3d", FeatureConfig.model_validate(keys), ClipRule(), DecodeConfig())
    extractor: Any = registry.build(found, "cpu")
    # (243 - 224) / 2 = 9.5, (325 - 224) / 2 = 50.5.
    assert extractor._crop(243, 325) == (slice(10, 234), slice(50, 274))
    plain = found.model_copy(update={"preprocess": found.preprocess.model_copy(update={"crop_rounding": None})})
    other: Any = registry.build(plain, "cpu")
    assert other._crop(243, 325) == (slice(9, 233), slice(50, 274))


def test_lgis_rows_are_those_of_one_pass_over_the_whole_video(videos: dict[int, Video]) -> None:
    found = recipe("charades-i3d-lgi")
    extractor: Any = registry.build(found, "cpu")
    frames = [apply_geometry(frame, found.preprocess) for frame in rgb_frames(Path(videos[129].uri))]
    clip = torch.from_numpy(np.stack(frames).astype(np.float32) * (2 / 255) - 1).permute(3, 0, 1, 2)[None]
    with torch.inference_mode():
        expected = extractor._networks["rgb"].features(clip.contiguous())[0].T.numpy()
    made = recompute(videos[129], found, "cpu", extractor)
    assert made.values.shape == expected.shape == (16, 1024)
    np.testing.assert_allclose(made.values, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))
