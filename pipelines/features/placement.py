"""Where windows lie in a sequence of frames, by the rules beside the plain grid that published extractors use.

Pure arithmetic on positions: a sequence has frames 0 to ``length - 1``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from clipmill.schemas.recipe import Sampling


@dataclass(frozen=True, slots=True)
class Placed:
    """One window: positions in the sequence, of which the last `num_padded` stand in for frames there are not."""

    positions: tuple[int, ...]
    num_padded: int = 0


def has_own_rule(sampling: Sampling) -> bool:
    """Returns whether `place` says where the windows lie; else they lie on the plain grid, or are drawn."""
    keys = (sampling.uniform_windows, sampling.first_frame, sampling.frames_after, sampling.block_frames)
    of_tail = sampling.tail in ("loop", "before_last", "both_ways")
    return sampling.random_frames is None and (sampling.centred or of_tail or any(key is not None for key in keys))


def place(length: int, sampling: Sampling) -> tuple[list[Placed], int]:
    """Returns the windows of a sequence of `length` frames, and how many incomplete ones were dropped."""
    windows: list[Placed] = []
    num_dropped = 0
    for start, stop in _blocks(length, sampling):
        found, dropped = _in_block(stop - start, sampling)
        windows += [Placed(tuple(start + position for position in item.positions), item.num_padded) for item in found]
        num_dropped += dropped
    return windows, num_dropped


def _blocks(length: int, sampling: Sampling) -> list[tuple[int, int]]:
    size = sampling.block_frames
    if size is None:
        return [(0, length)]
    blocks = []
    for start in range(0, max(length - 1, 1), size):
        stop = min(start + size, length)
        blocks.append((max(min(start, stop - (sampling.frames or 1)), 0), stop))
    return blocks


def _in_block(length: int, sampling: Sampling) -> tuple[list[Placed], int]:
    frames, every = sampling.frames or 1, sampling.every
    step = sampling.step or frames
    if sampling.centred:
        before = frames // 2 * every
        return [_centred(centre - before, frames, every, length) for centre in range(0, length, step)], 0
    if sampling.tail == "before_last":
        return _before_last(length, frames, step)
    first = sampling.first_frame or 0
    usable = length - (sampling.frames_after or 0)
    if sampling.uniform_windows is not None:
        starts: Sequence[int] = _uniform(usable - first, frames * every, sampling.uniform_windows)
        starts = [first + start for start in starts]
    elif sampling.tail == "both_ways":
        starts = _both_ways(usable, frames * every, step)
    else:
        starts = _grid(first, usable, (frames - 1) * every + 1, step, sampling.tail)
    windows, num_dropped = [], 0
    for start in starts:
        found = list(range(start, min(start + (frames - 1) * every + 1, usable), every))
        missing = frames - len(found)
        if not found or (missing and sampling.tail == "drop"):
            num_dropped += 1
        elif sampling.tail == "loop":
            windows.append(Placed(tuple(found[index % len(found)] for index in range(frames)), missing))
        else:
            last = found[-1] if sampling.tail == "both_ways" else usable - 1
            windows.append(Placed((*found, *[last] * missing), missing))
    return windows, num_dropped


def _grid(first: int, length: int, span: int, step: int, tail: str) -> list[int]:
    starts = list(range(first, length - span + 1, step))
    next_start = first + len(starts) * step
    covered = starts[-1] + span if starts else 0
    if covered >= length or next_start >= length:
        return starts
    return [*starts, length - span if tail == "overlap" and length - span >= first else next_start]


def _uniform(length: int, needed: int, count: int) -> list[int]:
    spare = max(length - needed, 0)
    if count == 1:
        return [spare // 2]
    return [min(int(index * (spare / (count - 1))), max(length - 1, 0)) for index in range(count)]


def _both_ways(length: int, needed: int, step: int) -> list[int]:
    forward = range(0, max(length - needed, 0) + 1, step)
    backward = range(length - needed, -1, -step)
    return sorted({*forward, *backward})


def _centred(start: int, frames: int, every: int, length: int) -> Placed:
    wanted = [start + index * every for index in range(frames)]
    positions = tuple(min(max(position, 0), length - 1) for position in wanted)
    return Placed(positions, sum(position != asked for position, asked in zip(positions, wanted, strict=True)))


def _before_last(length: int, frames: int, step: int) -> tuple[list[Placed], int]:
    windows = []
    for wanted in range(0, length, step):
        stop = min(length - 1, wanted + frames)
        start = max(0, stop - frames) if stop - wanted < frames else wanted
        if stop > start:
            windows.append(Placed(tuple(range(start, stop))))
    return windows, 0 if windows else 1
