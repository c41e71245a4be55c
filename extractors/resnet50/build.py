"""ResNet-50 as an extractor, and its network with a recipe's weights, which R-MAC pools the maps of."""

from clipmill.extractors.base import options_of
from clipmill.extractors.resnet50.card import CARD, ResNet50Options
from clipmill.extractors.resnet50.layouts import layouts
from clipmill.extractors.resnet50.network import ResNet50
from clipmill.extractors.torch_extractor import TorchExtractor, network_layer, seeded, set_batch_norm_epsilon
from clipmill.extractors.weights import load_network
from clipmill.schemas.recipe import Recipe


def network_of(recipe: Recipe, layer: str, fold_batch_norm: bool, epsilon: float | None = None) -> ResNet50:
    """Returns the network up to `layer` with the recipe's weights, in the colour order they were published in."""
    if recipe.weights.file is not None:
        network = ResNet50(network_layer(layer))
        load_network(network, recipe.weights.file, layouts(), CARD.layer(layer).unused, recipe.weights.layout)
    else:
        network = seeded(recipe.weights.seed or 0, lambda: ResNet50(network_layer(layer)))
    set_batch_norm_epsilon(network, epsilon)
    if fold_batch_norm:
        network.fold_batch_norm()
    return network


def build(recipe: Recipe, device: str) -> TorchExtractor:
    """Returns the extractor with the recipe's weights."""
    options: ResNet50Options = options_of(CARD, recipe)
    network = network_of(recipe, recipe.layer, options.fold_batch_norm, options.batch_norm_epsilon)
    return TorchExtractor(network, recipe, device, network.conv1, single_frames=True)
