"""One decode request, inside the child: choose the decoder, decode once, feed every view, put frames into the ring."""

import resource
import time
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from clipmill.extractors.preprocess import apply_geometry
from clipmill.pipelines.decode import images
from clipmill.pipelines.decode.channel import Channel
from clipmill.pipelines.decode.choice import why_not_decord
from clipmill.pipelines.decode.pyav_frames import FaultError, PassCounts, pyav_frames, version
from clipmill.pipelines.decode.ring import RingWriter
from clipmill.pipelines.decode.scan import Timeline
from clipmill.pipelines.decode.wire import DONE, FRAMES, RESTARTED, Message, pack
from clipmill.schemas.arrays import Pixels
from clipmill.schemas.errors import VideoError
from clipmill.schemas.recipe import Preprocess

BATCH_BYTES = 4 << 20
BATCH_FRAMES = 256
BATCH_SECONDS = 0.05
"""A batch of frames is announced when it is this large, or this old (ours)."""


class Emitter:
    """Applies each view's geometry and sends frames through the ring, announced in batches."""

    def __init__(
        self,
        path: str,
        channel: Channel,
        ring: RingWriter,
        views: Sequence[tuple[Preprocess, npt.NDArray[np.int64]]],
    ) -> None:
        self._channel = channel
        self._ring = ring
        self._preprocess = [preprocess for preprocess, _ in views]
        self._views_of: dict[int, list[int]] = {}
        for number, (_, frames) in enumerate(views):
            for frame in frames.tolist():
                self._views_of.setdefault(frame, []).append(number)
        self._path = path
        self._shapes: dict[int, tuple[int, ...]] = {}
        self._pending: list[tuple[int, ...]] = []
        self._since = 0.0
        self.wanted = np.array(sorted(self._views_of), dtype=np.int64)
        self.num_emitted = 0

    def emit(self, frame: int, pixels: Pixels) -> None:
        """Sends one frame to every view that wants it; waits while the ring is full.

        Raises:
            VideoError: ``size_changes``: the frames of a view are not all of one size.
        """
        for view in self._views_of[frame]:
            prepared = np.ascontiguousarray(apply_geometry(pixels, self._preprocess[view]))
            shape = self._shapes.setdefault(view, prepared.shape)
            if shape != prepared.shape:
                raise VideoError(
                    "decode",
                    "size_changes",
                    f"video {self._path}: expected frames of {shape[1]} x {shape[0]} throughout, got "
                    f"{prepared.shape[1]} x {prepared.shape[0]} at frame {frame}; resize to an exact size",
                )
            offset = self._place(prepared)
            if not self._pending:
                self._since = time.monotonic()
            self._pending.append((view, frame, offset, *prepared.shape))
            self.num_emitted += 1
        if (
            self._ring.batch_bytes >= min(BATCH_BYTES, self._ring.num_bytes // 4)
            or len(self._pending) >= BATCH_FRAMES
            or time.monotonic() - self._since >= BATCH_SECONDS
        ):
            self.flush()

    def flush(self) -> None:
        """Announces what is written."""
        # Not for each frame: to ask costs a call of the system.
        for _ in range(self._channel.freed()):
            self._ring.free()
        if self._pending:
            self._channel.send(
                pack(FRAMES, {"ahead": self._ring.num_batches}, {"frames": np.array(self._pending, dtype=np.int64)})
            )
            self._ring.close_batch()
            self._pending = []

    def restart(self, reason: str) -> None:
        """Tells the parent to forget the request's frames, if any have been sent."""
        self.flush()
        if self.num_emitted:
            self._channel.send(pack(RESTARTED, {"reason": reason}))
            self.num_emitted = 0
        self._shapes.clear()

    def _place(self, pixels: Pixels) -> int:
        offset = self._ring.write(pixels)
        if offset is None:
            self.flush()
            offset = self._ring.write(pixels)
        while offset is None:
            if self._ring.num_batches:
                for _ in range(self._channel.wait_freed()):
                    self._ring.free()
            else:
                self._ring.grow(pixels.nbytes)
            offset = self._ring.write(pixels)
        return offset


Frames = Iterator[tuple[int, Pixels]]


def serve(request: Message, channel: Channel, ring: RingWriter, num_threads: int) -> bytes:
    """Decodes one request; returns the closing message.

    Raises:
        VideoError: the video cannot be decoded.
    """
    started = time.monotonic()
    data = request.data
    path, asked = data["path"], data["decoder"]
    timeline = Timeline(
        pts_seconds=request.arrays["pts_seconds"],
        stop_seconds=0.0,
        key_frames=request.arrays["key_frames"],
        part_packets=request.arrays["part_packets"],
        part_offsets=request.arrays["part_offsets"],
        **data["timeline"],
    )
    views = [Preprocess.model_validate(preprocess) for preprocess in data["views"]]
    emitter = Emitter(
        path, channel, ring, [(view, request.arrays[f"view{number}"]) for number, view in enumerate(views)]
    )
    reason = data["fallback_reason"] or why_not_decord(
        asked, timeline, emitter.wanted, resource.getrlimit(resource.RLIMIT_AS)[0]
    )
    decoder = "pyav" if reason or asked == "pyav" else "decord"
    if images.is_image(path):
        decoder, reason = "pillow", None
    careful, is_stretch = bool(data["careful"]), bool(data["is_stretch"])
    while True:
        counts = PassCounts()
        try:
            frames = _frames(decoder, path, timeline, emitter.wanted, num_threads, careful, counts, is_stretch)
            for index, pixels in frames:
                emitter.emit(index, pixels)
            break
        except FaultError as fault:
            if is_stretch:
                raise VideoError("decode", "stretch_fault", str(fault)) from None
            if asked == "decord":
                raise VideoError(
                    "decode",
                    "decord_failed",
                    f"video {path}: expected decord to decode it, got: {fault}; use decode.decoder: auto",
                ) from None
            # What a decoder lost half way is counted exactly; what it could not even open, the other decodes as usual.
            careful = decoder == "pyav" or counts.num_decoded > 0
            decoder, reason = "pyav", reason or str(fault)
            emitter.restart(str(fault))
    emitter.flush()
    return pack(
        DONE,
        {
            "decoder": decoder,
            "decoder_version": _version(decoder),
            "fallback_reason": reason,
            "num_frames_decoded": counts.num_decoded,
            "scaler_flags": counts.scaler_flags,
            "orientations": sorted(map(str, counts.orientations)),
            "seconds": time.monotonic() - started,
        },
        {"substituted": np.array(counts.substituted, dtype=np.int64)},
    )


def _frames(
    decoder: str,
    path: str,
    timeline: Timeline,
    wanted: npt.NDArray[np.int64],
    num_threads: int,
    careful: bool,
    counts: PassCounts,
    is_stretch: bool,
) -> Frames:
    if decoder == "pillow":
        counts.num_decoded = 1
        return iter([(0, images.frame_of(path))])
    if decoder == "pyav":
        return pyav_frames(path, timeline, wanted, num_threads, careful, counts, is_stretch)
    from clipmill.pipelines.decode.decord_frames import decord_frames

    return decord_frames(path, timeline, wanted, num_threads, counts)


def _version(decoder: str) -> str:
    if decoder == "pillow":
        return images.version()
    if decoder == "pyav":
        return version()
    import decord

    return str(decord.__version__)
