"""Before a video's frames go to its recipes: its bytes at hand, its presentation times, its clips and every window."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from clipmill.extractors import registry
from clipmill.extractors.flow_files import UNREADABLE, FlowFiles
from clipmill.extractors.preprocess import geometry_key
from clipmill.pipelines.decode.inspection import DEFAULT_LIMITS, InspectionLimits
from clipmill.pipelines.decode.scan import Timeline, scan
from clipmill.pipelines.decode.session import DecodeRequest, DecodeSession, DecodeSummary, Failed, View
from clipmill.pipelines.features.clips import SegmentFit, check_segment_fit, clips_of, fit_segments
from clipmill.pipelines.features.shots import ShotPass, find_shots
from clipmill.pipelines.features.sources import DEFAULT_CALLS, is_planned, local_copy
from clipmill.pipelines.features.windows import ClipWindows, clip_windows, max_ticks, num_ticks
from clipmill.schemas.errors import VideoError, describe
from clipmill.schemas.recipe import Recipe, ShotOptions
from clipmill.schemas.records import Clip, Video
from clipmill.stores.storage_faults import RetriedCalls


@dataclass(slots=True)
class PreparedVideo:
    """One video of a task, positioned.

    Attributes:
        clips: per recipe fingerprint: each recipe has a clip rule of its own.
        segment_fits: per recipe fingerprint, how the annotated segments lie on the video.
        windows: per recipe fingerprint, the windows of each clip.
        files: per recipe fingerprint, what the recipe reads beside the video, if it does.
        view_recipes: per view of `request`, the fingerprints of the recipes it feeds.
        failures: recipes that cannot be made from this video, each with its reason.
        num_attempts: tries it took to know so: more than one where finding its shots failed.
        shot_passes: where the shots begin, for recipes whose clips are shots.
        shot_seconds: time spent finding them.
    """

    video: Video
    timeline: Timeline | None = None
    clips: dict[str, tuple[Clip, ...]] = field(default_factory=dict)
    segment_fits: dict[str, SegmentFit] = field(default_factory=dict)
    windows: dict[str, list[ClipWindows]] = field(default_factory=dict)
    files: dict[str, FlowFiles] = field(default_factory=dict)
    view_recipes: list[list[str]] = field(default_factory=list)
    request: DecodeRequest | None = None
    summary: DecodeSummary | None = None
    failures: list[tuple[Recipe, VideoError]] = field(default_factory=list)
    num_attempts: int = 1
    shot_passes: dict[ShotOptions, ShotPass] = field(default_factory=dict)
    shot_seconds: float = 0.0
    _files: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def release(self) -> None:
        """Deletes the local copy of a remote file, if one was made."""
        self._files.close()


CHANGED_FILE = "changed_file"
"""The reason of a video whose bytes are not those it was planned with."""

MAX_DURATION_SECONDS = 7 * 86400.0
"""Ours: a longer video is taken for a damaged one, whose times would make windows without end."""


def prepare(
    video: Video,
    recipes: Sequence[Recipe],
    session: DecodeSession | None = None,
    keep_truncated: bool = False,
    max_outside_share: float = 1.0,
    limits: InspectionLimits = DEFAULT_LIMITS,
    calls: RetriedCalls = DEFAULT_CALLS,
) -> PreparedVideo:
    """Returns `video` with its windows and one decode request that serves all `recipes`.

    Decodes nothing, except for recipes whose clips are shots: those must be known before windows are placed, so the
    video is decoded once beforehand, at a small size.

    Args:
        session: what that pass runs in, idle; None: one of its own.
        max_outside_share: of the annotated segments, or of their time, that may lie outside the video.
        keep_truncated: use what there is of a video that breaks off.
        limits: of the scan.
        calls: to the server of a remote video.

    Raises:
        MachineFaultError: no child could be started to decode or scan in.
    """
    item = PreparedVideo(video)
    try:
        path = item._files.enter_context(local_copy(video.uri, calls))
        _check_unchanged(video, path, calls)
        item.timeline = _plausible(video, scan(path, video.stream, limits))
        if not keep_truncated:
            _check_whole(video, item.timeline)
    except VideoError as error:
        item.failures = [(recipe, error) for recipe in recipes]
        return item
    timeline = item.timeline
    recipes = _find_shots(item, path, timeline, recipes, session)
    views: dict[tuple[str, str], tuple[Recipe, set[int]]] = {}
    fed: dict[tuple[str, str], list[str]] = {}
    for recipe in recipes:
        try:
            shots = item.shot_passes.get(recipe.clips.options) if recipe.clips.options is not None else None
            boundaries = shots.boundaries_seconds if shots is not None else ()
            fit = fit_segments(recipe.clips, video, timeline.pts_seconds, timeline.stop_seconds)
            check_segment_fit(video, fit, max_outside_share)
            _check_ticks(video, recipe, timeline)
            clips = clips_of(recipe.clips, video, timeline.pts_seconds, timeline.stop_seconds, boundaries)
            windows = _windows(video, recipe, clips, timeline)
            files = _files(video, recipe, timeline)
        except VideoError as error:
            item.failures.append((recipe, error))
            continue
        item.clips[recipe.fingerprint] = clips
        item.segment_fits[recipe.fingerprint] = fit
        item.windows[recipe.fingerprint] = windows
        if files is not None:
            item.files[recipe.fingerprint] = files
        key = (recipe.decoder, geometry_key(recipe.preprocess))
        frames = views.setdefault(key, (recipe, set()))[1]
        frames.update(frame for group in windows for window in group.windows for frame in window.frames)
        fed.setdefault(key, []).append(recipe.fingerprint)
    if views:
        item.view_recipes = [fed[key] for key in views]
        item.request = DecodeRequest(
            path=path,
            timeline=timeline,
            views=tuple(
                View(recipe.preprocess, np.array(sorted(frames), dtype=np.int64)) for recipe, frames in views.values()
            ),
            decoder=_decoder(recipes),
            duration_seconds=timeline.stop_seconds - float(timeline.pts_seconds[0]),
        )
    return item


def _find_shots(
    item: PreparedVideo, path: str, timeline: Timeline, recipes: Sequence[Recipe], session: DecodeSession | None
) -> list[Recipe]:
    """Decodes once for each way of finding shots; returns the recipes that did not fail of it."""
    left = list(recipes)
    for options in dict.fromkeys(recipe.clips.options for recipe in recipes):
        if options is None:
            continue
        started = time.monotonic()
        found = find_shots(path, timeline, options, _decoder(recipes), session)
        if isinstance(found, Failed):
            item.failures += [(recipe, found.error) for recipe in left if recipe.clips.options == options]
            item.num_attempts = found.attempts
            left = [recipe for recipe in left if recipe.clips.options != options]
        else:
            item.shot_passes[options] = found
        item.shot_seconds += time.monotonic() - started
    return left


def _check_unchanged(video: Video, path: str, calls: RetriedCalls) -> None:
    """Rows of other bytes must never stand under the planned fingerprint: they would be taken for complete for ever."""
    if not is_planned(video, path, calls):
        raise VideoError(
            "scan",
            CHANGED_FILE,
            describe("video", video.id, "the bytes it was planned with", "others", "run the same command again"),
        )


def _files(video: Video, recipe: Recipe, timeline: Timeline) -> FlowFiles | None:
    """Returns what the recipe reads beside the video.

    Raises:
        VideoError: ``missing_flow``, ``surplus_flow``, ``unreadable_flow``; ``changed_file``: others than were planned.
    """
    find = registry.card_of(recipe).video_files
    if find is None:
        return None
    files = find(recipe, video)
    files.check(timeline.num_frames)
    digest = files.digest()
    if digest == UNREADABLE:
        expected = "flow images that can be read"
        message = describe("video", video.id, expected, "some that cannot", "check their permissions")
        raise VideoError("scan", "unreadable_flow", message)
    if digest != dict(video.file_digests).get(recipe.fingerprint):
        expected = "the flow images it was planned with"
        message = describe("video", video.id, expected, "others", "run the same command again")
        raise VideoError("scan", CHANGED_FILE, message)
    return files


def _plausible(video: Video, timeline: Timeline) -> Timeline:
    duration = timeline.stop_seconds - float(timeline.pts_seconds[0])
    if duration > MAX_DURATION_SECONDS:
        limit = f"at most {MAX_DURATION_SECONDS / 86400:g} days"
        got = f"presentation times over {duration / 86400:.1f} days"
        raise VideoError(
            "scan", "implausible_times", describe("video", video.id, limit, got, "cut it, or write its times anew")
        )
    return timeline


def _check_ticks(video: Video, recipe: Recipe, timeline: Timeline) -> None:
    """Refuses a video from whose few frames a damaged time scale would make windows without end.

    Raises:
        VideoError: ``implausible_times``.
    """
    duration = timeline.stop_seconds - float(timeline.pts_seconds[0])
    most, count = max_ticks(timeline.num_frames), num_ticks(recipe.sampling, recipe.clips, duration)
    if count > most:
        expected = f"at most {most:,} samples of {recipe.name} from {timeline.num_frames:,} frames"
        got = f"{count:,.0f} over {duration:,.0f} s"
        remedy = "write its times anew, or sample it at fewer frames per second"
        raise VideoError("segment", "implausible_times", describe("video", video.id, expected, got, remedy))


def _check_whole(video: Video, timeline: Timeline) -> None:
    """Refuses a video that breaks off before its end.

    Raises:
        VideoError: ``truncated``, with how much is there of what its header claims.
    """
    if timeline.truncated is None:
        return
    header = video.header
    claims = []
    if header is not None and header.num_frames:
        claims.append(f"{header.num_frames} frames")
    if header is not None and header.duration_seconds:
        claims.append(f"{header.duration_seconds:.3f} s")
    duration = timeline.stop_seconds - float(timeline.pts_seconds[0])
    got = f"{timeline.num_frames} frames, {duration:.3f} s: {timeline.truncated}"
    expected = f"{', '.join(claims)} as its header claims" if claims else "a file that ends where its video does"
    remedy = "fetch the file again, or set decode.truncated: keep to use what is there"
    raise VideoError("scan", "truncated", describe("video", video.id, expected, got, remedy))


def _decoder(recipes: Sequence[Recipe]) -> str:
    """Returns the one decoder of a build: `decode.decoder` is set for all features together."""
    return recipes[0].decoder


def _windows(video: Video, recipe: Recipe, clips: Sequence[Clip], timeline: Timeline) -> list[ClipWindows]:
    windows = [
        clip_windows(timeline.pts_seconds, timeline.stop_seconds, clip, recipe.sampling, video.id) for clip in clips
    ]
    if not any(group.windows for group in windows):
        needed = recipe.sampling.frames or 1
        raise VideoError(
            "segment",
            "shorter_than_window",
            describe(
                "video",
                video.id,
                f"at least one window of {needed} frames for {recipe.name}",
                f"{len(timeline.pts_seconds)} frames ({timeline.stop_seconds - float(timeline.pts_seconds[0]):.3f} s)",
                f"set features.{recipe.name}.sampling.tail: repeat to pad short videos, or leave it out",
            ),
        )
    return windows
