"""Decoders held against PyAV, frame by frame, and against each other in speed, in one run on one machine.

    python benchmarks/compare_decoders.py [FILES OR FOLDERS...] --decoder NAME[=PYTHON] ... [--threads 1 2] [--speed N]

NAME is ``pyav``, ``decord`` or ``torchcodec``; PYTHON is the interpreter that has it, since decord 0.6.0 and decord2
share one import name and need an environment each:

    python benchmarks/compare_decoders.py --decoder decord --decoder decord=/tmp/decord2/bin/python

Every file is decoded in a process of its own, from the first frame to the last, and given up after ``--deadline``
seconds. The digests of its RGB frames and its presentation times are compared with those of PyAV in order. With
``--speed N`` the first N files that all decoders agree on are decoded again, without digests, by each decoder in turn.
"""

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MEDIA = frozenset(
    ".3gp .avi .flv .h264 .hevc .m2ts .m4s .mkv .mov .mp4 .mpg .mts .mxf .nut .ogv .ts .webm .wmv .y4m".split()
)
CHUNK_FRAMES = 8
TIME_TOLERANCE_SECONDS = 1e-3


def pyav_frames(path: str, num_threads: int) -> Iterator[tuple[float | None, Any]]:
    """Yields the time and the array ``uint8[H, W, 3]`` of each frame, turned upright by whole quarters."""
    import av
    import numpy as np

    with av.open(path) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_type = "AUTO" if num_threads > 1 else "SLICE"
        stream.codec_context.thread_count = num_threads
        for frame in container.decode(stream):
            pixels = frame.to_ndarray(format="rgb24")
            yield frame.time, np.rot90(pixels, frame.rotation // 90) if frame.rotation % 360 else pixels


def decord_frames(path: str, num_threads: int) -> Iterator[tuple[float | None, Any]]:
    """The same by decord, walked from the first frame to the last."""
    import decord

    decord.logging.set_level(decord.logging.ERROR)
    reader = decord.VideoReader(path, num_threads=num_threads)
    times = reader.get_frame_timestamp(range(len(reader)))[:, 0] if len(reader) else []
    for index in range(len(reader)):
        yield float(times[index]), reader.next().asnumpy()


def torchcodec_frames(path: str, num_threads: int) -> Iterator[tuple[float | None, Any]]:
    """The same by torchcodec, in chunks of consecutive frames."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=num_threads, seek_mode="exact")
    for start in range(0, len(decoder), CHUNK_FRAMES):
        batch = decoder.get_frames_in_range(start, min(start + CHUNK_FRAMES, len(decoder)))
        yield from zip(batch.pts_seconds.tolist(), batch.data.numpy(), strict=True)


WAYS = {"pyav": pyav_frames, "decord": decord_frames, "torchcodec": torchcodec_frames}


def version_of(name: str) -> str:
    """Returns the version of the package a decoder comes with."""
    module = {"pyav": "av", "decord": "decord", "torchcodec": "torchcodec"}[name]
    return f"{name} {__import__(module).__version__}"


def work(name: str, path: str, num_threads: int, digests: bool) -> dict[str, Any]:
    """Decodes one file in this process."""
    found: dict[str, Any] = {"version": version_of(name), "digests": [], "times": [], "shape": None, "error": None}
    count = 0
    started, processor = time.perf_counter(), time.process_time()
    try:
        for seconds, pixels in WAYS[name](path, num_threads):
            count += 1
            if digests:
                found["digests"].append(hashlib.blake2b(pixels.tobytes(), digest_size=8).hexdigest())
                found["times"].append(seconds)
                found["shape"] = list(pixels.shape)
    except Exception as error:
        found["error"] = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
    return found | {
        "num_frames": count,
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - processor,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def ask(python: str, name: str, path: str, num_threads: int, digests: bool, deadline: float) -> dict[str, Any]:
    """Has another interpreter decode one file; what it cannot say is its ``error``."""
    command = [python, __file__, "--worker", name, str(num_threads), str(int(digests)), path]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=deadline)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer in {deadline:g} s", "num_frames": 0, "hang": True}
    if done.returncode or not done.stdout.strip():
        return {"error": f"exit code {done.returncode}", "num_frames": 0, "crash": done.returncode < 0}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def verdict(truth: dict[str, Any], found: dict[str, Any]) -> str:
    """Returns in one word or two how a decoder's frames stand to PyAV's."""
    if found.get("hang"):
        return "hang"
    if found.get("crash"):
        return f"crash ({found['error']})"
    if truth["error"] and found["error"]:
        return "both refuse"
    if found["error"] and not found["num_frames"]:
        return "refuses"
    if not truth["num_frames"]:
        return f"{found['num_frames']} frames where PyAV has none"
    if found["num_frames"] != truth["num_frames"]:
        return f"{found['num_frames']} frames of {truth['num_frames']}" + (" and an error" if found["error"] else "")
    if found["shape"] != truth["shape"]:
        return f"shape {found['shape']} not {truth['shape']}"
    different = sum(a != b for a, b in zip(truth["digests"], found["digests"], strict=True))
    if different:
        return f"{different} of {truth['num_frames']} frames differ"
    apart = [
        abs((a - truth["times"][0]) - (b - found["times"][0]))
        for a, b in zip(truth["times"], found["times"], strict=True)
        if a is not None and b is not None and truth["times"][0] is not None and found["times"][0] is not None
    ]
    return "equal" if max(apart, default=0.0) <= TIME_TOLERANCE_SECONDS else f"equal, times {max(apart):.3f} s apart"


def compare(paths: list[str], decoders: list[tuple[str, str]], num_threads: int, deadline: float) -> list[str]:
    """Prints a table of the files that any decoder has otherwise than PyAV; returns those on which all agree."""
    agreed: list[str] = []
    totals: dict[int, Counter[str]] = defaultdict(Counter)
    memory: dict[int, list[int]] = defaultdict(list)
    labels = [f"{name} ({python})" for name, python in decoders]
    for path in paths:
        truth = ask(sys.executable, "pyav", path, 1, True, deadline)
        verdicts = []
        for number, (name, python) in enumerate(decoders):
            found = ask(python, name, path, num_threads, True, deadline)
            labels[number] = found.get("version", labels[number])
            verdicts.append(verdict(truth, found))
            totals[number][verdicts[-1].split(" (")[0] if verdicts[-1][0].isalpha() else "other frames"] += 1
            memory[number].append(found.get("peak_mib", 0))
        if all(word == "equal" for word in verdicts):
            agreed.append(path)
        else:
            print(
                f"| {Path(path).parent.name}/{Path(path).name} | {truth['num_frames']} | {' | '.join(verdicts)} |",
                flush=True,
            )
    for number, label in enumerate(labels):
        counts = ", ".join(f"{count} {word}" for word, count in totals[number].most_common())
        print(f"{label}, {num_threads} thread(s): {counts}; peak memory {max(memory[number], default=0)} MiB")
    return agreed


def race(paths: list[str], decoders: list[tuple[str, str]], threads: list[int], repeats: int, deadline: float) -> None:
    """Prints frames per second and processor time per frame, as medians over repeats that take turns."""
    runs: dict[tuple[str, str, int], list[tuple[float, float]]] = defaultdict(list)
    labels: dict[tuple[str, str, int], str] = {}
    for _ in range(repeats):
        for num_threads in threads:
            for name, python in decoders:
                found = [ask(python, name, path, num_threads, False, deadline) for path in paths]
                key = (name, python, num_threads)
                labels[key] = found[0].get("version", name)
                frames = max(sum(item["num_frames"] for item in found), 1)
                wall = sum(item.get("seconds", deadline) for item in found)
                processor = sum(item.get("processor_seconds", deadline) for item in found)
                runs[key].append((frames / wall, 1000 * processor / frames))
    medians = {key: tuple(map(statistics.median, zip(*measured, strict=True))) for key, measured in runs.items()}
    for key, (rate, milliseconds) in medians.items():
        first_rate, first_milliseconds = medians[decoders[0][0], decoders[0][1], key[2]]
        print(
            f"  {labels[key]:20} {key[2]} thread(s) {rate:7.0f} frames/s = {rate / first_rate:5.2f}x, "
            f"{milliseconds:6.2f} ms processor per frame = {milliseconds / first_milliseconds:5.2f}x"
        )


def media(names: list[str]) -> list[str]:
    """Returns the files among `names` and the media files in the folders among them."""
    found: list[str] = []
    for name in names:
        path = Path(name)
        found += (
            [str(path)]
            if path.is_file()
            else sorted(str(item) for item in path.rglob("*") if item.suffix.lower() in MEDIA and item.is_file())
        )
    return found


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        name, num_threads, digests, path = sys.argv[2:]
        print(json.dumps(work(name, path, int(num_threads), bool(int(digests)))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", default=[str(ROOT.parent / "shared" / "data")])
    parser.add_argument("--decoder", action="append", default=[], help="NAME or NAME=PYTHON, any number of times")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--speed", type=int, default=0, metavar="N")
    parser.add_argument("--speed-only", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--deadline", type=float, default=60.0)
    arguments = parser.parse_args()
    decoders = [
        (name, python or sys.executable)
        for name, _, python in (text.partition("=") for text in arguments.decoder or ["decord"])
    ]
    paths = media(arguments.paths)
    print(f"{len(paths)} files, load {os.getloadavg()[0]:.1f}")
    if not arguments.speed_only:
        agreed = compare(paths, decoders, max(arguments.threads), arguments.deadline)
    else:
        agreed = paths
    if arguments.speed:
        chosen = agreed[:: max(len(agreed) // arguments.speed, 1)][: arguments.speed]
        print(f"speed on {len(chosen)} of the {len(agreed)} files all agree on, load {os.getloadavg()[0]:.1f}")
        race(chosen, [("pyav", sys.executable), *decoders], arguments.threads, arguments.repeats, arguments.deadline)


if __name__ == "__main__":
    main()
