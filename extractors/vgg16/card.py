"""VGG-16 (Simonyan and Zisserman, ICLR 2015): one row per frame."""

from clipmill.extractors.base import PIXEL_OPTIONS, RUNTIMES, ExtractorCard, Layer, WeightsCard, WeightsFile
from clipmill.extractors.imagenet import CNNIMAGERETRIEVAL, CNNIMAGERETRIEVAL_URL, TORCHVISION, TORCHVISION_URL
from clipmill.schemas.errors import UsageError, WeightsError, describe
from clipmill.schemas.recipe import Preprocess, Recipe, Sampling

CHANNELS = 512
CLASSIFIER = ("classifier.",)
"""Of our keys: the linear layers, which a map does without."""
FEATURES_ONLY = "imagenet-torchvision-features"
MAP_STRIDES = {"conv5_3": 16, "pool5": 32}
"""Pixels of the frame per cell of a map, along each side; the far cells that are not whole are cut."""

# Published: BGR, 0-255, the means. ours: short side 256 as OpenCV resizes, centre crop rounded down.
CAFFE = Preprocess(resize="short_side", size=(256,), crop=(224, 224), colour="bgr", mean=(103.939, 116.779, 123.68))
KERAS_URL = "https://github.com/fchollet/deep-learning-models/releases/download/v0.1"

CARDS = (
    WeightsCard(
        name="imagenet-torchvision",
        layouts=("vgg16_torchvision_imagenet1k", "vgg16_features"),
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
        name=FEATURES_ONLY,
        layouts=(),
        source="pytorch/vision (VGG16_Weights.IMAGENET1K_FEATURES, of amdegroot/ssd.pytorch)",
        licence="BSD-3-Clause",
        # 0-255 with the means removed, as torchvision writes it.
        preprocess=TORCHVISION.model_copy(update={"mean": (0.48235, 0.45882, 0.40784), "std": (1 / 255,) * 3}),
        files=(
            WeightsFile(
                name="vgg16_features-amdegroot-88682ab5.pth",
                layout="vgg16_torchvision_imagenet1k",
                source="pytorch/vision",
                url=f"{TORCHVISION_URL}/vgg16_features-amdegroot-88682ab5.pth",
                sha256="88682ab5",
            ),
        ),
    ),
    WeightsCard(
        name="imagenet-cnnimageretrieval",
        layouts=(),
        source=CNNIMAGERETRIEVAL,
        licence="MIT (of the code)",
        preprocess=TORCHVISION,
        files=(
            WeightsFile(
                name="imagenet-caffe-vgg16-features-d369c8e.pth",
                layout="vgg16_features",
                source="filipradenovic/cnnimageretrieval-pytorch",
                url=f"{CNNIMAGERETRIEVAL_URL}/imagenet-caffe-vgg16-features-d369c8e.pth",
            ),
        ),
    ),
    WeightsCard(
        name="imagenet-caffe",
        layouts=("vgg16_caffe", "vgg16_jcjohnson", "vgg16_keras_th_kernels", "vgg16_keras_tf"),
        source="the authors' VGG_ILSVRC_16_layers.caffemodel and its conversions",
        licence="CC-BY-4.0",
        preprocess=CAFFE,
        files=(
            WeightsFile(
                name="VGG_ILSVRC_16_layers.caffemodel",
                layout="vgg16_caffe",
                source="the authors' page (Visual Geometry Group, Oxford)",
                url="http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/VGG_ILSVRC_16_layers.caffemodel",
            ),
            WeightsFile(
                name="vgg16-00b39a1b.pth",
                layout="vgg16_jcjohnson",
                source="jcjohnson/pytorch-vgg",
                url="https://s3-us-west-2.amazonaws.com/jcjohns-models/vgg16-00b39a1b.pth",
                sha256="00b39a1b",
            ),
            WeightsFile(
                name="vgg16_weights_th_dim_ordering_th_kernels.h5",
                layout="vgg16_keras_th_kernels",
                source="fchollet/deep-learning-models (what noagarcia/keras_rmac reads)",
                url=f"{KERAS_URL}/vgg16_weights_th_dim_ordering_th_kernels.h5",
            ),
            WeightsFile(
                name="vgg16_weights_tf_dim_ordering_tf_kernels.h5",
                layout="vgg16_keras_tf",
                source="fchollet/deep-learning-models",
                url=f"{KERAS_URL}/vgg16_weights_tf_dim_ordering_tf_kernels.h5",
            ),
        ),
        classes="imagenet1k",
    ),
    # The same keys and shapes as Theano's kernels, of which they are the mirror images: only a person can tell.
    WeightsCard(
        name="imagenet-keras-tf-kernels",
        layouts=("vgg16_keras_th_ordering_tf_kernels",),
        source="fchollet/deep-learning-models, th_dim_ordering with TensorFlow's kernels",
        licence="CC-BY-4.0",
        preprocess=CAFFE,
        files=(
            WeightsFile(
                name="vgg16_weights_th_dim_ordering_tf_kernels.h5",
                layout="vgg16_keras_th_ordering_tf_kernels",
                source="fchollet/deep-learning-models",
                url=f"{KERAS_URL}/vgg16_weights_th_dim_ordering_tf_kernels.h5",
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


def _check(recipe: Recipe) -> None:
    """Refuses what torchvision's features-only file cannot give: its linear layers are filled with NaN."""
    if recipe.weights.file is not None and recipe.weights.card == FEATURES_ONLY and recipe.layer not in MAP_STRIDES:
        expected = f"one of {', '.join(MAP_STRIDES)}: weights of card {FEATURES_ONLY} have no other"
        remedy = "choose one of them, or another file"
        raise WeightsError(describe(f"features.{recipe.name}", "layer", expected, recipe.layer, remedy))


CARD = ExtractorCard(
    name="vgg16",
    version=1,
    summary="image classification network, one row per frame (ImageNet)",
    layers=(
        Layer("fc7", 4096, min_side_pixels=32, unused=("classifier.6.",)),
        Layer("fc6", 4096, min_side_pixels=32, unused=("classifier.3.", "classifier.6.")),
        Layer("pool5", 25088, maps=(CHANNELS, 7, 7), min_side_pixels=MAP_STRIDES["pool5"], unused=CLASSIFIER),
        Layer("conv5_3", 100352, maps=(CHANNELS, 14, 14), min_side_pixels=MAP_STRIDES["conv5_3"], unused=CLASSIFIER),
        Layer("logits", 1000, min_side_pixels=32),
        Layer("probabilities", 1000, min_side_pixels=32),
        Layer("fc7_before_relu", 4096, min_side_pixels=32, unused=("classifier.6.",)),
        Layer("fc6_before_relu", 4096, min_side_pixels=32, unused=("classifier.3.", "classifier.6.")),
    ),
    sampling=Sampling(fps=1, frames=1),
    weights=CARDS,
    frames_fixed=True,
    gmac_per_window=15.47,
    batch_windows=8,
    resolve_files=_with_row_length,
    check=_check,
    pixel_options=PIXEL_OPTIONS,
    shared_layers=("conv5_3", "pool5", "fc6_before_relu", "fc6", "fc7_before_relu", "fc7", "logits", "probabilities"),
    runtimes=RUNTIMES,
    trained_options={},
)
