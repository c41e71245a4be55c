"""CPNet as an extractor: windows of frames to rows."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipmill.extractors.base import options_of
from clipmill.extractors.cpnet.card import CARD
from clipmill.extractors.cpnet.network import CPNet
from clipmill.extractors.cpnet.options import CPNetOptions, fewest_points, stem_stride
from clipmill.extractors.cpnet.weights import read_state
from clipmill.extractors.torch_extractor import TorchExtractor, network_layer, seeded, set_batch_norm_epsilon
from clipmill.schemas.errors import VideoError, describe
from clipmill.schemas.recipe import Recipe


def make_network(recipe: Recipe, options: CPNetOptions, num_classes: int | None) -> CPNet:
    """Returns the network a recipe describes, its weights still to be filled."""
    return CPNet(
        options.depth,
        network_layer(recipe.layer),
        num_classes,
        stem_stride(options),
        options.k,
        options.cp_blocks,
        options.mlp_divisors,
        options.chunk_queries,
    )


def build(recipe: Recipe, device: str) -> "CPNetExtractor":
    """Returns the extractor with the recipe's weights.

    ours: random weights have gamma 1 in the last batch norm of a CP module, not the 0 that training starts from: the
    modules take part.
    """
    options: CPNetOptions = options_of(CARD, recipe)
    if recipe.weights.file is not None:
        unused = CARD.layer(recipe.layer).unused
        state = read_state(recipe.weights.file, options.depth, unused, recipe.weights.layout)
        with torch.device("meta"):
            network = make_network(recipe, options, len(state["fc.bias"]) if "fc.bias" in state else None)
        network.load_state_dict(state, strict=True, assign=True)
    else:
        num_classes = options.num_classes or options.release.published[0][1]
        network = seeded(recipe.weights.seed or 0, lambda: make_network(recipe, options, num_classes))
    set_batch_norm_epsilon(network, options.batch_norm_epsilon)
    if options.fold_batch_norm:
        network.fold_batch_norm()
    return CPNetExtractor(network, recipe, device, options)


class CPNetExtractor(TorchExtractor):
    """Runs CPNet on windows of frames: its convolutions see each frame by itself."""

    def __init__(self, network: CPNet, recipe: Recipe, device: str, options: CPNetOptions) -> None:
        super().__init__(network, recipe, device, network.conv0.conv, single_frames=True)
        self._options = options

    def prepare(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """Returns ``float[N, T, 3, H, W]``, every frame channels last in memory.

        Raises:
            VideoError: ``frame_too_small``: the maps have fewer points in other frames than the module looks up.
        """
        num_windows, num_frames, height, width, channels = frames.shape
        num_others = fewest_points(self._options, height, width) * (num_frames - 1)
        if num_others < self._options.neighbours:
            expected = f"maps with at least {self._options.neighbours} points in other frames"
            got = f"{num_others} for {num_frames} frames of {width}x{height}"
            message = describe("cpnet", "frame size", expected, got, "resize larger, or lower options.k")
            raise VideoError("extract", "frame_too_small", message)
        single = frames.reshape(num_windows * num_frames, 1, height, width, channels)
        images = super().prepare(single)
        return images.view(num_windows, num_frames, *images.shape[1:])
