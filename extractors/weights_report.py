"""What a weights file is: its layout, the card a recipe would take, whether it is a published one. Runs none of it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from clipmill.extractors import registry
from clipmill.extractors.published import Published, card_choices, git_blob_sha1, identify
from clipmill.extractors.resolve import resolve_recipe
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
        recipe: what a build would make of the file; None where it has no known layout.
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
    layouts = _layouts(extractor)
    shapes = {key: tuple(value.shape) for key, value in read_state_dict(path, largest_bytes(layouts)).items()}
    return dict(card_choices(extractor)[match_layout(path, shapes, layouts).card].options)


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
    fit = nearest_layout(shapes, layouts)
    facts = os.path.getsize(path), digest(path), git_blob_sha1(path), tuple(identify(path))
    if fit.num_problems:
        return WeightsReport(path, *facts, len(state), fit)
    from torch import float64

    learnt = [key for key in state if not fit.layout.keys[key][0].endswith(STATISTICS)]
    options = dict(card_choices(extractor)[fit.layout.card].options)
    feature = FeatureConfig(weights=WeightsConfig(file=path), options=options)
    return WeightsReport(
        path,
        *facts,
        len(state),
        fit,
        num_parameters=sum(state[key].numel() for key in learnt),
        # A sum in double precision is finite where every number is, and needs no second tensor of that size.
        not_finite=tuple(key for key, value in state.items() if not isfinite(value.sum(dtype=float64))),
        num_classes=fit.layout.count_classes(shapes),
        options=options,
        recipe=resolve_recipe(extractor, feature, ClipRule(), DecodeConfig()),
    )
