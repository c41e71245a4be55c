"""Frames that training sees: the right ones, cut and mirrored as drawn, whoever asks for them and however far ahead."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipmill.extractors.learner import Augmentation
from clipmill.pipelines.decode.scan import scan
from clipmill.pipelines.training.videos.frames import Drawing, FrameSource, Shown
from clipmill.pipelines.training.videos.items import SourceVideo, VideoItem, VideoItems
from clipmill.schemas.config_videos import LookAheadConfig
from clipmill.schemas.errors import UsageError
from clipmill.schemas.recipe import ClipRule, Preprocess, Recipe, Sampling, Weights
from tests.encoded_videos import encode_video, read_frame_number

AS_THEY_ARE = Augmentation("recipe", flip="never")
PLAIN = Preprocess(resize="exact", size=(64, 96), crop=(64, 96))


def recipe_of(preprocess: Preprocess, frames: int = 6) -> Recipe:
    return Recipe(
        name="clip",
        extractor="c3d",
        extractor_version=1,
        layer="fc7",
        dim=4096,
        weights=Weights(source="random(0)", seed=0, card="sports1m-caffe"),
        sampling=Sampling(frames=frames),
        preprocess=preprocess,
        clips=ClipRule(),
    )


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> VideoItems:
    """Two videos of 30 frames that show their numbers, a clip of each half."""
    folder = tmp_path_factory.mktemp("numbered")
    paths = [encode_video(folder / f"{name}.mp4", 30) for name in "ab"]
    videos = tuple(SourceVideo(path.name, str(path), scan(str(path)), "train") for path in paths)
    halves = [np.arange(0, 15), np.arange(15, 30)]
    clips = tuple(VideoItem(number, half, number) for number in range(2) for half in halves)
    return VideoItems(videos, clips, (), ("left", "right"), ((), ()), 0, (), (), (), "")


def shown(
    items: VideoItems, recipe: Recipe, augmentation: Augmentation, order: list[int], epoch: int = 0, ahead: int = 2
) -> list[Shown]:
    drawing = Drawing(items, recipe, augmentation, seed=3)

    def wanted() -> Iterator[object]:
        yield from (drawing(epoch, number) for number in order)

    with FrameSource(items, recipe, LookAheadConfig(look_ahead=ahead), wanted()) as source:  # type: ignore[arg-type]
        return list(source)


def test_a_window_is_so_many_frames_in_a_row_of_its_clip(items: VideoItems) -> None:
    found = shown(items, recipe_of(PLAIN), AS_THEY_ARE, [3, 0])
    for one, (first, last), label in zip(found, [(15, 29), (0, 14)], [1, 0], strict=True):
        numbers = [read_frame_number(frame) for frame in one.pixels]
        assert numbers == list(range(numbers[0], numbers[0] + 6))
        assert first <= numbers[0]
        assert numbers[-1] <= last
        assert one.target == label


def test_a_clip_that_is_too_short_repeats_its_last_frame(items: VideoItems) -> None:
    (found,) = shown(items, recipe_of(PLAIN, frames=18), AS_THEY_ARE, [1])
    assert [read_frame_number(frame) for frame in found.pixels] == [*range(15, 30), 29, 29, 29]


def test_what_is_drawn_depends_on_seed_epoch_and_item_alone(items: VideoItems) -> None:
    recipe = recipe_of(PLAIN.model_copy(update={"crop": (40, 40)}))
    everything = shown(items, recipe, Augmentation(), [0, 1, 2, 3], ahead=1)
    alone = shown(items, recipe, Augmentation(), [2], ahead=3)
    assert np.array_equal(everything[2].pixels, alone[0].pixels)
    assert everything[2].generator.random() == alone[0].generator.random()
    later = shown(items, recipe, Augmentation(), [0, 1, 2, 3], epoch=1)
    assert any(not np.array_equal(one.pixels, two.pixels) for one, two in zip(everything, later, strict=True))


def test_a_crop_is_the_same_whether_the_child_cuts_it_or_we_do(items: VideoItems) -> None:
    # Without a resize the size of a frame is not known before it comes.
    resized = recipe_of(PLAIN.model_copy(update={"crop": (40, 40)}))
    as_it_is = recipe_of(Preprocess(resize="none", crop=(40, 40)))
    ours, childs = (shown(items, recipe, Augmentation("random"), [0, 1, 2]) for recipe in (as_it_is, resized))
    for one, two in zip(ours, childs, strict=True):
        assert one.pixels.shape == (6, 40, 40, 3)
        assert np.array_equal(one.pixels, two.pixels)


def test_a_mirrored_clip_is_mirrored_and_of_the_mirrored_class(items: VideoItems) -> None:
    augmentation = Augmentation("recipe", flip="random", mirrored_classes={"left": "right", "right": "left"})
    plain = shown(items, recipe_of(PLAIN), AS_THEY_ARE, [0, 1, 2, 3])
    found = shown(items, recipe_of(PLAIN), augmentation, [0, 1, 2, 3])
    mirrored = [np.array_equal(one.pixels, two.pixels[:, :, ::-1]) for one, two in zip(found, plain, strict=True)]
    assert 0 < sum(mirrored) < 4
    assert [one.target != two.target for one, two in zip(found, plain, strict=True)] == mirrored


def test_float_pixels_are_mirrored_number_by_number(items: VideoItems) -> None:
    floats = recipe_of(PLAIN.model_copy(update={"resize_precision": "float32"}))
    once = VideoItem(0, np.arange(6), 0)
    both = replace(items, items=(once, replace(once, mirrored=True)))
    plain, mirrored = (one.pixels.view(np.float32) for one in shown(both, floats, AS_THEY_ARE, [0, 1]))
    assert np.array_equal(mirrored, plain[:, :, ::-1])


def test_resized_and_jittered_clips_change_alike_in_all_frames(items: VideoItems) -> None:
    recipe = recipe_of(Preprocess(resize="short_side", size=(32,), stored_side=64, crop=(32, 32)))
    augmentation = Augmentation("resized", (0.5, 1.0), (0.9, 1.1), "never", jitter=(0.25, 0.25, 0.25, 0.1))
    found = shown(items, recipe, augmentation, [0])[0].pixels
    assert found.shape == (6, 32, 32, 3)
    # The upper half of a frame has two grey levels, which stay two and the same ones over time.
    assert np.abs(found[0, 2:6].astype(int) - found[1, 2:6].astype(int)).max() < 200
    assert not np.array_equal(found, shown(items, recipe, augmentation, [0], epoch=1)[0].pixels)


def test_a_video_that_has_gone_ends_the_training_with_its_name(items: VideoItems, tmp_path: Path) -> None:
    gone = replace(items, videos=(replace(items.videos[0], id="gone", path=str(tmp_path / "gone.mp4")),))
    with pytest.raises(UsageError, match=r"video gone: expected frames"):
        shown(gone, recipe_of(PLAIN), Augmentation("recipe"), [0])
