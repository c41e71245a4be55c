"""Shot boundaries: both detectors against cuts that are known, and clips made of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill.extractors.preprocess import apply_geometry
from clipmill.pipelines.decode.scan import scan
from clipmill.pipelines.decode.session import DecodeSession, Failed
from clipmill.pipelines.features.clips import check_clip_rule, clips_of
from clipmill.pipelines.features.shots import ShotPass, find_shots, hsv_histogram, make_detector
from clipmill.schemas.errors import UsageError
from clipmill.schemas.recipe import ClipRule, ShotOptions
from clipmill.schemas.records import Video
from tests.encoded_videos import encode_video
from tests.shot_videos import encode_frames, shots

Pixels = npt.NDArray[np.uint8]
LENGTHS = (20, 9, 14, 30, 8)
CUTS = [20, 29, 43, 73]
DETECTORS = ("histogram", "tracks")


def found_in(frames: Iterator[Pixels] | Sequence[Pixels], options: ShotOptions) -> list[int]:
    detector = make_detector(options)
    return [number for number, frame in enumerate(frames) if detector.add(apply_geometry(frame, detector.preprocess))]


@pytest.fixture(scope="session")
def panned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode_frames(tmp_path_factory.mktemp("shots") / "panned.mp4", shots(LENGTHS, pan=2, seed=1))


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize(("pan", "seed"), [(1, 0), (3, 1)])
def test_hard_cuts_between_panned_stills_are_found_exactly(detector: str, pan: int, seed: int) -> None:
    found = found_in(shots((8, 12, 9), pan=pan, seed=seed), ShotOptions.model_validate({"detector": detector}))
    assert found == [8, 20]


@pytest.mark.parametrize(("detector", "decoder"), [("histogram", "auto"), ("histogram", "pyav"), ("tracks", "auto")])
def test_cuts_of_an_encoded_video_are_found_exactly(detector: str, decoder: str, panned: Path) -> None:
    timeline = scan(str(panned))
    found = find_shots(str(panned), timeline, ShotOptions.model_validate({"detector": detector}), decoder)
    assert isinstance(found, ShotPass)
    assert list(found.boundaries_seconds) == [float(timeline.pts_seconds[cut]) for cut in CUTS]
    assert found.summary.num_frames_decoded >= sum(LENGTHS)


def test_one_session_finds_the_shots_of_one_video_after_another(panned: Path, tmp_path: Path) -> None:
    other = encode_video(tmp_path / "drift.mp4", num_frames=12)
    with DecodeSession() as session:
        for path, expected in ((panned, len(CUTS)), (other, 0), (panned, len(CUTS))):
            found = find_shots(str(path), scan(str(path)), ShotOptions(), "auto", session)
            assert isinstance(found, ShotPass)
            assert len(found.boundaries_seconds) == expected


def test_a_video_that_does_not_decode_fails_as_any_other(panned: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    data = bytearray(panned.read_bytes())
    at, size = data.index(b"mdat") + 4, 60_000
    data[at : at + size] = bytes(size)
    broken.write_bytes(data)
    found = find_shots(str(broken), scan(str(panned)), ShotOptions(), "auto")
    assert isinstance(found, Failed)
    assert (found.error.stage, found.error.reason) == ("decode", "undecodable")


def test_histograms_are_opencvs() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)
    expected = cv2.calcHist([hsv], [0, 1, 2], None, [16, 16, 16], [0, 180, 0, 256, 0, 256])
    np.testing.assert_array_equal(hsv_histogram(frame), expected.ravel().astype(np.int64))


@pytest.mark.parametrize(("num_rows", "is_boundary"), [(35, False), (36, False), (37, True)])
def test_the_distance_is_the_share_of_pixels_that_change_their_bin(num_rows: int, is_boundary: bool) -> None:
    """36 of 90 rows are exactly the threshold of 0.4, which is not above it."""
    before = np.full((90, 160, 3), (200, 40, 40), dtype=np.uint8)
    after = before.copy()
    after[:num_rows] = (40, 40, 200)
    assert found_in([before, after], ShotOptions()) == ([1] if is_boundary else [])
    # Where in the picture a colour stands does not matter.
    assert found_in([before, before, after, after[::-1]], ShotOptions(threshold=0.38)) == [2]


def test_frames_that_show_nothing_are_shots_of_one_frame_by_tracks_until_a_least_length_joins_them() -> None:
    """The rule as published: two black frames share no track."""
    black = [np.zeros((90, 160, 3), dtype=np.uint8)] * 4
    assert found_in(black, ShotOptions(detector="tracks")) == [1, 2, 3]
    assert found_in(black, ShotOptions(detector="histogram")) == []


def spans(options: ShotOptions, boundaries: Sequence[float], stop: float = 10.0) -> list[tuple[float, float]]:
    rule = ClipRule.model_validate({"from": "shots", "options": options.model_dump()})
    clips = clips_of(rule, Video("v", "v.mp4", label="a"), np.arange(0, stop, 0.04), stop, boundaries)
    assert [clip.index for clip in clips] == list(range(len(clips)))
    assert {clip.label for clip in clips} == {"a"}
    return [(clip.start_seconds, clip.stop_seconds) for clip in clips]


def test_shots_touch_and_cover_the_video() -> None:
    assert spans(ShotOptions(), []) == [(0, 10)]
    assert spans(ShotOptions(), [2.0, 4.52]) == [(0, 2), (2, 4.52), (4.52, 10)]


def test_a_shot_that_is_too_short_goes_to_the_one_before() -> None:
    assert spans(ShotOptions(), [0.48, 2.0, 2.04, 2.08, 2.5, 9.52]) == [(0, 2), (2, 2.5), (2.5, 10)]
    assert spans(ShotOptions(min_shot_seconds=0), [0.04, 9.96]) == [(0, 0.04), (0.04, 9.96), (9.96, 10)]
    # Two frames at one time: no empty shot.
    assert spans(ShotOptions(min_shot_seconds=0), [4.0, 4.0]) == [(0, 4), (4, 10)]
    assert spans(ShotOptions(), [0.2], stop=0.4) == [(0, 0.4)]


def test_a_shot_that_is_too_long_is_cut_into_equal_parts() -> None:
    assert spans(ShotOptions(max_shot_seconds=4), [6.0]) == [(0, 3), (3, 6), (6, 10)]
    assert spans(ShotOptions(max_shot_seconds=10), []) == [(0, 10)]
    assert len(spans(ShotOptions(max_shot_seconds=1.1), [])) == 10


@settings(max_examples=60, deadline=None)
@given(
    boundaries=st.lists(st.integers(1, 249), unique=True).map(sorted),
    least=st.sampled_from([0.0, 0.1, 0.5, 3.0]),
    longest=st.sampled_from([None, 6.0, 8.0]),
)
def test_every_frame_lies_in_exactly_one_shot(boundaries: list[int], least: float, longest: float | None) -> None:
    options = ShotOptions(min_shot_seconds=least, max_shot_seconds=longest)
    found = spans(options, [0.04 * number for number in boundaries])
    assert (found[0][0], found[-1][1]) == (0.0, 10.0)
    assert all(before[1] == after[0] for before, after in zip(found[:-1], found[1:], strict=True))
    lengths = [stop - start for start, stop in found]
    assert len(found) == 1 or min(lengths) >= max(least - 1e-5, 1e-5)
    assert longest is None or max(lengths) <= longest + 1e-5


def test_another_version_of_the_detectors_is_refused() -> None:
    check_clip_rule(ClipRule(from_="shots"))
    rule = ClipRule.model_validate({"from": "shots", "options": {"version": 9}})
    with pytest.raises(UsageError, match="clips.options version: expected 1, got 9; leave it out"):
        check_clip_rule(rule)


def test_pyscenedetect_sees_the_same_cuts() -> None:
    """PySceneDetect needs opencv-python, which would overwrite the OpenCV here: it is no dependency of the tests."""
    scenedetect = pytest.importorskip("scenedetect", reason="pip install --no-deps scenedetect click platformdirs tqdm")
    frames = list(shots(LENGTHS, pan=2, seed=1))
    theirs = scenedetect.ContentDetector(min_scene_len=1)
    cuts = [
        cut.frame_num
        for number, frame in enumerate(frames)
        for cut in theirs.process_frame(scenedetect.FrameTimecode(number, 25.0), frame[:, :, ::-1].copy())
    ]
    assert cuts == CUTS
    for detector in DETECTORS:
        assert found_in(frames, ShotOptions.model_validate({"detector": detector})) == cuts
