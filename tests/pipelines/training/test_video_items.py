"""Which clips and buffers of videos are trained on, and what is said of annotations that do not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill.extractors import registry
from clipmill.extractors.learner import Annotated
from clipmill.pipelines.features.windows import clip_windows
from clipmill.pipelines.training.videos.items import VideoItems, read_video_items
from clipmill.pipelines.training.videos.train import recipe_of, resolve
from clipmill.schemas.config_videos import VideoTrainConfig
from clipmill.schemas.errors import UsageError
from clipmill.schemas.model import validate
from tests.encoded_videos import encode_video

SMALL_RC3D = {
    "name": "rc3d",
    "sampling": {"frames": 16, "every": 1, "step": 8},
    "preprocess": {"size": [37, 50], "crop": [32, 32], "crop_offset": [2, 9]},
    "options": {"form": "pytorch-thumos14", "buffer_frames": 16, "scales": [1, 1.5]},
}
HEADER = "video_id,start_seconds,stop_seconds,label\n"


def items_of(folder: Path, segments: str | None, model: dict[str, Any], **data: Any) -> VideoItems:
    """Returns the items of the videos in `folder`, with `segments` as their annotations."""
    if segments is not None:
        (folder / "segments.csv").write_text(HEADER + segments)
        data["annotations"] = {"file": str(folder / "segments.csv")}
    videos = data.pop("videos", {"folder": str(folder)})
    data = {"videos": videos, "split": {"test_fraction": 0.4}, **data}
    config = resolve(validate(VideoTrainConfig, {"data": data, "model": model, "out": str(folder / "out")}, "test"))
    learner = registry.learner(config.model.name)
    recipe = recipe_of(config, learner)
    buffers = learner.buffers(recipe) if learner.buffers is not None else None
    return read_video_items(config.data, recipe, buffers, buffers is not None, clip_windows)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of 40 frames at 25 a second: 1.6 s."""
    folder = tmp_path_factory.mktemp("three")
    for name in ("a", "b", "c"):
        encode_video(folder / f"{name}.mp4", 40)
    return folder


def test_buffers_of_both_passes_keep_their_annotations(three: Path) -> None:
    segments = "".join(f"{name}.mp4,0.04,0.6,run\n{name}.mp4,1.0,1.6,fall\n" for name in "abc")
    found = items_of(three, segments, SMALL_RC3D)
    assert found.classes == ("fall", "run")
    # 16 frames every 4 from the start and from the end; those whose share of an annotation is at least 0.7.
    of_first = [item for item in found.items if item.video == found.items[0].video and not item.mirrored]
    assert [int(item.frames[0]) for item in of_first] == [0, 24]
    first, last = (item.target for item in of_first)
    assert isinstance(first, Annotated)
    assert isinstance(last, Annotated)
    np.testing.assert_allclose(first.segments, [[1.0, 15.0]])
    assert (first.classes.tolist(), last.classes.tolist()) == ([2], [1])
    np.testing.assert_allclose(last.segments, [[1.0, 15.0]], atol=1e-6)
    # Each once more, mirrored; a test video has none.
    assert [item.mirrored for item in found.items[:4]] == [False, True, False, True]
    assert {found.videos[item.video].part for item in found.items} == {"train"}


def test_annotations_that_do_not_fit_are_counted(three: Path) -> None:
    fitting = "b.mp4,0.0,0.6,run\nb.mp4,0.2,0.4,fall\na.mp4,0.2,0.4,fall\n"
    segments = f"a.mp4,0.0,2.5,run\nb.mp4,7,9,run\nelsewhere.mp4,0,1,run\n{fitting}"
    notes = "\n".join(items_of(three, segments, SMALL_RC3D | {"sampling": {"frames": 40, "step": 16}}).notes)
    assert "1 annotations are of 1 videos that are not here: elsewhere.mp4" in notes
    assert "1 videos have no annotation and are left out: c.mp4" in notes
    assert "1 annotations reach beyond their video and are cut at its end, such as a.mp4 0 to 2.5 s of 1.6" in notes
    assert "1 annotations lie outside their video and are left out, such as b.mp4 7 to 9 s of 1.6" in notes
    assert "shorter than a feature cell of 0.32 s" in notes


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ("a.mp4,1.0,0.5,run\n", r"expected segments that end after they start, got 1 inverted or empty, such as a.mp4"),
        ("x.mp4,0,1,run\n", r"expected segments of the videos, got x.mp4 there, a.mp4, b.mp4, c.mp4 here"),
        (None, r"expected segments to train detection on, got none"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(three: Path, segments: str | None, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        items_of(three, segments, SMALL_RC3D)


def test_clips_have_the_class_of_their_folder_and_all_frames_they_are_sampled_to(tmp_path: Path) -> None:
    for label in ("left", "right"):
        (tmp_path / label).mkdir()
        for name in ("1", "2"):
            encode_video(tmp_path / label / f"{name}.mp4", 20)
    found = items_of(tmp_path, None, {"name": "c3d"}, videos={"folder": str(tmp_path), "label": "parent_folder"})
    assert (found.classes, len(found), found.num_test) == (("left", "right"), 2, 2)
    assert [item.target for item in found.items] == [0, 1]
    assert found.items[0].frames.tolist() == list(range(20))
    with pytest.raises(UsageError, match="a class for every video"):
        items_of(tmp_path, None, {"name": "c3d"})


def test_annotated_clips_of_a_class(three: Path) -> None:
    segments = "".join(f"{name}.mp4,0.0,0.8,run\n{name}.mp4,0.8,1.6,fall\n" for name in "abc")
    found = items_of(three, segments, {"name": "c3d"})
    assert [item.frames[[0, -1]].tolist() for item in found.items[:2]] == [[0, 19], [20, 39]]


def test_a_video_that_cannot_be_read_ends_the_training_before_it_starts(tmp_path: Path) -> None:
    for label in ("left", "right"):
        (tmp_path / label).mkdir()
        encode_video(tmp_path / label / "1.mp4", 20)
    (tmp_path / "left" / "2.mp4").write_bytes(b"no video")
    with pytest.raises(UsageError, match=r"expected 3 that can be read, got 1 that cannot"):
        items_of(tmp_path, None, {"name": "c3d"}, videos={"folder": str(tmp_path), "label": "parent_folder"})
