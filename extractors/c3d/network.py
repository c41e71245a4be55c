"""The C3D network and the layouts of its published weights."""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipmill.extractors.base import Outputs, options_of
from clipmill.extractors.c3d.card import CARD, C3DOptions
from clipmill.extractors.c3d.mean import read_mean_cube
from clipmill.extractors.c3d.projection import Projection, read_projection
from clipmill.extractors.torch_extractor import TorchExtractor, empty, seeded
from clipmill.extractors.weights import Layout, Shape, check_digest, load_network
from clipmill.schemas.recipe import Recipe

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
        for name in NOT_NEEDED[self._layer]:
            delattr(self, name)

    def forward(self, clips: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu_(self.conv1a(clips)), (1, 2, 2))
        x = F.max_pool3d(F.relu_(self.conv2a(x)), 2)
        x = F.max_pool3d(F.relu_(self.conv3b(F.relu_(self.conv3a(x)))), 2)
        x = F.max_pool3d(F.relu_(self.conv4b(F.relu_(self.conv4a(x)))), 2)
        x = F.relu_(self.conv5b(F.relu_(self.conv5a(x))))
        x = torch.flatten(pool5(x, self._pool5), 1)
        if self._layer == "pool5":
            return x
        x = F.relu_(self.fc6(x))
        if self._layer == "fc6":
            return x
        x = F.relu_(self.fc7(x))
        return x if self._layer == "fc7" else self.fc8(x)


def pool5(maps: Tensor, rule: Literal["caffe", "port"]) -> Tensor:
    """Returns the last pooling of 2 x 7 x 7 maps to 1 x 4 x 4.

    Per side, ``caffe`` takes cells {0, 1} {2, 3} {4, 5} {6}, ``port`` {0} {1, 2} {3, 4} {5, 6}.
    """
    if rule == "caffe":
        return F.max_pool3d(maps, 2, ceil_mode=True)
    return F.max_pool3d(maps, 2, padding=(0, 1, 1))


def _keys(
    names: dict[str, str], classes: int | None = None, suffixes: tuple[str, str] = (".weight", ".bias")
) -> dict[str, tuple[str, Shape]]:
    """Returns published key to (our key, shape), for our layer name to published layer name."""
    shapes: dict[str, tuple[Shape, Shape]] = {
        name: ((channels_out, channels_in, 3, 3, 3), (channels_out,))
        for name, channels_in, channels_out in CONVOLUTIONS
    }
    shapes |= {name: ((rows or classes, columns), (rows or classes,)) for name, rows, columns in LINEARS}
    return {
        published + suffix: (f"{name}.{kind}", shapes[name][index])
        for name, published in names.items()
        for index, (kind, suffix) in enumerate(zip(("weight", "bias"), suffixes, strict=True))
    }


_NAMES = [name for name, *_ in CONVOLUTIONS]
_LINEAR = {name: name for name, *_ in LINEARS}
_SHORT = {name: name.removesuffix("a") if name in ("conv1a", "conv2a") else name for name in _NAMES}
_INDEXED = dict(zip(_NAMES, (f"features.{index}" for index in (0, 3, 6, 8, 11, 13, 16, 18)), strict=True))

LAYOUTS = (
    # The same names serve Sports-1M weights and the port's own UCF-101 training: the number of classes tells which.
    Layout("c3d_sports1m_davidea", "sports1m-caffe", _keys(_SHORT | _LINEAR, SPORTS1M_CLASSES), SPORTS1M_CLASSES),
    Layout("c3d_ucf101_jfzhang95", "ucf101-jfzhang95", _keys(_SHORT | _LINEAR)),
    Layout(
        "c3d_sports1m_jfzhang95",
        "sports1m-caffe",
        _keys(_INDEXED | {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}),
    ),
    Layout(
        "c3d_sports1m_mmaction2",
        "mmaction2",
        _keys({name: f"{name}.conv" for name in _NAMES} | {"fc6": "fc6", "fc7": "fc7"}),
        lacks=("logits",),
    ),
    Layout(
        "c3d_ucf101_mmaction2",
        "mmaction2",
        _keys(
            {name: f"backbone.{name}.conv" for name in _NAMES}
            | {"fc6": "backbone.fc6", "fc7": "backbone.fc7", "fc8": "cls_head.fc_cls"}
        ),
    ),
    Layout(
        "c3d_sports1m_caffe",
        "sports1m-caffe",
        _keys({name: name for name in _NAMES} | {name: f"{name}-1" for name in _LINEAR}, None, ("[0]", "[1]")),
    ),
)


def build(recipe: Recipe, device: str) -> TorchExtractor:
    """Returns the extractor with the recipe's weights."""
    options: C3DOptions = options_of(CARD, recipe)
    pool5 = options.pool5 or "caffe"
    if recipe.weights.file is not None:
        network = empty(lambda: C3D(recipe.layer, pool5))
        network.drop_unused()
        load_network(network, recipe.weights.file, LAYOUTS)
    else:
        network = seeded(recipe.weights.seed or 0, lambda: C3D(recipe.layer, pool5))
        network.drop_unused()
    projection = None
    if options.pca is not None and options.pca_orientation is not None:
        check_digest(recipe.files["pca"], options.pca)
        projection = read_projection(recipe.files["pca"], options.pca_orientation, recipe.dim)
    return C3DExtractor(network, recipe, device, mean_volume(recipe), projection)


class C3DExtractor(TorchExtractor):
    """C3D, with a projection of its rows in float32 where the recipe has one."""

    def __init__(
        self, network: C3D, recipe: Recipe, device: str, mean: Tensor | None, projection: Projection | None
    ) -> None:
        super().__init__(network, recipe, device, network.conv1a, single_frames=False, mean=mean)
        self._projection = projection

    def forward(self, frames: npt.NDArray[np.uint8]) -> Outputs:
        """Returns ``{"values": float32[N, D]}`` for ``uint8[N, 16, H, W, 3]``."""
        outputs = super().forward(frames)
        if self._projection is None:
            return outputs
        return {"values": self._projection(np.asarray(outputs["values"], dtype=np.float32))}


def mean_volume(recipe: Recipe) -> Tensor | None:
    """Returns the recipe's mean cube cut at its crop, ``float32[1, 3, 16, 112, 112]`` in RGB order, or None."""
    preprocess = recipe.preprocess
    if preprocess.mean_cube is None or preprocess.mean_cube_file is None:
        return None
    check_digest(preprocess.mean_cube_file, preprocess.mean_cube)
    cube = read_mean_cube(preprocess.mean_cube_file, preprocess)
    # The file's channels are BGR, as Caffe reads images.
    return torch.from_numpy(cube[::-1].copy())[None]
