"""SqueezeNet 1.0 (Iandola et al., 2016): a small image network, one row per frame."""

from clipmill.extractors.base import PIXEL_OPTIONS, RUNTIMES, ExtractorCard, Layer, WeightsCard, WeightsFile
from clipmill.extractors.imagenet import TORCHVISION, TORCHVISION_URL
from clipmill.schemas.recipe import Preprocess, Sampling

CARDS = (
    WeightsCard(
        name="imagenet-caffe",
        layouts=("squeezenet1_0",),
        source="songhan/SqueezeNet-Deep-Compression, decoded, torchvision key names",
        licence="BSD",
        # Published: 227 x 227, BGR, 0-255, mean (104, 117, 123). ours: the whole frame is squeezed to 256 x 256 before
        # the centre crop, as Caffe's ImageNet preparation does.
        preprocess=Preprocess(
            resize="exact", size=(256, 256), crop=(227, 227), colour="bgr", mean=(104.0, 117.0, 123.0)
        ),
        files=(
            WeightsFile(
                name="squeezenet1_0_imagenet_decoded.pt",
                layout="squeezenet1_0",
                source="songhan/SqueezeNet-Deep-Compression, decoded",
                num_bytes=5_011_453,
                sha256="2a5bc28f584eedf223a0e662d7391f4b88e51b569d00395f3387956e44b97802",
            ),
        ),
        classes="imagenet1k",
    ),
    # The same keys and shapes: distinguished by the digest, or by whoever names the card.
    WeightsCard(
        name="imagenet-torchvision",
        layouts=(),
        source="pytorch/vision (SqueezeNet1_0_Weights.IMAGENET1K_V1)",
        licence="BSD-3-Clause",
        preprocess=TORCHVISION,
        files=(
            WeightsFile(
                name="squeezenet1_0-b66bff10.pth",
                layout="squeezenet1_0",
                source="pytorch/vision",
                url=f"{TORCHVISION_URL}/squeezenet1_0-b66bff10.pth",
                sha256="b66bff10",
            ),
            WeightsFile(
                name="squeezenet1_0-a815701f.pth",
                layout="squeezenet1_0",
                source="pytorch/vision before 0.10",
                url=f"{TORCHVISION_URL}/squeezenet1_0-a815701f.pth",
                sha256="a815701f",
            ),
        ),
        classes="imagenet1k",
    ),
)

CARD = ExtractorCard(
    name="squeezenet",
    version=1,
    summary="small image classification network, one row per frame (ImageNet)",
    layers=(
        Layer("features", 512, min_side_pixels=21, unused=("classifier.",)),
        Layer("logits", 1000, min_side_pixels=21),
        Layer("probabilities", 1000, min_side_pixels=21),
    ),
    sampling=Sampling(fps=1, frames=1),
    weights=CARDS,
    frames_fixed=True,
    gmac_per_window=0.82,
    batch_windows=16,
    pixel_options=PIXEL_OPTIONS,
    shared_layers=("features", "logits", "probabilities"),
    runtimes=RUNTIMES,
    trained_options={},
)
