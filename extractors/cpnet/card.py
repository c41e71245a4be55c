"""CPNet (Liu, Lee and Jin, CVPR 2019): a 2D ResNet per frame, whose frames meet in correspondence proposals only."""

from clipmill.extractors.base import PIXEL_OPTIONS, ExtractorCard, Layer, WeightsCard, options_of
from clipmill.extractors.cpnet.options import CPNetOptions, fewest_points
from clipmill.extractors.cpnet.releases import card_name, layout_name
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.recipe import Preprocess, Recipe, Sampling

STORED_SIDES = {112: 128, 224: 240}
"""Short side of the frames that the code stores before it reads them, by the side of the network's input."""

SAMPLING: dict[str, dict[str, int]] = {
    # The released training clips; how Kinetics was sampled is not in the code.
    "kinetics": {"fps": 24, "frames": 12, "every": 2, "step": 24},
    "something": {"fps": 24, "frames": 24, "every": 2, "step": 48},
    "jester": {"fps": 12, "frames": 24, "every": 1, "step": 24},
}
"""Of evaluation, by data: the rate frames are stored at (ffmpeg's ``-r``), and a clip's frames."""


def preprocess(side: int) -> Preprocess:
    """Returns the published input: stored frames resized to full height, cropped, 0-1, ImageNet mean and std.

    ours: of the published crops along the long side the middle one (``crops: six`` averages all).
    """
    return Preprocess(
        resize="short_side",
        size=(side,),
        stored_side=STORED_SIDES[side],
        resize_rounding="even",
        crop=(side, side),
        crop_rounding="half_even",
        colour="rgb",
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


def _weights(options: CPNetOptions) -> tuple[WeightsCard, ...]:
    depth = options.depth
    cards = []
    for index, (data, _, side) in enumerate(options.release.published):
        names = [layout_name(depth, data), *([layout_name(depth, None)] if index == 0 else [])]
        cards.append(
            WeightsCard(
                name=card_name(depth, data),
                layouts=tuple(names),
                source="xingyul/cpnet (the variables of a TensorFlow checkpoint)",
                licence="CC-BY-NC-SA-4.0",
                preprocess=preprocess(options.input_size or side),
                classes={"kinetics": "kinetics400", "jester": "jester27", "something": "something174"}[data],
                options={"input_size": side},
                sampling=SAMPLING[data],
            )
        )
    return tuple(cards)


def _variant(options: CPNetOptions) -> ExtractorCard:
    release = options.release
    windows = SAMPLING[release.published[0][0]]
    num_classes = options.num_classes or release.published[0][1]
    return ExtractorCard(
        name="cpnet",
        # 2: frames as the released code stores and resizes them, at its rates.
        version=2,
        summary="2D ResNet with correspondence proposals between frames (Kinetics-400, Jester, Something-Something)",
        layers=(
            Layer("features", release.num_features, unused=("fc.",)),
            Layer("logits", num_classes),
            Layer("probabilities", num_classes),
        ),
        # ours: windows side by side, and a last one shifted back rather than filled up, since repeated frames are each
        # other's nearest neighbours.
        sampling=Sampling.model_validate(windows | {"rounding": "ffmpeg_r", "tail": "overlap"}),
        weights=_weights(options),
        min_frames=2,
        options=CPNetOptions,
        gmac_per_window=release.gmac_of(windows["frames"]),
        batch_windows=2,
        variant=_variant,
        check=_check,
        class_names=_class_names,
        pixel_options=PIXEL_OPTIONS,
    )


def _class_names(recipe: Recipe) -> tuple[str, ...]:
    options: CPNetOptions = options_of(CARD, recipe)
    return options.classes


def _check(recipe: Recipe) -> None:
    options: CPNetOptions = options_of(CARD, recipe)
    where = f"features.{recipe.name}"
    if recipe.weights.file is not None:
        released = (
            ("num_classes", options.num_classes, None),
            ("cp_blocks", options.cp_blocks, options.release.cp_blocks),
            ("mlp_divisors", options.mlp_divisors, options.release.mlp_divisors),
        )
        for key, given, published in released:
            if given is not None and given != published:
                expected = "what the weights file has" if published is None else f"the file's {list(published)}"
                got = str(list(given) if isinstance(given, tuple) else given)
                raise UsageError(describe(f"{where}.options", key, expected, got, "leave it out"))
    if options.classes and recipe.layer in ("logits", "probabilities") and len(options.classes) != recipe.dim:
        got, remedy = f"{len(options.classes)} names", "name each class of the file, in its order"
        expected = f"the {recipe.dim} classes of the weights"
        raise UsageError(describe(f"{where}.options", "classes", expected, got, remedy))
    if recipe.preprocess.crop is None:
        return
    num_others = fewest_points(options, *recipe.preprocess.crop) * ((recipe.sampling.frames or 1) - 1)
    if options.neighbours > num_others:
        expected = f"at most the {num_others} points of the other frames"
        remedy = "lower it, or take more frames or a larger crop"
        raise UsageError(describe(f"{where}.options", "k", expected, str(options.neighbours), remedy))


CARD = _variant(CPNetOptions())
