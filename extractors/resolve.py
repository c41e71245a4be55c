"""From what a user wrote to a recipe with nothing left open."""

from typing import Any

from extractors import registry
from extractors.base import ExtractorCard, Layer, WeightsCard, card_for
from extractors.weights import digest, match_layout, read_state_dict
from schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from schemas.errors import UsageError, WeightsError, describe, near
from schemas.model import validate
from schemas.recipe import ClipRule, Preprocess, Recipe, Sampling, Weights


def resolve_recipe(name: str, feature: FeatureConfig, clips: ClipRule, decode: DecodeConfig) -> Recipe:
    """Returns the recipe of one feature: defaults filled in, weights recognised, options validated.

    Reads the weights file, if one is given, to its digest and layout.

    Raises:
        UsageError: unknown extractor, layer or option; sampling or weights that do not fit the extractor.
    """
    where = f"features.{name}"
    card = registry.card(feature.extractor or name)
    options = validate(card.options, feature.options, f"{where}.options")
    card = card_for(card, options)
    layer = _layer(card, feature.layer, where)
    weights, weights_card, num_classes = _weights(card, feature.weights, layer, where)
    recipe = Recipe(
        name=name,
        extractor=card.name,
        extractor_version=card.version,
        layer=layer.name,
        dim=num_classes if layer.name == "logits" and num_classes is not None else layer.dim,
        dtype=feature.dtype or layer.dtype,
        weights=weights,
        sampling=_sampling(card, feature.sampling, where),
        preprocess=_preprocess(weights_card, feature.preprocess, where),
        clips=clips,
        options=options.model_dump(mode="json"),
        pooling=feature.pooling,
        precision=feature.precision,
        decoder=decode.decoder,
    )
    if card.check is not None:
        card.check(recipe)
    return recipe


def _layer(card: ExtractorCard, wanted: str | None, where: str) -> Layer:
    if wanted is None:
        return card.layers[0]
    for layer in card.layers:
        if layer.name == wanted:
            return layer
    names = ", ".join(layer.name for layer in card.layers)
    raise UsageError(f"{where}.layer: expected one of {names}, got {wanted}; {near(wanted, [layer.name for layer in card.layers])}")


def _sampling(card: ExtractorCard, given: Sampling | None, where: str) -> Sampling:
    if given is None:
        return card.sampling
    if card.frames_fixed and given.frames not in (None, card.sampling.frames):
        raise UsageError(
            describe(
                f"{where}.sampling", "frames", f"{card.sampling.frames} ({card.name} takes no other)", str(given.frames), "leave it out"
            )
        )
    if given.frames is not None and given.frames < card.min_frames:
        raise UsageError(
            describe(f"{where}.sampling", "frames", f"at least {card.min_frames} for {card.name}", str(given.frames), "raise it")
        )
    return given.model_copy(update={"frames": given.frames or card.sampling.frames or 1})


def _preprocess(card: WeightsCard, changes: dict[str, Any], where: str) -> Preprocess:
    return validate(Preprocess, card.preprocess.model_dump() | changes, f"{where}.preprocess")


def _weights(
    card: ExtractorCard, given: WeightsConfig | None, layer: Layer, where: str
) -> tuple[Weights, WeightsCard, int | None]:
    """Returns the weights, their card, and the number of classes of the file's last layer where it tells."""
    if given is None:
        raise UsageError(
            describe(
                where, "weights", "{file: PATH} or {random: SEED}", "none", "write weights: {random: 0} to try the pipeline (docs/weights.md)"
            )
        )
    if given.file is None:
        chosen = _card_named(card, given.card, where) if given.card else card.weights[0]
        return Weights(source=f"random({given.random})", seed=given.random, card=chosen.name, licence=None), chosen, None
    registration = registry.registration(card.name)
    if registration.layouts is None:
        raise WeightsError(describe(where, "weights", "{random: SEED}: it reads no file", given.file, "leave file out"))
    sha256 = digest(given.file)
    shapes = {key: tuple(value.shape) for key, value in read_state_dict(given.file).items()}
    named = {item.name for item in card.weights}
    layout = match_layout(given.file, shapes, [item for item in registration.layouts() if item.card in named])
    if layer.name == "logits" and not any(None in shape or len(shape) == 1 for _, shape in layout.keys.values()):
        raise WeightsError(describe(where, "layer", "a layer the file holds", layer.name, "choose another layer or file"))
    chosen = _card_named(card, given.card or layout.card, where)
    weights = Weights(
        source="file", file=given.file, sha256=sha256, layout=layout.name, card=chosen.name, licence=chosen.licence
    )
    return weights, chosen, layout.count_classes(shapes)


def _card_named(card: ExtractorCard, name: str, where: str) -> WeightsCard:
    for weights in card.weights:
        if weights.name == name:
            return weights
    raise UsageError(
        f"{where}.weights.card: expected one of {card.name}'s cards, got {name}; {near(name, [item.name for item in card.weights])}"
    )
