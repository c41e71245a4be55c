"""R-C3D (Xu et al., ICCV 2017): temporal proposals with their features, or detections of actions."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from clipmill.extractors.base import Extractor, ExtractorCard, Layer, Registration, WeightsCard, options_of
from clipmill.extractors.rc3d.releases import DEFAULT_FORM, FEATURE_STRIDE_FRAMES, FORMS, Form, FormName
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.model import Model
from clipmill.schemas.recipe import Preprocess, Recipe, Sampling

FPS = 25
TRUNK_GMAC_PER_FRAME = 1850 / 768
TRUNK_STRIDE_PIXELS = 16
"""Of a frame per cell of the trunk's maps, along each side."""


class RC3DOptions(Model):
    """Switches of R-C3D. None means: as the form has it.

    Attributes:
        form: which public form of the network; its weights fit no other.
        buffer_frames: frames of a buffer, a multiple of 8; windows then start every quarter of it.
        pooled: time, rows and columns of a pooled region; 16 cells in all. It is not written in weights files: one
            form's weights load into the other's shape and mean nothing.
        top: rows of a video under layers fc6 and fc7. Ours: 64, the number in APIVR's released features.
        confidence: what orders proposals: ``rpn``, the proposal subnet's foreground probability, or ``class``, the
            highest class probability. Ours: the papers do not say; ``rpn`` is the order the proposal layer emits.
        pool: candidates of a video that are kept while it is read, and from which doubles of overlapping windows are
            removed at the end (ours; it bounds memory).
        merge_nms: overlap above which a worse proposal counts as a double of a better one when windows are joined;
            None: the form's test NMS, and a video of one window is left as the proposal layer gave it.
        score_threshold, nms, nms_video, max_detections: of layer detections only, in place of the form's.
        nms_equal: suppress also at an overlap equal to the threshold, as the PyTorch form does on a CPU.
    """

    form: FormName = DEFAULT_FORM
    buffer_frames: int | None = Field(default=None, ge=16, multiple_of=FEATURE_STRIDE_FRAMES)
    pooled: tuple[int, int, int] | None = None
    top: int = Field(default=64, ge=1)
    confidence: Literal["rpn", "class"] = "rpn"
    pool: int = Field(default=512, ge=1)
    merge_nms: float | None = Field(default=None, gt=0, le=1)
    score_threshold: float | None = Field(default=None, ge=0, lt=1)
    nms: float | None = Field(default=None, gt=0, le=1)
    nms_video: float | None = Field(default=None, gt=0, le=1)
    max_detections: int | None = Field(default=None, ge=1)
    nms_equal: bool = False

    @model_validator(mode="after")
    def _fits(self) -> "RC3DOptions":
        if self.pooled is not None and (min(self.pooled) < 1 or self.pooled[0] * self.pooled[1] * self.pooled[2] != 16):
            raise ValueError("pooled: expected three sizes with 16 cells in all, such as [1, 4, 4] or [4, 2, 2]")
        if self.pool < self.top:
            raise ValueError(f"pool: expected at least top ({self.top}), got {self.pool}; raise pool")
        return self


OF_DETECTIONS = ("score_threshold", "nms", "nms_video", "max_detections")
"""Options that change nothing but layer detections."""

PREPROCESS = Preprocess(
    resize="exact", size=(128, 171), crop=(112, 112), crop_offset=(8, 29), colour="bgr", mean=(90.0, 98.0, 102.0)
)
SOURCES = {
    "pytorch": ("sunnyxiaohu/R-C3D.pytorch, tdcnn_<session>_<epoch>_<step>.pth", "MIT"),
    "caffe": ("VisionLearningGroup/R-C3D, blobs of the caffemodel by name", "MIT"),
}


def _weights(form: Form) -> WeightsCard:
    source, licence = SOURCES[form.name.split("-")[0]]
    return WeightsCard(
        name=form.name,
        layouts=("rc3d_" + form.name.replace("-", "_"),),
        source=source,
        licence=licence,
        preprocess=PREPROCESS,
        classes="thumos14" if form.class_names else None,
    )


def _variant(options: RC3DOptions) -> ExtractorCard:
    form = FORMS[options.form]
    frames = options.buffer_frames or form.buffer_frames
    widths = {"fc6": 4096} | ({"fc7": 4096} if form.has_fc7 else {}) | {"detections": form.num_classes}
    layers = [Layer(name, dim, min_side_pixels=TRUNK_STRIDE_PIXELS) for name, dim in widths.items()]
    return ExtractorCard(
        name="rc3d",
        version=1,
        summary="temporal action proposals with their features, or detections (ActivityNet, THUMOS14)",
        layers=tuple(layers),
        sampling=Sampling(fps=FPS, frames=frames, every=form.every, step=frames * form.every // 4, tail=form.tail),
        weights=(_weights(form),),
        min_frames=2 * FEATURE_STRIDE_FRAMES,
        options=RC3DOptions,
        gmac_per_window=TRUNK_GMAC_PER_FRAME * frames,
        batch_windows=1,
        extras={"score": "float32", "class_index": "int32", "class_score": "float32"},
        variant=_variant,
        check=_check,
    )


def _check(recipe: Recipe) -> None:
    frames = recipe.sampling.frames or 1
    where = f"features.{recipe.name}.sampling"
    if frames % FEATURE_STRIDE_FRAMES:
        raise UsageError(
            describe(where, "frames", "a multiple of 8", str(frames), "set options.buffer_frames, or leave it out")
        )
    if recipe.pooling != "none" and recipe.layer == "detections":
        got = f"pooling: {recipe.pooling}"
        raise UsageError(describe(f"features.{recipe.name}", "pooling", "none for detections", got, "leave it out"))
    options: RC3DOptions = options_of(CARD, recipe)
    given = [name for name in OF_DETECTIONS if getattr(options, name) is not None]
    if recipe.layer != "detections" and given:
        remedy = "set top instead" if given[0] == "max_detections" else "leave it out"
        where = f"features.{recipe.name}.options"
        raise UsageError(describe(where, given[0], "layer: detections", f"layer: {recipe.layer}", remedy))


CARD = _variant(RC3DOptions())


def _build(recipe: Recipe, device: str) -> Extractor:
    from clipmill.extractors.rc3d.build import build

    return build(recipe, device)


def _layouts() -> Sequence[Any]:
    from clipmill.extractors.rc3d.network import LAYOUTS

    return LAYOUTS


REGISTRATION = Registration(CARD, _build, _layouts)
