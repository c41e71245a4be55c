"""Frames by decord, walked from the first to the last, so that its own account at the end proves that none was lost.

decord counts frames instead of looking at their times, so a lost frame shifts all that follow; it notices only at the
end of the file, where it repeats its last frame. A fault tolerance below one frame turns that into an error. Its seeks
are not used: they are wrong where pictures are shown before the key frame they follow (open groups of pictures).
"""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import decord
import numpy as np
import numpy.typing as npt

from clipmill.pipelines.decode.complaints import Complaints
from clipmill.pipelines.decode.pyav_frames import FaultError, PassCounts
from clipmill.pipelines.decode.scan import Timeline
from clipmill.schemas.arrays import Pixels

NO_FAULT_TOLERATED = 1e-9
"""As a share of all frames: less than one. The integer 0 would switch decord's check off."""
FLOAT32_SECONDS = 1e-6
"""decord keeps times as float32: relative rounding, with room for one more operation."""

_PLACE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+?:\d+: ")


def decord_frames(
    path: str, timeline: Timeline, wanted: npt.NDArray[np.int64], num_threads: int, counts: PassCounts
) -> Iterator[tuple[int, Pixels]]:
    """Yields index and ``uint8[H, W, 3]`` RGB of every wanted frame, in order.

    Raises:
        FaultError: decord cannot open the file, sees another timeline, lost a frame, or FFmpeg complained of one.
    """
    decord.logging.set_level(decord.logging.ERROR)
    complaints = Complaints()
    reader = _open(path, timeline, num_threads)
    steps = _steps(reader, wanted, timeline.num_frames)
    for index, is_wanted in zip(steps.tolist(), np.isin(steps, wanted).tolist(), strict=True):
        follows = index == counts.num_decoded
        pixels = _ask(reader.next if follows else functools.partial(reader.__getitem__, index))
        if complaints:
            raise FaultError(f"decord: {complaints.line()}")
        counts.num_decoded = index + 1
        if is_wanted:
            yield index, _as_array(pixels)


def _open(path: str, timeline: Timeline, num_threads: int) -> decord.VideoReader:
    reader = _ask(lambda: decord.VideoReader(f"file:{path}", num_threads=num_threads, fault_tol=NO_FAULT_TOLERATED))
    if len(reader) != timeline.num_frames:
        raise FaultError(f"decord counts {len(reader)} frames, the packet scan {timeline.num_frames}")
    if not timeline.counted:
        seen = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
        expected = timeline.pts_seconds - timeline.pts_seconds[0]
        apart = np.abs((seen - seen[0]) - expected) - FLOAT32_SECONDS * np.abs(expected)
        shortest = float(np.diff(expected).min()) if len(expected) > 1 else 0.0
        if apart.max() > max(shortest / 4, FLOAT32_SECONDS):
            raise FaultError(f"decord places frame {int(apart.argmax())} {apart.max():.3f} s away from the packet scan")
    return reader


class _Capsule:
    """Hands decord's array to NumPy without a copy: what leaves this process is copied once, into the ring."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **_: Any) -> Any:
        return self._array.to_dlpack()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def _as_array(frame: Any) -> Pixels:
    pixels: Pixels = np.asarray(np.from_dlpack(_Capsule(frame)), dtype=np.uint8)
    if pixels.ndim != 3 or pixels.shape[2] < 3:
        raise FaultError(f"decord gives an array of shape {list(pixels.shape)}")
    # FFmpeg pads rows as the processor's vectors want them (to 128 bytes with AVX-512), and decord takes what it can of
    # the padding for further channels: the 384 bytes of a row of 96 pixels for four. The pixels come first.
    height, width, _ = pixels.shape
    return pixels.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


def _steps(reader: decord.VideoReader, wanted: npt.NDArray[np.int64], num_frames: int) -> npt.NDArray[np.int64]:
    """Returns the wanted frames, the last one, and one before every key frame.

    With those in between decord never has a reason to seek: it seeks when a frame lies behind another key frame.
    """
    stones = np.array(reader.get_key_indices(), dtype=np.int64) - 1
    stones = stones[(stones > 0) & (stones < num_frames)]
    steps: npt.NDArray[np.int64] = np.unique(np.concatenate([wanted, stones, [num_frames - 1]]))
    return steps


def _ask(question: Callable[[], Any]) -> Any:
    """Returns decord's answer.

    Raises:
        FaultError: it refuses.
        MemoryError: it needs more memory than the child may have.
    """
    try:
        return question()
    except MemoryError:
        raise
    except Exception as error:
        # decord raises its own error, AssertionError, RuntimeError or IndexError, depending on where it notices.
        text = str(error)
        if "bad_alloc" in text or "Cannot allocate memory" in text:
            raise MemoryError from None
        lines = [line for line in text.splitlines() if line.strip()]
        raise FaultError("decord: " + (_PLACE.sub("", lines[0])[:160] if lines else type(error).__name__)) from None
