"""Which extractors there are. To add one: a folder of this room, and one line in `BUILT_IN`.

A folder has, by the names of its files:

* ``card.py`` with ``CARD``: what planning needs, without torch;
* ``build.py`` with ``build(recipe, device)``: imported when a worker builds the extractor;
* ``layouts.py`` with ``layouts()``, where it reads weights files: their published layouts;
* ``check.py`` with ``published_sample()``, where the authors published what their network gives on a sample;
* ``join.py`` with ``join(files, path)``, where weights come in several files that a recipe takes as one.

One from outside the project is such a folder, or a `Registration` in any module, under the entry point group
``clipmill.extractors``.
"""

import json
from collections.abc import Sequence
from functools import cache, lru_cache, partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from clipmill.extractors.base import Extractor, ExtractorCard, Registration, SharingExtractor, card_for
from clipmill.extractors.precision import warn_if_slow
from clipmill.extractors.runtime import check_device, check_runtime
from clipmill.extractors.shared_pass import sharing_groups
from clipmill.extractors.weights import check_digest, digest
from clipmill.schemas.errors import UsageError, describe, near
from clipmill.schemas.recipe import Recipe

ENTRY_POINT_GROUP = "clipmill.extractors"

BUILT_IN = {
    "c3d": "clipmill.extractors.c3d",
    "cpnet": "clipmill.extractors.cpnet",
    "i3d": "clipmill.extractors.i3d",
    "onnx": "clipmill.extractors.onnx_program",
    "rc3d": "clipmill.extractors.rc3d",
    "resnet50": "clipmill.extractors.resnet50",
    "rmac": "clipmill.extractors.rmac",
    "squeezenet": "clipmill.extractors.squeezenet",
    "torch": "clipmill.extractors.torch_program",
    "tracks": "clipmill.extractors.tracks",
    "vgg16": "clipmill.extractors.vgg16",
}
"""Name of an extractor -> its folder."""


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
        return _of_folder(BUILT_IN[name])
    if name not in _outside():
        raise UsageError(f"extractor {name}: expected a registered name, got an unknown one; {near(name, names())}")
    try:
        found: object = _outside()[name].load()
        if isinstance(found, ModuleType):
            found = _of_folder(found.__name__)
    except Exception as error:
        got = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise UsageError(describe("extractor", name, "a package that imports", got, "fix or remove it")) from error
    if not isinstance(found, Registration):
        expected = "a clipmill.extractors.base.Registration"
        raise UsageError(describe("extractor", name, expected, type(found).__name__, "see docs/extending.md"))
    if found.card.name != name:
        remedy = "give the entry point the name of its card"
        raise UsageError(describe("extractor", name, "a card of that name", found.card.name, remedy))
    return found


def _of_folder(package: str) -> Registration:
    """Returns what the files of a folder offer; all but its card is imported when it is called."""

    def offered(file: str, name: str, *arguments: Any) -> Any:
        return getattr(import_module(f"{package}.{file}"), name)(*arguments)

    def has(file: str) -> bool:
        return find_spec(f"{package}.{file}") is not None

    if not has("build"):
        raise ImportError(f"{package} has no build.py")
    return Registration(
        card=import_module(f"{package}.card").CARD,
        factory=partial(offered, "build", "build"),
        layouts=partial(offered, "layouts", "layouts") if has("layouts") else None,
        sample=partial(offered, "check", "published_sample") if has("check") else None,
        join=partial(offered, "join", "join") if has("join") else None,
    )


def card(name: str) -> ExtractorCard:
    """Returns the card of an extractor with its default options; `card_of` is the one of a recipe."""
    return registration(name).card


def card_of(recipe: Recipe) -> ExtractorCard:
    """Returns the card of a resolved recipe's extractor as the recipe's options make it."""
    program = card(recipe.extractor).program
    if program is not None:
        return program.of_recipe(recipe)
    return _card_of(recipe.extractor, json.dumps(recipe.options, sort_keys=True))


# Remembered, because planning asks for each video.
@lru_cache(maxsize=64)
def _card_of(name: str, options: str) -> ExtractorCard:
    found = card(name)
    return card_for(found, found.options.model_validate(json.loads(options)))


def class_names(recipe: Recipe) -> tuple[str, ...]:
    """Returns the names of the classes that a recipe's ``class_index`` column or logits count, in their order.

    A background class is left out: where a ``class_index`` counts it as 0, the first name is that of class 1. Empty
    where the weights do not name their classes, and for an extractor that is not installed here.
    """
    if recipe.extractor not in names():
        return ()
    of_recipe = card(recipe.extractor).class_names
    return of_recipe(recipe) if of_recipe is not None else ()


def groups(recipes: Sequence[Recipe]) -> list[list[Recipe]]:
    """Returns recipes in groups that `build_group` gives one network: they differ only in their layer."""
    return sharing_groups(recipes, _shared_layers)


def build_group(group: Sequence[Recipe], device: str) -> list[Extractor]:
    """Returns an extractor of each recipe of one of the `groups`; they share a network and its passes.

    Raises:
        WeightsError, UsageError: as `build`.
    """
    owner = build(group[0], device)
    if len(group) > 1 and isinstance(owner, SharingExtractor):
        return owner.of_layers(group)
    return [owner, *(build(recipe, device) for recipe in group[1:])]


def _shared_layers(recipe: Recipe) -> tuple[str, ...]:
    # What another library gives of two layers at once need not be what it gives of each.
    alone = recipe.runtime is not None or recipe.preprocess.crops is not None
    return () if alone else card_of(recipe).shared_layers


def build(recipe: Recipe, device: str) -> Extractor:
    """Returns the extractor a recipe describes, on `device`, with its weights loaded.

    Warns (`SlowPrecisionWarning`) where the recipe's precision is slower on this CPU than float32.

    Raises:
        WeightsError: the weights file is not the one the recipe was resolved with.
        UsageError: the recipe's runtime is not installed, is not for this device, or is too far off on this machine.
    """
    if recipe.weights.file is not None and recipe.weights.sha256 is not None:
        program = card(recipe.extractor).program
        check_digest(recipe.weights.file, recipe.weights.sha256, program.digest if program is not None else digest)
    check_runtime(recipe, card_of(recipe).runtimes)
    check_device(recipe, device)
    warn_if_slow(recipe.name, recipe.precision, device)
    if device != "cpu":
        from clipmill.extractors.torch_extractor import make_arithmetic_exact

        make_arithmetic_exact()
    built = registration(recipe.extractor).factory(recipe, device)
    if recipe.preprocess.crops is None:
        return built
    from clipmill.extractors.crops import AveragedCrops

    return AveragedCrops(built, recipe.preprocess)
