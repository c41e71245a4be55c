"""C3D (Tran et al., ICCV 2015): 3D convolutions over 16 frames."""

import os

from clipmill.extractors.base import PIXEL_OPTIONS, RUNTIMES, ExtractorCard, Layer, WeightsCard, WeightsFile, options_of
from clipmill.extractors.c3d.options import CROP, NUM_FRAMES, C3DOptions
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.recipe import Preprocess, Recipe, Sampling

# Resize to 171 x 128 without keeping the aspect, centre crop at row 8, column 29: Caffe's own integer division. Channel
# means are those of the Sports-1M mean cube; the cube itself is subtracted where options.mean_cube names it.
CAFFE = Preprocess(
    resize="exact",
    size=(128, 171),
    crop=CROP,
    crop_offset=(8, 29),
    colour="bgr",
    mean=(90.25, 97.66, 101.41),
)

OPENMMLAB = "https://download.openmmlab.com/mmaction"
MMACTION2_UCF101 = "c3d_sports1m-pretrained_8xb30-16x1x1-45e_ucf101-rgb"

CARDS = (
    WeightsCard(
        name="sports1m-caffe",
        layouts=("c3d_sports1m_caffe", "c3d_sports1m_davidea", "c3d_sports1m_jfzhang95"),
        source="facebookarchive/C3D v1.0 (conv3d_deepnetA_sport1m_iter_1900000) and its PyTorch ports",
        licence="BSD-style",
        preprocess=CAFFE,
        # ours for the ports' files: their code pads, but their numbers are Caffe's, trained without padding.
        options={"pool5": "caffe"},
        files=(
            WeightsFile(
                name="conv3d_deepnetA_sport1m_iter_1900000",
                layout="c3d_sports1m_caffe",
                source="facebookarchive/C3D v1.0",
                # The authors' own link, with the host's flag for the file in place of a page about it.
                url="https://www.dropbox.com/s/vr8ckp0pxgbldhs/conv3d_deepnetA_sport1m_iter_1900000?dl=1",
            ),
            WeightsFile(
                name="c3d.pickle",
                layout="c3d_sports1m_davidea",
                source="DavideA/c3d-pytorch",
                url="http://imagelab.ing.unimore.it/files/c3d_pytorch/c3d.pickle",
                licence="MIT",
            ),
            WeightsFile(
                name="c3d-pretrained.pth",
                layout="c3d_sports1m_jfzhang95",
                source="jfzhang95/pytorch-video-recognition",
                licence="MIT",
            ),
        ),
    ),
    WeightsCard(
        name="ucf101-jfzhang95",
        layouts=("c3d_ucf101_jfzhang95",),
        source="jfzhang95/pytorch-video-recognition",
        licence="MIT",
        preprocess=CAFFE.model_copy(update={"crop_offset": (8, 30), "mean": (90.0, 98.0, 102.0)}),
        options={"pool5": "port"},
    ),
    WeightsCard(
        name="mmaction2",
        layouts=("c3d_sports1m_mmaction2", "c3d_ucf101_mmaction2"),
        source="open-mmlab/mmaction2",
        licence="Apache-2.0",
        preprocess=Preprocess(
            resize="short_side",
            size=(128,),
            resize_rounding="nearest",
            crop=CROP,
            colour="rgb",
            mean=(104.0, 117.0, 128.0),
        ),
        options={"pool5": "port"},
        files=(
            WeightsFile(
                name="c3d_sports1m_pretrain_20201016-dcc47ddc.pth",
                layout="c3d_sports1m_mmaction2",
                source="open-mmlab/mmaction2",
                url=f"{OPENMMLAB}/recognition/c3d/c3d_sports1m_pretrain_20201016-dcc47ddc.pth",
                num_bytes=311_985_866,
                sha256="dcc47ddcdc7dd62eabc24bc70491b47c82b3b1045b864c52f6bdb669243dfcff",
            ),
            WeightsFile(
                name=f"{MMACTION2_UCF101}_20220811-31723200.pth",
                layout="c3d_ucf101_mmaction2",
                source="open-mmlab/mmaction2",
                url=f"{OPENMMLAB}/v1.0/recognition/c3d/{MMACTION2_UCF101}/{MMACTION2_UCF101}_20220811-31723200.pth",
                sha256="31723200",
            ),
        ),
    ),
)


def _resolve_files(recipe: Recipe) -> Recipe:
    return _resolve_pca(_resolve_mean_cube(recipe))


def _resolve_pca(recipe: Recipe) -> Recipe:
    """Puts the digest of the projection's file where its path was, and the length of the rows it gives.

    Raises:
        UsageError: its orientation is not said, or the layer is not one it projects.
        WeightsError: the file is no such projection.
    """
    from clipmill.extractors.c3d.projection import PUBLISHED_DIM, read_projection
    from clipmill.extractors.weights import digest

    options: C3DOptions = options_of(CARD, recipe)
    if options.pca is None:
        return recipe
    where = f"features.{recipe.name}"
    if recipe.layer not in ("fc6", "fc7"):
        remedy = "set layer: fc7 (the published file's), or remove options.pca"
        raise UsageError(describe(where, "layer", "fc7 or fc6, for options.pca", recipe.layer, remedy))
    if options.pca_orientation is None:
        remedy = "clipmill orient STORE --feature NAME --pca FILE tells which, from stored fc7"
        raise UsageError(describe(f"{where}.options", "pca_orientation", "columns or rows", "none", remedy))
    path = os.path.abspath(os.path.expanduser(options.pca))
    dim = options.pca_dim or PUBLISHED_DIM
    read_projection(path, options.pca_orientation, dim)
    changes = {
        "dim": dim,
        "options": recipe.options | {"pca": digest(path), "pca_dim": dim},
        "files": recipe.files | {"pca": path},
    }
    return recipe.model_copy(update=changes)


def _resolve_mean_cube(recipe: Recipe) -> Recipe:
    """Moves the mean cube from the options to the preprocessing, where its digest stands for it."""
    from clipmill.extractors.c3d.mean import read_mean_cube
    from clipmill.extractors.weights import digest

    options: C3DOptions = options_of(CARD, recipe)
    if options.mean_cube is None:
        return recipe
    path = os.path.abspath(options.mean_cube)
    sha256 = digest(path)
    read_mean_cube(path, recipe.preprocess)
    preprocess = recipe.preprocess.model_copy(update={"mean": (), "mean_cube": sha256, "mean_cube_file": path})
    return recipe.model_copy(update={"preprocess": preprocess, "options": recipe.options | {"mean_cube": None}})


def _check(recipe: Recipe) -> None:
    preprocess = recipe.preprocess
    where = f"features.{recipe.name}.preprocess"
    size = preprocess.crop or (preprocess.size if preprocess.resize == "exact" else None)
    if size != CROP:
        got = "frames of any size" if size is None else f"{size[0]} x {size[1]}"
        raise UsageError(describe(where, "crop", "112 x 112 (fc6 takes no other)", got, "leave crop out"))
    if preprocess.crops is not None and preprocess.mean_cube is not None:
        got = f"{preprocess.crops} and a mean_cube, which is cut at one"
        raise UsageError(describe(where, "crops", "none beside a mean volume", got, "leave one of them out"))


CARD = ExtractorCard(
    name="c3d",
    version=1,
    summary="3D convolutional network over 16 frames (Sports-1M)",
    layers=(
        Layer("fc6", 4096, unused=("fc7.", "fc8.")),
        Layer("fc7", 4096, unused=("fc8.",)),
        Layer("pool5", 8192, maps=(512, 1, 4, 4), unused=("fc6.", "fc7.", "fc8.")),
        Layer("logits", 487),
        Layer("probabilities", 487),
        Layer("fc6_before_relu", 4096, unused=("fc7.", "fc8.")),
        Layer("fc7_before_relu", 4096, unused=("fc8.",)),
    ),
    sampling=Sampling(frames=NUM_FRAMES, step=NUM_FRAMES),
    weights=CARDS,
    frames_fixed=True,
    options=C3DOptions,
    gmac_per_window=38.5,
    batch_windows=4,
    resolve_files=_resolve_files,
    check=_check,
    pixel_options=PIXEL_OPTIONS,
    shared_layers=("pool5", "fc6_before_relu", "fc6", "fc7_before_relu", "fc7", "logits", "probabilities"),
    runtimes=RUNTIMES,
)
