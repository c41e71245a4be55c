"""Whether a video breaks off before its end, from its packets and from what its container claims.

A header's duration convicts nobody: live recordings carry zero, a guess, or that of the whole programme. What counts is
listed in `broken_off`, strongest first.
"""

import contextlib
import os
from typing import Any

import av
import av.error
import av.logging

from clipmill.pipelines.decode import boxes, endings
from clipmill.pipelines.decode.complaints import Complaints

MAX_TAIL_PACKETS = 300
MAX_TAIL_PIXELS = 300 << 20
"""The last frame is decoded for its errors only where at most so many packets lead to it, of so many pixels together:
a second or two of one thread (ours)."""
SHORTFALL_SECONDS, SHORTFALL_SHARE = 1.0, 0.02
"""A claim missed by less than either is rounding, or audio that is longer than the pictures (ours)."""
UNREAD_BYTES, UNREAD_SHARE = 64 << 10, 0.02
"""More of a file than both without one packet is no index or list of tags, but a part that was never filled (ours)."""

UNSTATED_FORMATS = frozenset(
    {"mpegts", "mpegtsraw", "mpeg", "h264", "hevc", "m4v", "mpegvideo", "vc1", "h263", "h261", "obu", "nut"}
)
"""Formats that state no length of a frame: only the decoder knows that the last one is cut."""
FIXED_FORMATS = {"yuv4mpegpipe": 6, "dv": 0, "ivf": 12}
"""Formats that are frames to the last byte, and how long a frame's own header is."""


class LastPackets:
    """Keeps the packets from the last key frame but one on, for `last_frame_error`.

    From the last one would not do: pictures that follow it in the file and precede it on display refer to those before.
    """

    def __init__(self, format_name: str, frame_pixels: int) -> None:
        self._most = min(MAX_TAIL_PACKETS, MAX_TAIL_PIXELS // max(frame_pixels, 1))
        self._wanted = format_name in UNSTATED_FORMATS
        self.packets: list[Any] = []
        self._last_key = 0

    def give(self, packet: Any) -> None:
        """Takes the stream's next packet."""
        if not self._wanted:
            return
        if packet.is_keyframe:
            self.packets = self.packets[self._last_key :]
            self._last_key = len(self.packets)
        elif not self.packets:
            return
        if len(self.packets) < self._most:
            self.packets.append(packet)
        else:
            self.packets, self._last_key = [], 0


def broken_off(
    path: str,
    video_stream: Any,
    container: Any,
    last_packets: LastPackets,
    ends_corrupt: bool,
    stop_seconds: float,
    start_seconds: float,
) -> str | None:
    """Returns, in words, what shows that the video goes on where the file does not; None where nothing does.

    In this order: samples that the index places beyond the end of the file; lengths that the container states
    (`endings`); a last packet that libavformat could not read whole; fragments that the index announces and that are
    not there; a claim that is missed while a part of the file holds no packet at all; and in formats that state
    nothing, a last frame that does not decode.

    Args:
        ends_corrupt: the last packet is marked so.
        start_seconds, stop_seconds: what the packets cover.
    """
    format_name = container.format.name
    num_bytes = os.path.getsize(path)
    if "mov" in format_name:
        beyond = sum(entry.pos + entry.size > num_bytes for entry in video_stream.index_entries)
        if beyond:
            return f"{beyond} of its frames lie beyond the end of the file"
    found = endings.break_off(path, format_name)
    if found is None and ends_corrupt:
        found = "its last packet is not all there"
    if found is None and "mov" in format_name:
        claimed = boxes.fragments_seconds(path)
        if claimed is not None and _falls_short(stop_seconds - start_seconds, claimed):
            found = f"its index announces {claimed:.3f} s"
    return (
        found
        or _never_filled(path, container, num_bytes, stop_seconds - start_seconds)
        or _half_a_frame(path, format_name, num_bytes, last_packets)
        or last_frame_error(video_stream, last_packets)
    )


def _falls_short(seconds: float, claimed: float) -> bool:
    return claimed - seconds > max(SHORTFALL_SECONDS, SHORTFALL_SHARE * claimed)


def _never_filled(path: str, container: Any, num_bytes: int, seconds: float) -> str | None:
    """Looks at all streams where the pictures end long before the header says: audio may be longer."""
    if container.duration is None or not _falls_short(seconds, container.duration / av.time_base):
        return None
    last_byte, stop, start = 0, 0.0, None
    with contextlib.suppress(av.error.FFmpegError), av.open(f"file:{path}", metadata_errors="replace") as everything:
        for packet in everything.demux():
            if not packet.size or packet.pos is None or packet.pts is None:
                continue
            time = float(packet.pts * packet.time_base)
            start = time if start is None else min(start, time)
            stop = max(stop, time + float((packet.duration or 0) * packet.time_base))
            last_byte = max(last_byte, packet.pos + packet.size)
    unread = num_bytes - last_byte
    if start is None or not _falls_short(stop - start, container.duration / av.time_base):
        return None
    if unread <= max(UNREAD_BYTES, UNREAD_SHARE * num_bytes):
        return None
    return f"nothing can be read of its last {unread} bytes"


def _half_a_frame(path: str, format_name: str, num_bytes: int, last_packets: LastPackets) -> str | None:
    if format_name not in FIXED_FORMATS:
        return None
    last_byte = 0
    with contextlib.suppress(av.error.FFmpegError), av.open(f"file:{path}") as again:
        for packet in again.demux(video=0):
            if packet.size and packet.pos is not None:
                last_byte = max(last_byte, packet.pos + packet.size)
    rest = num_bytes - last_byte - FIXED_FORMATS[format_name]
    return f"{rest} bytes of a frame that is not all there" if last_byte and rest > 0 else None


def last_frame_error(stream: Any, last_packets: LastPackets) -> str | None:
    """Returns what the decoder says of the last packet; None where it has nothing to say, or nobody asked.

    It is decoded with what leads to it, and only an error at the last packet counts.
    """
    if not last_packets.packets:
        return None
    context = av.CodecContext.create(stream.codec_context.name, "r")
    context.extradata = stream.codec_context.extradata
    context.thread_count = 1
    *leading, last = last_packets.packets
    context.skip_frame = "NONREF"
    with contextlib.suppress(av.error.FFmpegError):
        for packet in leading:
            context.decode(packet)
    context.skip_frame = "DEFAULT"
    # What is concealed for want of data is told at the level of information.
    av.logging.set_libav_level(av.logging.INFO)
    try:
        complaints = Complaints()
        context.decode(last)
        context.decode(None)
        return f"its last frame is cut{complaints.quoted()}" if complaints else None
    except av.error.MemoryError:
        raise
    except av.error.FFmpegError as error:
        return f"its last frame does not decode ({error.strerror})"
    finally:
        av.logging.set_libav_level(av.logging.ERROR)
