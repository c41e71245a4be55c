"""SqueezeNet as an extractor, and its network with a recipe's weights, which R-MAC pools the maps of."""

from clipmill.extractors.squeezenet.card import CARD
from clipmill.extractors.squeezenet.layouts import layouts
from clipmill.extractors.squeezenet.network import SqueezeNet
from clipmill.extractors.torch_extractor import TorchExtractor, empty, network_layer, seeded
from clipmill.extractors.weights import load_network
from clipmill.schemas.recipe import Recipe


def network_of(recipe: Recipe, layer: str) -> SqueezeNet:
    """Returns the network up to `layer` with the recipe's weights, in the colour order they were published in."""
    if recipe.weights.file is None:
        return seeded(recipe.weights.seed or 0, lambda: SqueezeNet(network_layer(layer)))
    network = empty(lambda: SqueezeNet(network_layer(layer)))
    load_network(network, recipe.weights.file, layouts(), CARD.layer(layer).unused, recipe.weights.layout)
    return network


def build(recipe: Recipe, device: str) -> TorchExtractor:
    """Returns the extractor with the recipe's weights."""
    network = network_of(recipe, recipe.layer)
    return TorchExtractor(network, recipe, device, network.features[0], single_frames=True)
