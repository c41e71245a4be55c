"""R-C3D (Xu et al., ICCV 2017): temporal proposals with their features, or detections of actions."""

from math import prod

from clipmill.extractors.base import RUNTIMES, ExtractorCard, Layer, WeightsCard, options_of
from clipmill.extractors.rc3d.options import RC3DOptions
from clipmill.extractors.rc3d.releases import FEATURE_STRIDE_FRAMES, Release
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.recipe import Preprocess, Recipe, Sampling

FPS = 25
GMAC: dict[int | None, tuple[float, float]] = {
    None: (1861.4 / 768, 10.1 / 16),
    18: (387.3 / 768, 237.9 / 256),
    34: (587.1 / 768, 373.8 / 256),
    50: (483.3 / 768, 314.9 / 256),
}
"""By the depth of the ResNet, None for C3D: of a frame in trunk and proposal subnet, and of a cell of all 300 pooled
regions in the classification subnet."""
EXPECTED_DETECTIONS = 200
"""Of a clip, where the release keeps them all (ours: what the others keep at most; it bounds planned shards)."""
TRUNK_STRIDE_PIXELS = 16
"""Of a frame per cell of the trunk's maps, along each side."""


OFFSETS = ("twin_pred.",)
"""Our keys of what proposals do without: they are not moved by their class's offsets."""
OF_DETECTIONS = ("score_threshold", "nms", "nms_video", "max_detections")
"""Options that change nothing but layer detections."""

# Both codes turn a frame into float32 before OpenCV resizes it, so grey levels keep their fractions.
PREPROCESS = Preprocess(
    resize="exact",
    size=(128, 171),
    resize_precision="float32",
    crop=(112, 112),
    crop_offset=(8, 29),
    colour="bgr",
    mean=(90.0, 98.0, 102.0),
)
SOURCES = {
    "pytorch": ("sunnyxiaohu/R-C3D.pytorch, tdcnn_<session>_<epoch>_<step>.pth", "MIT"),
    "caffe": ("VisionLearningGroup/R-C3D, blobs of the caffemodel by name", "MIT"),
}


def _weights(release: Release) -> WeightsCard:
    source, licence = SOURCES[release.name.split("-")[0]]
    return WeightsCard(
        name=release.name,
        layouts=("rc3d_" + release.name.replace("-", "_"),),
        source=source,
        licence=licence,
        preprocess=PREPROCESS,
        classes="thumos14" if release.class_names else None,
    )


def _variant(options: RC3DOptions) -> ExtractorCard:
    release = options.release
    frames = options.buffer_frames or release.buffer_frames
    hidden = {"fc6": 4096} | ({"fc7": 4096} if release.has_fc7 else {})
    if release.resnet is not None:
        hidden = {"features": release.num_features}
    widths = hidden | {"detections": release.num_classes}
    rows = dict.fromkeys(widths, options.top)
    rows["detections"] = options.max_detections or release.max_detections or EXPECTED_DETECTIONS
    layers = [
        Layer(
            name,
            dim,
            rows_per_clip=rows[name],
            min_side_pixels=TRUNK_STRIDE_PIXELS,
            unused=() if name == "detections" else OFFSETS,
        )
        for name, dim in widths.items()
    ]
    per_frame, per_cell = GMAC[release.resnet]
    return ExtractorCard(
        name="rc3d",
        # 2: frames are resized in float32.
        version=2,
        summary="temporal action proposals with their features, or detections (ActivityNet, THUMOS14, Charades)",
        layers=tuple(layers),
        sampling=Sampling(
            fps=FPS, frames=frames, every=release.every, step=frames * release.every // 4, tail=release.tail
        ),
        weights=(_weights(release),),
        min_frames=2 * FEATURE_STRIDE_FRAMES,
        options=RC3DOptions,
        gmac_per_window=per_frame * frames + per_cell * prod(options.pooled or release.pooled),
        batch_windows=1,
        fills_batches=False,
        extras={"score": "float32", "class_index": "int32", "class_score": "float32"},
        variant=_variant,
        check=_check,
        class_names=_class_names,
        pixel_options=frozenset({"resize_precision"}),
        shared_layers=tuple(widths),
        runtimes=RUNTIMES,
    )


def _class_names(recipe: Recipe) -> tuple[str, ...]:
    options: RC3DOptions = options_of(CARD, recipe)
    # The first is background.
    return options.release.class_names[1:]


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
