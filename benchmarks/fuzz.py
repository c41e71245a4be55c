"""Builds features of damaged real video files, and checks that each has rows or a reason, in time.

    python -m benchmarks.fuzz [--minutes 3] [--sources FOLDER] [--seed 0] [--keep FOLDER]

Files of seven containers are encoded, and those of ``--sources`` are added. Copies of them are damaged: bits flipped,
spans overwritten, dropped, doubled or moved, ends cut off, two files joined in the middle, sizes of boxes and counts
set to extremes, many times over or once, in the first kilobytes or anywhere. One build runs over each batch of copies,
as a command of its own, with a task for each file. Counted, and to be zero:

- silent: files with neither rows nor a reason;
- late: files whose task took longer than its deadlines allow, its networks aside;
- crashed: builds that ended with another exit code than 0 or 3, or printed a traceback, or did not end in time.

A file that counts is kept in ``--keep``, with what the build said. Exit code 1 where one is not zero.
"""

import argparse
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import yaml

from clipmill.schemas.errors import EXIT_COMPLETE, EXIT_QUARANTINED
from clipmill.schemas.task import TaskResult
from clipmill.stores import FeatureStore
from tests.encoded_videos import draw_frame

CONTAINERS = (
    ("mp4", "libx264"),
    ("mkv", "libx264"),
    ("avi", "mpeg4"),
    ("webm", "libvpx-vp9"),
    ("ts", "mpeg2video"),
    ("mov", "mjpeg"),
    ("flv", "flv"),
)
DEADLINE_SECONDS = 10.0
MAX_ATTEMPTS = 2
SLACK_SECONDS = 30.0
"""Children start, and a machine may be busy."""

LATE_SECONDS = MAX_ATTEMPTS * 2 * DEADLINE_SECONDS + SLACK_SECONDS
"""What a file's task may take beside its networks: a scan and a decoding, each tried so often."""

MOST_BYTES = 4 << 20
HEADER_BYTES = 4096
Damage = Callable[[bytearray, random.Random, Sequence[bytes]], None]


def _place(data: bytearray, rng: random.Random) -> int:
    """Returns a place: half of them where headers are, at the front or (MP4's index) at the back."""
    if not data:
        return 0
    return rng.choice(
        [
            rng.randrange(len(data)),
            rng.randrange(len(data)),
            rng.randrange(min(HEADER_BYTES, len(data))),
            len(data) - 1 - rng.randrange(min(HEADER_BYTES, len(data))),
        ]
    )


def _span(data: bytearray, rng: random.Random) -> tuple[int, int]:
    start = _place(data, rng)
    return start, min(start + int(2 ** rng.uniform(0, 14)), len(data))


def flip(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    """Flips up to 64 bits."""
    for _ in range(int(2 ** rng.uniform(0, 6))):
        if data:
            data[_place(data, rng)] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    """Overwrites a span with zeros, ones or noise."""
    start, stop = _span(data, rng)
    filling = rng.choice([b"\x00", b"\xff", None])
    data[start:stop] = rng.randbytes(stop - start) if filling is None else filling * (stop - start)


def drop(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    """Drops a span."""
    start, stop = _span(data, rng)
    del data[start:stop]


def double(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    """Puts a span in once more, somewhere."""
    start, stop = _span(data, rng)
    at = _place(data, rng)
    data[at:at] = data[start:stop]


def cut(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    """Cuts the end off."""
    del data[_place(data, rng) :]


def join(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    """Goes on, from somewhere, with another file."""
    other = rng.choice(others)
    del data[_place(data, rng) :]
    data += other[rng.randrange(len(other)) :]


def extreme(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    """Sets a number of 1 to 8 bytes to an extreme: sizes, counts, times and scales are such numbers."""
    kind = rng.choice([">B", ">H", ">I", ">Q", "<I", "<H"])
    width = struct.calcsize(kind)
    most = (1 << 8 * width) - 1
    at = _place(data, rng)
    if at + width <= len(data):
        data[at : at + width] = struct.pack(kind, rng.choice([0, 1, most, most >> 1, (most >> 1) + 1, most - 7]))


DAMAGES: tuple[Damage, ...] = (flip, overwrite, drop, double, cut, join, extreme, extreme)


@dataclass(slots=True)
class Tally:
    """What was seen."""

    num_files: int = 0
    num_rows: int = 0
    longest_seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def encode(path: Path, codec: str) -> None:
    """Writes a real video of two seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(12))
        stream.width, stream.height = 96, 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size = 8
        for number in range(24):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(draw_frame(number, 96, 64), format="rgb24")))
        container.mux(stream.encode(None))


def sources_of(root: Path, folder: Path | None) -> list[tuple[str, bytes]]:
    """Returns suffix and bytes of each file that is to be damaged."""
    root.mkdir(parents=True)
    for suffix, codec in CONTAINERS:
        encode(root / f"{codec}.{suffix}", codec)
    files = sorted(root.iterdir())
    if folder is not None:
        files += sorted(
            path
            for path in folder.rglob("*")
            if path.is_file() and path.suffix in (".mp4", ".mkv", ".webm", ".avi", ".mov", ".ts")
        )
    return [(path.suffix, path.read_bytes()[:MOST_BYTES]) for path in files]


def damaged(sources: Sequence[tuple[str, bytes]], rng: random.Random) -> tuple[str, bytes, str]:
    """Returns suffix and bytes of a damaged file, and what was done to it."""
    suffix, original = rng.choice(sources)
    data, done = bytearray(original), []
    for _ in range(rng.choice([1, 1, 2, 4])):
        damage = rng.choice(DAMAGES)
        damage(data, rng, [other for _, other in sources])
        done.append(damage.__name__)
    return suffix, bytes(data), "+".join(done)


def run_batch(root: Path, keep: Path | None, tally: Tally) -> None:
    """Builds the files of ``root/videos`` and counts what came of them."""
    config = {
        "store": {"url": str(root / "store")},
        "videos": {"folder": str(root / "videos")},
        "features": {"frames": {"extractor": "squeezenet", "weights": {"random": 1}, "sampling": {"fps": 4}}},
        "decode": {"deadline_seconds": DEADLINE_SECONDS, "truncated": "keep"},
        "engine": {
            "device": "cpu",
            "threads": 1,
            "task_seconds": 1e-6,
            "max_attempts": MAX_ATTEMPTS,
            "max_fault_share": 1,
        },
    }
    (root / "build.yaml").write_text(yaml.safe_dump(config))
    names = sorted(path.name for path in (root / "videos").iterdir())
    command = [sys.executable, "-m", "clipmill", "build", "--config", str(root / "build.yaml"), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _, said = process.communicate(timeout=LATE_SECONDS * len(names))
    except subprocess.TimeoutExpired:
        process.kill()
        _, said = process.communicate()
        said += "\n(no end in time)"
    tally.num_files += len(names)
    if process.returncode not in (EXIT_COMPLETE, EXIT_QUARANTINED) or "Traceback" in said:
        tally.found["crashed"] += 1
        tally.notes.append(f"crashed: exit code {process.returncode}: {said[-2000:]}")
        _keep(root, keep, names)
        return
    features = FeatureStore(str(root / "store"))
    with_rows = set(features["frames"].video_ids)
    reasons = {row["video_id"]: row["reason"] for row in features.store.quarantine().to_pylist()}
    tally.num_rows += len(with_rows)
    tally.reasons.update(reasons.values())
    silent = [name for name in names if name not in with_rows and name not in reasons]
    (run,) = features.store.runs()
    results = features.store.task_results(run)
    late = [result for result in results if _seconds(result) > LATE_SECONDS * result.num_videos]
    tally.longest_seconds = max([tally.longest_seconds, *map(_seconds, results)])
    tally.found["silent"] += len(silent)
    tally.found["late"] += len(late)
    tally.notes += [f"silent: {name}" for name in silent]
    tally.notes += [f"late: task {result.key} took {_seconds(result):.0f} s" for result in late]
    _keep(root, keep, names if late else silent)


def _seconds(result: TaskResult) -> float:
    """Returns what a task took without its networks: a damaged time scale may well ask for thousands of windows."""
    return result.seconds.get("total", 0.0) - result.seconds.get("forward", 0.0)


def _keep(root: Path, keep: Path | None, names: Sequence[str]) -> None:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy(root / "videos" / name, keep / name)


def fuzz(root: Path, sources: Path | None, seed: int, seconds: float, batch: int, keep: Path | None = None) -> Tally:
    """Damages and builds batches of files until `seconds` have passed; at least one."""
    rng, tally = random.Random(seed), Tally()
    found = sources_of(root / "sources", sources)
    until = time.monotonic() + seconds
    number = 0
    while number == 0 or time.monotonic() < until:
        folder = root / f"batch {number}"
        (folder / "videos").mkdir(parents=True)
        for index in range(batch):
            suffix, data, done = damaged(found, rng)
            (folder / "videos" / f"{number:04d}-{index:03d}-{done}{suffix}").write_bytes(data)
        run_batch(folder, keep, tally)
        shutil.rmtree(folder)
        number += 1
    return tally


def main() -> None:
    """Prints what was seen and found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--sources", type=Path, help="folder of further files to damage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=60)
    parser.add_argument("--keep", type=Path, help="folder for files that count")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clipmill-fuzz-") as name:
        tally = fuzz(Path(name), options.sources, options.seed, options.minutes * 60, options.batch, options.keep)
    reasons = ", ".join(f"{reason} {count}" for reason, count in tally.reasons.most_common())
    print(f"{tally.num_files} damaged files: {tally.num_rows} with rows; {reasons}")
    print(
        f"longest task {tally.longest_seconds:.1f} s; "
        + ", ".join(f"{kind} {tally.found[kind]}" for kind in ("silent", "late", "crashed"))
    )
    for note in tally.notes:
        print(f"  {note}")
    sys.exit(1 if tally.found.total() else 0)


if __name__ == "__main__":
    main()
