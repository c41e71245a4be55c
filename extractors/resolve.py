"""From what a user wrote to a recipe with nothing left open."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from clipmill.extractors import registry
from clipmill.extractors.base import PIXEL_OPTIONS, ExtractorCard, Layer, WeightsCard, card_for
from clipmill.extractors.presets import expand
from clipmill.extractors.runtime import check_runtime
from clipmill.extractors.weights import (
    SHOWN_KEYS,
    Layout,
    digest,
    fitting_layouts,
    largest_bytes,
    match_layout,
    nearest_layout,
    read_state_dict,
)
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.errors import UsageError, WeightsError, describe, near
from clipmill.schemas.model import Model, validate
from clipmill.schemas.recipe import ClipRule, Preprocess, Recipe, Sampling, Weights

OF_CLASSES = ("logits", "probabilities")
"""Layers whose rows have a value for each class of the file."""


def resolve_recipe(name: str, feature: FeatureConfig, clips: ClipRule, decode: DecodeConfig) -> Recipe:
    """Returns the recipe of one feature: defaults filled in, weights recognised, options validated.

    Reads the weights file, if one is given, to its digest and layout.

    Raises:
        UsageError: unknown extractor, layer or option; sampling or weights that do not fit the extractor.
    """
    where = f"features.{name}"
    feature = expand(name, feature)
    card = registry.card(feature.extractor or name)
    options = validate(card.options, feature.options, f"{where}.options")
    card = _of_program(card, feature.weights, options, where) if card.program is not None else card_for(card, options)
    layer = _layer(card, feature.layer, where)
    weights, weights_card, num_classes = _weights(card, feature.weights, layer, options, where)
    card = replace(card, sampling=card.sampling.model_copy(update=dict(weights_card.sampling)))
    of_weights = {key: value for key, value in weights_card.options.items() if getattr(options, key) is None}
    options = options.model_copy(update=of_weights)
    preprocess = _preprocess(weights_card, feature.preprocess, where)
    _check_side(layer, preprocess, where)
    _check_pixels(card, layer, preprocess, where)
    sampling = _sampling(card, feature.sampling, where)
    _check_grid(layer, sampling, where)
    recipe = Recipe(
        name=name,
        extractor=card.name,
        extractor_version=card.version,
        layer=layer.name,
        dim=num_classes if layer.name in OF_CLASSES and num_classes is not None else layer.dim,
        dtype=_dtype(layer, feature.dtype, where),
        weights=weights,
        sampling=sampling,
        preprocess=preprocess,
        clips=clips,
        options=options.model_dump(mode="json"),
        pooling=feature.pooling,
        precision=feature.precision,
        runtime=None if feature.runtime == "torch" else feature.runtime,
        decoder=decode.decoder,
    )
    check_runtime(recipe, card.runtimes)
    if card.resolve_files is not None:
        recipe = card.resolve_files(recipe)
    if card.check is not None:
        card.check(recipe)
    return recipe


def _of_program(card: ExtractorCard, given: WeightsConfig | None, options: Any, where: str) -> ExtractorCard:
    """Returns the card of an extractor that runs the very file given as its weights, as that file makes it."""
    if card.program is None or given is None or given.file is None:
        got = "none" if given is None else f"{{random: {given.random}}}"
        remedy = f"name the file that {card.name} is to run (docs/extractors/{card.name}.md)"
        raise UsageError(describe(where, "weights", "{file: PATH}, the exported network", got, remedy))
    return card.program.card(os.path.abspath(os.path.expanduser(given.file)), options)


def _layer(card: ExtractorCard, wanted: str | None, where: str) -> Layer:
    if wanted is None:
        return card.layers[0]
    for layer in card.layers:
        if layer.name == wanted:
            return layer
    names = [layer.name for layer in card.layers]
    raise UsageError(f"{where}.layer: expected one of {', '.join(names)}, got {wanted}; {near(wanted, names)}")


def _sampling(card: ExtractorCard, given: Sampling | None, where: str) -> Sampling:
    """Returns the extractor's windows with what was given in place of theirs.

    What is left out stays the extractor's: a rate or stride that weights were trained with is not lost because another
    key was written. Only what a given key makes meaningless goes: the grid under `random_frames`, the step of other
    windows.
    """
    if given is None:
        return card.sampling
    where = f"{where}.sampling"
    written = given.model_fields_set
    if card.frames_fixed and given.frames not in (None, card.sampling.frames):
        expected = f"{card.sampling.frames} ({card.name} takes no other)"
        raise UsageError(describe(where, "frames", expected, str(given.frames), "leave it out"))
    if given.frames is not None and given.frames < card.min_frames:
        expected = f"at least {card.min_frames} for {card.name}"
        raise UsageError(describe(where, "frames", expected, str(given.frames), "raise it"))
    own = card.sampling.model_dump()
    if given.random_frames is not None:
        own |= {"fps": None, "step": None, "rounding": None}
    if given.uniform_windows is not None:
        own["step"] = None
    if given.centred:
        own["step"] = 1
    own |= {key: getattr(given, key) for key in written}
    own["frames"] = own["frames"] or card.sampling.frames or 1
    other_windows = (own["frames"], own["every"]) != (card.sampling.frames or 1, card.sampling.every)
    if other_windows and "step" not in written and not given.centred:
        own["step"] = None
    if own["fps"] is None and "rounding" not in written:
        own["rounding"] = None
    if own["rounding"] is not None and own["fps"] is None:
        remedy = "set fps, or leave rounding out"
        raise UsageError(describe(where, "rounding", "an fps to round times to", "every frame", remedy))
    return validate(Sampling, own, where)


def _dtype(layer: Layer, wanted: str | None, where: str) -> Any:
    if wanted is None or wanted == layer.dtype or (wanted, layer.dtype) == ("float16", "float32"):
        return wanted or layer.dtype
    raise UsageError(describe(where, "dtype", f"{layer.dtype} for layer {layer.name}", wanted, "leave it out"))


def _preprocess(card: WeightsCard, changes: dict[str, Any], where: str) -> Preprocess:
    for key in ("mean_cube", "mean_cube_file"):
        if key in changes:
            got = repr(changes[key])
            raise UsageError(describe(f"{where}.preprocess", key, "no value here", got, "set options.mean_cube"))
    own = card.preprocess.model_dump()
    if changes.get("resize", card.preprocess.resize) != card.preprocess.resize:
        # How the card's resize rounds, and what comes before it, belong to it.
        own |= {"stored_side": None, "resize_rounding": None}
    preprocess = validate(Preprocess, own | changes, f"{where}.preprocess")
    if (preprocess.colour == "grey") != (card.preprocess.colour == "grey"):
        expected = "grey" if card.preprocess.colour == "grey" else "rgb or bgr"
        raise UsageError(describe(f"{where}.preprocess", "colour", expected, preprocess.colour, "leave it out"))
    num_channels = 1 if preprocess.colour == "grey" else 3
    for key, values in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(values) not in (0, num_channels):
            expected = f"{num_channels} numbers for colour {preprocess.colour}, or none"
            raise UsageError(describe(f"{where}.preprocess", key, expected, str(list(values)), "correct it"))
    if 0.0 in preprocess.std:
        raise UsageError(describe(f"{where}.preprocess", "std", "numbers other than zero", "0", "correct it"))
    return preprocess


def _check_side(layer: Layer, preprocess: Preprocess, where: str) -> None:
    """Refuses frames that are too small for the layer whatever the video; of others the extractor sees the size."""
    size: tuple[int, ...]
    if preprocess.crop is not None:
        key, size = "crop", preprocess.crop
    elif preprocess.resize == "exact" or preprocess.resize_when != "enlarge":
        # Of one number: the named side has no more pixels, so the shorter one has no more either.
        key, size = "size", preprocess.size
    else:
        return
    if size and min(size) < layer.min_side_pixels:
        least = layer.min_side_pixels
        got = f"{size[0]} x {size[1]}" if len(size) == 2 else f"{preprocess.resize} {size[0]}"
        expected = f"at least {least} x {least} for layer {layer.name}"
        raise UsageError(describe(f"{where}.preprocess", key, expected, got, "enlarge it"))


def _check_pixels(card: ExtractorCard, layer: Layer, preprocess: Preprocess, where: str) -> None:
    """Refuses several crops, or frames in float32, where the extractor cannot be given them."""
    for key in sorted(PIXEL_OPTIONS):
        value = getattr(preprocess, key)
        joined = key == "crops" and layer.frames_per_row is not None
        if value is not None and (key not in card.pixel_options or joined):
            expected = f"none for {card.name}" + (" as its options are" if card.variant is not None else "")
            raise UsageError(describe(f"{where}.preprocess", key, expected, str(value), "leave it out"))


def _check_grid(layer: Layer, sampling: Sampling, where: str) -> None:
    """Refuses windows that do not lie on a plain grid where rows are joined from several of them."""
    if layer.frames_per_row is None:
        return
    keys = ("centred", "uniform_windows", "first_frame", "frames_after", "block_frames")
    given = [key for key in keys if getattr(sampling, key)]
    if sampling.tail in ("loop", "before_last", "both_ways"):
        given.append("tail")
    if given:
        expected = "a plain grid of windows, whose rows are joined"
        got = str(getattr(sampling, given[0]))
        raise UsageError(describe(f"{where}.sampling", given[0], expected, got, "leave it out"))


def _weights(
    card: ExtractorCard, given: WeightsConfig | None, layer: Layer, options: Model, where: str
) -> tuple[Weights, WeightsCard, int | None]:
    """Returns the weights, their card, and the number of classes of the file's last layer where it tells."""
    if card.program is not None and given is not None and given.file is not None:
        chosen = _card_named(card, given.card, where) if given.card else card.weights[0]
        path = os.path.abspath(os.path.expanduser(given.file))
        sha256, layout_name = card.program.digest(path), card.program.layout
        return Weights(source="file", file=path, sha256=sha256, layout=layout_name, card=chosen.name), chosen, None
    known = registry.registration(card.name).layouts
    if known is None:
        if given is not None and given.file is not None:
            remedy = "leave weights out"
            raise WeightsError(describe(where, "weights", f"none ({card.name} reads no file)", given.file, remedy))
        chosen = _card_named(card, given.card, where) if given is not None and given.card else card.weights[0]
        return Weights(source="none", card=chosen.name), chosen, None
    if given is None:
        remedy = "write weights: {random: 0} to try the pipeline, or {file: PATH} (docs/weights.md)"
        raise UsageError(describe(where, "weights", "{file: PATH} or {random: SEED}", "none", remedy))
    if given.file is None:
        chosen = _card_named(card, given.card, where) if given.card else card.weights[0]
        return Weights(source=f"random({given.random})", seed=given.random, card=chosen.name), chosen, None
    path = os.path.abspath(os.path.expanduser(given.file))
    sha256 = digest(path)
    shapes = {key: tuple(value.shape) for key, value in read_state_dict(path, largest_bytes(known())).items()}
    layouts = _layouts(card, layer, path, shapes, where)
    if given.card is not None:
        chosen = _card_named(card, given.card, where)
    else:
        choices = card_choices_of(card, layouts, sha256, options)
        if len(choices) > 1:
            expected = f"one of {', '.join(item.name for item in choices)}, as keys and digest of {path} tell no more"
            remedy = "add card: NAME, by where the file is from (docs/weights.md)"
            raise UsageError(describe(f"{where}.weights", "card", expected, "none", remedy))
        (chosen,) = choices
    layout = next((item for item in layouts if chosen.name in item.cards), layouts[0])
    weights = Weights(
        source="file", file=path, sha256=sha256, layout=layout.name, card=chosen.name, licence=chosen.licence
    )
    return weights, chosen, layout.count_classes(shapes)


def card_choices_of(
    card: ExtractorCard, layouts: Sequence[Layout], sha256: str, options: Model
) -> tuple[WeightsCard, ...]:
    """Returns the weights cards that a file with these layouts may have: one, where its digest or its keys tell.

    Cards that would prepare frames alike, read tensors alike and set no option that `options` leaves open count as one,
    the first.
    """
    known = [weights for weights in card.weights if weights.is_of(sha256)]
    if known:
        return (known[0],)
    by_name = {weights.name: weights for weights in card.weights}
    found: dict[tuple[Any, ...], WeightsCard] = {}
    for layout in layouts:
        for weights in (by_name[name] for name in layout.cards if name in by_name):
            open_options = {key: value for key, value in weights.options.items() if getattr(options, key) is None}
            found.setdefault((repr(weights.preprocess), repr(open_options), layout.convert), weights)
    return tuple({weights.name: weights for weights in found.values()}.values())


def layers_in(card: ExtractorCard, shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[Layout, ...]]:
    """Returns the layers that a file holds, each with the layouts the file may have by what that layer needs of it."""
    known = _known_layouts(card)
    found = {layer.name: fitting_layouts(shapes, known, layer.unused) for layer in card.layers}
    kept = {name: tuple(item for item in layouts if name not in item.lacks) for name, layouts in found.items()}
    return {name: layouts for name, layouts in kept.items() if layouts}


def _known_layouts(card: ExtractorCard) -> list[Layout]:
    read = registry.registration(card.name).layouts
    names = {item.name for item in card.weights}
    return [item for item in read() if names & set(item.cards)] if read is not None else []


def _layouts(
    card: ExtractorCard, layer: Layer, path: str, shapes: Mapping[str, Sequence[int]], where: str
) -> tuple[Layout, ...]:
    """Returns the layouts the file may have, by what `layer` needs of it.

    Raises:
        WeightsError: it has none, or one that holds other layers only.
    """
    held = layers_in(card, shapes)
    if layer.name in held:
        return held[layer.name]
    if not held:
        match_layout(path, shapes, _known_layouts(card), layer.unused)
    first = next(iter(held))
    fit = nearest_layout(shapes, held[first], card.layer(first).unused)
    without = f" without {', '.join(fit.absent[:SHOWN_KEYS])}" if fit.absent else ""
    expected = f"one of {', '.join(held)}: a {fit.layout.name} file{without} has no other"
    raise WeightsError(describe(where, "layer", expected, layer.name, "choose one of them, or another file"))


def _card_named(card: ExtractorCard, name: str, where: str) -> WeightsCard:
    for weights in card.weights:
        if weights.name == name:
            return weights
    names = [item.name for item in card.weights]
    raise UsageError(f"{where}.weights.card: expected one of {', '.join(names)}, got {name}; {near(name, names)}")
