"""I3D's weights: any published layout into our network, and two streams into one file."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clipmill.extractors.i3d.card import LAST_LAYER
from clipmill.extractors.i3d.layouts import STREAMS, layouts
from clipmill.extractors.i3d.network import InceptionI3D
from clipmill.extractors.weights import fitting_layouts, match_layout, read_state_dict, read_weights


def stream_of(path: str) -> str:
    """Returns the stream of a weights file, which its layout tells: ``rgb``, ``flow`` or ``both``.

    Raises:
        WeightsError: it cannot be read, or has none of I3D's layouts.
    """
    shapes = {key: tuple(value.shape) for key, value in read_state_dict(path).items()}
    found = match_layout(path, shapes, layouts(), LAST_LAYER)
    return next(stream for stream in STREAMS if found.name in {layout.name for layout in layouts(stream)})


def read_streams(
    path: str, stream: str, unused: Sequence[str] = (), layout: str | None = None
) -> dict[str, dict[str, Tensor]]:
    """Returns, per stream (``rgb``, ``flow``), the tensors of the file under our keys, whatever its layout.

    Batch norm scales, which TensorFlow's files lack, are ones.

    Args:
        stream: ``rgb``, ``flow`` or ``both``.
        unused: `LAST_LAYER` where only features are wanted, which need none.
        layout: name of the one a recipe was resolved with.

    Raises:
        WeightsError: the file cannot be read or has another layout, or a tensor that is needed holds NaN or infinity.
    """
    _, state = read_weights(path, layouts(stream), unused, layout)
    if stream != "both":
        return {stream: _with_scales(state)}
    return {
        name: _with_scales(
            {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(name)}
        )
        for name in ("rgb", "flow")
    }


def _with_scales(state: dict[str, Tensor]) -> dict[str, Tensor]:
    scales = {key.removesuffix("bias") + "weight": value for key, value in state.items() if key.endswith(".bn.bias")}
    return {key: torch.ones_like(value) for key, value in scales.items() if key not in state} | state


def load_stream(state: Mapping[str, Tensor], stream: str) -> InceptionI3D:
    """Returns a network with these tensors (our keys); without its last layer where there are none of that."""
    last = state.get("logits.conv3d.bias")
    with torch.device("meta"):
        network = InceptionI3D(stream, num_classes=None if last is None else len(last))
    # Files of PyTorch 0.3 have no counters, and inference needs none.
    counters = {
        key: torch.zeros((), dtype=torch.int64) for key in network.state_dict() if key.endswith("num_batches_tracked")
    }
    network.load_state_dict({**state, **counters}, strict=True, assign=True)
    return network


def _whole_or_without_last(path: str, stream: str) -> dict[str, Tensor]:
    shapes = {key: tuple(value.shape) for key, value in read_state_dict(path).items()}
    whole = bool(fitting_layouts(shapes, layouts(stream)))
    return read_streams(path, stream, () if whole else LAST_LAYER)[stream]


def join_streams(rgb: str, flow: str, path: str) -> None:
    """Writes the weights of two published files into one, for ``stream: both``, in the layout ``i3d_two_stream``.

    One file, so that one digest covers what the features depend on.

    Raises:
        WeightsError: one of the files cannot be read or has another layout.
    """
    streams: Sequence[tuple[str, str]] = (("rgb", rgb), ("flow", flow))
    joined: dict[str, Tensor] = {}
    for stream, source in streams:
        found = _whole_or_without_last(source, stream)
        joined |= {f"{stream}.{key}": value for key, value in found.items()}
    torch.save(joined, path)
