"""Frames by PyAV: the second decoder, and the exact one: it tells frames apart by presentation time."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import av
import av.error
import numpy as np

from clipmill.pipelines.decode.choice import seek_plan
from clipmill.pipelines.decode.complaints import Complaints
from clipmill.pipelines.decode.containers import OpenVideo, check_upright, open_video
from clipmill.pipelines.decode.conversion import ToRGB
from clipmill.pipelines.decode.orientation import Orientation, Turns
from clipmill.pipelines.decode.scan import Timeline
from clipmill.schemas.arrays import Ints, Pixels
from clipmill.schemas.errors import VideoError

MAX_MISSING_SHARE = 0.5
"""A video of whose wanted frames more than this share cannot be decoded is refused (ours)."""
MAX_SEEK_RETRIES = 2
"""So many earlier key frames are tried when a seek leads past the wanted one (ours)."""


class FaultError(Exception):
    """A pass met something it cannot account for exactly; the next, more careful one starts over."""


@dataclass(slots=True)
class PassCounts:
    """What a pass has done so far."""

    num_decoded: int = 0
    substituted: list[int] = field(default_factory=list)
    scaler_flags: str | None = None


def version() -> str:
    """Returns the versions of PyAV and of the codec library inside it."""
    return f"{av.__version__} libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


def pyav_frames(
    path: str, timeline: Timeline, wanted: Ints, num_threads: int, careful: bool, counts: PassCounts
) -> Iterator[tuple[int, Pixels]]:
    """Yields index and ``uint8[H, W, 3]`` RGB of every wanted frame, in order, turned upright.

    Args:
        careful: one thread, no seek, and every wanted frame that cannot be decoded is substituted by the nearest
            earlier decodable one (at the start: the first decodable one) and counted. Otherwise any irregularity ends
            the pass.

    Raises:
        FaultError: not careful, and a frame is missing or the decoder complained.
        VideoError: ``undecodable``: not one frame; ``mostly_undecodable``: more than `MAX_MISSING_SHARE` are missing.
    """
    seeks = {} if careful else seek_plan(timeline, wanted)[0]
    with open_video(path, timeline.stream_index) as video:
        context = video.stream.codec_context
        context.thread_type = "SLICE" if careful or num_threads == 1 else "AUTO"
        context.thread_count = 1 if careful else num_threads
        reader = _Reader(video, timeline, None if careful else wanted, counts)
        try:
            if careful:
                yield from _substituting(reader, path, wanted, counts)
            else:
                yield from _exactly(reader, wanted, seeks)
        except av.error.MemoryError:
            raise MemoryError from None


def _exactly(reader: "_Reader", wanted: Ints, seeks: dict[int, int]) -> Iterator[tuple[int, Pixels]]:
    frames = reader.frames()
    complaints = Complaints()
    for index in map(int, wanted):
        if index in seeks:
            frames = reader.seek(seeks[index])
        for found, frame in frames:
            if complaints and not seeks:
                # After a seek FFmpeg rightly misses what frames before the key frame refer to: nobody wants those.
                raise FaultError(complaints.line())
            if found == index:
                yield index, reader.pixels(frame)
                break
            if found > index:
                raise FaultError(f"frame {index} does not come out of the decoder")
        else:
            raise FaultError(f"the decoder ends before frame {index}")


def _substituting(reader: "_Reader", path: str, wanted: Ints, counts: PassCounts) -> Iterator[tuple[int, Pixels]]:
    remaining = iter(map(int, wanted))
    index = next(remaining, None)
    last: Shown | None = None
    complaints = Complaints()
    for found, frame in reader.frames():
        while index is not None and index <= found:
            exact = index == found
            if not exact:
                _count_missing(path, index, wanted, counts)
            yield index, reader.pixels(frame if exact or last is None else last)
            index = next(remaining, None)
        last = frame
        if index is None:
            return
    if last is None:
        raise VideoError(
            "decode",
            "undecodable",
            f"video {path}: expected frames, got none that decodes{complaints.quoted()}; re-encode or replace it",
        )
    while index is not None:
        _count_missing(path, index, wanted, counts)
        yield index, reader.pixels(last)
        index = next(remaining, None)


def _count_missing(path: str, index: int, wanted: Ints, counts: PassCounts) -> None:
    counts.substituted.append(index)
    if len(counts.substituted) > MAX_MISSING_SHARE * len(wanted):
        raise VideoError(
            "decode",
            "mostly_undecodable",
            f"video {path}: expected at least {1 - MAX_MISSING_SHARE:.0%} of {len(wanted)} wanted frames to decode, "
            f"got {len(counts.substituted)} that do not; re-encode or replace it",
        )


class Shown(NamedTuple):
    """A decoded frame and which way up it is shown."""

    frame: Any
    orientation: Orientation


class _Reader:
    """Decodes a stream and tells which frame is which."""

    def __init__(self, video: OpenVideo, timeline: Timeline, only: Ints | None, counts: PassCounts) -> None:
        self._video = video
        self._careful = only is None
        self._counts = counts
        base = video.stream.time_base
        self._ticks = np.rint(timeline.pts_seconds * (base.denominator / base.numerator)).astype(np.int64)
        self._counted = timeline.counted
        self._key_frames = timeline.key_frames
        self._turns = Turns(video.stream)
        self._to_rgb = ToRGB(video.stream)
        self._num_packets = timeline.num_packets
        self._part_packets = timeline.part_packets.tolist()
        self._part_offsets = timeline.part_offsets.tolist()
        self._has_sought = False
        self._only = set(self._ticks[only].tolist()) if only is not None and not timeline.counted else None

    def seek(self, key_frame: int) -> Iterator[tuple[int, Shown]]:
        """Returns the frames from a key frame on; where the container leads too far, from one a little earlier."""
        last = int(np.searchsorted(self._key_frames, key_frame))
        for key in self._key_frames[max(last - MAX_SEEK_RETRIES, 0) : last + 1][::-1]:
            self._video.container.seek(int(self._ticks[key]), stream=self._video.stream)
            self._has_sought = True
            frames = self.frames()
            first = next(frames, None)
            # Starting elsewhere than at a key frame some codecs give frames that were never encoded.
            if first is not None and first[0] <= key_frame and first[1].frame.key_frame:
                return itertools.chain([first], frames)
        raise FaultError(f"seeking to frame {key_frame} does not lead there")

    def frames(self) -> Iterator[tuple[int, Shown]]:
        """Yields index and decoded frame, indices increasing; frames that are not on the timeline are passed over."""
        before = -1
        for number, frame in enumerate(self._decoded()):
            self._counts.num_decoded += 1
            orientation = self._turns.follow(frame)
            index = number if self._counted else self._index(frame, before)
            if index is None or index >= len(self._ticks):
                if self._num_packets is not None and frame.pts is not None and frame.pts > self._ticks[-1] + 1:
                    return
                if not self._careful:
                    raise FaultError(f"frame {number} has a time that no packet has")
                continue
            if index <= before:
                continue
            before = index
            yield index, Shown(frame, orientation)

    def _index(self, frame: Any, before: int) -> int | None:
        if frame.pts is None:
            return None
        index = int(np.searchsorted(self._ticks, frame.pts))
        if index == len(self._ticks) or self._ticks[index] != frame.pts:
            # Rounding of seconds to ticks and back can be off by one where a tick is shorter than a float's last bit.
            near = min(max(index, 1), len(self._ticks) - 1)
            index = near if abs(self._ticks[near] - frame.pts) < abs(self._ticks[near - 1] - frame.pts) else near - 1
            if abs(self._ticks[index] - frame.pts) > 1:
                return None
        # Frames that share one time are told apart by their order.
        while index <= before and index + 1 < len(self._ticks) and self._ticks[index + 1] == self._ticks[index]:
            index += 1
        return index

    def _decoded(self) -> Iterator[Any]:
        stream = self._video.stream
        packets = self._packets()
        while True:
            try:
                packet = next(packets, None)
            except av.error.MemoryError:
                raise
            except av.error.FFmpegError as error:
                if not self._careful:
                    raise FaultError(f"the container breaks off ({error.strerror})") from None
                packet = None
            if packet is not None and packet.size:
                self._turns.note(packet)
            if self._only is not None and packet is not None and packet.size:
                # Unwanted frames that no other frame depends on need not be decoded at all.
                stream.codec_context.skip_frame = "DEFAULT" if packet.pts in self._only else "NONREF"
            try:
                frames = stream.codec_context.decode(packet)
            except av.error.MemoryError:
                raise
            except av.error.EOFError:
                return
            except av.error.FFmpegError as error:
                if not self._careful:
                    raise FaultError(f"a packet does not decode ({error.strerror})") from None
                frames = []
            for frame in frames:
                if not frame.is_corrupt:
                    yield frame
                elif not self._careful:
                    raise FaultError("a frame is marked corrupt by its decoder")
            if packet is None:
                return

    def _packets(self) -> Iterator[Any]:
        """Yields the packets the scan counted, each part of a joined recording on the clock of the first one."""
        number = 0
        part = 0
        for packet in self._video.container.demux(self._video.stream):
            # After a seek nobody knows a packet's number: what the scan left out at the end has no place in time.
            if packet.size and not self._has_sought:
                if self._num_packets is not None and number >= self._num_packets:
                    return
                while part + 1 < len(self._part_packets) and number >= self._part_packets[part + 1]:
                    part += 1
                if part:
                    offset = self._part_offsets[part]
                    packet.pts = packet.pts if packet.pts is None else packet.pts + offset
                    packet.dts = packet.dts if packet.dts is None else packet.dts + offset
                number += 1
            yield packet

    def pixels(self, shown: Shown) -> Pixels:
        """Returns the frame as ``uint8[H, W, 3]`` RGB, by its own matrix and range, turned upright.

        Raises:
            VideoError: ``unsupported_rotation``.
        """
        check_upright(self._video.path, shown.orientation)
        pixels = self._to_rgb(shown.frame)
        self._counts.scaler_flags = self._to_rgb.scaler_flags
        return shown.orientation.apply(pixels)
