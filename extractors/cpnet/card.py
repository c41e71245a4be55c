"""CPNet (Liu, Lee and Jin, CVPR 2019): a 2D ResNet per frame, whose frames meet in correspondence proposals only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from clipmill.extractors.base import Extractor, ExtractorCard, Layer, Registration, WeightsCard, options_of
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.model import Model
from clipmill.schemas.recipe import Preprocess, Recipe, Sampling

Depth = Literal[18, 34, 101]
InputSize = Literal[112, 224]


@dataclass(frozen=True, slots=True)
class Form:
    """One published depth.

    Attributes:
        blocks: residual blocks of res2 to res5.
        bottleneck: blocks of 1x1, 3x3 and 1x1 convolutions (ResNet-101) instead of two 3x3 ones. CP modules then search
            on an eighth of the channels.
        cp_blocks: of res3, res4 and res5, how many of the last blocks have a CP module.
        k: neighbours of a point.
        mlp_divisors: widths of a CP module's layers are the map's channels divided by these.
        num_features: length of the pooled features.
        published: data, classes and input side of published weights; the first is the default.
        gmac: of a window of 12 frames at 112 or 224 pixels (the stem's stride makes them equal), search included.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool
    cp_blocks: tuple[int, int, int]
    k: int
    mlp_divisors: tuple[int, ...]
    num_features: int
    published: tuple[tuple[str, int, InputSize], ...]
    gmac: float


SOMETHING: tuple[str, int, InputSize] = ("something", 174, 224)

FORMS: dict[int, Form] = {
    18: Form((2, 2, 2, 2), False, (2, 2, 0), 8, (4, 2), 512, (("kinetics", 400, 112), SOMETHING), 26.0),
    34: Form((3, 4, 6, 3), False, (2, 3, 0), 8, (4, 2), 512, (("jester", 27, 112), SOMETHING), 49.6),
    101: Form((3, 4, 23, 3), True, (2, 3, 0), 4, (8,), 2048, (("kinetics", 400, 224),), 93.7),
}


class CPNetOptions(Model):
    """Switches of CPNet. None means: as published for the depth, or for the weights.

    Attributes:
        depth: of the ResNet.
        input_size: side of the square crop. The stem's stride is 2 for 224 and 1 for 112, so the maps are 56, 28, 14
            and 7 either way.
        num_classes: of random weights; a file tells its own.
        k: neighbours of a point. Weights are good for the k they were trained with: the authors lost up to 16 points
            of accuracy with another.
        cp_blocks: of res3, res4 and res5, how many of the last blocks have a CP module (random weights only).
        mlp_divisors: widths of a CP module's layers, as divisors of the map's channels (random weights only). The
            published models' parameter counts do not fit the released code's widths, which are the default.
        chunk_queries: rows of the score matrix held at a time; None: as many as 64 MiB hold. It bounds memory and
            changes no number.
        fold_batch_norm: fold batch norm into the convolutions: faster, the same up to rounding.
    """

    depth: Depth = 18
    input_size: InputSize | None = None
    num_classes: int | None = Field(default=None, ge=1)
    k: int | None = Field(default=None, ge=1)
    cp_blocks: tuple[int, int, int] | None = None
    mlp_divisors: tuple[int, ...] | None = None
    chunk_queries: int | None = Field(default=None, ge=1)
    fold_batch_norm: bool = True

    @model_validator(mode="after")
    def _fits_the_depth(self) -> "CPNetOptions":
        blocks = FORMS[self.depth].blocks[1:]
        if self.cp_blocks is not None and any(
            not 0 <= wanted <= there for wanted, there in zip(self.cp_blocks, blocks, strict=True)
        ):
            raise ValueError(f"cp_blocks: expected at most {list(blocks)} for depth {self.depth}")
        if self.mlp_divisors is not None and not (
            self.mlp_divisors and all(divisor in (1, 2, 4, 8, 16, 32, 64) for divisor in self.mlp_divisors)
        ):
            raise ValueError("mlp_divisors: expected one or more powers of two from 1 to 64")
        return self

    @property
    def form(self) -> Form:
        """What is published for the depth."""
        return FORMS[self.depth]

    @property
    def placed(self) -> tuple[int, int, int]:
        """`cp_blocks`, or the published ones."""
        return self.form.cp_blocks if self.cp_blocks is None else self.cp_blocks

    @property
    def neighbours(self) -> int:
        """`k`, or the published one."""
        return self.k or self.form.k


def preprocess(side: int) -> Preprocess:
    """Returns the published input: full-height crop, 0-1, ImageNet mean and std.

    ours: of the published crops along the long side the middle one; colour order and interpolation, which are not told.
    """
    return Preprocess(
        resize="short_side",
        size=(side,),
        crop=(side, side),
        colour="rgb",
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


def layout_name(depth: int, data: str | None) -> str:
    """Returns the name of the layout of weights trained on `data`, or of weights with any number of classes."""
    default = FORMS[depth].published[0][0]
    suffix = "" if data == default else f"_{data or 'any'}"
    return f"cpnet_c2d_resnet{depth}_tf{suffix}"


def card_name(depth: int, data: str) -> str:
    """Returns the name of the weights card of weights trained on `data`."""
    return f"{data}-resnet{depth}"


def _weights(options: CPNetOptions) -> tuple[WeightsCard, ...]:
    depth = options.depth
    cards = []
    for index, (data, _, side) in enumerate(options.form.published):
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
            )
        )
    return tuple(cards)


def _variant(options: CPNetOptions) -> ExtractorCard:
    form = options.form
    num_classes = options.num_classes or form.published[0][1]
    return ExtractorCard(
        name="cpnet",
        version=1,
        summary="2D ResNet with correspondence proposals between frames (Kinetics-400, Jester, Something-Something)",
        layers=(Layer("features", form.num_features), Layer("logits", num_classes)),
        # 12 frames, every second one, at the video's own rate: the released code's clips. ours: windows side by side,
        # and a last one shifted back rather than filled up, since repeated frames are each other's nearest neighbours.
        sampling=Sampling(frames=12, every=2, step=24, tail="overlap"),
        weights=_weights(options),
        min_frames=2,
        options=CPNetOptions,
        gmac_per_window=form.gmac,
        batch_windows=2,
        variant=_variant,
        check=_check,
    )


def _check(recipe: Recipe) -> None:
    options: CPNetOptions = options_of(CARD, recipe)
    where = f"features.{recipe.name}"
    if recipe.weights.file is not None:
        released = (
            ("num_classes", options.num_classes, None),
            ("cp_blocks", options.cp_blocks, options.form.cp_blocks),
            ("mlp_divisors", options.mlp_divisors, options.form.mlp_divisors),
        )
        for key, given, published in released:
            if given is not None and given != published:
                expected = "what the weights file has" if published is None else f"the file's {list(published)}"
                got = str(list(given) if isinstance(given, tuple) else given)
                raise UsageError(describe(f"{where}.options", key, expected, got, "leave it out"))
    if recipe.preprocess.crop is None:
        return
    num_others = fewest_points(options, *recipe.preprocess.crop) * ((recipe.sampling.frames or 1) - 1)
    if options.neighbours > num_others:
        expected = f"at most the {num_others} points of the other frames"
        remedy = "lower it, or take more frames or a larger crop"
        raise UsageError(describe(f"{where}.options", "k", expected, str(options.neighbours), remedy))


def fewest_points(options: CPNetOptions, height: int, width: int) -> int:
    """Returns the points of a frame in the smallest map that is searched; a large number where none is."""
    # res3 searches on maps shrunk to res4's size; before that come the stem, the max-pool and two halvings.
    res4 = 8 * stem_stride(options)
    res5 = 2 * res4
    strides = [stride for stride, count in zip((res4, res4, res5), options.placed, strict=True) if count]
    return min((-(-height // stride) * -(-width // stride) for stride in strides), default=1 << 30)


def stem_stride(options: CPNetOptions) -> int:
    """Returns the stride of the first convolution: 2 for 224 pixels, 1 for 112."""
    return 2 if options.input_size == 224 else 1


CARD = _variant(CPNetOptions())


def _build(recipe: Recipe, device: str) -> Extractor:
    from clipmill.extractors.cpnet.network import build

    return build(recipe, device)


def _layouts() -> Sequence[Any]:
    from clipmill.extractors.cpnet.weights import layouts

    return layouts()


REGISTRATION = Registration(CARD, _build, _layouts)
