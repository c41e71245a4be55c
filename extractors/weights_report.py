"""What a weights file is: its layout, the card a recipe would take, whether it is a published one. Runs none of it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from clipmill.extractors import registry
from clipmill.extractors.base import card_for
from clipmill.extractors.published import Published, card_choices, git_blob_sha1, identify
from clipmill.extractors.resolve import card_choices_of, layers_in, resolve_recipe
from clipmill.extractors.weights import (
    Layout,
    LayoutFit,
    digest,
    largest_bytes,
    match_layout,
    nearest_layout,
    read_state_dict,
)
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.recipe import ClipRule, Recipe

STATISTICS = ("running_mean", "running_var")
"""Tensors of batch norm that are measured, not learnt: they do not count as parameters."""


@dataclass(frozen=True, slots=True)
class WeightsReport:
    """What is known of a weights file.

    Attributes:
        published: the known files whose digest it has; one may belong to another extractor.
        fit: the layout it has, or the nearest with what does not fit.
        num_parameters: numbers that were learnt (without batch norm's statistics); None where it has no known layout.
        not_finite: keys of tensors that hold NaN or infinity.
        num_classes: of the last layer, where it has one.
        options: those that take its weights.
        layers: that the file holds; the first is the one of `recipe`.
        cards: that it may have; of more than one a recipe has to name its card.
        recipe: what a build would make of the file; None where it has no known layout, or a card has to be named.
    """

    path: str
    num_bytes: int
    sha256: str
    git_blob: str
    published: tuple[Published, ...]
    num_tensors: int
    fit: LayoutFit
    num_parameters: int | None = None
    not_finite: tuple[str, ...] = ()
    num_classes: int | None = None
    options: dict[str, Any] | None = None
    layers: tuple[str, ...] = ()
    cards: tuple[str, ...] = ()
    recipe: Recipe | None = None

    @property
    def passed(self) -> bool:
        """Whether the extractor takes the file."""
        return self.fit.num_problems == 0 and not self.not_finite


def options_for(extractor: str, path: str) -> dict[str, Any]:
    """Returns the options of a recipe that take the file at `path`, which its layout tells: I3D's stream, say.

    Raises:
        UsageError: there is no such extractor, or it reads no weights files.
        WeightsError: the file cannot be read, or has none of the extractor's layouts.
    """
    if registry.card(extractor).program is not None:
        return {}
    state = read_state_dict(path, largest_bytes(_layouts(extractor)))
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    return dict(card_choices(extractor)[_fit(extractor, path, shapes).layout.card].options)


def _fit(extractor: str, path: str, shapes: Mapping[str, Sequence[int]]) -> LayoutFit:
    """Returns the layout of a file that holds one of the extractor's layers.

    Raises:
        WeightsError: it has none of the extractor's layouts.
    """
    fit = _nearest(extractor, shapes)
    if fit.num_problems:
        match_layout(path, shapes, _layouts(extractor))
    return fit


def _nearest(extractor: str, shapes: Mapping[str, Sequence[int]]) -> LayoutFit:
    """Returns the nearest layout: of all layers, or where that does not fit of the first layer that does."""
    layouts = _layouts(extractor)
    whole = nearest_layout(shapes, layouts)
    if whole.num_problems == 0:
        return whole
    of_layers = [nearest_layout(shapes, layouts, layer.unused) for layer in registry.card(extractor).layers]
    return next((fit for fit in of_layers if fit.num_problems == 0), whole)


def _layouts(extractor: str) -> Sequence[Layout]:
    layouts = registry.registration(extractor).layouts
    if layouts is None:
        remedy = "it needs no weights"
        raise UsageError(describe("extractor", extractor, "one that reads weights files", "one without", remedy))
    return layouts()


def report_weights(extractor: str, path: str) -> WeightsReport:
    """Returns what the file at `path` is to the extractor.

    Raises:
        UsageError: there is no such extractor, or it reads no weights files.
        WeightsError: the file cannot be read, holds no tensors, or names code to run when loaded (none is run).
    """
    layouts = _layouts(extractor)
    path = os.path.abspath(os.path.expanduser(path))
    state = read_state_dict(path, largest_bytes(layouts))
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    fit = _nearest(extractor, shapes)
    facts = os.path.getsize(path), digest(path), git_blob_sha1(path), tuple(identify(path))
    if fit.num_problems:
        return WeightsReport(path, *facts, len(state), fit)
    from torch import float64

    own = {key: fit.layout.keys[key][0] for key in state if key in fit.layout.keys}
    # A sum in double precision is finite where every number is, and needs no second tensor of that size.
    not_finite = [key for key in own if not isfinite(state[key].sum(dtype=float64))]
    options = dict(card_choices(extractor)[fit.layout.card].options)
    card = card_for(registry.card(extractor), registry.card(extractor).options.model_validate(options))
    # Layers filled with NaN stand for layers that are not there, as torchvision has it; any other NaN is damage.
    filled = {key for key in not_finite if bool(state[key].isnan().all())}
    kept = {own[key].rpartition(".")[0] for key in own if key not in filled}
    void = [key for key in filled if own[key].rpartition(".")[0] not in kept]
    shapes = {key: shape for key, shape in shapes.items() if key not in void}
    held = layers_in(card, shapes)
    if not held:
        void, held = [], layers_in(card, {key: tuple(value.shape) for key, value in state.items()})
    first = next(iter(held))
    choices = card_choices_of(card, held[first], facts[1], card.options.model_validate(options))
    feature = FeatureConfig(layer=first, weights=WeightsConfig(file=path), options=options)
    return WeightsReport(
        path,
        *facts,
        len(state),
        fit,
        num_parameters=sum(state[key].numel() for key in own if not own[key].endswith(STATISTICS)),
        not_finite=tuple(key for key in not_finite if key not in void),
        num_classes=fit.layout.count_classes(shapes),
        options=options,
        layers=tuple(held),
        cards=tuple(choice.name for choice in choices),
        recipe=resolve_recipe(extractor, feature, ClipRule(), DecodeConfig()) if len(choices) == 1 else None,
    )
