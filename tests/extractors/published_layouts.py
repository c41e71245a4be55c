"""The published layouts of the reference sheets, and files with their keys and shapes that take no room."""

import json
from pathlib import Path

import torch


def published(shared_data: Path, name: str) -> dict[str, list[int]]:
    """Returns key to shape of one published file, in its own order."""
    path = shared_data.parent / "reference" / "checkpoints" / f"{name}.json"
    keys: dict[str, list[int]] = json.loads(path.read_text())["keys"]
    return keys


def numbered_state(keys: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Returns tensors of these shapes, each filled with its own place in the list; each takes four bytes when saved."""
    return {key: torch.tensor(float(index + 1)).expand(shape) for index, (key, shape) in enumerate(keys.items())}
