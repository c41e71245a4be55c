"""What every torch network shares: from ``uint8`` windows to rows, on a device, in a precision."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from clipmill.extractors.base import EachWindow, Extractor, Outputs, Reducer
from clipmill.extractors.compiled_network import CompiledNetwork, sample_frames
from clipmill.extractors.flow_files import FlowFiles
from clipmill.extractors.preprocess import values_of
from clipmill.extractors.runtime import RuntimeUse
from clipmill.extractors.shared_pass import LastPass
from clipmill.extractors.transfers import fetching, on_device
from clipmill.schemas.recipe import Preprocess, Recipe
from clipmill.schemas.records import Clip, Window

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

PROBABILITIES = "probabilities"
"""The layer that is the softmax of logits."""


def torch_dtype(recipe: Recipe) -> torch.dtype:
    """Returns what PyTorch holds a recipe's network in: another runtime brings it to the precision itself."""
    return PRECISIONS[recipe.precision] if recipe.runtime is None else torch.float32


def network_layer(layer: str) -> str:
    """Returns the layer a network is built up to for a recipe's `layer`."""
    return "logits" if layer == PROBABILITIES else layer


def set_batch_norm_epsilon(network: nn.Module, epsilon: float | None) -> None:
    """Gives every batch norm that epsilon; None leaves the published one. To be called before any folding."""
    if epsilon is None:
        return
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.eps = epsilon


Network = TypeVar("Network", bound=nn.Module)


class TorchExtractor:
    """Runs a network on batches of windows.

    Args:
        network: takes ``float[N, C, T, H, W]`` (`frames_first` False) or ``float[N, C, H, W]`` for windows of one frame
            (`frames_first` True), already scaled; returns ``[N, D]``.
        first_conv: the network's first convolution. Weights that expect BGR have its input channels reversed once, so
            frames stay RGB and the colour order costs nothing per frame.
        mean: a volume to subtract instead of the recipe's channel means, ``float32[1, C, T, H, W]``, channels RGB.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        device: str,
        first_conv: Any,
        single_frames: bool,
        mean: Tensor | None = None,
    ) -> None:
        preprocess = recipe.preprocess
        if preprocess.colour == "bgr":
            reverse_input_channels(first_conv)
        self._recipe = recipe
        self._device = torch.device(device)
        self._dtype = torch_dtype(recipe)
        self.single_frames = single_frames
        self._first_conv = first_conv
        # Channels last is how frames lie in memory, and the faster layout on a CPU (docs/extractors: 1.1 to 1.6 times).
        layout: Any = torch.channels_last if single_frames else torch.channels_last_3d
        move: Any = network.to
        self._module: nn.Module = move(self._device, self._dtype, memory_format=layout).eval()
        self._network: Callable[[Tensor], Tensor] = self._module
        self.runtime_use: RuntimeUse | None = None
        scale, shift = affine(preprocess, 4 if single_frames else 5)
        if mean is not None:
            shift = -mean * scale / preprocess.scale
        self._scale, self._shift = scale.to(self._device), shift.to(self._device)
        if recipe.runtime is not None:
            compiled = CompiledNetwork(self._module, recipe, self.prepare(sample_frames(recipe)))
            self._network, self.runtime_use = compiled, compiled.use

    def forward(self, frames: npt.NDArray[np.uint8]) -> Outputs:
        """Returns ``{"values": float32[N, D]}`` for ``uint8[N, T, H, W, C]``."""
        return self.submit(frames)()

    @property
    def queues(self) -> bool:
        """Whether `submit` leaves the work to the device: on a GPU, where `forward` is the one of this class."""
        return self._device.type == "cuda" and type(self).forward is TorchExtractor.forward

    def submit(
        self,
        frames: npt.NDArray[np.uint8],
        windows: Sequence[Window] | None = None,
        files: Sequence[FlowFiles] | None = None,
    ) -> Callable[[], Outputs]:
        """Queues what `forward` does: frames go to the device, and rows come back, while the caller goes on."""
        with torch.inference_mode():
            return fetching({"values": self.rows(frames)})

    def rows(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """Returns ``float32[N, D]`` on the device."""
        return self.rows_of(self.prepare(frames))

    def ready(self, frames: npt.NDArray[np.uint8]) -> Callable[[], None]:
        """Returns what runs the network alone, to its end, on `frames` that are prepared already."""
        with torch.inference_mode():
            inputs = self.prepare(frames)
        return running(lambda: self._network(inputs), self._device)

    def of_layers(self, recipes: Sequence[Recipe]) -> list[Extractor]:
        """Returns an extractor of each recipe; they differ from this one's in their layer, and share its passes."""
        layers = frozenset(network_layer(recipe.layer) for recipe in recipes)
        network: Any = self._module

        def run(frames: npt.NDArray[np.uint8]) -> Mapping[str, Tensor]:
            with torch.inference_mode():
                found: Mapping[str, Tensor] = network.layers(self.prepare(frames), layers)
                return found

        shared = LastPass(run)
        return [LayerReader(recipe, shared, self._device) for recipe in recipes]

    def prepare(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """Returns the network's input: scaled, in the recipe's precision, its channel axis second (last in memory)."""
        values = values_of(frames, self._recipe.preprocess)
        tensor = on_device(values, self._device)
        tensor = tensor[:, 0].permute(0, 3, 1, 2) if self.single_frames else tensor.permute(0, 4, 1, 2, 3)
        return self.scaled(tensor)

    def scaled(self, frames: Tensor) -> Tensor:
        """Returns the network's input of frames ``[N, C, ...]`` from 0 to 255 that are on the device."""
        # Of float32 frames a copy: what was handed in stays as it is.
        return frames.to(torch.float32, copy=True).mul_(self._scale).add_(self._shift).to(self._dtype)

    def rows_of(self, inputs: Tensor) -> Tensor:
        """Returns ``float32[N, D]`` of the network's input, with gradients where they are on."""
        return _values(self._network(inputs), self._recipe)

    @property
    def network(self) -> nn.Module:
        """The network as PyTorch runs it: its weights, device, precision and memory layout."""
        return self._module

    @property
    def published(self) -> dict[str, Tensor]:
        """The weights by the network's own keys, on the CPU, for the colour order of the recipe: a weights file."""
        is_reversed = self._recipe.preprocess.colour == "bgr"
        network: nn.Module = getattr(self._module, "network", self._module)
        found: dict[str, Tensor] = {}
        for key, value in network.state_dict(keep_vars=True).items():
            kept = value.flip(1) if is_reversed and value is self._first_conv.weight else value
            found[key] = kept.detach().cpu().contiguous()
        return found

    def reducer(self, clip: Clip) -> Reducer:
        """Returns a reducer that makes one row per window."""
        return EachWindow(clip, self._recipe.dtype)


def running(run: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Returns what calls `run` without gradients and waits until the device is done."""

    def whole() -> None:
        with torch.inference_mode():
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return whole


class LayerReader:
    """The extractor of a recipe that takes its layer of a pass that others read too."""

    def __init__(self, recipe: Recipe, shared: LastPass[Mapping[str, Tensor]], device: torch.device) -> None:
        self._recipe, self._shared, self._device = recipe, shared, device

    def forward(self, frames: npt.NDArray[np.uint8]) -> Outputs:
        """Returns what the recipe's own network would, bit for bit: ``{"values": float32[N, D]}``."""
        return self.submit(frames)()

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
        """Queues what `forward` does."""
        with torch.inference_mode():
            found = self._shared(frames)[network_layer(self._recipe.layer)]
            return fetching({"values": _values(found, self._recipe)})

    def reducer(self, clip: Clip) -> Reducer:
        """Returns a reducer that makes one row per window."""
        return EachWindow(clip, self._recipe.dtype)


def _values(found: Tensor, recipe: Recipe) -> Tensor:
    values = found.flatten(1).float()
    return values.softmax(dim=1) if recipe.layer == PROBABILITIES else values


def make_arithmetic_exact() -> None:
    """Makes ``float32`` on a GPU mean float32, and the same input give the same bits, in this process.

    cuDNN would otherwise round the inputs of convolutions to TensorFloat-32 (10 bits), an error of about 1e-3, and
    choose among its algorithms by what happens to be quicker.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def affine(preprocess: Preprocess, num_axes: int) -> tuple[Tensor, Tensor]:
    """Returns scale and shift, in RGB order: ``x * scale + shift`` is ``(x * preprocess.scale - mean) / std``.

    Shapes are ``[1, C, 1, ...]`` with `num_axes` axes, the channels second.
    """
    channels = 1 if preprocess.colour == "grey" else 3
    mean = preprocess.mean or (0.0,) * channels
    std = preprocess.std or (1.0,) * channels
    if preprocess.colour == "bgr":
        mean, std = mean[::-1], std[::-1]
    shape = (1, channels, *([1] * (num_axes - 2)))
    mean_tensor, std_tensor = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))
    scale = preprocess.scale / std_tensor
    return scale.float().reshape(shape), (-mean_tensor / std_tensor).float().reshape(shape)


def network_input(frames: npt.NDArray[np.uint8], preprocess: Preprocess, scale_and_shift: Sequence[Tensor]) -> Tensor:
    """Returns ``float32[..., C]`` of prepared frames ``uint8[..., C]``, channels in the order of the weights.

    An extractor turns weights that expect BGR round; what is trained, and saved again, stays as it is.

    Args:
        scale_and_shift: of `affine`, channels second.
    """
    values = values_of(frames, preprocess)
    scale, shift = (tensor.flatten() for tensor in scale_and_shift)
    found = torch.from_numpy(np.ascontiguousarray(values)).to(scale.device).float() * scale + shift
    return found.flip(-1) if preprocess.colour == "bgr" else found


def reverse_input_channels(convolution: nn.Module) -> None:
    """Reverses the input channels of a convolution in place: BGR weights become RGB weights."""
    weight: Any = convolution.weight
    with torch.no_grad():
        weight.copy_(weight.flip(1))


def empty(make: Callable[[], Network]) -> Network:
    """Returns a network whose tensors are still to be filled, without the cost of torch's own initialisation."""
    with torch.device("meta"):
        network = make()
    # What Module.to_empty does, but that one costs half a second: it makes torch import its decompositions, and SymPy.
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype)))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
    return network


def seeded(seed: int, make: Callable[[], Network]) -> Network:
    """Returns a network with He-normal weights and zero biases, a function of `seed` alone.

    ours: He's scale keeps features of an untrained ReLU network from vanishing with depth.
    """
    network = empty(make)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            with torch.no_grad():
                if parameter.dim() > 1:
                    fan_in = parameter[0].numel()
                    parameter.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)
                else:
                    parameter.fill_(1.0 if name == "weight" else 0.0)
        for name, buffer in module.named_buffers(recurse=False):
            buffer.fill_(1.0 if name == "running_var" else 0)
    return network
