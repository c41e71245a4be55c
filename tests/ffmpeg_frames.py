"""What ffmpeg's own libraries make of a file: all its frames, and those its ``fps`` filter lets through."""

from pathlib import Path

import av
import av.filter
import numpy as np
import numpy.typing as npt


def rgb_frames(path: Path) -> list[npt.NDArray[np.uint8]]:
    """Returns every frame, ``uint8[H, W, 3]``."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(container.streams.video[0])]


def by_fps_filter(path: Path, fps: int) -> list[int]:
    """Returns the frames that libavfilter's ``fps`` lets through: each is marked with its number by its pixels.

    Times begin at zero, as those the ffmpeg command hands its filters.
    """
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        source = graph.add_buffer(width=2, height=2, format=av.VideoFormat("rgb48le", 2, 2), time_base=stream.time_base)
        rate = graph.add("fps", f"fps={fps}")
        sink = graph.add("buffersink")
        source.link_to(rate)
        rate.link_to(sink)
        graph.configure()
        first = None
        for number, frame in enumerate(container.decode(stream)):
            first = frame.pts if first is None else first
            marked = av.VideoFrame.from_ndarray(np.full((2, 2, 3), number, np.uint16), format="rgb48le")
            marked.pts, marked.time_base, marked.duration = frame.pts - first, frame.time_base, frame.duration
            graph.push(marked)
        graph.push(None)
        found = []
        while True:
            try:
                found.append(int(graph.pull().to_ndarray()[0, 0, 0]))
            except (av.error.EOFError, av.error.BlockingIOError):
                return found
