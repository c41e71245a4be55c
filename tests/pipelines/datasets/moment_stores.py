"""Small stores of steps of whole videos, imported as VSLNet's folders of ``.npy`` are, and annotations of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from clipmill.pipelines.features.imported.run import import_features
from clipmill.schemas.config_import import ImportConfig
from clipmill.schemas.model import validate

SECONDS = {"a": 8.0, "b": 20.0, "c": 12.0}
STEPS = {"a": 4, "b": 10, "c": 6}
DIM = 5
LINES = "a 2.0 4.0##He sits.\na 0.0 8.0##he stands up\nb 5.0 10.0##a man sits\nc 0.0 6.5##she opens a door\n"


def write_moment_store(folder: Path, values: dict[str, np.ndarray] | None = None, times: str = "evenly") -> str:
    """Returns the URL of a store whose feature ``steps`` has some steps of each video.

    Args:
        times: of the steps: ``evenly`` in durations that the manifest has, ``known`` (2 s each), or ``unknown``.
    """
    features = folder / "npy"
    features.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    found = values or {name: random.normal(size=(num, DIM)).astype(np.float32) for name, num in STEPS.items()}
    for name, rows in found.items():
        np.save(features / f"{name}.npy", rows)
    manifest = folder / "manifest.csv"
    lines = [f"{name},{SECONDS[name]}" if name in SECONDS else f"{name},{len(rows)}" for name, rows in found.items()]
    if times != "evenly":
        lines = [line.split(",")[0] for line in lines]
    manifest.write_text("\n".join(["id,duration_seconds" if times == "evenly" else "id", *lines]) + "\n", "utf-8")
    rows: dict[str, Any] = {"rows": "bag"}
    if times != "unknown":
        rows = {"steps": {"evenly": True} if times == "evenly" else {"step_seconds": 2}}
    config = {
        "store": {"url": str(folder / "store"), "dataset": "given"},
        "manifest": str(manifest),
        "features": {"steps": {"file": f"{features}/{{id}}.npy", **rows}},
    }
    import_features(validate(ImportConfig, config, "test"))
    return str(folder / "store")


def write_annotations(folder: Path, lines: str = LINES, durations: bool = True) -> dict[str, Any]:
    """Returns the config of a Charades-STA file of `lines`, with durations or without."""
    path = folder / "train.txt"
    path.write_text(lines, "utf-8")
    if not durations:
        return {"file": str(path)}
    seconds = folder / "durations.json"
    seconds.write_text(json.dumps(SECONDS), "utf-8")
    return {"file": str(path), "durations": str(seconds)}
