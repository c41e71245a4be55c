"""I3D as an extractor: windows of frames to rows, for either stream or both."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipmill.extractors.base import EachWindow, Extractor, Outputs, Reducer, options_of
from clipmill.extractors.compiled_network import CompiledNetwork, sample_frames
from clipmill.extractors.flow import BOUND_PIXELS, WindowFlows, make_flow, network_values
from clipmill.extractors.flow_files import FlowFiles, ImageFlows, values_of_levels
from clipmill.extractors.i3d.card import CARD
from clipmill.extractors.i3d.layouts import INPUT_CHANNELS
from clipmill.extractors.i3d.network import ENDPOINTS, MIN_FRAMES, Endpoint, InceptionI3D, pooled_steps
from clipmill.extractors.i3d.options import I3DOptions
from clipmill.extractors.i3d.steps import FRAMES_PER_STEP, StepRows, part_of
from clipmill.extractors.i3d.weights import load_stream, read_streams
from clipmill.extractors.i3d.window_steps import WindowStepRows
from clipmill.extractors.preprocess import centre_offset, values_of
from clipmill.extractors.runtime import RuntimeUse
from clipmill.extractors.shared_pass import LastPass
from clipmill.extractors.torch_extractor import (
    PROBABILITIES,
    affine,
    running,
    seeded,
    set_batch_norm_epsilon,
    torch_dtype,
)
from clipmill.extractors.transfers import fetching, on_device, uploaded
from clipmill.schemas.errors import VideoError, describe
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Clip, Window

_Sources = Sequence[tuple[FlowFiles, tuple[int, ...]]]
"""Of each window the flow images of its video, and its frames."""


def build(recipe: Recipe, device: str) -> "I3DExtractor":
    """Returns the extractor with the recipe's weights."""
    options: I3DOptions = options_of(CARD, recipe)
    names = ("rgb", "flow") if options.stream == "both" else (options.stream,)
    networks: dict[str, InceptionI3D] = {}
    if recipe.weights.file is not None:
        unused = CARD.layer(recipe.layer).unused
        states = read_streams(recipe.weights.file, options.stream, unused, recipe.weights.layout)
        networks = {name: load_stream(states[name], name) for name in names}
    else:
        for name in names:
            networks[name] = seeded(recipe.weights.seed or 0, partial(InceptionI3D, name))
    return I3DExtractor(recipe, device, networks, options)


class I3DExtractor:
    """Runs one or two streams of I3D on batches of windows.

    Args:
        networks: by stream, ``rgb`` and ``flow``.
    """

    def __init__(self, recipe: Recipe, device: str, networks: Mapping[str, InceptionI3D], options: I3DOptions) -> None:
        self._recipe = recipe
        self._options = options
        self._device = torch.device(device)
        self._dtype = torch_dtype(recipe)
        self._networks: dict[str, InceptionI3D] = {}
        for name, network in networks.items():
            set_batch_norm_epsilon(network, options.batch_norm_epsilon)
            if options.fold_batch_norm:
                network.fold_batch_norm()
            # Channels last is how the frames lie in memory, and the faster layout of these convolutions.
            placed = network.to(self._device, self._dtype).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
            self._networks[name] = placed.eval()
        self._scale, self._shift = (tensor.to(self._device) for tensor in affine(recipe.preprocess, 5))
        self._compiled: dict[str, CompiledNetwork] = {}
        self._shared_features: LastPass[Tensor] | None = None
        self.runtime_use: RuntimeUse | None = None
        if recipe.runtime is not None:
            self._compile(recipe)
        self._flows: WindowFlows | None = None
        self._images: ImageFlows | None = None
        if options.flow is not None and options.flow.method == "images":
            self._images = ImageFlows(recipe.preprocess, num_remembered=recipe.sampling.frames or 1)
        elif options.flow is not None:
            flow = options.flow.model_copy(update={"weights": recipe.files.get("flow.weights")})
            self._flows = WindowFlows(make_flow(flow, device), num_remembered=recipe.sampling.frames or 1)

    def ready(self, frames: npt.NDArray[np.uint8]) -> Callable[[], None]:
        """Returns what runs the networks alone, to their end, on windows whose flow is computed already."""
        inputs = {name: self._rgb(frames) if name == "rgb" else self._flow(frames, None) for name in self._networks}
        return running(lambda: [self._network_of(name, inputs[name], None) for name in inputs], self._device)

    def of_layers(self, recipes: Sequence[Recipe]) -> list[Extractor]:
        """Returns an extractor of each recipe; they differ from this one's in their layer, and share its passes."""
        [name] = self._networks

        def run(frames: npt.NDArray[np.uint8]) -> Tensor:
            with torch.inference_mode():
                return self._features(name, self._rgb(frames), None)

        shared = LastPass(run)
        found: list[Extractor] = []
        for recipe in recipes:
            reader = copy(self)
            reader._recipe, reader._shared_features = recipe, shared
            found.append(reader)
        return found

    def _compile(self, recipe: Recipe) -> None:
        """Has the recipe's runtime take the place of both streams' convolutions."""
        last = self._options.maps or ENDPOINTS[-1]
        levels = torch.from_numpy(sample_frames(recipe)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        if self._options.flow is not None:
            levels = levels[:, :, : levels.shape[2] - 1, : self._options.crop, : self._options.crop]
        for name, network in self._networks.items():
            example = levels[:, : INPUT_CHANNELS[name]].contiguous()
            self._compiled[name] = CompiledNetwork(Endpoint(network, last), recipe, example)
        self.runtime_use = max((item.use for item in self._compiled.values()), key=lambda use: use.error)

    def forward(self, frames: npt.NDArray[np.uint8]) -> Outputs:
        """Returns ``{"values": float32[N, D]}``, or ``[N, S, D]`` with `steps`, for ``uint8[N, T, H, W, 3]``.

        Each window is taken for a clip of its own.
        """
        return self.submit(frames)()

    def forward_windows(self, frames: npt.NDArray[np.uint8], windows: Sequence[Window]) -> Outputs:
        """Returns what `forward` does; with `steps`, those of one pass over each window's whole clip.

        The frames that fill a clip's last window up are left out, since the network pads with zeros where a clip ends;
        the steps that they would have made are zeros.
        """
        return self.submit(frames, windows)()

    def forward_files(
        self, frames: npt.NDArray[np.uint8], windows: Sequence[Window], files: Sequence[FlowFiles]
    ) -> Outputs:
        """Returns what `forward_windows` does, with the flow of the videos' images.

        Raises:
            VideoError: ``flow_size``, ``unreadable_flow``.
        """
        return self.submit(frames, windows, files)()

    @property
    def queues(self) -> bool:
        """Whether `submit` leaves the work to the device: on a GPU."""
        return self._device.type == "cuda"

    def submit(
        self,
        frames: npt.NDArray[np.uint8],
        windows: Sequence[Window] | None = None,
        files: Sequence[FlowFiles] | None = None,
    ) -> Callable[[], Outputs]:
        """Queues what `forward` does, or with windows `forward_windows`, and with files `forward_files`.

        Flow is computed, or read, before it returns, while the device is at earlier batches.
        """
        sources = None
        if windows is not None and files is not None:
            sources = [(item, window.frames) for item, window in zip(files, windows, strict=True)]
        if self._options.steps and windows is not None:
            return self._submit_parts(frames, windows, sources)
        return fetching({"values": self._values(frames, None, sources)})

    def _submit_parts(
        self, frames: npt.NDArray[np.uint8], windows: Sequence[Window], sources: _Sources | None
    ) -> Callable[[], Outputs]:
        """Queues the passes over what is real of each window: with `steps`."""
        extra = self._num_frames_without_flow
        num_steps = (frames.shape[1] - extra) // FRAMES_PER_STEP - 1
        waiting = []
        for index, window in enumerate(windows):
            part = part_of(window, MIN_FRAMES + extra)
            of_window = sources[index : index + 1] if sources is not None else None
            # One by one: windows that are cut alike would else share a pass, whose size decides the last bits.
            only = frames[index : index + 1, : part.num_frames]
            waiting.append(fetching({"values": self._values(only, part.num_clip_frames - extra, of_window)}))

        def outputs() -> Outputs:
            values = [arrive()["values"][0] for arrive in waiting]
            found = np.zeros((len(frames), num_steps, values[0].shape[1] if values else 0), dtype=np.float32)
            for index, of_window in enumerate(values):
                found[index, : len(of_window)] = of_window
            return {"values": found}

        return outputs

    @property
    def _of_classes(self) -> bool:
        return self._recipe.layer in ("logits", PROBABILITIES)

    @property
    def _num_frames_without_flow(self) -> int:
        """The last frame of a window is there for its flow only."""
        return 0 if self._options.flow is None else 1

    def _values(self, frames: npt.NDArray[np.uint8], num_frames: int | None, sources: _Sources | None) -> Tensor:
        with torch.inference_mode():
            parts = [self._stream(name, frames, num_frames, sources) for name in self._networks]
            # Two-stream: features side by side; logits summed with equal weight (kinetics-i3d).
            values = sum(parts[1:], parts[0]) if self._of_classes else torch.cat(parts, dim=1)
            if self._options.maps is not None:
                values = values.flatten(1)
            else:
                by_step = self._options.steps or self._options.window_steps
                values = values.transpose(1, 2) if by_step else values.mean(dim=2)
            if self._recipe.layer == PROBABILITIES:
                values = values.softmax(dim=-1)
            return values.contiguous()

    def _stream(
        self, name: str, frames: npt.NDArray[np.uint8], num_frames: int | None, sources: _Sources | None
    ) -> Tensor:
        """Returns ``float32[N, D, S]``: a row per step; logits are averaged over steps before any softmax.

        Or the map of ``options.maps``, ``[N, C, T', H', W']``.
        """
        if self._shared_features is not None:
            return self._read(name, self._shared_features(frames))
        return self._network_of(name, self._rgb(frames) if name == "rgb" else self._flow(frames, sources), num_frames)

    def _network_of(self, name: str, inputs: Tensor, num_frames: int | None) -> Tensor:
        if self._options.maps is None:
            return self._read(name, self._features(name, inputs, num_frames))
        if name in self._compiled:
            return self._compiled[name](inputs)
        return self._networks[name].endpoint(inputs.to(self._dtype), self._options.maps).float()

    def _features(self, name: str, inputs: Tensor, num_frames: int | None) -> Tensor:
        if name in self._compiled:
            return pooled_steps(self._compiled[name](inputs))
        return self._networks[name].features(inputs.to(self._dtype), num_frames)

    def _read(self, name: str, features: Tensor) -> Tensor:
        result: Tensor = self._networks[name].logits(features) if self._of_classes else features
        return result.float()

    def _rgb(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        if self._options.flow is not None:
            # The last frame is there for its flow only, so that both streams have one length.
            frames = frames[:, :-1, *self._crop(frames.shape[2], frames.shape[3])]
        values = values_of(frames, self._recipe.preprocess)
        tensor = on_device(np.ascontiguousarray(values), self._device)
        return tensor.permute(0, 4, 1, 2, 3).to(torch.float32, copy=True).mul_(self._scale).add_(self._shift)

    def _flow(self, frames: npt.NDArray[np.uint8], sources: _Sources | None) -> Tensor:
        values = self._computed_flow(frames) if self._images is None else self._stored_flow(frames, sources)
        tensor = uploaded(values, self._device).transpose(1, 2)
        return tensor.contiguous(memory_format=torch.channels_last_3d)

    def _stored_flow(self, frames: npt.NDArray[np.uint8], sources: _Sources | None) -> npt.NDArray[np.float32]:
        if self._images is None or self._options.flow is None or sources is None:
            raise ValueError("I3D flow images: expected the videos' files, got frames alone")
        num_flows = frames.shape[1] - self._num_frames_without_flow
        found = []
        for files, numbers in sources:
            levels = self._images.of(files, numbers[:num_flows], (frames.shape[2], frames.shape[3]))
            found.append(levels[:, :, *self._crop(levels.shape[2], levels.shape[3])])
        return values_of_levels(np.stack(found), (self._options.flow.bound or BOUND_PIXELS) / BOUND_PIXELS)

    def _computed_flow(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        flow = self._options.flow
        if flow is None or self._flows is None:
            raise ValueError("I3D flow: expected flow options, got none")
        found = []
        for window in frames:
            field = self._flows.of(window)
            rows, columns = self._crop(field.shape[2], field.shape[3])
            found.append(field[:, :, rows, columns])
        return network_values(np.stack(found), flow.values, flow.bound or BOUND_PIXELS)

    def _crop(self, height: int, width: int) -> tuple[slice, slice]:
        side = self._options.crop
        if min(height, width) < side:
            remedy = f"resize larger, or set features.{self._recipe.name}.options.crop"
            expected = f"frames of at least {side} pixels a side"
            raise VideoError(
                "extract", "frame_too_small", describe(self._recipe.name, "crop", expected, f"{width}x{height}", remedy)
            )
        top, left = centre_offset(self._recipe.preprocess.model_copy(update={"crop": (side, side)}), height, width)
        return slice(top, top + side), slice(left, left + side)

    def reducer(self, clip: Clip) -> Reducer:
        """Returns a reducer that makes one row per window, or one per step."""
        if self._options.steps:
            return StepRows(clip, self._recipe.dtype, self._recipe.sampling)
        if self._options.window_steps:
            return WindowStepRows(clip, self._recipe.dtype, self._recipe.sampling)
        return EachWindow(clip, self._recipe.dtype)
