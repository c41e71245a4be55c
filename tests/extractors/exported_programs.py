"""Small networks of the real ones' shape, and their files as a user exports them: what tests of programs run on."""

import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipmill.extractors.torch_extractor import seeded

HALF = {"scale": 1 / 255, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


class Residual(nn.Module):
    """A block of ResNet: two convolutions with batch norm, and a shortcut with one where the size changes."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """``float[N, 3, H, W]`` to maps, their mean and logits, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.layer1 = Residual(8, 16, 1)
        self.layer2 = Residual(16, 24, 2)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.layer2(self.layer1(self.stem(x)))
        features = maps.mean(dim=(2, 3))
        return {"features": features, "maps": maps, "logits": self.fc(self.dropout(features))}


class SmallViT(nn.Module):
    """A vision transformer on frames ``[N, 3, 32, 32]``, or with tubelets on clips ``[N, T, 3, 32, 32]``."""

    def __init__(self, num_frames: int | None = None) -> None:
        super().__init__()
        self.num_frames = num_frames
        kernel = (8, 8) if num_frames is None else (2, 8, 8)
        self.patches: nn.Module = (nn.Conv2d if num_frames is None else nn.Conv3d)(3, 24, kernel, kernel)
        num_tokens = 16 * (1 if num_frames is None else num_frames // 2)
        self.cls = nn.Parameter(torch.empty(1, 1, 24))
        self.positions = nn.Parameter(torch.empty(1, num_tokens + 1, 24))
        self.norms = nn.ModuleList(nn.LayerNorm(24) for _ in range(4))
        self.qkv = nn.ModuleList(nn.Linear(24, 72) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(24, 24) for _ in range(2))
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24)) for _ in range(2))
        self.last = nn.LayerNorm(24)
        self.pooler = nn.Linear(24, 12)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        x = pixel_values if self.num_frames is None else pixel_values.transpose(1, 2)
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(tokens.shape[0], -1, -1), tokens], dim=1) + self.positions
        for index in range(2):
            batch, length, width = tokens.shape
            queries, keys, values = (
                part.reshape(batch, length, 4, width // 4).transpose(1, 2)
                for part in self.qkv[index](self.norms[2 * index](tokens)).chunk(3, dim=-1)
            )
            mixed = nn.functional.scaled_dot_product_attention(queries, keys, values)
            tokens = tokens + self.out[index](mixed.transpose(1, 2).reshape(batch, length, width))
            tokens = tokens + self.mlp[index](self.norms[2 * index + 1](tokens))
        tokens = self.last(tokens)
        return {"last_hidden_state": tokens, "pooler_output": torch.tanh(self.pooler(tokens[:, 0]))}


class SmallC3D(nn.Module):
    """``float[N, 3, T, H, W]`` to one vector, whatever T, H and W."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv3d(8, 12, 3, stride=2, padding=1)

    def forward(self, clip: Tensor) -> Tensor:
        found: Tensor = torch.relu(self.conv2(torch.relu(self.conv1(clip)))).mean(dim=(2, 3, 4))
        return found


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (SmallResNet, (3, 64, 64)),
    "vit": (SmallViT, (3, 32, 32)),
    "video": (lambda: SmallViT(4), (4, 3, 32, 32)),
    "c3d": (SmallC3D, (3, 6, 24, 24)),
}
"""Name -> the network and the shape of one of its inputs."""


@cache
def network(name: str) -> nn.Module:
    """Returns a network of seeded weights, as it is used."""
    # Whoever asks first: a network made in inference mode could not be exported.
    with torch.inference_mode(False):
        return seeded(0, NETWORKS[name][0]).eval()


@cache
def folder() -> Path:
    """Returns a folder for the files of this process."""
    kept = tempfile.TemporaryDirectory(prefix="clipmill-programs-")
    _KEPT.append(kept)
    return Path(kept.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def input_name(name: str) -> str:
    """Returns what the network calls its input."""
    return NETWORKS[name][0]().forward.__code__.co_varnames[1]


def save_program(module: nn.Module, path: Path, example: Tensor, given: str, **changes: Any) -> Path:
    """Writes ``torch.export`` of a network, its batch axis open; returns the path."""
    shapes = {given: {0: torch.export.Dim("batch")}}
    program = torch.export.export(module, (example,), **{"dynamic_shapes": shapes, **changes})
    torch.export.save(program, path)
    return path


def save_onnx(module: nn.Module, path: Path, example: Tensor, given: str, outputs: list[str], **changes: Any) -> Path:
    """Writes an ONNX file of a network by PyTorch's first exporter, its batch axis open; returns the path."""
    axes = {name: {0: "batch"} for name in (given, *outputs)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings: dict[str, Any] = {"dynamic_axes": axes, "opset_version": 17} | changes
        torch.onnx.export(
            module, (example,), str(path), input_names=[given], output_names=outputs, dynamo=False, **settings
        )
    return path


@cache
def program(name: str) -> Path:
    """Returns the exported program of a network."""
    return save_program(network(name), folder() / f"{name}.pt2", example(name), input_name(name))


@cache
def onnx_file(name: str) -> Path:
    """Returns the ONNX file of a network."""
    found = network(name)(example(name))
    outputs = list(found) if isinstance(found, dict) else ["output"]
    return save_onnx(network(name), folder() / f"{name}.onnx", example(name), input_name(name), outputs)


def example(name: str, num_windows: int = 2) -> Tensor:
    """Returns an input ``float[N, ...]`` of a network."""
    return torch.randn(num_windows, *NETWORKS[name][1], generator=torch.Generator().manual_seed(1))
