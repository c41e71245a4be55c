"""C3D (Tran et al., ICCV 2015): 3D convolutions over 16 frames."""

from collections.abc import Sequence
from typing import Any, Literal

from extractors.base import Extractor, ExtractorCard, Layer, Registration, WeightsCard
from schemas.model import Model
from schemas.recipe import Preprocess, Recipe, Sampling


class C3DOptions(Model):
    """Switches of C3D.

    Attributes:
        pool5: ``caffe`` pools 7 to 4 without padding, rounding up; ``port`` pads by one and rounds down, as the PyTorch
            ports do. Both give 4 x 4 but different numbers.
    """

    pool5: Literal["caffe", "port"] = "caffe"


# Resize to 171 x 128 without keeping the aspect, centre crop at row 8, column 29: Caffe's own integer division.
CAFFE = Preprocess(
    resize="exact",
    size=(128, 171),
    crop=(112, 112),
    crop_offset=(8, 29),
    colour="bgr",
    mean=(90.25, 97.66, 101.41),
)

CARDS = (
    WeightsCard(
        name="sports1m-caffe",
        layouts=("c3d_sports1m_caffe", "c3d_sports1m_davidea", "c3d_sports1m_jfzhang95"),
        source="facebookarchive/C3D v1.0 (conv3d_deepnetA_sport1m_iter_1900000) and its PyTorch ports",
        licence="BSD-style",
        preprocess=CAFFE,
    ),
    WeightsCard(
        name="ucf101-jfzhang95",
        layouts=("c3d_ucf101_jfzhang95",),
        source="jfzhang95/pytorch-video-recognition",
        licence="MIT",
        preprocess=CAFFE.model_copy(update={"crop_offset": (8, 30), "mean": (90.0, 98.0, 102.0)}),
    ),
    WeightsCard(
        name="mmaction2",
        layouts=("c3d_sports1m_mmaction2", "c3d_ucf101_mmaction2"),
        source="open-mmlab/mmaction2 (c3d_sports1m_pretrain_20201016-dcc47ddc.pth)",
        licence="Apache-2.0",
        preprocess=Preprocess(
            resize="short_side", size=(128,), crop=(112, 112), colour="rgb", mean=(104.0, 117.0, 128.0)
        ),
        num_bytes=311_985_866,
        sha256="dcc47ddcdc7dd62eabc24bc70491b47c82b3b1045b864c52f6bdb669243dfcff",
    ),
)

CARD = ExtractorCard(
    name="c3d",
    version=1,
    summary="3D convolutional network over 16 frames (Sports-1M)",
    layers=(
        Layer("fc6", 4096),
        Layer("fc7", 4096),
        Layer("pool5", 8192, maps=(512, 1, 4, 4)),
        Layer("logits", 487),
    ),
    sampling=Sampling(frames=16, step=16),
    weights=CARDS,
    frames_fixed=True,
    options=C3DOptions,
    gmac_per_window=38.5,
    batch_windows=4,
)


def _build(recipe: Recipe, device: str) -> Extractor:
    from extractors.c3d_network import build

    return build(recipe, device)


def _layouts() -> Sequence[Any]:
    from extractors.c3d_network import LAYOUTS

    return LAYOUTS


REGISTRATION = Registration(CARD, _build, _layouts)
