"""The small frozen records that plans, tasks and readers pass around.

Times are seconds of the container's presentation time. Ranges are half-open: ``[start, stop)``.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """``[start_seconds, stop_seconds)`` of a video: an annotation, a proposal or a prediction."""

    start_seconds: float
    stop_seconds: float
    label: str | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class VideoHeader:
    """What the container's header claims. Facts measured from packets live in `Timeline` (pipelines.features)."""

    container: str
    codec: str
    width: int
    height: int
    rotation_degrees: int
    duration_seconds: float | None
    average_fps: float | None
    num_frames: int | None


@dataclass(frozen=True, slots=True)
class Video:
    """One source file or object of a dataset.

    Attributes:
        id: unique within the dataset; any text (slashes, spaces, any script).
        uri: path or fsspec URL of the bytes.
        fingerprint: 32 hex digits over the bytes, or over what its server says of them; empty until planning knows.
        num_bytes: size of the file.
        header: what the header claims; None until probed.
        label: class of the whole video, if the manifest has one.
        split: ``train``, ``validation``, ``test``, if the manifest has one.
        segments: annotations, used by ``clips: {from: annotations}``.
        stream: which of the file's video streams, by number, title or language; None: the one that stands out. The
            fingerprint covers it.
        file_digests: by fingerprint of a recipe that reads further files of this video (its flow as images), the digest
            of these; filled in by planning. They belong to the identity of that recipe's rows and of no others.
    """

    id: str
    uri: str
    fingerprint: str = ""
    num_bytes: int = 0
    header: VideoHeader | None = None
    label: str | None = None
    split: str | None = None
    segments: tuple[Segment, ...] = ()
    stream: str | None = None
    file_digests: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Clip:
    """A segment chosen to be item `index` of its video."""

    index: int
    start_seconds: float
    stop_seconds: float
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """The exact frames of one forward pass.

    Attributes:
        clip: index of the clip within its video.
        frames: index of each frame in presentation order (repeats where a short tail is repeated).
        start_seconds: presentation time of the first frame.
        stop_seconds: end of display of the last frame.
        num_padded_frames: how many of `frames` repeat the last real one.
        num_clip_frames: how many real frames the clip's windows reach together, counted as far apart as `frames` are;
            0: not known. With it, a network can give for a part what it would give for the whole.
    """

    clip: int
    frames: tuple[int, ...]
    start_seconds: float
    stop_seconds: float
    num_padded_frames: int = 0
    num_clip_frames: int = 0


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One video that did not work for some recipes, and why."""

    video_id: str
    video_fingerprint: str
    uri: str
    recipes: tuple[str, ...]
    stage: str
    reason: str
    message: str
    attempts: int
