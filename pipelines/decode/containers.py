"""Containers and streams as PyAV shows them: header, presentation times, and why a file cannot be used.

Runs in the child process only (`inspection`, `session`). The reason codes of its `VideoError`s:

===================== =========================================================================================
missing_file          gone since it was planned (`inspection` tells it, and ``empty_file``, before a child is asked)
not_a_video           no container format we read recognises it (playlists count as none, and pictures named otherwise)
truncated             a file that ends in its header, or before its index (moov); what ends later is `scan`'s to tell
missing_init_segment  a media segment (.m4s) without the part that says what is in it
unreadable            a container whose header is broken
no_video_stream       audio, subtitles or cover pictures only
no_such_stream        the stream that was asked for is not there
ambiguous_stream      several video streams, of which none stands out
encrypted             the video stream is encrypted
unsupported_codec     no decoder for the video stream
bad_dimensions        width or height is missing
unsupported_rotation  a display matrix that turns by no multiple of 90 degrees
no_frames             no packet of the video stream holds a frame that is shown
joined_files          other files are joined to it, which libavformat does not read, or not with exact times
timestamps_jump       the clock jumps, and not as in recordings that were joined end to end
timestamps_repeat     most frames share their time with another one
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

from clipmill.pipelines.decode import boxes, ebml, endings, images
from clipmill.pipelines.decode.complaints import Complaints, listen
from clipmill.pipelines.decode.continuity import DISCONTINUOUS_FORMATS, LONG_DISPLAY_SECONDS, Layout, lay_out
from clipmill.pipelines.decode.hidden_frames import lead_in, shown_test
from clipmill.pipelines.decode.nal_units import is_refresh
from clipmill.pipelines.decode.orientation import IDENTITY, FirstFrame, Orientation, Turns
from clipmill.pipelines.decode.refusals import Refused, refusal
from clipmill.pipelines.decode.streams import candidates_of, choose_stream
from clipmill.pipelines.decode.truncation import LastPackets, broken_off

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,live_flv,asf,ogg,h264,hevc,m4v,mpegvideo,ivf,mxf,rm,dv,nut,"
    "yuv4mpegpipe,gif,apng,swf,wtv,av1,obu,nsv,vc1,vc1test,h263,h261,r3d,bink,smk,roq,film_cpk,4xm,ea"
)
"""Demuxers that read one file of video. Not among them: pictures (`images`), playlists (they name others), text."""

COUNTED_FORMATS = frozenset({"avi", "h264", "hevc", "m4v", "mpegvideo", "vc1", "h263", "h261"})
"""Formats that store no presentation times: libavformat guesses them, and guesses wrongly with B-frames in AVI."""

SEEKABLE_FORMATS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
"""Containers with an index, through which a seek leads to the very key frame."""

DECORD_FORMATS = frozenset({"yuv420p", "yuvj420p", "yuv444p", "yuvj444p", "gray"})
"""Pixel formats that decord and PyAV were measured to turn into the same RGB, bit for bit (docs/decoding.md)."""
DECORD_CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"})
"""Containers in which decord's first seek leads to the first frame; in MPEG-TS it was seen to miss it."""
NEEDS_EVEN_HEIGHT = frozenset({"yuv420p", "yuvj420p"})


@dataclass(slots=True)
class OpenVideo:
    """An open container with the one video stream that is used."""

    path: str
    container: Any
    stream: Any


@contextmanager
def open_video(path: str, stream_wanted: str | int | None = None) -> Iterator[OpenVideo]:
    """Opens `path` and yields it with the video stream that is wanted, by default the one that stands out (`streams`).

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
        stream = _best_stream(path, container, stream_wanted)
        yield OpenVideo(path, container, stream)


def _cannot_open(path: str, error: Exception, complaints: Complaints) -> Refused:
    try:
        kind = boxes.signature(path)
    except OSError as problem:
        reason = "missing_file" if isinstance(problem, FileNotFoundError) else "unreadable"
        return refusal(path, reason, "a readable file", str(problem.strerror), "correct its path or permissions")
    if kind is None:
        return refusal(path, "not_a_video", "a video", "a file no video format recognises", "remove it from the input")
    if kind == "mp4" and (refused := _no_index(path)) is not None:
        return refused
    if (cut := endings.break_off(path, "matroska,webm" if kind == "matroska" else kind)) is not None:
        return refusal(path, "truncated", f"a whole {kind} header", f"a part of it: {cut}", "fetch the file again")
    text = getattr(error, "strerror", None) or str(error)
    return refusal(path, "unreadable", f"a readable {kind} header", text + complaints.quoted(), "re-encode it")


def _no_index(path: str) -> Refused | None:
    """Returns why an MP4 or MOV file has no index; None where it has one, whatever else may be wrong with it."""
    if boxes.is_still(path):
        return refusal(path, "not_a_video", "a video", "a picture (HEIF or AVIF)", "remove it from the input")
    if boxes.has_index(path):
        return None
    if boxes.is_segment(path):
        got = "a media segment alone (.m4s)"
        remedy = "join it behind its initialisation segment"
        return refusal(path, "missing_init_segment", "an initialisation segment (moov)", got, remedy)
    if (before := boxes.hidden_index(path)) is not None:
        return refusal(path, "unreadable", "boxes that lead to the index (moov)", f"{before} before it", "remux it")
    return refusal(path, "truncated", "an index (moov)", "a file that ends before it", "fetch or record the file again")


def _best_stream(path: str, container: Any, wanted: str | int | None) -> Any:
    """Returns the stream of the number or name that is wanted, else the one that stands out, if it can be decoded."""
    if "mov" in container.format.name and (refused := _no_index(path)) is not None:
        raise refused
    stream = choose_stream(path, container, None if wanted is None else str(wanted))
    context = stream.codec_context
    tag = getattr(context, "codec_tag", "") if context is not None else ""
    if tag.startswith("enc") or ("matroska" in container.format.name and ebml.is_encrypted(path, stream.index)):
        raise refusal(path, "encrypted", "clear video", "an encrypted stream", "decrypt it first")
    if context is None:
        raise refusal(path, "unsupported_codec", "a codec FFmpeg decodes", "an unknown one", "re-encode it")
    if not context.width or not context.height:
        raise refusal(
            path, "bad_dimensions", "a width and a height", f"{context.width} x {context.height}", "re-encode it"
        )
    return stream


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


def read_header(path: str, stream_wanted: str | None = None) -> dict[str, Any]:
    """Returns the fields of `clipmill.schemas.records.VideoHeader`; sizes are those before rotation."""
    if images.is_image(path):
        return images.header_of(path)
    with open_video(path, stream_wanted) as video:
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


def read_timeline(path: str, stream_wanted: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the fields of `scan.Timeline`: the plain ones and the arrays.

    Raises:
        Refused: see the table above.
    """
    if images.is_image(path):
        return images.timeline_of(path)
    with open_video(path, stream_wanted) as video:
        stream_index = video.stream.index
        counted = video.container.format.name in COUNTED_FORMATS
        first = FirstFrame(video.stream)
        packets = _read_packets(video, first)
        base = video.stream.time_base
        check_upright(path, first.orientation or IDENTITY)
        _check_all_read(video, packets)
        layout = _on_one_clock(video, packets, counted)
        refused = _decord_refusal(video, packets.num_hidden, layout.num_parts)
        refused = refused or _turn_refusal(first.orientation, packets.spoken)
        frame_bytes = video.stream.codec_context.width * video.stream.codec_context.height * 3
        rate = video.stream.average_rate or video.stream.guessed_rate
        times = np.sort(layout.dts) if counted else layout.pts
        order = np.arange(len(times)) if counted else np.argsort(times, kind="stable")
        seconds = times[order] * base.numerator / base.denominator
        last = _last_display_seconds(video, packets, order, seconds, float(1 / rate) if rate else 0.04)
        start, stop = float(seconds[0]), float(seconds[-1]) + last
        truncated = packets.error or broken_off(
            path, video.stream, video.container, packets.last, packets.ends_corrupt, stop, start
        )
    if truncated and packets.may_lack_the_last() and len(times) > 1:
        # What there is of the last packet is not a frame.
        kept = order != len(times) - 1
        order, seconds = order[kept], seconds[kept]
        stop = min(stop, float(seconds[-1]) + last)
        packets.num_packets = int(packets.number[-1])
    return (
        {
            "stream_index": stream_index,
            "stop_seconds": stop,
            "counted": counted,
            "decord_refusal": refused or ("it breaks off" if truncated else None),
            "frame_bytes": frame_bytes,
            "truncated": truncated,
            "num_packets": packets.num_packets,
            "num_repeated_times": int((np.diff(seconds) <= 0).sum()),
        },
        {
            "pts_seconds": seconds.astype(np.float64),
            "key_frames": _entries(packets.key[order], packets.spoken[order]),
            "fresh_frames": _fresh_frames(video.container.format.name, counted, truncated, layout, packets, order),
            "part_packets": packets.number[layout.first_packets],
            "part_offsets": layout.offsets,
        },
    )


@dataclass(slots=True)
class Packets:
    """What was read of the packets whose frames are shown, in the order of the file.

    Attributes:
        pts, dts, duration: ``int64[N]``, in ticks.
        key: ``bool[N]``.
        refresh: ``bool[N]``, key frames before which nothing that follows in the file refers.
        spoken: ``bool[N]``, key frames that say themselves which way up they are.
        number: ``int64[N]``, counted over all packets of the stream.
        last: those a decoder needs for the last frame.
        num_hidden: packets whose frames are not shown.
        last_position: where in the file the last of them begins; -1 where that is not known.
        num_packets: packets to be decoded; None: all.
        ends_corrupt: the last packet is marked so by libavformat.
        error: what ended the reading, if not the end of the file.
    """

    pts: npt.NDArray[np.int64]
    dts: npt.NDArray[np.int64]
    duration: npt.NDArray[np.int64]
    key: npt.NDArray[np.bool_]
    refresh: npt.NDArray[np.bool_]
    spoken: npt.NDArray[np.bool_]
    number: npt.NDArray[np.int64]
    last: LastPackets
    num_hidden: int
    ends_corrupt: bool
    error: str | None
    last_position: int
    num_packets: int | None = None

    def may_lack_the_last(self) -> bool:
        """Tells whether the last packet may be there in part: libavformat says so, or knows no better."""
        return self.ends_corrupt or bool(self.last.packets)


def _read_packets(video: OpenVideo, first: FirstFrame) -> Packets:
    pts: list[int] = []
    dts: list[int] = []
    duration: list[int] = []
    key: list[bool] = []
    refresh: list[bool] = []
    spoken: list[bool] = []
    number: list[int] = []
    num_packets = 0
    last_position = -1
    is_corrupt = False
    first_key = b""
    error = None
    context = video.stream.codec_context
    shows = shown_test(context.codec.canonical_name, context.extradata)
    turns = Turns(video.stream)
    last = LastPackets(video.container.format.name, context.width * context.height)
    for other in video.container.streams:
        if other is not video.stream:
            other.discard = Discard.all
    try:
        for packet in video.container.demux(video.stream):
            if not packet.size:
                continue
            num_packets += 1
            first.give(packet)
            if packet.has_sidedata("encryption_info"):
                raise refusal(video.path, "encrypted", "clear video", "encrypted packets", "decrypt it first")
            last.give(packet)
            last_position = max(last_position, packet.pos if packet.pos is not None else -1)
            is_corrupt = packet.is_corrupt
            if packet.is_discard or (shows is not None and not shows(bytes(packet))):
                continue
            shown = packet.pts if packet.pts is not None else packet.dts
            if shown is None:
                shown = dts[-1] + max(duration[-1], 1) if dts else 0
            if packet.is_keyframe and not first_key:
                first_key = bytes(packet)
            pts.append(shown)
            dts.append(packet.dts if packet.dts is not None else shown)
            duration.append(packet.duration or 0)
            key.append(packet.is_keyframe)
            refresh.append(packet.is_keyframe and is_refresh(packet, context))
            spoken.append(turns.note(packet))
            number.append(num_packets - 1)
    except av.error.MemoryError:
        raise MemoryError from None
    except av.error.FFmpegError as problem:
        # What could be read stands: it is decoded as far as it goes, where that is wished.
        error = f"it cannot be read on behind packet {num_packets} ({problem.strerror})"
    if not pts:
        raise refusal(
            video.path, "no_frames", "at least one frame", "none", "re-encode it, or remove it from the input"
        )
    first.give(None)
    times, keys = np.array(pts, dtype=np.int64), np.array(key, dtype=bool)
    shown_packets = np.ones(len(times), dtype=bool)
    if video.container.format.name in DISCONTINUOUS_FORMATS:
        shown_packets = ~lead_in(times, keys, context.codec.canonical_name, first_key)
    return Packets(
        pts=times[shown_packets],
        dts=np.array(dts, dtype=np.int64)[shown_packets],
        duration=np.array(duration, dtype=np.int64)[shown_packets],
        key=keys[shown_packets],
        refresh=np.array(refresh, dtype=bool)[shown_packets],
        spoken=np.array(spoken, dtype=bool)[shown_packets],
        number=np.array(number, dtype=np.int64)[shown_packets],
        last=last,
        num_hidden=num_packets - int(shown_packets.sum()),
        ends_corrupt=is_corrupt,
        error=error,
        last_position=last_position,
    )


def _entries(key: npt.NDArray[np.bool_], spoken: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Returns where decoding can start: nowhere, if a key frame takes its orientation from an earlier one."""
    if spoken.any() and not spoken[key].all():
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(key).astype(np.int64)


def _fresh_frames(
    format_name: str,
    counted: bool,
    truncated: str | None,
    layout: Layout,
    packets: Packets,
    order: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Returns where a video may be cut into stretches that decode, each by itself, to the very same frames.

    Nowhere where that is not certain: see `docs/decoding.md`.
    """
    is_certain = (
        format_name in SEEKABLE_FORMATS
        and not (counted or truncated or packets.num_hidden or packets.spoken.any() or layout.num_parts > 1)
        and bool((np.diff(layout.pts[order]) > 0).all())
    )
    if not is_certain:
        return np.zeros(0, dtype=np.int64)
    # In the order of decoding all shown before it comes before it, and all that follows is shown after it.
    after = np.minimum.accumulate(layout.pts[::-1])[::-1] >= layout.pts
    before = np.maximum.accumulate(layout.pts) <= layout.pts
    return np.flatnonzero((packets.refresh & after & before)[order]).astype(np.int64)


def _turn_refusal(first: Orientation | None, spoken: npt.NDArray[np.bool_]) -> str | None:
    """Returns why decord must not decode a video for the way up its frames are: it knows an MP4 header's turns only."""
    if first is None:
        return "no first frame that decodes"
    if spoken.any() or not first.is_identity:
        return "frames turned or mirrored for display"
    return None


def _check_all_read(video: OpenVideo, packets: Packets) -> None:
    """Refuses files joined end to end of which libavformat reads only the first ones, or counts frames wrongly.

    Raises:
        Refused: ``joined_files``.
    """
    format_name = video.container.format.name
    later = endings.later_files(video.path, format_name)
    # Where frames have no times, the one that a decoder may lose where files meet shifts all that follow.
    unread = [start for start in later if 0 <= packets.last_position < start or format_name in COUNTED_FORMATS]
    if unread:
        got = f"{len(unread)} more joined to it, from byte {unread[0]} on, that cannot be read with it"
        raise refusal(video.path, "joined_files", "one recording", got, "take them apart, or join them with ffmpeg")


def _on_one_clock(video: OpenVideo, packets: Packets, counted: bool) -> Layout:
    """Returns the packets' times with the parts of a joined recording one after the other.

    Raises:
        Refused: ``timestamps_jump`` or ``timestamps_repeat``.
    """
    if counted:
        return Layout(packets.pts, packets.dts)
    base = video.stream.time_base
    layout = lay_out(packets.pts, packets.dts, packets.duration, packets.key, float(base), video.container.format.name)
    problem = layout.problem
    if layout.num_parts > 1 and "mov" in video.container.format.name:
        # libavformat marks fragments whose clock goes back as not to be shown.
        first = int(layout.first_packets[1])
        back, to = (float(packets.pts[number] * base) for number in (first - 1, first))
        problem = f"a jump from {back:.3f} s to {to:.3f} s at frame {first}"
    if problem is not None:
        remedy = "write them anew, or take its parts apart"
        raise refusal(video.path, "timestamps_jump", "times that go on from frame to frame", problem, remedy)
    num_times = len(np.unique(layout.pts))
    if len(layout.pts) > 2 and num_times <= len(layout.pts) / 2:
        got = f"{num_times} times for {len(layout.pts)} frames"
        raise refusal(video.path, "timestamps_repeat", "a time of its own for each frame", got, "write them anew")
    return layout


def _last_display_seconds(
    video: OpenVideo,
    packets: Packets,
    order: npt.NDArray[np.int64],
    seconds: npt.NDArray[np.float64],
    default_seconds: float,
) -> float:
    """Returns how long the last frame is on display.

    A packet's duration in MP4 is the step to the next one in decoding order. Where frames are reordered and steps
    differ, it is another frame's; when display ends is then in the edit list, or in the header of the track.
    """
    base = video.stream.time_base
    steps = np.diff(seconds)
    usual = float(np.median(steps)) if len(steps) else default_seconds
    known = packets.duration[packets.duration > 0]
    is_reordered = bool((np.diff(packets.pts) < 0).any())
    if "mov" in video.container.format.name and is_reordered and len(known) and known.max() - known.min() > 1:
        longest = float(steps.max()) if len(steps) else default_seconds
        for stop in boxes.display_stops_seconds(video.path, video.stream.id, float(seconds[0])):
            # A claim that keeps the last frame up ten times longer than any other is taken for a wrong one (ours).
            if 0 < stop - seconds[-1] <= max(10 * longest, LONG_DISPLAY_SECONDS):
                return stop - float(seconds[-1])
        return usual
    last = float(packets.duration[order[-1]] * base.numerator / base.denominator)
    return last if last > 0 else usual


def _decord_refusal(video: OpenVideo, num_hidden: int, num_parts: int) -> str | None:
    """Returns why decord must not decode this video, where its frames would be others, or otherwise coloured."""
    streams = candidates_of(video.container)
    context = video.stream.codec_context
    pixel_format = context.pix_fmt or "unknown"
    if len(streams) > 1:
        return f"{len(streams)} video streams"
    if video.container.format.name not in DECORD_CONTAINERS:
        return f"container {video.container.format.name}"
    if num_hidden:
        return f"{num_hidden} packets whose frames are not shown"
    if num_parts > 1:
        return f"{num_parts} recordings joined end to end"
    if pixel_format not in DECORD_FORMATS:
        return f"pixel format {pixel_format}"
    if pixel_format in NEEDS_EVEN_HEIGHT and context.height % 2:
        return f"pixel format {pixel_format} with odd height"
    return None
