"""How the published weights of C3D name their tensors."""

from functools import cache

from clipmill.extractors.c3d.network import CONVOLUTIONS, LINEARS, SPORTS1M_CLASSES
from clipmill.extractors.weights import Layout, Shape


def _keys(
    names: dict[str, str], classes: int | None = None, suffixes: tuple[str, str] = (".weight", ".bias")
) -> dict[str, tuple[str, Shape]]:
    """Returns published key to (our key, shape), for our layer name to published layer name."""
    shapes: dict[str, tuple[Shape, Shape]] = {
        name: ((channels_out, channels_in, 3, 3, 3), (channels_out,))
        for name, channels_in, channels_out in CONVOLUTIONS
    }
    shapes |= {name: ((rows or classes, columns), (rows or classes,)) for name, rows, columns in LINEARS}
    return {
        published + suffix: (f"{name}.{kind}", shapes[name][index])
        for name, published in names.items()
        for index, (kind, suffix) in enumerate(zip(("weight", "bias"), suffixes, strict=True))
    }


_NAMES = [name for name, *_ in CONVOLUTIONS]
_LINEAR = {name: name for name, *_ in LINEARS}
_SHORT = {name: name.removesuffix("a") if name in ("conv1a", "conv2a") else name for name in _NAMES}
PORT_NAMES = {
    f"{name}.{kind}": f"{port}.{kind}" for name, port in (_SHORT | _LINEAR).items() for kind in ("weight", "bias")
}
"""Our keys to those of the PyTorch port, whose trained files have any number of classes."""
_INDEXED = dict(zip(_NAMES, (f"features.{index}" for index in (0, 3, 6, 8, 11, 13, 16, 18)), strict=True))


@cache
def layouts() -> tuple[Layout, ...]:
    """Returns the layout of every published file."""
    return (
        # The same names serve Sports-1M weights and the port's own UCF-101 training: the number of classes tells which.
        Layout("c3d_sports1m_davidea", "sports1m-caffe", _keys(_SHORT | _LINEAR, SPORTS1M_CLASSES), SPORTS1M_CLASSES),
        Layout("c3d_ucf101_jfzhang95", "ucf101-jfzhang95", _keys(_SHORT | _LINEAR)),
        Layout(
            "c3d_sports1m_jfzhang95",
            "sports1m-caffe",
            _keys(_INDEXED | {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}),
        ),
        Layout(
            "c3d_sports1m_mmaction2",
            "mmaction2",
            _keys({name: f"{name}.conv" for name in _NAMES} | {"fc6": "fc6", "fc7": "fc7"}),
            lacks=("logits", "probabilities"),
        ),
        Layout(
            "c3d_ucf101_mmaction2",
            "mmaction2",
            _keys(
                {name: f"backbone.{name}.conv" for name in _NAMES}
                | {"fc6": "backbone.fc6", "fc7": "backbone.fc7", "fc8": "cls_head.fc_cls"}
            ),
        ),
        Layout(
            "c3d_sports1m_caffe",
            "sports1m-caffe",
            _keys({name: name for name in _NAMES} | {name: f"{name}-1" for name in _LINEAR}, None, ("[0]", "[1]")),
        ),
    )
