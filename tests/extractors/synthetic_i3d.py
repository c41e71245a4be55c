"""I3D files that give what a test wants: the trunk is random, the last layer says the logits whatever the input."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from clipmill.extractors.i3d.layouts import tensors
from clipmill.extractors.i3d.sample import EXPECTED

EXPECTED_FILES = {"rgb": "imagenet_rgb.txt", "flow": "imagenet_flow.txt", "both": "imagenet_joint.txt"}


def authors_logits(stream: str) -> npt.NDArray[np.float64]:
    """Returns 400 logits with the published top 20 and norm; the other 380 are equal."""
    expected = EXPECTED[stream]
    logits = np.zeros(400)
    for index, _, value in expected.top:
        logits[index] = value
    others = logits == 0
    logits[others] = np.sqrt((expected.norm**2 - float((logits**2).sum())) / others.sum())
    return logits


def save_with_logits(path: Path, stream: str, logits: npt.NDArray[np.float64]) -> Path:
    """Writes a file in piergiaj's layout whose network gives `logits` for every input: zero weights, these biases."""
    state = {tensor.key: torch.zeros(()).expand(tensor.shape) for tensor in tensors(stream, len(logits))}  # type: ignore[arg-type]
    for tensor in tensors(stream, len(logits)):
        if tensor.key.endswith(("running_var", "bn.weight")):
            state[tensor.key] = torch.ones(()).expand(tensor.shape)  # type: ignore[arg-type]
    state["logits.conv3d.bias"] = torch.from_numpy(logits).float()
    torch.save(state, path)
    return path
