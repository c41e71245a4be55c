"""SqueezeNet as an extractor: one row per frame."""

from clipmill.extractors.squeezenet.card import CARD
from clipmill.extractors.squeezenet.layouts import layouts
from clipmill.extractors.squeezenet.network import SqueezeNet
from clipmill.extractors.torch_extractor import TorchExtractor, empty, network_layer, seeded
from clipmill.extractors.weights import load_network
from clipmill.schemas.recipe import Recipe


def build(recipe: Recipe, device: str) -> TorchExtractor:
    """Returns the extractor with the recipe's weights."""
    if recipe.weights.file is not None:
        network = empty(lambda: SqueezeNet(network_layer(recipe.layer)))
        unused = CARD.layer(recipe.layer).unused
        load_network(network, recipe.weights.file, layouts(), unused, recipe.weights.layout)
    else:
        network = seeded(recipe.weights.seed or 0, lambda: SqueezeNet(network_layer(recipe.layer)))
    return TorchExtractor(network, recipe, device, network.features[0], single_frames=True)
