"""ResNet-50 (He et al., CVPR 2016), as torchvision has it: one row per frame."""

from pydantic import Field

from clipmill.extractors.base import PIXEL_OPTIONS, RUNTIMES, ExtractorCard, Layer, WeightsCard, WeightsFile
from clipmill.extractors.imagenet import CNNIMAGERETRIEVAL, CNNIMAGERETRIEVAL_URL, TORCHVISION, TORCHVISION_URL
from clipmill.schemas.model import Model
from clipmill.schemas.recipe import Sampling


class ResNet50Options(Model):
    """Switches of ResNet-50.

    Attributes:
        fold_batch_norm: fold batch norm into the convolutions: faster, the same up to rounding.
        batch_norm_epsilon: in place of torchvision's 1e-5 (Keras has 1.001e-5).
    """

    fold_batch_norm: bool = True
    batch_norm_epsilon: float | None = Field(default=None, gt=0, le=0.1)


CARDS = (
    WeightsCard(
        name="imagenet-v1",
        layouts=("resnet50_torchvision", "resnet50_features"),
        source="pytorch/vision (ResNet50_Weights.IMAGENET1K_V1)",
        licence="BSD-3-Clause",
        preprocess=TORCHVISION,
        files=(
            WeightsFile(
                name="resnet50-0676ba61.pth",
                layout="resnet50_torchvision",
                source="pytorch/vision",
                url=f"{TORCHVISION_URL}/resnet50-0676ba61.pth",
                sha256="0676ba61",
            ),
            WeightsFile(
                name="resnet50-19c8e357.pth",
                layout="resnet50_torchvision",
                source="pytorch/vision before 0.10",
                url=f"{TORCHVISION_URL}/resnet50-19c8e357.pth",
                sha256="19c8e357",
            ),
        ),
        classes="imagenet1k",
    ),
    # The same keys; only the resize differs: recognised by the digest, or named with weights.card.
    WeightsCard(
        name="imagenet-v2",
        layouts=(),
        source="pytorch/vision (ResNet50_Weights.IMAGENET1K_V2)",
        licence="BSD-3-Clause",
        preprocess=TORCHVISION.model_copy(update={"size": (232,)}),
        files=(
            WeightsFile(
                name="resnet50-11ad3fa6.pth",
                layout="resnet50_torchvision",
                source="pytorch/vision",
                url=f"{TORCHVISION_URL}/resnet50-11ad3fa6.pth",
                sha256="11ad3fa6",
            ),
        ),
        classes="imagenet1k",
    ),
    WeightsCard(
        name="imagenet-cnnimageretrieval",
        layouts=(),
        source=CNNIMAGERETRIEVAL,
        licence="MIT (of the code)",
        preprocess=TORCHVISION,
        files=(
            WeightsFile(
                name="imagenet-caffe-resnet50-features-ac468af.pth",
                layout="resnet50_features",
                source="filipradenovic/cnnimageretrieval-pytorch",
                url=f"{CNNIMAGERETRIEVAL_URL}/imagenet-caffe-resnet50-features-ac468af.pth",
            ),
        ),
    ),
)

CARD = ExtractorCard(
    name="resnet50",
    version=1,
    summary="image classification network, one row per frame (ImageNet)",
    layers=(
        Layer("features", 2048, unused=("fc.",)),
        Layer("logits", 1000),
        Layer("probabilities", 1000),
    ),
    sampling=Sampling(fps=1, frames=1),
    weights=CARDS,
    frames_fixed=True,
    options=ResNet50Options,
    gmac_per_window=4.09,
    batch_windows=16,
    pixel_options=PIXEL_OPTIONS,
    shared_layers=("features", "logits", "probabilities"),
    runtimes=RUNTIMES,
    trained_options={"fold_batch_norm": False},
)
