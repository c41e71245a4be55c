"""Clips: the segments of a video that become items of the dataset."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from clipmill.schemas.errors import UsageError, VideoError, describe
from clipmill.schemas.recipe import SHOTS_VERSION, ClipRule, ShotOptions
from clipmill.schemas.records import Clip, Video

EDGE_TOLERANCE_SECONDS = 1e-6


def check_clip_rule(rule: ClipRule) -> None:
    """Refuses a rule `clips_of` cannot follow, before any work is planned.

    Raises:
        UsageError: the rule asks for another version of the shot detectors than there is.
    """
    if rule.options is not None and rule.options.version != SHOTS_VERSION:
        got = str(rule.options.version)
        raise UsageError(describe("clips.options", "version", str(SHOTS_VERSION), got, "leave it out"))


def check_annotated(rule: ClipRule, videos: Sequence[Video]) -> None:
    """Refuses clips from annotations where no video has any: each would be quarantined for it.

    Raises:
        UsageError: the rule takes the segments of the manifest, and there is not one.
    """
    if rule.from_ == "annotations" and videos and not any(video.segments for video in videos):
        expected = "a segment of at least one video for annotations"
        remedy = (
            "give videos: {annotations: FILE, folder: F}, or a manifest with columns start_seconds and stop_seconds"
        )
        raise UsageError(describe("clips", "from", expected, f"none of {len(videos)} videos", remedy))


def clips_of(
    rule: ClipRule,
    video: Video,
    pts_seconds: npt.NDArray[np.float64],
    stop_seconds: float,
    boundaries_seconds: Sequence[float] = (),
) -> tuple[Clip, ...]:
    """Returns the clips of `video` under `rule`, in time order (annotations: in the manifest's order).

    Args:
        pts_seconds: ``float64[N]``, presentation times; the first is where all but ``annotations`` start.
        stop_seconds: end of display of the last frame.
        boundaries_seconds: for ``shots``: where the detector found that one begins, increasing.

    Raises:
        VideoError: ``shorter_than_clip``, ``no_annotations``, or ``annotation_outside`` when no segment touches the
            video.
    """
    start_seconds = float(pts_seconds[0])
    if rule.from_ == "whole":
        return (Clip(0, start_seconds, stop_seconds, video.label),)
    if rule.from_ == "annotations":
        return _annotated(rule, video, start_seconds, stop_seconds)
    if rule.options is not None:
        return _shots(rule.options, video, [start_seconds, *boundaries_seconds], stop_seconds)
    return _fixed(rule, video, start_seconds, stop_seconds)


def _fixed(rule: ClipRule, video: Video, start_seconds: float, stop_seconds: float) -> tuple[Clip, ...]:
    length = rule.length_seconds or 0.0
    step = rule.step_seconds or length
    clips: list[Clip] = []
    start = start_seconds
    while start + length <= stop_seconds + EDGE_TOLERANCE_SECONDS:
        clips.append(Clip(len(clips), start, min(start + length, stop_seconds), video.label))
        start = start_seconds + len(clips) * step
    covered = clips[-1].stop_seconds if clips else start_seconds
    if rule.tail == "keep" and start < stop_seconds and covered < stop_seconds - EDGE_TOLERANCE_SECONDS:
        clips.append(Clip(len(clips), start, stop_seconds, video.label))
    if not clips:
        duration = stop_seconds - start_seconds
        raise VideoError(
            "segment",
            "shorter_than_clip",
            describe(
                "video",
                video.id,
                f"at least {length:g} s (clips.length_seconds)",
                f"{duration:.3f} s",
                "use clips.tail: keep, a shorter length_seconds, or clips: {from: whole}",
            ),
        )
    return tuple(clips)


def _shots(options: ShotOptions, video: Video, starts: Sequence[float], stop_seconds: float) -> tuple[Clip, ...]:
    """Returns shots that touch one another and cover the video: too short ones go to the shot before them."""
    least = options.min_shot_seconds - EDGE_TOLERANCE_SECONDS
    kept = [starts[0]]
    for start in starts[1:]:
        if start - kept[-1] >= least and start > kept[-1]:
            kept.append(start)
    if len(kept) > 1 and stop_seconds - kept[-1] < least:
        kept.pop()
    edges: list[float] = []
    for start, stop in zip(kept, [*kept[1:], stop_seconds], strict=True):
        num_parts = 1
        if options.max_shot_seconds is not None:
            num_parts = max(ceil((stop - start - EDGE_TOLERANCE_SECONDS) / options.max_shot_seconds), 1)
        edges += [start + (stop - start) * part / num_parts for part in range(num_parts)]
    edges.append(stop_seconds)
    spans = zip(edges[:-1], edges[1:], strict=True)
    return tuple(Clip(index, start, stop, video.label) for index, (start, stop) in enumerate(spans))


@dataclass(frozen=True, slots=True)
class SegmentFit:
    """How the segments of a video lie on it.

    Attributes:
        num_clamped: segments of which a part lies outside, longer than one frame is usually on display.
        num_emptied: segments that lie outside altogether.
        outside_share: of the segments, or of their time, whichever is more, that lies outside.
    """

    num_clamped: int = 0
    num_emptied: int = 0
    outside_share: float = 0.0


def fit_segments(rule: ClipRule, video: Video, pts_seconds: npt.NDArray[np.float64], stop_seconds: float) -> SegmentFit:
    """Returns how the segments of `video` lie on it; an empty one where `rule` does not use them."""
    if rule.from_ != "annotations" or not video.segments:
        return SegmentFit()
    start_seconds = float(pts_seconds[0])
    frame_seconds = float(np.median(np.diff(pts_seconds))) if len(pts_seconds) > 1 else 0.0
    offset = _offset_seconds(rule, start_seconds)
    num_clamped = num_emptied = 0
    total = outside = 0.0
    for segment in video.segments:
        length = segment.stop_seconds - segment.start_seconds
        inside = min(segment.stop_seconds + offset, stop_seconds) - max(segment.start_seconds + offset, start_seconds)
        total += length
        outside += length - max(inside, 0.0)
        if inside <= EDGE_TOLERANCE_SECONDS:
            num_emptied += 1
        elif length - inside > max(frame_seconds, EDGE_TOLERANCE_SECONDS):
            num_clamped += 1
    return SegmentFit(num_clamped, num_emptied, max(num_emptied / len(video.segments), outside / total))


def check_segment_fit(video: Video, fit: SegmentFit, max_outside_share: float) -> None:
    """Refuses a video whose segments lie outside it.

    Raises:
        VideoError: ``annotation_outside``: more of them than `max_outside_share`.
    """
    if fit.outside_share > max_outside_share:
        got = f"{fit.num_emptied} of {len(video.segments)} wholly, {fit.num_clamped} in part"
        raise VideoError(
            "segment",
            "annotation_outside",
            describe(
                "video",
                video.id,
                f"at most {max_outside_share:.0%} of its segments outside it (annotations.max_outside_share)",
                f"{fit.outside_share:.0%} ({got})",
                "check the manifest's times, annotations.origin, and their match with the file",
            ),
        )


def _offset_seconds(rule: ClipRule, start_seconds: float) -> float:
    """Returns what is added to a segment's times to have them on the container's clock."""
    return 0.0 if rule.origin == "container" else start_seconds


def _annotated(rule: ClipRule, video: Video, start_seconds: float, stop_seconds: float) -> tuple[Clip, ...]:
    if not video.segments:
        raise VideoError(
            "segment",
            "no_annotations",
            describe(
                "video", video.id, "at least one segment in the manifest", "none", "add start_seconds and stop_seconds"
            ),
        )
    offset = _offset_seconds(rule, start_seconds)
    clips = [
        Clip(
            index,
            # A segment outside the video keeps its index and becomes an empty clip at the video's end or start.
            min(max(segment.start_seconds + offset, start_seconds), stop_seconds),
            max(min(segment.stop_seconds + offset, stop_seconds), start_seconds),
            segment.label if segment.label is not None else video.label,
        )
        for index, segment in enumerate(video.segments)
    ]
    if all(clip.stop_seconds <= clip.start_seconds for clip in clips):
        raise VideoError(
            "segment",
            "annotation_outside",
            describe(
                "video",
                video.id,
                f"segments within [{start_seconds - offset:.3f}, {stop_seconds - offset:.3f}) s",
                f"{len(clips)} segments, all outside",
                "check the manifest's times and its match with the file",
            ),
        )
    return tuple(clips)
