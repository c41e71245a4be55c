"""Which extractors there are. To add one: a module with a `Registration`, and one line in `BUILT_IN`.

One from outside the project registers under the entry point group ``clipmill.extractors``.
"""

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from clipmill.extractors.base import Extractor, ExtractorCard, Registration
from clipmill.extractors.weights import check_digest
from clipmill.schemas.errors import UsageError, describe, near
from clipmill.schemas.recipe import Recipe

ENTRY_POINT_GROUP = "clipmill.extractors"

BUILT_IN = {
    "c3d": "clipmill.extractors.c3d.card",
    "cpnet": "clipmill.extractors.cpnet.card",
    "i3d": "clipmill.extractors.i3d.card",
    "rc3d": "clipmill.extractors.rc3d.card",
    "resnet50": "clipmill.extractors.resnet50.card",
    "rmac": "clipmill.extractors.rmac.card",
    "squeezenet": "clipmill.extractors.squeezenet.card",
    "tracks": "clipmill.extractors.tracks.card",
    "vgg16": "clipmill.extractors.vgg16.card",
}


@cache
def _outside() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def names() -> tuple[str, ...]:
    """Returns the registered names, sorted."""
    return tuple(sorted({*BUILT_IN, *_outside()}))


@cache
def registration(name: str) -> Registration:
    """Returns the card and factory of an extractor; a card is light, torch comes with the factory.

    Raises:
        UsageError: there is no such extractor (near names are listed), or the package that brings it is broken.
    """
    if name in BUILT_IN:
        found: object = import_module(BUILT_IN[name]).REGISTRATION
    elif name in _outside():
        try:
            found = _outside()[name].load()
        except Exception as error:
            got = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise UsageError(describe("extractor", name, "a package that imports", got, "mend or remove it")) from error
    else:
        raise UsageError(f"extractor {name}: expected a registered name, got an unknown one; {near(name, names())}")
    if not isinstance(found, Registration):
        expected = "a clipmill.extractors.base.Registration"
        raise UsageError(describe("extractor", name, expected, type(found).__name__, "see docs/extending.md"))
    if found.card.name != name:
        remedy = "give the entry point the name of its card"
        raise UsageError(describe("extractor", name, "a card of that name", found.card.name, remedy))
    return found


def card(name: str) -> ExtractorCard:
    """Returns the card of an extractor."""
    return registration(name).card


def build(recipe: Recipe, device: str) -> Extractor:
    """Returns the extractor a recipe describes, on `device`, with its weights loaded.

    Raises:
        WeightsError: the weights file is not the one the recipe was resolved with.
    """
    if recipe.weights.file is not None and recipe.weights.sha256 is not None:
        check_digest(recipe.weights.file, recipe.weights.sha256)
    if device != "cpu":
        from clipmill.extractors.torch_extractor import make_arithmetic_exact

        make_arithmetic_exact()
    return registration(recipe.extractor).factory(recipe, device)
