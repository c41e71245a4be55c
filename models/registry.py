"""Which models there are. To add one: a module with a `REGISTRATION`, and one line in `BUILT_IN`.

One from outside the project registers under the entry point group ``clipmill.models``.
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from clipmill.models.base import ModelCard, Registration, Sizes, card_for
from clipmill.schemas.errors import UsageError, describe, near
from clipmill.schemas.model import Model, validate

if TYPE_CHECKING:
    from torch import nn

ENTRY_POINT_GROUP = "clipmill.models"

BUILT_IN = {
    "bpbc": "clipmill.models.bpbc",
    "cca": "clipmill.models.cca",
    "jfssl": "clipmill.models.jfssl",
    "map_ivr": "clipmill.models.map_ivr",
    "procrustes": "clipmill.models.procrustes",
    "ridge": "clipmill.models.ridge",
}


@cache
def _outside() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def names() -> tuple[str, ...]:
    """Returns the registered names, sorted."""
    return tuple(sorted({*BUILT_IN, *_outside()}))


@cache
def registration(name: str) -> Registration:
    """Returns the card and builder of a model.

    Raises:
        UsageError: there is no such model (near names are listed), or the package that brings it is broken.
    """
    if name in BUILT_IN:
        found: object = import_module(BUILT_IN[name]).REGISTRATION
    elif name in _outside():
        try:
            found = _outside()[name].load()
        except Exception as error:
            got = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise UsageError(describe("model", name, "a package that imports", got, "fix or remove it")) from error
    else:
        raise UsageError(describe("model", name, "a known name", "an unknown one", near(name, names())))
    if not isinstance(found, Registration):
        expected = "a clipmill.models.base.Registration"
        raise UsageError(describe("model", name, expected, type(found).__name__, "see docs/extending.md"))
    if found.card.name != name:
        remedy = "give the entry point the name of its card"
        raise UsageError(describe("model", name, "a card of that name", found.card.name, remedy))
    return found


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
