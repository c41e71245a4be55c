"""Exports a network with its preprocessing beside it: ``python examples/exported/export.py FOLDER``.

The network is a small one of random weights that stands for yours; the lines of `export` are what any network needs.
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

PREPROCESSING = {
    "do_resize": True,
    "size": {"shortest_edge": 72},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 64, "width": 64},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
"""As a ``preprocessor_config.json`` of Hugging Face."""


class Network(nn.Module):
    """``float[N, 3, 64, 64]`` to maps and their mean, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 7, 4, 3), nn.GELU(), nn.Conv2d(16, 32, 3, 2, 1), nn.GELU())

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        maps = self.layers(frames)
        return {"features": maps.mean(dim=(2, 3)), "maps": maps}


def export(network: nn.Module, path: Path) -> None:
    """Writes the network as it is used, the number of frames in a batch left open."""
    example = torch.zeros(2, 3, 64, 64)
    shapes = {"frames": {0: torch.export.Dim("batch")}}
    program = torch.export.export(network.eval(), (example,), dynamic_shapes=shapes)
    torch.export.save(program, path)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    export(Network(), folder / "network.pt2")
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
