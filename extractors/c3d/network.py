"""The C3D network."""

from collections.abc import Callable, Set
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVOLUTIONS = (
    ("conv1a", 3, 64),
    ("conv2a", 64, 128),
    ("conv3a", 128, 256),
    ("conv3b", 256, 256),
    ("conv4a", 256, 512),
    ("conv4b", 512, 512),
    ("conv5a", 512, 512),
    ("conv5b", 512, 512),
)
LINEARS: tuple[tuple[str, int | None, int], ...] = (("fc6", 4096, 8192), ("fc7", 4096, 4096), ("fc8", None, 4096))
SPORTS1M_CLASSES = 487
NOT_NEEDED = {"pool5": ("fc6", "fc7", "fc8"), "fc6": ("fc7", "fc8"), "fc7": ("fc8",), "logits": ()}
"""Layer to the linear layers after it."""


class C3D(nn.Module):
    """C3D up to `layer`; ``float[N, 3, 16, 112, 112]`` to ``float[N, D]``. fc6 and fc7 are read after their ReLU."""

    def __init__(
        self,
        layer: str = "fc6",
        pool5: Literal["caffe", "port"] = "caffe",
        num_classes: int = SPORTS1M_CLASSES,
    ) -> None:
        super().__init__()
        self._layer, self._pool5 = layer, pool5
        self.conv1a, self.conv2a, self.conv3a, self.conv3b, self.conv4a, self.conv4b, self.conv5a, self.conv5b = (
            nn.Conv3d(channels_in, channels_out, kernel_size=3, padding=1)
            for _, channels_in, channels_out in CONVOLUTIONS
        )
        self.fc6, self.fc7, self.fc8 = (nn.Linear(inputs, rows or num_classes) for _, rows, inputs in LINEARS)

    def resize_classes(self, num_classes: int) -> None:
        """Replaces the last layer."""
        self.fc8 = nn.Linear(4096, num_classes)

    def drop_unused(self) -> None:
        """Frees the linear layers after the wanted one (for fc6, 77 MB of 320)."""
        for name in NOT_NEEDED[self._layer.removesuffix("_before_relu")]:
            delattr(self, name)

    def forward(self, clips: Tensor) -> Tensor:
        return self.layers(clips, {self._layer})[self._layer]

    def layers(self, clips: Tensor, wanted: Set[str]) -> dict[str, Tensor]:
        """Returns what `forward` does up to each of the wanted layers, of which none lies beyond the network's own."""
        x = F.max_pool3d(F.relu_(self.conv1a(clips)), (1, 2, 2))
        x = F.max_pool3d(F.relu_(self.conv2a(x)), 2)
        x = F.max_pool3d(F.relu_(self.conv3b(F.relu_(self.conv3a(x)))), 2)
        x = F.max_pool3d(F.relu_(self.conv4b(F.relu_(self.conv4a(x)))), 2)
        x = F.relu_(self.conv5b(F.relu_(self.conv5a(x))))
        x = torch.flatten(pool5(x, self._pool5), 1)
        found = {"pool5": x}
        steps: dict[str, Callable[[Tensor], Tensor]] = {
            "fc6_before_relu": lambda x: self.fc6(x),
            "fc6": F.relu,
            "fc7_before_relu": lambda x: self.fc7(x),
            "fc7": F.relu,
            "logits": lambda x: self.fc8(x),
        }
        for name, step in steps.items():
            if wanted <= found.keys():
                break
            found[name] = step(found[next(reversed(found))])
        return {name: found[name] for name in wanted}


def pool5(maps: Tensor, rule: Literal["caffe", "port"]) -> Tensor:
    """Returns the last pooling of 2 x 7 x 7 maps to 1 x 4 x 4.

    Per side, ``caffe`` takes cells {0, 1} {2, 3} {4, 5} {6}, ``port`` {0} {1, 2} {3, 4} {5, 6}.
    """
    if rule == "caffe":
        return F.max_pool3d(maps, 2, ceil_mode=True)
    return F.max_pool3d(maps, 2, padding=(0, 1, 1))
