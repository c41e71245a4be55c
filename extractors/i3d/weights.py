"""I3D's weights: any published layout into our network, and two streams into one file."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clipmill.extractors.i3d.layouts import STREAMS, layouts
from clipmill.extractors.i3d.network import InceptionI3D
from clipmill.extractors.weights import Layout, match_layout, read_state_dict

TENSORFLOW_SCOPE = re.compile(r"^(RGB|Flow)/inception_i3d/")
TENSORFLOW_AXES = (4, 3, 0, 1, 2)
"""From TensorFlow's ``(T, H, W, in, out)`` to torch's ``(out, in, T, H, W)``."""


def stream_of(path: str) -> str:
    """Returns the stream of a weights file, which its layout tells: ``rgb``, ``flow`` or ``both``.

    Raises:
        WeightsError: it cannot be read, or has none of I3D's layouts.
    """
    shapes = {key: tuple(value.shape) for key, value in read_state_dict(path).items()}
    found = match_layout(path, shapes, layouts())
    return next(stream for stream in STREAMS if found.name in {layout.name for layout in layouts(stream)})


def read_streams(path: str, stream: str) -> dict[str, dict[str, Tensor]]:
    """Returns, per stream (``rgb``, ``flow``), the tensors of the file under our keys, whatever its layout.

    Batch norm scales, which TensorFlow's files lack, are ones.

    Args:
        stream: ``rgb``, ``flow`` or ``both``.

    Raises:
        WeightsError: the file cannot be read or has another layout.
    """
    state = read_state_dict(path)
    layout = match_layout(path, {key: tuple(value.shape) for key, value in state.items()}, layouts(stream))
    renamed = _renamed(state, layout)
    if stream != "both":
        return {stream: _with_scales(renamed)}
    return {
        name: _with_scales(
            {key.removeprefix(f"{name}."): value for key, value in renamed.items() if key.startswith(name)}
        )
        for name in ("rgb", "flow")
    }


def _renamed(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    renamed = {}
    for published, (key, _) in layout.keys.items():
        tensor = state[published].float().contiguous()
        if TENSORFLOW_SCOPE.match(published) and tensor.dim() == len(TENSORFLOW_AXES):
            tensor = tensor.permute(TENSORFLOW_AXES).contiguous()
        renamed[key] = tensor
    return renamed


def _with_scales(state: dict[str, Tensor]) -> dict[str, Tensor]:
    scales = {key.removesuffix("bias") + "weight": value for key, value in state.items() if key.endswith(".bn.bias")}
    return {key: torch.ones_like(value) for key, value in scales.items() if key not in state} | state


def load_stream(state: Mapping[str, Tensor], stream: str) -> InceptionI3D:
    """Returns a network with these tensors (our keys)."""
    with torch.device("meta"):
        network = InceptionI3D(stream, num_classes=int(state["logits.conv3d.bias"].shape[0]))
    # Files of PyTorch 0.3 have no counters, and inference needs none.
    counters = {
        key: torch.zeros((), dtype=torch.int64) for key in network.state_dict() if key.endswith("num_batches_tracked")
    }
    network.load_state_dict({**state, **counters}, strict=True, assign=True)
    return network


def join_streams(rgb: str, flow: str, path: str) -> None:
    """Writes the weights of two published files into one, for ``stream: both``, in the layout ``i3d_two_stream``.

    One file, so that one digest covers what the features depend on.

    Raises:
        WeightsError: one of the files cannot be read or has another layout.
    """
    streams: Sequence[tuple[str, str]] = (("rgb", rgb), ("flow", flow))
    joined: dict[str, Tensor] = {}
    for stream, source in streams:
        joined |= {f"{stream}.{key}": value for key, value in read_streams(source, stream)[stream].items()}
    torch.save(joined, path)
