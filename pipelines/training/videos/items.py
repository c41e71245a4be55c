"""What a network is trained on: clips of a class, or buffers of frames with annotated segments, of videos as they lie.

No frame is decoded here. Packets are scanned, so every item's frames are known before the first one is.
"""

import concurrent.futures
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from clipmill.extractors.learner import Annotated, Buffers
from clipmill.pipelines.datasets.split import manifest_parts, random_parts
from clipmill.pipelines.decode.scan import Timeline, scan
from clipmill.schemas.arrays import Ints
from clipmill.schemas.config import SplitConfig
from clipmill.schemas.config_truth import TruthConfig
from clipmill.schemas.config_videos import VideoDataConfig
from clipmill.schemas.errors import UsageError, VideoError, describe
from clipmill.schemas.recipe import Recipe, Sampling
from clipmill.schemas.records import Clip, Segment, Video, Window
from clipmill.stores.formats.reader import ReadRequest
from clipmill.stores.formats.records import SEGMENTS
from clipmill.stores.formats.registry import format_of, formats_of, reader
from clipmill.stores.manifests import read_manifest

SCANS_AT_ONCE = 4
"""Ours: a scan waits for storage most of its time."""
SHOWN = 3
EDGE_SECONDS = 0.05
"""ours: annotations are rounded; one that ends less than this after its video is not beyond it."""


class WindowsOf(Protocol):
    """`pipelines.features.windows.clip_windows`, which jobs hand in: training may not import that room."""

    def __call__(self, pts_seconds: Any, stop_seconds: float, clip: Clip, sampling: Sampling, video_id: str) -> Any: ...


@dataclass(frozen=True, slots=True, eq=False)
class SourceVideo:
    """A video that items are taken from."""

    id: str
    path: str
    timeline: Timeline
    part: str
    stream: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class VideoItem:
    """A clip or a buffer.

    Attributes:
        video: position in `VideoItems.videos`.
        frames: of a clip, the frames it is sampled to, a window of which is drawn each time; of a buffer, its frames.
        target: the class from 0 up of a clip, the annotations of a buffer.
        mirrored: of a buffer's copy.
    """

    video: int
    frames: Ints
    target: int | Annotated
    mirrored: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class VideoItems:
    """The items that are trained on, and what to know of them.

    Attributes:
        items: of the training videos; `validation`: of those that validate.
        classes: names; of buffers class 1 is the first, 0 the background.
        segments: of each video its clips, or its annotated segments, with their classes.
        num_test: videos kept for the test.
        notes: what was cut, left out or is doubtful, with counts.
        fingerprint: over all of it.
    """

    videos: tuple[SourceVideo, ...]
    items: tuple[VideoItem, ...]
    validation: tuple[VideoItem, ...]
    classes: tuple[str, ...]
    segments: tuple[tuple[Segment, ...], ...]
    num_test: int
    labels_without_training: tuple[str, ...]
    labels_without_test: tuple[str, ...]
    notes: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.items)


def read_video_items(
    config: VideoDataConfig, recipe: Recipe, buffers: Buffers | None, mirrored_copies: bool, windows_of: WindowsOf
) -> VideoItems:
    """Returns what is trained on.

    Args:
        recipe: of the network, whose sampling says how clips and buffers are cut.
        buffers: of detection; None: clips are classified.

    Raises:
        ManifestError: the videos cannot be listed, or their split is incomplete.
        FormatError: the annotations are in no known format.
        UsageError: annotations are inverted, or of none of the videos; videos without a class; nothing to train on; a
            video cannot be read.
        MachineFaultError: no process could be started that reads videos.
    """
    manifest = read_manifest(config.videos)
    videos: list[Video] = [*manifest.videos]
    notes: list[str] = []
    if config.annotations is not None:
        videos, notes = _annotated(videos, config.annotations)
    elif buffers is not None:
        remedy = "name a file of segments with classes, such as annotations: {file: segments.csv}"
        raise UsageError(describe("data", "annotations", "segments to train detection on", "none", remedy))
    else:
        _check_labels(videos)
    part = split_of(videos, config.split)
    timelines = scanned(videos)
    clips: list[list[Segment]] = []
    for video, timeline in zip(videos, timelines, strict=True):
        whole = Segment(0.0, _seconds(timeline), video.label)
        clips.append(list(video.segments) if config.annotations is not None else [whole])
    clips, cut = _on_video(videos, clips, timelines)
    notes += cut
    classes = tuple(sorted({str(clip.label) for of_video in clips for clip in of_video}))
    if len(classes) < 2 and buffers is None:
        raise UsageError(describe("data", "classes", "at least two", f"only {', '.join(classes)}", "add videos"))
    code = {name: index for index, name in enumerate(classes)}
    sources = tuple(
        SourceVideo(video.id, video.uri, timeline, side, video.stream)
        for video, timeline, side in zip(videos, timelines, part, strict=True)
    )
    items, about = _items("train", sources, clips, code, (recipe, buffers), windows_of)
    notes += about
    if not items:
        remedy = "check the annotations' times, or lower options.buffer_frames"
        raise UsageError(describe("data", "items", "something to train on", "no window keeps an annotation", remedy))
    validation, _ = _items("validation", sources, clips, code, (recipe, buffers), windows_of)
    if mirrored_copies:
        items = [copy for item in items for copy in (item, replace(item, mirrored=True))]
    sides = [
        {str(clip.label) for of_video, side in zip(clips, part, strict=True) if side == wanted for clip in of_video}
        for wanted in ("train", "test")
    ]
    return VideoItems(
        videos=sources,
        items=tuple(items),
        validation=tuple(validation),
        classes=classes,
        segments=tuple(tuple(of_video) for of_video in clips),
        num_test=int((np.array(part) == "test").sum()),
        labels_without_training=tuple(name for name in classes if name not in sides[0]),
        labels_without_test=tuple(name for name in classes if name not in sides[1]),
        notes=tuple(notes),
        fingerprint=_fingerprint(sources, items, classes),
    )


def _items(
    part: str,
    sources: Sequence[SourceVideo],
    clips: Sequence[Sequence[Segment]],
    code: Mapping[str, int],
    how: tuple[Recipe, Buffers | None],
    windows_of: WindowsOf,
) -> tuple[list[VideoItem], list[str]]:
    """Returns the items of a part's videos, and a note where some are short."""
    recipe, buffers = how
    items: list[VideoItem] = []
    notes: list[str] = []
    short: list[str] = []
    for number, (source, segments) in enumerate(zip(sources, clips, strict=True)):
        if source.part != part:
            continue
        if buffers is None:
            items += _clips(number, source, segments, code, recipe, windows_of, short)
        else:
            items += _buffers(number, source, segments, code, (recipe, buffers), windows_of, short)
    if buffers is not None and short:
        shortest = f"a feature cell of {buffers.cell_seconds:g} s"
        notes.append(f"{len(short)} annotations are shorter than {shortest}, such as {short[0]}; they are trained on")
    elif short:
        notes.append(f"{len(short)} clips are shorter than a window, whose rest is filled up, such as {short[0]}")
    return items, notes


def _annotated(videos: Sequence[Video], truth: TruthConfig) -> tuple[list[Video], list[str]]:
    """Returns the videos that have annotations, with them, and what to know of the others."""
    known = formats_of("truth", (SEGMENTS.name,))
    name = truth.format or format_of(truth.file, known)
    if name not in known:
        remedy = "see docs/formats.md"
        raise UsageError(describe("annotations", truth.file, f"one of the formats {', '.join(known)}", name, remedy))
    table = reader(name).truth[SEGMENTS.name](ReadRequest(truth.file, "annotations", truth.subset))
    table = table.renamed(lambda ids: [truth.id_of(item) for item in ids])
    found = table.segments
    inverted = np.flatnonzero(found.stop_seconds <= found.start_seconds)
    if len(inverted):
        row = int(inverted[0])
        got = f"{len(inverted)} inverted or empty, such as {found.video_ids[int(found.video[row])]} "
        got += f"{found.start_seconds[row]:g} to {found.stop_seconds[row]:g} s"
        raise UsageError(describe("annotations", truth.file, "segments that end after they start", got, "correct them"))
    segments: dict[str, list[Segment]] = {}
    for video, label, start, stop in zip(
        found.video.tolist(), found.label.tolist(), found.start_seconds, found.stop_seconds, strict=True
    ):
        segment = Segment(float(start), float(stop), found.label_names[label])
        segments.setdefault(found.video_ids[video], []).append(segment)
    ours = {truth.id_of(video.id): video for video in videos}
    matched = [replace(video, segments=tuple(segments[name])) for name, video in ours.items() if name in segments]
    notes = []
    unknown = sorted(segments.keys() - ours.keys())
    if not matched:
        got = f"{_listed(unknown)} there, {_listed(sorted(ours))} here"
        remedy = "give annotations: {drop_prefix: ..., drop_ending: true}, or ids in a manifest"
        raise UsageError(describe("annotations", truth.file, "segments of the videos", got, remedy))
    if unknown:
        count = sum(len(segments[name]) for name in unknown)
        notes.append(f"{count} annotations are of {len(unknown)} videos that are not here: {_listed(unknown)}")
    bare = sorted(ours.keys() - segments.keys())
    if bare:
        notes.append(f"{len(bare)} videos have no annotation and are left out: {_listed(bare)}")
    return matched, notes


def _check_labels(videos: Sequence[Video]) -> None:
    bare = [video.id for video in videos if video.label is None]
    if bare:
        remedy = "set videos.label: parent_folder, or give the manifest a column label"
        raise UsageError(describe("data", "labels", "a class for every video", f"none for {_listed(bare)}", remedy))


def split_of(videos: Sequence[Video], split: SplitConfig, label_names: Sequence[str] | None = None) -> list[str]:
    """Returns the part of each video: ``train``, ``validation`` or ``test``.

    Args:
        label_names: none at all: videos have no labels, and are drawn whatever they show.

    Raises:
        ManifestError: the manifest's column `split` is incomplete.
        UsageError: nothing is left to train on.
    """
    ids = [video.id for video in videos]
    if split.from_ == "manifest":
        part = manifest_parts(ids, {video.id: video.split for video in videos})
    else:
        # Of a video with several classes its most frequent one.
        labels = [
            video.label or Counter(str(item.label) for item in video.segments).most_common(1)[0][0]
            if label_names is None or label_names
            else ""
            for video in videos
        ]
        part = random_parts(ids, labels, split.test_fraction, split.validation_fraction, split.seed)
    if not (part == "train").any():
        raise UsageError(describe("data.split", split.from_, "videos to train on", "none", "mark some as train"))
    return [str(side) for side in part.tolist()]


def scanned(videos: Sequence[Video]) -> list[Timeline]:
    """Returns the timeline of each video.

    Raises:
        UsageError: some cannot be read, or break off before their end.
    """

    def timeline_of(video: Video) -> Timeline | VideoError:
        try:
            found = scan(video.uri, video.stream)
        except VideoError as error:
            return error
        if found.truncated is not None:
            return VideoError("scan", "truncated", f"video {video.id}: it breaks off: {found.truncated}")
        return found

    with concurrent.futures.ThreadPoolExecutor(SCANS_AT_ONCE) as pool:
        found = list(pool.map(timeline_of, videos))
    failed = [item for item in found if isinstance(item, VideoError)]
    if failed:
        remedy = "leave them out of the manifest; clipmill build lists all that cannot be read"
        got = f"{len(failed)} that cannot, such as {failed[0].message}"
        raise UsageError(describe("data", "videos", f"{len(videos)} that can be read", got, remedy))
    return [item for item in found if isinstance(item, Timeline)]


def _seconds(timeline: Timeline) -> float:
    return timeline.stop_seconds - float(timeline.pts_seconds[0])


def _on_video(
    videos: Sequence[Video], clips: Iterable[Sequence[Segment]], timelines: Sequence[Timeline]
) -> tuple[list[list[Segment]], list[str]]:
    """Returns the segments cut at their videos' ends, and a note of how many were cut or lie outside altogether."""
    kept: list[list[Segment]] = []
    cut: list[str] = []
    outside: list[str] = []
    for video, segments, timeline in zip(videos, clips, timelines, strict=True):
        end = _seconds(timeline)
        inside = []
        for segment in segments:
            shown = f"{video.id} {segment.start_seconds:g} to {segment.stop_seconds:g} s of {end:g}"
            if segment.start_seconds >= end - EDGE_SECONDS or segment.stop_seconds <= 0:
                outside.append(shown)
                continue
            if segment.stop_seconds > end + EDGE_SECONDS or segment.start_seconds < -EDGE_SECONDS:
                cut.append(shown)
            start, stop = max(segment.start_seconds, 0.0), min(segment.stop_seconds, end)
            inside.append(replace(segment, start_seconds=start, stop_seconds=stop))
        kept.append(inside)
    notes = []
    if cut:
        notes.append(f"{len(cut)} annotations reach beyond their video and are cut at its end, such as {cut[0]}")
    if outside:
        notes.append(f"{len(outside)} annotations lie outside their video and are left out, such as {outside[0]}")
    return kept, notes


def _clips(
    number: int,
    source: SourceVideo,
    segments: Sequence[Segment],
    code: Mapping[str, int],
    recipe: Recipe,
    windows_of: WindowsOf,
    short: list[str],
) -> list[VideoItem]:
    """Returns the clips of one video, each with all the frames it is sampled to."""
    # Windows of one frame each: the whole sequence that windows of several are cut from.
    single = recipe.sampling.model_copy(update={"frames": 1, "every": 1, "step": 1, "tail": "drop"})
    needed = ((recipe.sampling.frames or 1) - 1) * recipe.sampling.every + 1
    found = []
    for index, segment in enumerate(segments):
        clip = _clip(index, source, segment)
        windows = windows_of(source.timeline.pts_seconds, source.timeline.stop_seconds, clip, single, source.id).windows
        frames = np.array([window.frames[0] for window in windows], np.int64)
        if not len(frames):
            continue
        if len(frames) < needed:
            short.append(f"{source.id} at {segment.start_seconds:g} s")
        found.append(VideoItem(number, frames, code[str(segment.label)]))
    return found


def _buffers(
    number: int,
    source: SourceVideo,
    segments: Sequence[Segment],
    code: Mapping[str, int],
    how: tuple[Recipe, Buffers],
    windows_of: WindowsOf,
    short: list[str],
) -> list[VideoItem]:
    """Returns the windows of one video that keep an annotation."""
    recipe, buffers = how
    begins = float(source.timeline.pts_seconds[0])
    truth = [(item.start_seconds, item.stop_seconds, code[str(item.label)] + 1) for item in segments]
    short += [f"{source.id} {start:g} to {stop:g} s" for start, stop, _ in truth if stop - start < buffers.cell_seconds]
    whole = Clip(0, begins, source.timeline.stop_seconds)
    # Both codes train on a pass from the start and one from the end, whatever they test on.
    both = recipe.sampling.model_copy(update={"tail": "both_ways"})
    windows: Sequence[Window] = windows_of(
        source.timeline.pts_seconds, source.timeline.stop_seconds, whole, both, source.id
    ).windows
    kept = [(window, buffers.truth(truth, window.start_seconds - begins)) for window in windows]
    return [VideoItem(number, np.array(window.frames), found) for window, found in kept if found is not None]


def _clip(index: int, source: SourceVideo, segment: Segment) -> Clip:
    begins = float(source.timeline.pts_seconds[0])
    return Clip(index, segment.start_seconds + begins, segment.stop_seconds + begins, segment.label)


def _fingerprint(videos: Sequence[SourceVideo], items: Sequence[VideoItem], classes: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([[video.id, video.part] for video in videos] + [list(classes)]).encode())
    for video in videos:
        digest.update(video.timeline.pts_seconds.tobytes())
    for item in items:
        digest.update(f"{item.video} {item.mirrored}\n".encode() + item.frames.tobytes())
        if isinstance(item.target, Annotated):
            digest.update(item.target.segments.tobytes() + item.target.classes.tobytes())
        else:
            digest.update(str(item.target).encode())
    return digest.hexdigest()


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
