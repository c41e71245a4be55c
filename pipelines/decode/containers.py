"""Containers and streams as PyAV shows them: header, presentation times, and why a file cannot be used.

Runs in the child process only (`inspection`, `session`). The reason codes of its `VideoError`s:

===================== =========================================================================================
missing_file          gone since it was planned (`inspection` tells it, and ``empty_file``, before a child is asked)
not_a_video           no container format we read recognises it (pictures and playlists count as none)
truncated             an MP4 or MOV file without its index (moov)
unreadable            a container whose header is broken
no_video_stream       audio, subtitles or cover pictures only
encrypted             the video stream is encrypted
unsupported_codec     no decoder for the video stream
bad_dimensions        width or height is missing
unsupported_rotation  a display matrix that turns by no multiple of 90 degrees
no_frames             no packet of the video stream holds a frame that is shown
===================== =========================================================================================
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.stream import Discard

from clipmill.pipelines.decode import boxes
from clipmill.pipelines.decode.complaints import Complaints, listen
from clipmill.pipelines.decode.orientation import IDENTITY, FirstFrame, Orientation, Turns
from clipmill.schemas.errors import VideoError

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,live_flv,asf,ogg,h264,hevc,m4v,mpegvideo,ivf,mxf,rm,dv,nut,"
    "yuv4mpegpipe,gif,apng,swf,wtv,av1,obu,nsv,vc1,vc1test,h263,h261,r3d,bink,smk,roq,film_cpk,4xm,ea"
)
"""Demuxers that read one file of video. Not among them: pictures, playlists (which name other files), text."""

COUNTED_FORMATS = frozenset({"avi", "h264", "hevc", "m4v", "mpegvideo", "vc1", "h263", "h261"})
"""Formats that store no presentation times: libavformat guesses them, and guesses wrongly with B-frames in AVI."""

DECORD_FORMATS = frozenset({"yuv420p", "yuvj420p", "yuv444p", "yuvj444p", "gray"})
"""Pixel formats that decord and PyAV were measured to turn into the same RGB, bit for bit (docs/decoding.md)."""
DECORD_CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"})
"""Containers in which decord's first seek leads to the first frame; in MPEG-TS it was seen to miss it."""
NEEDS_EVEN_HEIGHT = frozenset({"yuv420p", "yuvj420p"})


class Refused(VideoError):
    """A `VideoError` of this module; the stage is filled in by the parent, which knows what it asked for."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__("", reason, message)


def refusal(path: str, reason: str, expected: str, got: str, remedy: str) -> Refused:
    """Returns the error in the house's one line."""
    return Refused(reason, f"video {path}: expected {expected}, got {got}; {remedy}")


@dataclass(slots=True)
class OpenVideo:
    """An open container with the one video stream that is used."""

    path: str
    container: Any
    stream: Any


@contextmanager
def open_video(path: str) -> Iterator[OpenVideo]:
    """Opens `path` and yields it with its best video stream.

    Raises:
        Refused: see the table above.
    """
    listen()
    complaints = Complaints()
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        container = av.open(f"file:{path}", options=options, metadata_errors="replace")
    except av.error.MemoryError:
        raise MemoryError from None
    except (av.error.FFmpegError, ValueError) as error:
        raise _cannot_open(path, error, complaints) from None
    with container:
        stream = _best_stream(path, container)
        yield OpenVideo(path, container, stream)


def _cannot_open(path: str, error: Exception, complaints: Complaints) -> Refused:
    try:
        kind = boxes.signature(path)
    except OSError as problem:
        reason = "missing_file" if isinstance(problem, FileNotFoundError) else "unreadable"
        return refusal(path, reason, "a readable file", str(problem.strerror), "correct its path or permissions")
    if kind is None:
        return refusal(path, "not_a_video", "a video", "a file no video format recognises", "remove it from the input")
    if kind == "mp4" and not boxes.has_index(path):
        return refusal(
            path, "truncated", "an index (moov)", "a file that ends before it", "fetch or record the file again"
        )
    text = getattr(error, "strerror", None) or str(error)
    return refusal(path, "unreadable", f"a readable {kind} header", text + complaints.quoted(), "re-encode it")


def _best_stream(path: str, container: Any) -> Any:
    """Returns the stream libavformat finds best: the one decord decodes too."""
    stream = container.streams.best("video")
    attached = stream is not None and bool(int(stream.disposition) & ATTACHED_PICTURE)
    if stream is None or attached:
        others = sorted({other.type for other in container.streams if other is not stream})
        got = ", ".join(others) + " only" if others else "none"
        raise refusal(path, "no_video_stream", "a video stream", got, "remove it from the input")
    context = stream.codec_context
    tag = getattr(context, "codec_tag", "") if context is not None else ""
    if tag.startswith("enc"):
        raise refusal(path, "encrypted", "clear video", "an encrypted stream", "decrypt it first")
    if context is None:
        raise refusal(path, "unsupported_codec", "a codec FFmpeg decodes", "an unknown one", "re-encode it")
    if not context.width or not context.height:
        raise refusal(
            path, "bad_dimensions", "a width and a height", f"{context.width} x {context.height}", "re-encode it"
        )
    return stream


ATTACHED_PICTURE = 0x400
"""AV_DISPOSITION_ATTACHED_PIC: a cover, not a video."""


def check_upright(path: str, orientation: Orientation) -> None:
    """Refuses a frame that no turn by a multiple of 90 degrees and no mirroring brings upright.

    Raises:
        Refused: ``unsupported_rotation``.
    """
    if not orientation.upright:
        raise refusal(
            path,
            "unsupported_rotation",
            "a display matrix that turns by a multiple of 90 degrees",
            "one that turns by another angle",
            "re-encode it upright",
        )


def read_header(path: str) -> dict[str, Any]:
    """Returns the fields of `clipmill.schemas.records.VideoHeader`; sizes are those before rotation."""
    with open_video(path) as video:
        stream, container = video.stream, video.container
        orientation = _first_orientation(video) or IDENTITY
        check_upright(path, orientation)
        duration = None
        if stream.duration is not None and stream.time_base is not None:
            duration = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration = container.duration / av.time_base
        rate = stream.average_rate or stream.guessed_rate
        return {
            "container": container.format.name,
            "codec": stream.codec_context.codec.canonical_name,
            "width": stream.codec_context.width,
            "height": stream.codec_context.height,
            "rotation_degrees": orientation.rotation_degrees,
            "duration_seconds": duration,
            "average_fps": float(rate) if rate else None,
            "num_frames": stream.frames or None,
        }


def _first_orientation(video: OpenVideo) -> Orientation | None:
    """Returns that of the first frame; None where none decodes. Leaves the container somewhere behind it."""
    first = FirstFrame(video.stream)
    try:
        for packet in video.container.demux(video.stream):
            if not first.give(packet if packet.size else None):
                break
    except av.error.MemoryError:
        raise MemoryError from None
    except av.error.FFmpegError:
        pass
    return first.orientation


def read_timeline(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the fields of `scan.Timeline`: the plain ones and the arrays."""
    with open_video(path) as video:
        counted = video.container.format.name in COUNTED_FORMATS
        first = FirstFrame(video.stream)
        packets, num_hidden = _read_packets(video, first)
        base = video.stream.time_base
        check_upright(path, first.orientation or IDENTITY)
        refused = _decord_refusal(video, num_hidden) or _turn_refusal(first.orientation, packets["spoken"])
        frame_bytes = video.stream.codec_context.width * video.stream.codec_context.height * 3
        durations = packets["duration"]
        rate = video.stream.average_rate or video.stream.guessed_rate
        default = float(1 / rate) if rate else 0.04
    times = np.sort(packets["dts"]) if counted else packets["pts"]
    order = np.argsort(times, kind="stable")
    if counted:
        order = np.arange(len(times))
    ticks = times[order]
    seconds = ticks * base.numerator / base.denominator
    last = float(durations[order[-1]] * base.numerator / base.denominator) if len(order) else 0.0
    if last <= 0:
        last = float(np.median(np.diff(seconds))) if len(seconds) > 1 else default
    return (
        {
            "stop_seconds": float(seconds[-1]) + last if len(seconds) else 0.0,
            "counted": counted,
            "decord_refusal": refused,
            "frame_bytes": frame_bytes,
        },
        {
            "pts_seconds": seconds.astype(np.float64),
            "key_frames": _entries(packets["key"][order], packets["spoken"][order]),
        },
    )


def _read_packets(video: OpenVideo, first: FirstFrame) -> tuple[dict[str, Any], int]:
    """Reads the stream to its end.

    Returns:
        ``pts``, ``dts``, ``duration``, ``key`` and ``spoken`` (a key frame that says itself which way up it is) of
        every packet whose frame is shown, and how many are not shown.
    """
    pts: list[int] = []
    dts: list[int] = []
    duration: list[int] = []
    key: list[bool] = []
    spoken: list[bool] = []
    turns = Turns(video.stream)
    num_hidden = 0
    is_vp8 = video.stream.codec_context.codec.canonical_name == "vp8"
    for other in video.container.streams:
        if other is not video.stream:
            other.discard = Discard.all
    try:
        for packet in video.container.demux(video.stream):
            if not packet.size:
                continue
            first.give(packet)
            if packet.has_sidedata("encryption_info"):
                raise refusal(video.path, "encrypted", "clear video", "encrypted packets", "decrypt it first")
            # The third bit of a VP8 frame's first byte from the top is show_frame (RFC 6386, 9.1).
            if packet.is_discard or (is_vp8 and not bytes(packet)[0] & 0x10):
                num_hidden += 1
                continue
            shown = packet.pts if packet.pts is not None else packet.dts
            if shown is None:
                shown = dts[-1] + max(duration[-1], 1) if dts else 0
            pts.append(shown)
            dts.append(packet.dts if packet.dts is not None else shown)
            duration.append(packet.duration or 0)
            key.append(packet.is_keyframe)
            spoken.append(turns.note(packet))
    except av.error.MemoryError:
        raise MemoryError from None
    except av.error.FFmpegError:
        # What could be read stands: a file that breaks off is decoded as far as it goes.
        pass
    if not pts:
        raise refusal(
            video.path, "no_frames", "at least one frame", "none", "re-encode it, or remove it from the input"
        )
    integers = {"pts": pts, "dts": dts, "duration": duration}
    columns: dict[str, Any] = {name: np.array(values, dtype=np.int64) for name, values in integers.items()}
    first.give(None)
    return columns | {"key": np.array(key, dtype=bool), "spoken": np.array(spoken, dtype=bool)}, num_hidden


def _entries(key: npt.NDArray[np.bool_], spoken: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Returns where decoding can start: nowhere, if a key frame takes its orientation from an earlier one."""
    if spoken.any() and not spoken[key].all():
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(key).astype(np.int64)


def _turn_refusal(first: Orientation | None, spoken: npt.NDArray[np.bool_]) -> str | None:
    """Returns why decord must not decode a video for the way up its frames are: it knows an MP4 header's turns only."""
    if first is None:
        return "no first frame that decodes"
    if spoken.any() or not first.is_identity:
        return "frames turned or mirrored for display"
    return None


def _decord_refusal(video: OpenVideo, num_hidden: int) -> str | None:
    """Returns why decord must not decode this video, where its frames would be others, or otherwise coloured."""
    streams = [stream for stream in video.container.streams.video if not int(stream.disposition) & ATTACHED_PICTURE]
    context = video.stream.codec_context
    pixel_format = context.pix_fmt or "unknown"
    if len(streams) > 1:
        return f"{len(streams)} video streams"
    if video.container.format.name not in DECORD_CONTAINERS:
        return f"container {video.container.format.name}"
    if num_hidden:
        return f"{num_hidden} packets whose frames are not shown"
    if pixel_format not in DECORD_FORMATS:
        return f"pixel format {pixel_format}"
    if pixel_format in NEEDS_EVEN_HEIGHT and context.height % 2:
        return f"pixel format {pixel_format} with odd height"
    return None
