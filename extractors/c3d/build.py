"""C3D as an extractor: windows of 16 frames to rows."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipmill.extractors.base import Outputs, options_of
from clipmill.extractors.c3d.card import CARD
from clipmill.extractors.c3d.layouts import layouts
from clipmill.extractors.c3d.mean import read_mean_cube
from clipmill.extractors.c3d.network import C3D
from clipmill.extractors.c3d.options import C3DOptions
from clipmill.extractors.c3d.projection import Projection, read_projection
from clipmill.extractors.flow_files import FlowFiles
from clipmill.extractors.torch_extractor import TorchExtractor, empty, network_layer, seeded
from clipmill.extractors.weights import check_digest, load_network
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Window


def build(recipe: Recipe, device: str) -> TorchExtractor:
    """Returns the extractor with the recipe's weights."""
    options: C3DOptions = options_of(CARD, recipe)
    pool5 = options.pool5 or "caffe"
    if recipe.weights.file is not None:
        network = empty(lambda: C3D(network_layer(recipe.layer), pool5))
        network.drop_unused()
        unused = CARD.layer(recipe.layer).unused
        load_network(network, recipe.weights.file, layouts(), unused, recipe.weights.layout)
    else:
        network = seeded(recipe.weights.seed or 0, lambda: C3D(network_layer(recipe.layer), pool5))
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

    def submit(
        self,
        frames: npt.NDArray[np.uint8],
        windows: Sequence[Window] | None = None,
        files: Sequence[FlowFiles] | None = None,
    ) -> Callable[[], Outputs]:
        """Queues what `forward` does; rows are projected when they are back."""
        outputs, projection = super().submit(frames), self._projection
        if projection is None:
            return outputs
        return lambda: {"values": projection(np.asarray(outputs()["values"], dtype=np.float32))}


def mean_volume(recipe: Recipe) -> Tensor | None:
    """Returns the recipe's mean cube cut at its crop, ``float32[1, 3, 16, 112, 112]`` in RGB order, or None."""
    preprocess = recipe.preprocess
    if preprocess.mean_cube is None or preprocess.mean_cube_file is None:
        return None
    check_digest(preprocess.mean_cube_file, preprocess.mean_cube)
    cube = read_mean_cube(preprocess.mean_cube_file, preprocess)
    # The file's channels are BGR, as Caffe reads images.
    return torch.from_numpy(cube[::-1].copy())[None]
