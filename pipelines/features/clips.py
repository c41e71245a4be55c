"""Clips: the segments of a video that become items of the dataset."""

import numpy as np
import numpy.typing as npt

from schemas.errors import UsageError, VideoError, describe
from schemas.recipe import ClipRule
from schemas.records import Clip, Video

EDGE_TOLERANCE_SECONDS = 1e-6


def check_clip_rule(rule: ClipRule) -> None:
    """Refuses a rule `clips_of` cannot follow, before any work is planned.

    Raises:
        UsageError: there is no shot detector.
    """
    if rule.from_ == "shots":
        raise UsageError(
            describe(
                "clips",
                "from",
                "whole, windows or annotations",
                "shots, for which there is no detector",
                "cut by windows, or give the shots as annotations of a manifest",
            )
        )


def clips_of(
    rule: ClipRule, video: Video, pts_seconds: npt.NDArray[np.float64], stop_seconds: float
) -> tuple[Clip, ...]:
    """Returns the clips of `video` under `rule`, in time order (annotations: in the manifest's order).

    Args:
        pts_seconds: ``float64[N]``, presentation times; the first is where ``whole`` and ``windows`` start.
        stop_seconds: end of display of the last frame.

    Raises:
        VideoError: ``shorter_than_clip``, ``no_annotations``, or ``annotation_outside`` when no segment touches the
            video.
    """
    start_seconds = float(pts_seconds[0])
    if rule.from_ == "whole":
        return (Clip(0, start_seconds, stop_seconds, video.label),)
    if rule.from_ == "annotations":
        return _annotated(video, start_seconds, stop_seconds)
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


def _annotated(video: Video, start_seconds: float, stop_seconds: float) -> tuple[Clip, ...]:
    if not video.segments:
        raise VideoError(
            "segment",
            "no_annotations",
            describe(
                "video", video.id, "at least one segment in the manifest", "none", "add start_seconds and stop_seconds"
            ),
        )
    clips = [
        Clip(
            index,
            # A segment outside the video keeps its index and becomes an empty clip at the video's end or start.
            min(max(segment.start_seconds, start_seconds), stop_seconds),
            max(min(segment.stop_seconds, stop_seconds), start_seconds),
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
                f"segments within [{start_seconds:.3f}, {stop_seconds:.3f}) s",
                f"{len(clips)} segments, all outside",
                "check the manifest's times and its match with the file",
            ),
        )
    return tuple(clips)
