"""Presentation times against the times the video was written with, and against published lists."""

import json
import re
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from encoded_videos import encode_video

from clipmill.pipelines.decode.probe import probe
from clipmill.pipelines.decode.scan import scan
from clipmill.schemas.errors import VideoError


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("mp4", "libx264"), ("mov", "libx265"), ("mkv", "libx264"), ("avi", "mpeg4"), ("ts", "libx264")],
)
def test_constant_rate(tmp_path: Path, suffix: str, codec: str) -> None:
    timeline = scan(str(encode_video(tmp_path / f"a.{suffix}", 40, fps=25, codec=codec)))
    # Matroska keeps whole milliseconds; the clock of MPEG-TS starts anywhere.
    start = timeline.pts_seconds[0]
    np.testing.assert_allclose(timeline.pts_seconds - start, np.arange(40) / 25, atol=6e-4)
    assert timeline.stop_seconds - start == pytest.approx(40 / 25, abs=2e-3)
    assert suffix in ("ts", "mkv", "avi") or start == 0
    assert timeline.counted == (suffix == "avi")


def test_ntsc_rate_is_exact(tmp_path: Path) -> None:
    timeline = scan(str(encode_video(tmp_path / "a.mp4", 90, fps=Fraction(30000, 1001))))
    np.testing.assert_array_equal(timeline.pts_seconds, [float(Fraction(1001 * i, 30000)) for i in range(90)])


def test_variable_rate_and_late_start(tmp_path: Path) -> None:
    times = [1.5, 1.54, 1.6, 1.61, 1.9, 2.4, 2.44, 3.0]
    timeline = scan(str(encode_video(tmp_path / "a.mkv", 8, pts=times)))
    np.testing.assert_allclose(timeline.pts_seconds, times, atol=6e-4)


def test_key_frames_are_indices_in_presentation_order(tmp_path: Path) -> None:
    path = encode_video(tmp_path / "a.mp4", 50, gop=12, max_b_frames=3, options={"sc_threshold": "0"})
    np.testing.assert_array_equal(scan(str(path)).key_frames, [0, 12, 24, 36, 48])


def test_times_equal_the_published_ones(shared_data: Path) -> None:
    folder = shared_data / "torture" / "torchcodec"
    checked = 0
    for path in sorted(folder.glob("*.all_frames_info.json")):
        name, stream = re.fullmatch(r"(.*)\.stream(\d)\.all_frames_info\.json", path.name).groups()
        if not (folder / name).exists() or (name, stream) in {("nasa_13013.mp4", "0"), ("nasa_13013.mp4", "4")}:
            continue
        published = [float(item["pts_time"]) for item in json.loads(path.read_text())]
        # ffprobe prints six decimals.
        np.testing.assert_allclose(scan(str(folder / name)).pts_seconds, published, rtol=0, atol=5.1e-7)
        checked += 1
    assert checked == 3


@pytest.mark.parametrize(("degrees", "expected"), [(0, 0), (90, 270), (180, 180), (270, 90)])
def test_rotation_is_read_from_the_track_header(shared_data: Path, degrees: int, expected: int) -> None:
    path = shared_data / "torture" / "decord" / f"video_{degrees}.mov"
    assert probe(str(path)).rotation_degrees == expected


def test_edit_list_that_cuts_the_start_is_honoured(shared_data: Path) -> None:
    timeline = scan(str(shared_data / "torture" / "torchcodec" / "discard_first_keyframe.mp4"))
    assert timeline.num_frames == 25
    assert timeline.pts_seconds[0] == 0


def test_the_larger_of_several_streams_is_used(shared_data: Path) -> None:
    header = probe(str(shared_data / "torture" / "torchcodec" / "nasa_13013.mp4"))
    assert (header.width, header.height, header.num_frames) == (480, 270, 390)


def test_encrypted_video(shared_data: Path) -> None:
    (path,) = (shared_data / "torture" / "mp4parse").rglob("short-cenc.mp4")
    with pytest.raises(VideoError) as caught:
        scan(str(path))
    assert (caught.value.stage, caught.value.reason) == ("scan", "encrypted")


def test_container_without_packets_has_no_frames(shared_data: Path) -> None:
    path = next((shared_data / "torture" / "mp4parse").rglob("bipbop_cbcs_video_init.mp4"))
    with pytest.raises(VideoError) as caught:
        scan(str(path))
    assert caught.value.reason == "no_frames"


def test_many_threads_scan_at_once(tmp_path: Path) -> None:
    paths = [str(encode_video(tmp_path / f"{number}.mp4", number + 1)) for number in range(4)]
    found: dict[str, int] = {}
    threads = [threading.Thread(target=lambda path=path: found.update({path: scan(path).num_frames})) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {path: number + 1 for number, path in enumerate(paths)}
