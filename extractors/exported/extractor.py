"""An exported program as an extractor: from ``uint8`` windows to rows."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipmill.extractors.base import EachWindow, Outputs, Reducer
from clipmill.extractors.exported.options import ProgramOptions
from clipmill.extractors.exported.program import Program, frame_axes, refused
from clipmill.extractors.flow_files import FlowFiles
from clipmill.extractors.torch_extractor import PRECISIONS, affine
from clipmill.extractors.transfers import fetching, on_device
from clipmill.schemas.errors import VideoError, describe
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Clip, Window

INPUT_DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


class ProgramExtractor:
    """Runs an exported program on batches of windows.

    Frames are scaled in float32 and handed over in the type the program asks for. In a reduced precision, PyTorch's
    autocast decides by operator; weights stay as they are in the file.

    Args:
        device: where frames are prepared, and the output is pooled.

    Raises:
        WeightsError: the program's input is no frames.
    """

    def __init__(self, program: Program, recipe: Recipe, options: ProgramOptions, device: str) -> None:
        path = recipe.weights.file or ""
        self._program, self._recipe, self._options = program, recipe, options
        self._device = torch.device(device)
        self._axes = frame_axes(path, program.interface, options.axes)
        self._most_windows = program.interface.most_windows
        self._input_dtype = INPUT_DTYPES[program.interface.input.dtype]
        scale, shift = affine(recipe.preprocess, 5)
        self._scale, self._shift = scale.to(self._device), shift.to(self._device)

    def forward(self, frames: npt.NDArray[np.uint8]) -> Outputs:
        """Returns ``{"values": float32[N, D]}`` for ``uint8[N, T, H, W, C]``.

        Raises:
            VideoError: ``frame_size``: the program takes frames of another size.
        """
        return self.submit(frames)()

    @property
    def queues(self) -> bool:
        """Whether `submit` leaves the work to the device: on a GPU, though onnxruntime waits for each of its runs."""
        return self._device.type == "cuda"

    def submit(
        self,
        frames: npt.NDArray[np.uint8],
        windows: Sequence[Window] | None = None,
        files: Sequence[FlowFiles] | None = None,
    ) -> Callable[[], Outputs]:
        """Queues what `forward` does."""
        self._check_size(*frames.shape[1:4])
        num_windows = len(frames)
        step = min(self._most_windows or num_windows, num_windows)
        if num_windows % step:
            # All parts have one size, so that a window's bits do not depend on the part it is in.
            frames = np.concatenate([frames, np.repeat(frames[-1:], -num_windows % step, axis=0)])
        with torch.inference_mode(), self._precision():
            parts = [self.output(frames[start : start + step]) for start in range(0, len(frames), step)]
            rows = torch.cat([pooled(part.float(), self._options) for part in parts])
            return fetching({"values": rows[:num_windows]})

    def output(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """Returns the program's output ``[N, ...]`` for ``uint8[N, T, H, W, C]``, before it is pooled.

        Raises:
            WeightsError: it is not one entry per window.
        """
        with torch.inference_mode():
            found = self._program.run(self.prepare(frames), self._recipe.layer)
        if found.dim() < 2 or found.shape[0] != len(frames):
            got = f"{list(found.shape)} for {len(frames)} windows from output {self._recipe.layer}"
            remedy = "choose another layer, or export with an open batch axis"
            raise refused(self._recipe.weights.file or "", "one entry per window", got, remedy)
        return found

    def prepare(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """Returns the program's input for ``uint8[N, T, H, W, C]``: scaled, in its colour order and its axes' order."""
        tensor = (
            on_device(frames, self._device).permute(0, 4, 1, 2, 3).to(torch.float32).mul_(self._scale).add_(self._shift)
        )
        if self._recipe.preprocess.colour == "bgr":
            tensor = tensor.flip(1)
        if self._axes.axes == "nchw":
            tensor = tensor[:, :, 0]
        elif self._axes.axes == "ntchw":
            tensor = tensor.transpose(1, 2)
        return tensor.to(self._input_dtype).contiguous()

    def _precision(self) -> Any:
        if self._recipe.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=PRECISIONS[self._recipe.precision])

    def _check_size(self, num_frames: int, rows: int, columns: int) -> None:
        wanted = (self._axes.num_frames, self._axes.rows, self._axes.columns)
        given = (num_frames, rows, columns)
        if any(want not in (None, have) for want, have in zip(wanted, given, strict=True)):
            shown = " x ".join("any" if want is None else str(want) for want in wanted)
            got = " x ".join(map(str, given))
            remedy = "set preprocess.crop, or resize: exact, to what the program takes"
            raise VideoError("extract", "frame_size", describe("window", "frames x rows x columns", shown, got, remedy))

    def reducer(self, clip: Clip) -> Reducer:
        """Returns a reducer that makes one row per window."""
        return EachWindow(clip, self._recipe.dtype)


def pooled(values: Tensor, options: ProgramOptions) -> Tensor:
    """Returns one vector per window ``[N, D]`` of an output ``[N, D]``, ``[N, L, D]`` or ``[N, C, (T,) H, W]``."""
    if values.dim() == 2 or options.pool in (None, "none"):
        return values.flatten(1)
    tokens = values.dim() == 3
    if tokens and options.pool == "cls":
        return values[:, 0]
    kept = values[:, options.skip_tokens :] if tokens else values
    over: tuple[int, ...] = (1,) if tokens else tuple(range(2, values.dim()))
    return kept.mean(over) if options.pool == "mean" else kept.amax(over)
