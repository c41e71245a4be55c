"""How fast the bare decoder is on this machine: the measure the pipeline's own decoding is held against."""

import functools
import time
from collections.abc import Callable

from clipmill.pipelines.decode.inspection import inspect
from clipmill.pipelines.decode.process import decoder_threads

CHUNK_FRAMES = 32


def raw_decode_rate(
    path: str, seconds: float = 2.0, stream: str | None = None, num_threads: int | None = None
) -> float:
    """Returns frames per second of decord alone (``get_batch``, sequential), or of PyAV where decord cannot.

    Nothing but decoding to RGB happens, in a process of its own. A short video is decoded again and again until
    `seconds` have passed; opening it is not counted.

    Raises:
        VideoError: the video cannot be decoded.
    """
    options = {"seconds": seconds, "num_threads": num_threads or decoder_threads(), "stream": stream}
    return float(inspect("decode", path, "rate", options, decodes=True).data["frames_per_second"])


def measure(path: str, seconds: float, num_threads: int, stream: str | None = None) -> float:
    """Returns the rate; runs in the child process."""
    num_frames, spent = 0, 0.0
    with_pyav = functools.partial(_with_pyav, stream)
    decode: Callable[[str, float, int], tuple[int, float]] = _with_decord if stream is None else with_pyav
    while spent < seconds or not num_frames:
        try:
            count, elapsed = decode(path, seconds - spent, num_threads)
        except Exception:
            if decode is with_pyav:
                raise
            decode, num_frames, spent = with_pyav, 0, 0.0
            continue
        num_frames += count
        spent += elapsed
    return num_frames / spent


def _with_decord(path: str, seconds: float, num_threads: int) -> tuple[int, float]:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    reader = decord.VideoReader(f"file:{path}", num_threads=num_threads)
    started = time.perf_counter()
    position = 0
    while position < len(reader) and (position == 0 or time.perf_counter() - started < seconds):
        stop = min(position + CHUNK_FRAMES, len(reader))
        reader.get_batch(range(position, stop)).asnumpy()
        position = stop
    return position, time.perf_counter() - started


def _with_pyav(stream: str | None, path: str, seconds: float, num_threads: int) -> tuple[int, float]:
    import av.error

    from clipmill.pipelines.decode.containers import open_video
    from clipmill.pipelines.decode.conversion import ToRGB
    from clipmill.pipelines.decode.refusals import refusal

    with open_video(path, stream) as video:
        video.stream.codec_context.thread_type = "AUTO"
        video.stream.codec_context.thread_count = num_threads
        to_rgb = ToRGB(video.stream)
        started = time.perf_counter()
        count = 0
        try:
            for frame in video.container.decode(video.stream):
                to_rgb(frame)
                count += 1
                if time.perf_counter() - started >= seconds:
                    break
        except av.error.FFmpegError:
            # A damaged end does not make the frames before it slower.
            pass
        if not count:
            raise refusal(path, "undecodable", "frames", "none that decodes", "re-encode or replace it")
        return count, time.perf_counter() - started
