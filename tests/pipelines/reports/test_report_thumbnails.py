"""What reports are made of: moving thumbnails, images stored once, times in words."""

from io import BytesIO

import numpy as np
from PIL import Image

from clipmill.pipelines.reports.lineage import frames_text
from clipmill.pipelines.reports.page import ImageSheets, clock_text
from clipmill.pipelines.reports.thumbnails import (
    Thumbnail,
    frame_seconds,
    moving_thumbnail,
    moving_thumbnails,
)


def _jpeg(colour: tuple[int, int, int], size: tuple[int, int] = (192, 108)) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _pixels(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB")).astype(int)


# --- moving thumbnails ---------------------------------------------------------------------------------------


def test_a_moving_thumbnail_holds_its_frames_side_by_side_in_order() -> None:
    colours = [(200, 20, 20), (20, 200, 20), (20, 20, 200)]
    found = moving_thumbnail([_jpeg(colour) for colour in colours])
    pixels = _pixels(found.data)
    assert (found.num_frames, pixels.shape) == (3, (108, 3 * 192, 3))
    for index, colour in enumerate(colours):
        assert np.abs(pixels[54, 192 * index + 96] - colour).max() < 20


def test_a_tall_frame_is_shown_whole_between_bars() -> None:
    pixels = _pixels(moving_thumbnail([_jpeg((230, 230, 230), (60, 120))]).data)
    assert pixels.shape == (108, 192, 3)
    assert pixels[54, 96].min() > 200  # the frame, 54 wide
    assert pixels[54, 10].max() < 40
    assert pixels[2, 96].min() > 200


def test_a_still_clip_is_one_frame() -> None:
    same = _jpeg((9, 9, 9))
    assert moving_thumbnail([same, same, same]).num_frames == 1


def _middle(frames: list[bytes]) -> list[bytes]:
    return [frames[len(frames) // 2]]


def test_thumbnails_lose_frames_and_then_some_are_left_out_before_they_exceed_the_budget() -> None:
    rng = np.random.default_rng(0)

    def noise() -> bytes:
        buffer = BytesIO()
        Image.fromarray(rng.integers(0, 255, (108, 192, 3), dtype=np.uint8)).save(buffer, "JPEG")
        return buffer.getvalue()

    frames = {name: [noise() for _ in range(4)] for name in "ab"}
    whole = moving_thumbnails(frames)
    assert [item.num_frames for item in whole.values()] == [4, 4]
    size = sum(len(item.data) for item in whole.values())
    half = moving_thumbnails(frames, budget_bytes=size * 6 // 10)
    assert [item.num_frames for item in half.values()] == [2, 2]
    assert sum(len(item.data) for item in half.values()) <= size * 6 // 10
    single = moving_thumbnail(_middle(frames["a"]))
    assert list(moving_thumbnails(frames, budget_bytes=len(single.data) + 10)) == ["a"]
    assert moving_thumbnails(frames, budget_bytes=1) == {}


def test_frames_are_taken_in_the_middle_of_equal_parts() -> None:
    assert frame_seconds(10.0, 18.0, 4) == (11.0, 13.0, 15.0, 17.0)


def test_an_image_is_stored_once_and_knows_its_kind() -> None:
    images = ImageSheets()
    jpeg, webp = Thumbnail(_jpeg((1, 2, 3))), moving_thumbnail([_jpeg((1, 2, 3)), _jpeg((200, 2, 3))])
    names = [images.name(image) for image in (jpeg, webp, Thumbnail(_jpeg((1, 2, 3))), None)]
    assert names == ["t0", "t1", "t0", ""]
    assert images.sheets["t0"].startswith("data:image/jpeg;base64,")
    assert images.sheets["t1"].startswith("data:image/webp;base64,")
    assert images.num_frames == {"t0": 1, "t1": 2}


# --- texts ----------------------------------------------------------------------------------------


def test_frames_are_named_with_their_times_and_shortened_in_the_middle() -> None:
    times = np.arange(100) / 25
    assert frames_text([5], times) == "1 frame: 5 at 0.20 s"
    assert frames_text([], times) == "no frame"
    assert frames_text(range(0, 100, 10), times) == (
        "10 frames: 0, 10, 20, …, 70, 80, 90 at 0.00, 0.40, 0.80, …, 2.80, 3.20, 3.60 s"
    )


def test_times_within_a_video_read_well() -> None:
    assert [clock_text(t) for t in (0, 7.26, 59.96, 725, 3723)] == [
        "0:00.0",
        "0:07.3",
        "1:00.0",
        "12:05.0",
        "1:02:03.0",
    ]
