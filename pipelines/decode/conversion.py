"""Decoded frames to RGB by libswscale, with the scaler's flags fixed where they decide a number.

Frames of 8 bits take libswscale's direct conversion, the one that ffmpeg, decord and the published features come from.
Where there are more bits there is none: what comes out depends on flags and on where chroma samples lie, and PyAV's
defaults are not ffmpeg's. Those frames go through libavfilter's ``scale``, as in ffmpeg.
"""

from typing import Any

import av
import av.filter

from clipmill.schemas.arrays import Pixels

SCALER_FLAGS = "bicubic+accurate_rnd+full_chroma_int"
"""For frames of more than 8 bits: equal, bit for bit, to ``ffmpeg -sws_flags`` with these. ours: which flags;
ffmpeg's own default (``bicubic``) neither rounds accurately nor interpolates chroma to full width."""
DIRECT_BITS = 8


class ToRGB:
    """Converts the frames of one stream.

    Attributes:
        scaler_flags: with which a frame was converted that has more than 8 bits; None while there was none.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._graph: Any = None
        self._made_for: tuple[Any, ...] = ()
        self.scaler_flags: str | None = None

    def __call__(self, frame: Any) -> Pixels:
        """Returns ``uint8[H, W, 3]`` RGB, by the frame's own matrix, range and place of chroma samples."""
        if max(component.bits for component in frame.format.components) <= DIRECT_BITS:
            direct: Pixels = frame.to_ndarray(format="rgb24")
            return direct
        made_for = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if made_for != self._made_for:
            self._graph, self._made_for = self._build(frame), made_for
            self.scaler_flags = SCALER_FLAGS
        self._graph.push(frame)
        scaled: Pixels = self._graph.pull().to_ndarray()
        return scaled

    def _build(self, frame: Any) -> Any:
        graph = av.filter.Graph()
        graph.threads = 1
        size = {"width": frame.width, "height": frame.height, "format": frame.format}
        nodes = [
            graph.add_buffer(template=self._stream, **size),
            graph.add("scale", f"flags={SCALER_FLAGS}"),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ]
        for before, after in zip(nodes[:-1], nodes[1:], strict=True):
            before.link_to(after)
        graph.configure()
        return graph
