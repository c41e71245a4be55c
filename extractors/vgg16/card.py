"""VGG-16 (Simonyan and Zisserman, ICLR 2015): one row per frame."""

from clipmill.extractors.base import PIXEL_OPTIONS, ExtractorCard, Layer, WeightsCard, WeightsFile
from clipmill.extractors.imagenet import TORCHVISION, TORCHVISION_URL
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.recipe import Preprocess, Recipe, Sampling

CHANNELS = 512
MAP_STRIDES = {"conv5_3": 16, "pool5": 32}
"""Pixels of the frame per cell of a map, along each side; the far cells that are not whole are cut."""

CARDS = (
    WeightsCard(
        name="imagenet-torchvision",
        layouts=("vgg16_torchvision_imagenet1k",),
        source="pytorch/vision (VGG16_Weights.IMAGENET1K_V1)",
        licence="BSD-3-Clause",
        preprocess=TORCHVISION,
        files=(
            WeightsFile(
                name="vgg16-397923af.pth",
                layout="vgg16_torchvision_imagenet1k",
                source="pytorch/vision",
                url=f"{TORCHVISION_URL}/vgg16-397923af.pth",
                sha256="397923af",
            ),
        ),
        classes="imagenet1k",
    ),
    WeightsCard(
        name="imagenet-caffe",
        layouts=("vgg16_caffe",),
        source="the authors' VGG_ILSVRC_16_layers.caffemodel; for a conversion with torchvision's keys, name this card",
        licence="CC-BY-4.0",
        # Published: BGR, 0-255, the means. ours: short side 256 as OpenCV resizes, centre crop rounded down.
        preprocess=Preprocess(
            resize="short_side", size=(256,), crop=(224, 224), colour="bgr", mean=(103.939, 116.779, 123.68)
        ),
        files=(
            WeightsFile(
                name="VGG_ILSVRC_16_layers.caffemodel",
                layout="vgg16_caffe",
                source="the authors' page (Visual Geometry Group, Oxford)",
                url="http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/VGG_ILSVRC_16_layers.caffemodel",
            ),
        ),
        classes="imagenet1k",
    ),
)


def _with_row_length(recipe: Recipe) -> Recipe:
    """Returns the recipe with the length of a row that the frames' size gives a map.

    Raises:
        UsageError: frames have no one size, so rows would have no one length.
    """
    stride = MAP_STRIDES.get(recipe.layer)
    if stride is None:
        return recipe
    where = f"features.{recipe.name}.preprocess"
    preprocess = recipe.preprocess
    size = preprocess.crop or (preprocess.size if preprocess.resize == "exact" else None)
    if size is None:
        expected = f"one size of frame, for rows of layer {recipe.layer} of one length"
        remedy = "keep the crop, or set {resize: exact, size: [rows, columns]}; extractor rmac pools maps of any size"
        raise UsageError(describe(where, "crop", expected, "frames of any size", remedy))
    rows, columns = (side // stride for side in size)
    return recipe.model_copy(update={"dim": CHANNELS * rows * columns})


CARD = ExtractorCard(
    name="vgg16",
    version=1,
    summary="image classification network, one row per frame (ImageNet)",
    layers=(
        Layer("fc7", 4096, min_side_pixels=32),
        Layer("fc6", 4096, min_side_pixels=32),
        Layer("pool5", 25088, maps=(CHANNELS, 7, 7), min_side_pixels=MAP_STRIDES["pool5"]),
        Layer("conv5_3", 100352, maps=(CHANNELS, 14, 14), min_side_pixels=MAP_STRIDES["conv5_3"]),
        Layer("logits", 1000, min_side_pixels=32),
    ),
    sampling=Sampling(fps=1, frames=1),
    weights=CARDS,
    frames_fixed=True,
    gmac_per_window=15.47,
    batch_windows=8,
    resolve_files=_with_row_length,
    pixel_options=PIXEL_OPTIONS,
)
