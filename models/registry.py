"""Which models there are. To add one: a module with a `REGISTRATION`, and one line in `BUILT_IN`.

One from outside the project registers under the entry point group ``clipmill.models``.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clipmill.models.base import ModelCard, Registration, Sizes, card_for
from clipmill.schemas.model import Model, validate
from clipmill.schemas.registry import Registry

if TYPE_CHECKING:
    from torch import nn

BUILT_IN = {
    name: f"clipmill.models.{name}:REGISTRATION"
    for name in (
        "acmr",
        "apivr",
        "bpbc",
        "cca",
        "ccl",
        "ci_mha",
        "cmdn",
        "dscmr",
        "dspe",
        "excl",
        "jfssl",
        "map_ivr",
        "procrustes",
        "ridge",
        "sdml",
        "semart",
        "semart_cca",
        "shot_embedding",
        "similarity_network",
    )
}
"""Name to the module it is the file name of, and the module's attribute."""


_REGISTRY: Registry[Registration] = Registry("model", "clipmill.models", Registration, BUILT_IN)


def names() -> tuple[str, ...]:
    """Returns the registered names."""
    return _REGISTRY.names


def registration(name: str) -> Registration:
    """Returns the card and builder of a model.

    Raises:
        UsageError: there is no such model (near names are listed), or the package that brings it is broken.
    """
    return _REGISTRY.get(name)


def resolve_options(name: str, given: Mapping[str, Any]) -> Model:
    """Returns the validated options of the model `name`, defaults filled in.

    Raises:
        UsageError: no such model.
        ConfigError: an option is unknown or does not fit.
    """
    return validate(registration(name).card.options, dict(given), "model.options")


def card(name: str, options: Model) -> ModelCard:
    """Returns the card of the model `name` as its options make it."""
    return card_for(registration(name).card, options)


def build(name: str, options: Model, sizes: Sizes, seed: int = 0) -> "nn.Module":
    """Returns a fresh model whose initial weights are a function of its options, sizes and `seed` alone.

    ours: PyTorch's default initialisation, unless a model's own code says otherwise.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built: nn.Module = registration(name).build(options, sizes)
    return built
