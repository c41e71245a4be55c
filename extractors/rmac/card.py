"""R-MAC (Tolias, Sicre and Jegou, ICLR 2016): one retrieval descriptor per frame from regional maxima of a map."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from clipmill.extractors.base import RUNTIMES, ExtractorCard, Layer, WeightsCard, options_of
from clipmill.extractors.resnet50 import card as resnet50
from clipmill.extractors.rmac.options import NO_WHITENING, RMACOptions
from clipmill.extractors.rmac.regions import regions
from clipmill.extractors.squeezenet import card as squeezenet
from clipmill.extractors.vgg16 import card as vgg16
from clipmill.extractors.whitening import PUBLISHED, read_whitening
from clipmill.schemas.errors import UsageError, WeightsError, describe
from clipmill.schemas.fingerprint import canonical
from clipmill.schemas.recipe import Preprocess, Recipe, Sampling
from clipmill.schemas.records import Video
from clipmill.schemas.whitening import Whitening

CAFFE_CARD = "imagenet-caffe"
LONG_SIDE = 1024
LINEAR = ("classifier.", "fc.")
"""Our keys of both networks' linear layers, which maps do without."""


def _uncropped(card: WeightsCard) -> WeightsCard:
    """Returns a network's weights card with R-MAC's geometry: the whole frame, its long side 1024, the other up."""
    geometry = {
        "resize": "long_side",
        "size": (LONG_SIDE,),
        # ours: the codes differ in how they resize; an antialias matters for frames larger than 1024.
        "interpolation": "bilinear_antialias",
        "crop": None,
        "crop_rounding": None,
    }
    preprocess = card.preprocess.model_copy(update=geometry)
    # The files are listed under the network's own name.
    return replace(card, preprocess=preprocess, files=(), digests=_digests(card), classes=None)


def _digests(card: WeightsCard) -> tuple[str, ...]:
    return tuple(file.sha256 for file in card.files if file.sha256 is not None)


VGG16_CARDS = tuple(
    # Caffe's first: published R-MAC uses it.
    sorted((_uncropped(card) for card in vgg16.CARDS), key=lambda card: card.name != CAFFE_CARD)
)
# resnet50's cards differ in their resize alone, which is not R-MAC's: all files take the first.
RESNET50_CARDS = (
    replace(
        _uncropped(resnet50.CARDS[0]), digests=tuple(digest for card in resnet50.CARDS for digest in _digests(card))
    ),
)


SQUEEZENET_CARDS = tuple(_uncropped(card) for card in squeezenet.CARDS)


def _card(options: RMACOptions) -> ExtractorCard:
    cards, dim, gmac, stride, least = {
        "vgg16": (VGG16_CARDS, 512, 240.6, 32, 32),
        # Of ResNet-50's maps a cell is left of any frame.
        "resnet50": (RESNET50_CARDS, 2048, 64.1, 32, 1),
        "squeezenet": (SQUEEZENET_CARDS, 512, 12.5, 16, 21),
    }[options.network]
    if not options.last_pool:
        stride = least = 16
    # Of a 4:3 frame; at three scales 3:2 and 16:9 ones have as many (20).
    sides = [(round(LONG_SIDE * factor), round(LONG_SIDE * 3 / 4 * factor)) for factor in options.resolutions or (1.0,)]
    num_regions = sum(len(regions(width // stride, height // stride, options)) for width, height in sides)
    gmac *= sum(factor**2 for factor in options.resolutions or options.scales or (1.0,))
    if options.means == "krmac":
        cards = tuple(_with_swapped_means(card) if card.name == CAFFE_CARD else card for card in cards)
    return ExtractorCard(
        name="rmac",
        version=1,
        summary="regional maxima of a network's maps, one retrieval descriptor per frame",
        layers=(
            Layer("descriptor", dim, min_side_pixels=least, unused=LINEAR),
            Layer("regions", dim, rows_per_window=float(num_regions), min_side_pixels=least, unused=LINEAR),
        ),
        sampling=Sampling(fps=1, frames=1),
        frames_fixed=True,
        weights=cards,
        options=RMACOptions,
        gmac_per_window=gmac,
        # A frame of 1024 x 768 needs 400 MB; a larger batch is no faster on a CPU.
        batch_windows=1,
        variant=_card,
        resolve_files=_resolve_files,
        check=_check,
        check_videos=_check_videos,
        pixel_options=frozenset({"resize_precision"}),
        runtimes=RUNTIMES,
        trained_options={"keep_batch_norm": True} if options.network == "resnet50" else {},
    )


def _with_swapped_means(card: WeightsCard) -> WeightsCard:
    blue, green, red = card.preprocess.mean
    return replace(card, preprocess=card.preprocess.model_copy(update={"mean": (red, green, blue)}))


def network_identity(recipe: Recipe) -> dict[str, Any]:
    """Returns what decides the distribution of regional vectors: whitenings of equal ones may be exchanged.

    The network, its weights, and the arithmetic on its input; not the size of frames, nor the grid.
    """
    weights = recipe.identity()["weights"]
    arithmetic: Preprocess = recipe.preprocess
    found = {
        "network": options_of(CARD, recipe).network,
        "weights": {name: weights[name] for name in ("source", "sha256", "layout", "card")},
        "colour": arithmetic.colour,
        "scale": arithmetic.scale,
        "mean": list(arithmetic.mean),
        "std": list(arithmetic.std),
    }
    return dict(canonical(found))


def _resolve_files(recipe: Recipe) -> Recipe:
    """Puts the fingerprint of the whitening's content where its path was.

    Raises:
        WeightsError: there is no whitening in the file, or it was fitted on another network's vectors.
    """
    options: RMACOptions = options_of(CARD, recipe)
    if options.whitening == NO_WHITENING:
        return recipe
    path = os.path.abspath(os.path.expanduser(options.whitening))
    whitening = read_whitening(path)
    own = network_identity(recipe)
    # What says most first.
    for key in sorted(own, key=lambda key: (key != "network", key != "weights")):
        value = own[key]
        # Of a published one not all is known: whose weights it was fitted on, for one.
        if whitening.feature == PUBLISHED and key not in whitening.network:
            continue
        if whitening.network.get(key) != value:
            where = f"features.{recipe.name}.options"
            expected = f"one fitted on regions of this network ({key} {_shown(value)})"
            got = f"{path} of {key} {_shown(whitening.network.get(key))}"
            raise WeightsError(describe(where, "whitening", expected, got, _remedy(whitening)))
    if whitening.mean.shape != (recipe.dim,):
        got = f"{path} of {whitening.mean.size}"
        remedy = "fit one with clipmill whiten"
        where = f"features.{recipe.name}.options"
        raise WeightsError(describe(where, "whitening", f"one of {recipe.dim} channels", got, remedy))
    zca = options.whitening_form == "zca"
    changes = {
        "dim": recipe.dim if zca else len(whitening.eigenvalues),
        "options": recipe.options | {"whitening": whitening.fingerprint},
        "files": recipe.files | {"whitening": path},
    }
    return recipe.model_copy(update=changes)


def _remedy(whitening: Whitening) -> str:
    if whitening.feature == PUBLISHED:
        return "use Caffe's VGG-16 with means: krmac, or fit one with clipmill whiten"
    return "fit one with clipmill whiten"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(str(value.get(name, ""))[:32] for name in ("source", "sha256", "card")).replace("  ", " ")
    return str(value)


def _check(recipe: Recipe) -> None:
    options: RMACOptions = options_of(CARD, recipe)
    where = f"features.{recipe.name}.options"
    if options.network != "vgg16" and not options.last_pool:
        expected = f"true for {options.network}, which has none to cut"
        raise UsageError(describe(where, "last_pool", expected, "false", "remove it"))
    if options.means == "krmac" and recipe.weights.card != CAFFE_CARD:
        got = f"krmac for {recipe.weights.card}"
        raise UsageError(describe(where, "means", f"published, but for weights {CAFFE_CARD}", got, "remove it"))
    if options.grid == "rmac_plus" and options.levels > 3:
        raise UsageError(describe(where, "levels", "at most 3 for grid rmac_plus", str(options.levels), "lower it"))
    if options.resolutions and options.scales:
        raise UsageError(describe(where, "scales", "resolutions or scales", "both", "remove one of them"))
    if options.pool is not None and recipe.layer == "regions":
        raise UsageError(describe(where, "pool", "none for layer regions", options.pool, "set layer: descriptor"))
    if options.pool is not None and options.whitening != NO_WHITENING:
        got = f"{options.pool} with a whitening of regions"
        raise UsageError(describe(where, "pool", "none, as regional vectors are whitened", got, "remove one of them"))
    if options.scales and recipe.layer == "regions":
        expected = "layer: descriptor, as scales combine descriptors"
        raise UsageError(describe(where, "scales", expected, "layer: regions", "use resolutions, or remove it"))
    if options.whitening == NO_WHITENING and options.whitening_form != "pca":
        got = f"{options.whitening_form} without a whitening"
        raise UsageError(describe(where, "whitening_form", "a whitening to give form to", got, "add the whitening"))


def _check_videos(recipe: Recipe, videos: Sequence[Video]) -> None:
    """Makes sure that no video is described with a whitening that has seen it: its distances would be flattered."""
    options: RMACOptions = options_of(CARD, recipe)
    if "whitening" not in recipe.files or options.whitening_of_these_videos:
        return
    seen = frozenset(read_whitening(recipe.files["whitening"]).videos)
    both = [video.id for video in videos if video.fingerprint in seen]
    if both:
        where = f"features.{recipe.name}.options"
        got = f"{recipe.files['whitening']}, fitted on {len(both)} of these {len(videos)} videos, such as {both[0]!r}"
        remedy = "fit it on an independent set, or set whitening_of_these_videos: true"
        raise UsageError(describe(where, "whitening", "one fitted on other videos", got, remedy))


CARD = _card(RMACOptions())
