"""How the published weights of VGG-16 name their tensors: torchvision's way, Caffe's and Keras's."""

from functools import cache

import torch
from torch import Tensor

from clipmill.extractors.vgg16.card import FEATURES_ONLY, MAP_STRIDES
from clipmill.extractors.vgg16.network import CLASSIFIER_STOP, VGG16
from clipmill.extractors.weights import Layout, Shape

CAFFE_NAMES = (
    *(f"conv{block}_{index}" for block, num in enumerate((2, 2, 3, 3, 3), start=1) for index in range(1, num + 1)),
    *("fc6", "fc7", "fc8"),
)
KERAS_NAMES = (
    *(f"block{block}_conv{index}" for block, num in enumerate((2, 2, 3, 3, 3), start=1) for index in range(1, num + 1)),
    *("fc1", "fc2", "predictions"),
)
POOL5 = (7, 7, 512)
"""Rows, columns and channels of the map before fc6, in the order TensorFlow flattens them."""

CAFFE_CARD = "imagenet-caffe"


def _transposed(key: str, tensor: Tensor) -> Tensor:
    """Keras's dense layers are ``[in, out]``."""
    return tensor.T if tensor.dim() == 2 else tensor


def _theano(key: str, tensor: Tensor) -> Tensor:
    """Theano's convolutions are what mathematics calls so: each kernel is applied turned by 180 degrees."""
    return tensor.flip(2, 3) if tensor.dim() == 4 else _transposed(key, tensor)


def _tensorflow(key: str, tensor: Tensor) -> Tensor:
    """Kernels are ``[rows, columns, in, out]``, and fc6 takes its map row, column, channel."""
    if tensor.dim() == 4:
        return tensor.permute(3, 2, 0, 1)
    if key == "classifier.0.weight":
        return tensor.reshape(*POOL5, -1).permute(3, 2, 0, 1).flatten(1)
    return _transposed(key, tensor)


@cache
def layouts() -> tuple[Layout, ...]:
    """Returns the layout of every published file."""
    with torch.device("meta"):
        state = VGG16().state_dict()
    shapes: dict[str, Shape] = {key: tuple(value.shape) for key, value in state.items()}
    shapes |= {"classifier.6.weight": (None, 4096), "classifier.6.bias": (None,)}
    # Weight and bias of each layer follow each other in all of them.
    caffe = [f"{name}[{index}]" for name in CAFFE_NAMES for index in (0, 1)]
    keras = [f"{name}[{index}]" for name in KERAS_NAMES for index in (0, 1)]
    theano: dict[str, tuple[str, Shape]] = {}
    tensorflow: dict[str, tuple[str, Shape]] = {}
    for name, (key, shape) in zip(keras, shapes.items(), strict=True):
        theano[name] = (key, shape[::-1] if len(shape) == 2 else shape)
        tensorflow[name] = (key, (*shape[2:], shape[1], shape[0]) if len(shape) == 4 else theano[name][1])
    own = {key: (key, shape) for key, shape in shapes.items()}
    old = {"classifier.0": "classifier.1", "classifier.3": "classifier.4"}
    jcjohnson = {key.replace(key[:12], old.get(key[:12], key[:12])): (key, shape) for key, shape in shapes.items()}
    features = {
        key.removeprefix("features."): (key, shape) for key, shape in shapes.items() if key.startswith("features.")
    }
    torchvision = "imagenet-torchvision"
    return (
        Layout("vgg16_torchvision_imagenet1k", torchvision, own, others=(CAFFE_CARD, FEATURES_ONLY)),
        Layout("vgg16_caffe", CAFFE_CARD, dict(zip(caffe, shapes.items(), strict=True))),
        Layout(
            "vgg16_features",
            torchvision,
            features,
            lacks=tuple(layer for layer in CLASSIFIER_STOP if layer not in MAP_STRIDES) + ("probabilities",),
            others=(CAFFE_CARD, FEATURES_ONLY, "imagenet-cnnimageretrieval"),
        ),
        Layout("vgg16_jcjohnson", CAFFE_CARD, jcjohnson),
        Layout("vgg16_keras_th_kernels", CAFFE_CARD, theano, convert=_theano),
        Layout("vgg16_keras_th_ordering_tf_kernels", "imagenet-keras-tf-kernels", theano, convert=_transposed),
        Layout("vgg16_keras_tf", CAFFE_CARD, tensorflow, convert=_tensorflow),
    )
