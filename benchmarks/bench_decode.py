"""Decoding through the session against the bare decoders, in one run on one machine.

    python benchmarks/bench_decode.py [FOLDER] [--videos 12] [--repeats 3]

Prints frames per second of wall time and processor milliseconds per frame, parent and child together, each as the
median over repeats that take turns, so that what else the machine does falls on all of them alike. Packet scans and the
start of the child (once per 200 videos) are measured apart.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import av  # noqa: E402
import decord  # noqa: E402

from clipmill.pipelines.decode.process import decoder_threads  # noqa: E402
from clipmill.pipelines.decode.scan import Timeline, scan  # noqa: E402
from clipmill.pipelines.decode.session import DecodedFrame, DecodeRequest, DecodeSession, View  # noqa: E402
from clipmill.schemas.recipe import Preprocess  # noqa: E402

MEDIA = {".mp4", ".mov", ".mkv", ".avi", ".webm"}
CHUNK_FRAMES = 32
AS_IS = Preprocess()
C3D = Preprocess(resize="exact", size=(128, 171), crop=(112, 112))


def raw_decord(paths: list[str], step: int) -> int:
    """Decodes with ``get_batch``, the way decord is used by itself; returns the number of frames."""
    count = 0
    for path in paths:
        reader = decord.VideoReader(path, num_threads=decoder_threads())
        wanted = range(0, len(reader), step)
        for start in range(0, len(wanted), CHUNK_FRAMES):
            count += len(reader.get_batch(list(wanted[start : start + CHUNK_FRAMES])).asnumpy())
    return count


def raw_pyav(paths: list[str], step: int) -> int:
    """Decodes everything in order, converts every `step`-th frame; returns the number of frames."""
    count = 0
    for path in paths:
        with av.open(path) as container:
            stream = container.streams.best("video")
            stream.thread_type, stream.codec_context.thread_count = "AUTO", decoder_threads()
            for number, frame in enumerate(container.decode(stream)):
                if number % step == 0:
                    frame.to_ndarray(format="rgb24")
                    count += 1
    return count


def through_session(
    session: DecodeSession, timelines: dict[str, Timeline], step: int, decoder: str, preprocess: Preprocess
) -> int:
    """Decodes through a session whose child is running; returns the number of frames."""
    requests = [
        DecodeRequest(path, timeline, (View(preprocess, np.arange(0, timeline.num_frames, step)),), decoder)
        for path, timeline in timelines.items()
    ]
    return sum(isinstance(event, DecodedFrame) for event in session.run(requests))


def processor_seconds(pid: int) -> float:
    """Returns what this process and a running child have spent on processors so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    own = os.times()
    return own.user + own.system + sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def measure(ways: dict[str, Callable[[], int]], repeats: int, pid: int) -> dict[str, tuple[float, float]]:
    """Returns, per way, the medians of frames per second and processor milliseconds per frame."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            wall, processor = time.perf_counter(), processor_seconds(pid)
            count = way()
            wall, processor = time.perf_counter() - wall, processor_seconds(pid) - processor
            found[name].append((count / wall, 1000 * processor / count))
    return {name: tuple(map(statistics.median, zip(*runs, strict=True))) for name, runs in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=str(ROOT.parent / "shared" / "data" / "clips" / "topics70"))
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    decord.logging.set_level(decord.logging.QUIET)
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(str(path) for path in Path(arguments.folder).rglob("*") if path.suffix in MEDIA)
        if not paths:
            from encoded_videos import encode_video

            paths = [str(encode_video(Path(folder) / f"{i}.mp4", 400, width=426, height=240)) for i in range(4)]
        paths = paths[:: max(len(paths) // arguments.videos, 1)][: arguments.videos]
        scan(paths[0])
        started = time.perf_counter()
        timelines = {path: scan(path) for path in paths}
        scanned = time.perf_counter()
        session = DecodeSession(videos_per_child=1_000_000)
        through_session(session, {paths[0]: timelines[paths[0]]}, 1_000_000, "decord", AS_IS)
        print(
            f"{len(paths)} videos, {decoder_threads()} decoder threads, load {os.getloadavg()[0]:.1f}, "
            f"packet scan {1000 * (scanned - started) / len(paths):.1f} ms per video, "
            f"start of a child {time.perf_counter() - scanned:.2f} s"
        )
        for step in (1, 25):
            results = measure(
                {
                    "raw decord get_batch": lambda step=step: raw_decord(paths, step),
                    "raw PyAV": lambda step=step: raw_pyav(paths, step),
                    "session, auto": lambda step=step: through_session(session, timelines, step, "auto", AS_IS),
                    "session, decord": lambda step=step: through_session(session, timelines, step, "decord", AS_IS),
                    "session, pyav": lambda step=step: through_session(session, timelines, step, "pyav", AS_IS),
                    "session, auto, 112x112": lambda step=step: through_session(session, timelines, step, "auto", C3D),
                },
                arguments.repeats,
                session.pids[0],
            )
            raw = results["raw decord get_batch"]
            print("every frame" if step == 1 else f"every {step}th frame")
            for name, (rate, milliseconds) in results.items():
                print(
                    f"  {name:24} {rate:8.0f} frames/s = {rate / raw[0]:5.2f}x raw decord, "
                    f"{milliseconds:6.2f} ms processor per frame = {milliseconds / raw[1]:5.2f}x"
                )
        session.__exit__(None, None, None)


if __name__ == "__main__":
    main()
