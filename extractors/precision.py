"""Whether reduced precision is worth anything on this machine's CPU: measured, as no flag of a CPU tells."""

import time
import warnings
from functools import cache

SLOWER_BY = 1.5
"""ours: from this factor on it is told. Where a CPU has the instructions, reduced precision is faster than float32."""
MANY_TIMES = 8
"""ours: so much slower at the first try is no chance, and is not tried again."""
CHANNELS, SIDE = 64, 28
"""Of the convolution that is timed (ours): 29 MMAC, a millisecond in float32, a tenth of a second where it is slow."""
REPETITIONS = 10


class SlowPrecisionWarning(UserWarning):
    """A recipe's precision is slower here than float32."""


def warn_if_slow(feature: str, precision: str, device: str) -> None:
    """Warns, with the factor, where `precision` is slower than float32 on this CPU; says nothing of a GPU."""
    if precision == "float32" or device != "cpu":
        return
    factor = slowdown(precision)
    if factor >= SLOWER_BY:
        warnings.warn(
            f"features.{feature}.precision: {precision} is {factor:.0f} times slower than float32 on this CPU, which "
            "lacks the instructions for it; use precision: float32, or a GPU",
            SlowPrecisionWarning,
            stacklevel=2,
        )


@cache
def slowdown(precision: str) -> float:
    """Returns how many times longer a convolution takes in `precision` than in float32; below 1 where it is quicker.

    Measured once per process on one thread, which other work on the machine disturbs least, in a fraction of a second:
    a slow precision is timed once, as it needs no more.
    """
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        exact = _seconds(torch.float32, REPETITIONS)
        reduced = _seconds(getattr(torch, precision), 1)
        if reduced < MANY_TIMES * exact:
            reduced = min(reduced, _seconds(getattr(torch, precision), REPETITIONS))
    finally:
        torch.set_num_threads(num_threads)
    return reduced / exact


def _seconds(dtype: object, repetitions: int) -> float:
    """Returns the least time of a small convolution, after one to warm up."""
    import torch

    maps = torch.ones(1, CHANNELS, SIDE, SIDE).to(dtype)  # type: ignore[call-overload]
    kernels = torch.ones(CHANNELS, CHANNELS, 3, 3).to(dtype)  # type: ignore[call-overload]
    found = []
    with torch.inference_mode():
        torch.nn.functional.conv2d(maps[:, :, :3, :3], kernels)
        for _ in range(repetitions):
            started = time.perf_counter()
            torch.nn.functional.conv2d(maps, kernels, padding=1)
            found.append(time.perf_counter() - started)
    return min(found)
