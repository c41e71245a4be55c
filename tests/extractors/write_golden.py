"""Writes golden outputs: ``python -m tests.extractors.write_golden NAME...`` (no name: those that are missing).

A golden file is what an extractor with its defaults and random weights makes of a fixed input, thinned out. It holds a
change of code to account: a number that moves on purpose needs a higher version on the card and a new golden file.
"""

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipmill.extractors import registry
from clipmill.schemas.rows import Rows
from tests.extractors.registered import built_in, default_run, rows_of

FOLDER = Path(__file__).parent / "golden"
MOST_ROWS, MOST_VALUES = 8, 257


def path_of(name: str) -> Path:
    """Returns where the golden file of an extractor lies."""
    return FOLDER / f"{name}.npz"


def thinned(rows: Rows) -> dict[str, npt.NDArray[np.generic]]:
    """Returns the first rows with every n-th value, and the columns beside them."""
    first = rows.slice(0, MOST_ROWS)
    step = -(-first.values.shape[1] // MOST_VALUES)
    columns = {"start_seconds": first.start_seconds, "stop_seconds": first.stop_seconds, "mask": first.mask}
    return {"values": first.values[:, ::step], "shape": np.array(rows.values.shape), **columns, **first.extras}


def golden(name: str) -> dict[str, npt.NDArray[np.generic]]:
    """Returns what the golden file of `name` should hold."""
    found, extractor, outputs = default_run(name)
    version = np.array(registry.card(name).version)
    return thinned(rows_of(extractor, outputs, found)) | {"version": version}


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(built_in()))
    if unknown:
        print(f"write_golden: expected registered names, got {', '.join(unknown)}; known: {', '.join(built_in())}")
        return 2
    for name in names or [name for name in built_in() if not path_of(name).exists()]:
        FOLDER.mkdir(exist_ok=True)
        np.savez_compressed(path_of(name), **golden(name))
        print(f"{path_of(name).relative_to(FOLDER.parent)}: {path_of(name).stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
