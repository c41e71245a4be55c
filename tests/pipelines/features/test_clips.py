import numpy as np
import pytest

from clipmill.pipelines.features.clips import SegmentFit, check_segment_fit, clips_of, fit_segments
from clipmill.schemas.errors import VideoError
from clipmill.schemas.recipe import ClipRule
from clipmill.schemas.records import Segment, Video

PTS = np.arange(100) / 10


def _spans(rule: ClipRule, video: Video | None = None) -> list[tuple[float, float]]:
    clips = clips_of(rule, video or Video("v", "v.mp4"), PTS, 10.0)
    assert [clip.index for clip in clips] == list(range(len(clips)))
    return [(clip.start_seconds, clip.stop_seconds) for clip in clips]


def test_whole_is_the_video_from_its_first_frame() -> None:
    clips = clips_of(ClipRule(), Video("v", "v.mp4", label="a"), PTS + 3, 13.0)
    assert [(clip.start_seconds, clip.stop_seconds, clip.label) for clip in clips] == [(3.0, 13.0, "a")]


def test_windows_drop_or_keep_the_tail() -> None:
    assert _spans(ClipRule(from_="windows", length_seconds=4)) == [(0, 4), (4, 8)]
    assert _spans(ClipRule(from_="windows", length_seconds=4, tail="keep")) == [(0, 4), (4, 8), (8, 10)]


def test_windows_overlap_by_their_step() -> None:
    assert _spans(ClipRule(from_="windows", length_seconds=4, step_seconds=3)) == [(0, 4), (3, 7), (6, 10)]


def test_windows_that_fit_exactly_have_no_tail() -> None:
    assert _spans(ClipRule(from_="windows", length_seconds=5, tail="keep")) == [(0, 5), (5, 10)]


def test_video_shorter_than_a_clip_is_refused_by_name() -> None:
    with pytest.raises(VideoError, match="shorter_than_clip|at least 20 s") as caught:
        _spans(ClipRule(from_="windows", length_seconds=20))
    assert caught.value.reason == "shorter_than_clip"


def test_annotations_are_cut_at_the_ends_of_the_video() -> None:
    video = Video("v", "v.mp4", label="video", segments=(Segment(8.0, 12.0, "jump"), Segment(1.0, 2.0)))
    clips = clips_of(ClipRule(from_="annotations"), video, PTS, 10.0)
    assert [(clip.start_seconds, clip.stop_seconds, clip.label) for clip in clips] == [(8, 10, "jump"), (1, 2, "video")]


def test_video_without_annotations_is_refused_by_name() -> None:
    with pytest.raises(VideoError) as caught:
        _spans(ClipRule(from_="annotations"))
    assert caught.value.reason == "no_annotations"


def test_annotations_all_outside_are_refused_by_name() -> None:
    with pytest.raises(VideoError) as caught:
        _spans(ClipRule(from_="annotations"), Video("v", "v.mp4", segments=(Segment(20.0, 30.0),)))
    assert caught.value.reason == "annotation_outside"


def test_an_annotation_outside_the_video_keeps_its_index_and_is_empty() -> None:
    video = Video("v", "v.mp4", segments=(Segment(50.0, 60.0), Segment(1.0, 2.0)))
    assert _spans(ClipRule(from_="annotations"), video) == [(10, 10), (1, 2)]
    late = clips_of(ClipRule(from_="annotations", origin="container"), video, PTS + 5, 70.0)
    assert [(clip.start_seconds, clip.stop_seconds) for clip in late] == [(50, 60), (5, 5)]


def test_annotations_count_from_the_first_frame_or_from_the_clock_of_the_container() -> None:
    video = Video("v", "v.mts", segments=(Segment(0.0, 1.0), Segment(9.0, 10.0)))
    found = {
        origin: [
            (clip.start_seconds, clip.stop_seconds)
            for clip in clips_of(ClipRule(from_="annotations", origin=origin), video, PTS + 1.5, 11.5)
        ]
        for origin in (None, "container")
    }
    assert found == {None: [(1.5, 2.5), (10.5, 11.5)], "container": [(1.5, 1.5), (9.0, 10.0)]}


def test_segments_outside_the_video_are_counted() -> None:
    # Of 10 s: inside, to the half outside, outside, outside by less than a frame's time.
    segments = (Segment(1.0, 2.0), Segment(9.0, 11.0), Segment(12.0, 13.0), Segment(8.0, 10.05))
    video = Video("v", "v.mp4", segments=segments)
    rule = ClipRule(from_="annotations")
    fit = fit_segments(rule, video, PTS, 10.0)
    assert (fit.num_clamped, fit.num_emptied) == (1, 1)
    assert fit.outside_share == pytest.approx((1.0 + 1.0 + 0.05) / (1 + 2 + 1 + 2.05))
    assert fit_segments(ClipRule(), video, PTS, 10.0) == SegmentFit()
    # On a clock that begins at 1.5 s the same times lie on the video as well.
    shifted = fit_segments(rule, video, PTS + 1.5, 11.5)
    assert (shifted.num_clamped, shifted.num_emptied) == (1, 1)
    late = fit_segments(ClipRule(from_="annotations", origin="container"), video, PTS + 1.5, 11.5)
    assert (late.num_clamped, late.num_emptied) == (1, 1)


def test_too_many_segments_outside_are_refused_by_name() -> None:
    video = Video("v", "v.mp4", segments=(Segment(0.0, 9.0), Segment(20.0, 20.5), Segment(21.0, 21.5)))
    fit = fit_segments(ClipRule(from_="annotations"), video, PTS, 10.0)
    check_segment_fit(video, fit, 0.7)
    with pytest.raises(VideoError, match=r"67% \(2 of 3 wholly, 0 in part\); check the manifest's times") as caught:
        check_segment_fit(video, fit, 0.5)
    assert (caught.value.stage, caught.value.reason) == ("segment", "annotation_outside")
