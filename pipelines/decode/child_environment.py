"""What the environment of decode children is. It imports nothing, so that they can be had started at once."""

import os
from pathlib import Path

# Not resolved: the folder that holds `clipmill`, which in a checkout links to this one.
ROOT = Path(__file__).absolute().parents[3]

ENVIRONMENT = {
    # One compute thread: what runs in the child is copying and resizing single frames beside a decoder with its own.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
    # glibc reserves 128 MiB of address space per arena, which the ceiling on address space would count.
    "MALLOC_ARENA_MAX": "2",
    # Frames are freed and asked for again all the time: glibc would give each back to the system, which fills the next
    # with zeros first. 32 MiB is the most it takes; a frame of 4K has 25.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    # decord gives up on the last frames of a file after so many polls of its own decoder thread: on a busy machine it
    # would report faults that are none. The deadline is what ends a real hang.
    "DECORD_EOF_RETRY_MAX": str(2**31 - 1),
    # decord would otherwise answer a lost frame with an earlier one, uncounted, where it holds no frame to repeat.
    "DECORD_REWIND_RETRY_MAX": "-1",
}


def child_environment() -> dict[str, str]:
    """Returns what the environment of a child that starts now is."""
    return os.environ | ENVIRONMENT | {"PYTHONPATH": python_path()}


def python_path() -> str:
    """Returns this process's ``PYTHONPATH`` with the folder of this package before it."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
