"""Clocks that jump: parts of a recording that were joined end to end are laid one after the other.

Nothing here decodes. A container's packets come in decode order, in which a stream's clock goes forward only. Where it
does not, another recording begins (files joined byte by byte, a recorder that began anew), or its clock has wrapped.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Ticks = npt.NDArray[np.int64]

DISCONTINUOUS_FORMATS = frozenset({"mpegts", "mpegtsraw", "mpeg", "ogg", "nsv"})
"""Containers made to be joined and cut: libavformat's AVFMT_TS_DISCONT. In others a long step is a long display."""
DECODING_TIMES_FORMATS = frozenset({"mpegts", "mpegtsraw", "flv", "live_flv"})
"""Containers that store decoding times: those alone show that a clock went back. Others' are libavformat's guess."""
BACK_SECONDS = 0.1
FORWARD_SECONDS = 10.0
"""ffmpeg's own limits for a clock that went back, and for a gap that is none (``-dts_delta_threshold``)."""
FORWARD_STEPS = 100
"""A gap is a jump only beyond so many usual steps (ours): a lecture's slides are a minute apart in MPEG-TS, too."""
REORDERED_FRAMES = 17
"""A packet that is no key frame may lie this many frames back: 16 is the most that H.264 and HEVC reorder."""
LONG_DISPLAY_SECONDS = 3600.0
LONG_DISPLAY_STEPS = 10_000
VERY_LONG_DISPLAY_SECONDS = 7 * 86400.0
"""A frame on display for longer than the first two, in a container without discontinuities, is taken for a jump; one
for longer than the third is no jump of a clock either: its times are damaged, which whoever reads them tells (ours)."""
MIN_PART_PACKETS = 8
"""Parts shorter than this on average are no joined recordings but times without order (ours)."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the parts of a stream lie.

    Attributes:
        pts, dts: ``int64[N]``, of each packet in the order of the file, on one clock.
        first_packets: ``int64[P]``, number of the packet each part begins with; the first is 0.
        offsets: ``int64[P]``, ticks that were added to the times of each part; the first is 0.
        problem: why the parts cannot be laid one after the other: the jump, in words. `pts` is unchanged then.
    """

    pts: Ticks
    dts: Ticks
    first_packets: Ticks = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    offsets: Ticks = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    problem: str | None = None

    @property
    def num_parts(self) -> int:
        """One where the clock never jumps."""
        return len(self.first_packets)


def lay_out(
    pts: Ticks, dts: Ticks, duration: Ticks, key: npt.NDArray[np.bool_], tick_seconds: float, format_name: str
) -> Layout:
    """Returns the packets of a stream on one clock: each part begins where the display of the one before it ends.

    Where the clock jumps between a key frame and the next, decoding goes on without a gap instead.

    Args:
        pts, dts, duration: ``int64[N]``, of each packet, in the order of the file.
        key: ``bool[N]``, which packets are key frames.
        format_name: libavformat's name of the container.
    """
    if len(pts) < 2:
        return Layout(pts, dts)
    step = _usual_step(pts, duration)
    starts = _jumps(pts, dts, key, tick_seconds, step, format_name)
    if format_name not in DISCONTINUOUS_FORMATS:
        longest = _longest_display(pts, [0, *starts])
        shortest = max(LONG_DISPLAY_SECONDS / tick_seconds, LONG_DISPLAY_STEPS * step)
        if longest is not None and shortest < longest[1] <= VERY_LONG_DISPLAY_SECONDS / tick_seconds:
            before = longest[0]
            text = f"from {before * tick_seconds:.3f} s to {(before + longest[1]) * tick_seconds:.3f} s"
            return Layout(pts, dts, problem=f"a jump {text}, which no frame fills")
    if not starts:
        return Layout(pts, dts)
    if len(pts) < MIN_PART_PACKETS * (len(starts) + 1):
        first = starts[0]
        text = f"from {pts[first - 1] * tick_seconds:.3f} s to {pts[first] * tick_seconds:.3f} s"
        return Layout(pts, dts, problem=f"{len(starts)} jumps in {len(pts)} packets, the first {text}")
    bounds = [0, *starts, len(pts)]
    moved_pts, moved_dts = pts.copy(), dts.copy()
    offsets = [0]
    for start, stop, following in zip(bounds[:-2], bounds[1:-1], bounds[2:], strict=True):
        if format_name in DECODING_TIMES_FORMATS and not key[stop]:
            # The same recording goes on, with pictures still to be shown before those that precede the jump.
            offsets.append(int(moved_dts[stop - 1]) + (int(duration[stop - 1]) or step) - int(dts[stop]))
        else:
            last = start + int(np.argmax(moved_pts[start:stop]))
            end = int(moved_pts[last]) + (int(duration[last]) or step)
            offsets.append(end - int(pts[stop:following].min()))
        moved_pts[stop:following] += offsets[-1]
        moved_dts[stop:following] += offsets[-1]
    return Layout(moved_pts, moved_dts, np.array(bounds[:-1], dtype=np.int64), np.array(offsets, dtype=np.int64))


def _usual_step(pts: Ticks, duration: Ticks) -> int:
    """Returns the median time between two frames, in ticks; at least 1."""
    known = duration[duration > 0]
    if len(known):
        return max(int(np.median(known)), 1)
    steps = np.diff(np.unique(pts))
    return max(int(np.median(steps)), 1) if len(steps) else 1


def _jumps(
    pts: Ticks, dts: Ticks, key: npt.NDArray[np.bool_], tick_seconds: float, step: int, format_name: str
) -> list[int]:
    """Returns the numbers of the packets before which the clock jumps."""
    back = BACK_SECONDS / tick_seconds
    # Not every container states durations, and few state those of a variable rate.
    longer = max(step, int(np.median(np.abs(np.diff(pts)))))
    far_back = max(1.0 / tick_seconds, REORDERED_FRAMES * longer)
    forward = np.inf
    if format_name in DISCONTINUOUS_FORMATS:
        forward = max(FORWARD_SECONDS / tick_seconds, FORWARD_STEPS * longer)
    starts = []
    latest = int(pts[0])
    keyed = key.tolist()
    for number, (time, order) in enumerate(zip(pts.tolist()[1:], dts.tolist()[1:], strict=True), start=1):
        before = int(dts[number - 1])
        # What precedes a key frame in the file precedes it on display, also in an open group of pictures.
        gone_back = order < before - back and (
            format_name in DECODING_TIMES_FORMATS or time < latest - (back if keyed[number] else far_back)
        )
        if gone_back or (order - before > forward and time - latest > forward):
            starts.append(number)
            latest = time
        else:
            latest = max(latest, time)
    return starts


def _longest_display(pts: Ticks, starts: list[int]) -> tuple[int, int] | None:
    """Returns when the frame that is longest on display is shown, and for how long, within one part."""
    longest: tuple[int, int] | None = None
    for start, stop in zip(starts, [*starts[1:], len(pts)], strict=True):
        times = np.unique(pts[start:stop])
        if len(times) > 1:
            steps = np.diff(times)
            place = int(np.argmax(steps))
            if longest is None or steps[place] > longest[1]:
                longest = (int(times[place]), int(steps[place]))
    return longest
