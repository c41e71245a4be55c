"""VGG-16 as an extractor, and its network with a recipe's weights, which R-MAC pools the maps of."""

from clipmill.extractors.torch_extractor import TorchExtractor, empty, network_layer, seeded
from clipmill.extractors.vgg16.card import CARD
from clipmill.extractors.vgg16.layouts import layouts
from clipmill.extractors.vgg16.network import VGG16
from clipmill.extractors.weights import load_network
from clipmill.schemas.recipe import Recipe


def network_of(recipe: Recipe, layer: str) -> VGG16:
    """Returns the network up to `layer` with the recipe's weights, in the colour order they were published in."""

    def make() -> VGG16:
        network = VGG16(network_layer(layer))
        network.drop_unused()
        return network

    if recipe.weights.file is None:
        # Layers are drawn in their order, so leaving out later ones changes nothing.
        return seeded(recipe.weights.seed or 0, make)
    network = empty(make)
    load_network(network, recipe.weights.file, layouts(), CARD.layer(layer).unused, recipe.weights.layout)
    return network


def build(recipe: Recipe, device: str) -> TorchExtractor:
    """Returns the extractor with the recipe's weights."""
    network = network_of(recipe, recipe.layer)
    return TorchExtractor(network, recipe, device, network.features[0], single_frames=True)
