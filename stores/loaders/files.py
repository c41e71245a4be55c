"""The layouts of feature files that loaders open: written here, and opened again as a loader opens them."""

import csv
import json
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from clipmill.schemas.arrays import Singles
from clipmill.schemas.errors import UsageError, describe

Write = Callable[[str, Singles], None]
Read = Callable[[str], Singles]

_MOST_NAME_BYTES = 255
"""Of one name in a folder on Linux."""


class FeatureFiles(Protocol):
    """A layout of the features of many videos in a folder."""

    def check(self, names: Collection[str]) -> None:
        """Refuses names that the loader could not open.

        Raises:
            UsageError: one of them.
        """
        ...

    def writing(self, folder: str) -> AbstractContextManager[Write]:
        """Returns what writes the rows ``float32[T, D]`` of a name."""
        ...

    def reading(self, folder: str) -> AbstractContextManager[Read]:
        """Returns what reads the rows of a name as the loader does; raises KeyError where the loader finds none."""
        ...


def refused_name(name: str, expected: str, remedy: str = "name it otherwise by --ids map.csv") -> UsageError:
    """Returns the error for a name that a loader could not open."""
    return UsageError(describe("export", f"name {name!r}", expected, "one the loader cannot open", remedy))


def check_paths(names: Collection[str], slashes: bool = True) -> None:
    """Refuses names that are no relative path below a folder.

    Raises:
        UsageError: one of them.
    """
    for name in names:
        parts = name.split("/")
        if "\0" in name or {"", ".", ".."} & set(parts):
            raise refused_name(name, "a path below the folder")
        if not slashes and len(parts) > 1:
            raise refused_name(name, "a name without slashes", "export with --ids stem, or --ids map.csv")
        if any(len(part.encode("utf-8", "surrogateescape")) > _MOST_NAME_BYTES - 8 for part in parts):
            raise refused_name(f"{name[:40]}...", f"at most {_MOST_NAME_BYTES - 8} bytes")


@dataclass(frozen=True, slots=True)
class NpyFiles:
    """A ``.npy`` for each video, ``float32[T, D]``.

    Attributes:
        squeezed: whether the loader takes axes of length one out.
    """

    squeezed: bool = False

    def check(self, names: Collection[str]) -> None:
        """See `FeatureFiles`."""
        check_paths(names)

    @contextmanager
    def writing(self, folder: str) -> Iterator[Write]:
        """See `FeatureFiles`."""
        yield lambda name, values: np.save(_below(folder, f"{name}.npy"), values)

    @contextmanager
    def reading(self, folder: str) -> Iterator[Read]:
        """See `FeatureFiles`."""

        def read(name: str) -> Singles:
            values = _loaded(os.path.join(folder, f"{name}.npy"))
            return values.squeeze() if self.squeezed else values

        yield read


@dataclass(frozen=True, slots=True)
class GlobbedNpyFiles:
    """``.npy`` files in one folder, found by listing it; a video is called by its file's name up to the first dot.

    Beside them is ``feature_shapes.json``, name to number of rows.
    """

    def check(self, names: Collection[str]) -> None:
        """See `FeatureFiles`."""
        check_paths(names, slashes=False)
        for name in names:
            if "." in name:
                expected = f"a name without dots (the loader would read it as {name.split('.')[0]!r})"
                raise refused_name(name, expected)
            if name.startswith("-") or not name.strip():
                raise refused_name(name, "a name that begins with a letter or digit")

    @contextmanager
    def writing(self, folder: str) -> Iterator[Write]:
        """See `FeatureFiles`."""
        lengths: dict[str, int] = {}

        def write(name: str, values: Singles) -> None:
            np.save(os.path.join(folder, f"{name}.npy"), values)
            lengths[name] = len(values)

        yield write
        with open(os.path.join(folder, "feature_shapes.json"), "w", encoding="utf-8") as file:
            json.dump(lengths, file)

    @contextmanager
    def reading(self, folder: str) -> Iterator[Read]:
        """See `FeatureFiles`."""
        found = {name.split(".")[0]: name for name in os.listdir(folder) if name.endswith(".npy")}
        with open(os.path.join(folder, "feature_shapes.json"), encoding="utf-8") as file:
            lengths = json.load(file)

        def read(name: str) -> Singles:
            values = _loaded(os.path.join(folder, found[name]))
            if lengths[name] != len(values):
                raise KeyError(name)
            return values

        yield read


@dataclass(frozen=True, slots=True)
class NpzFiles:
    """A ``.npz`` for each video, with the array `key` ``float32[T, D]``."""

    key: str

    def check(self, names: Collection[str]) -> None:
        """See `FeatureFiles`."""
        check_paths(names)

    @contextmanager
    def writing(self, folder: str) -> Iterator[Write]:
        """See `FeatureFiles`."""

        def write(name: str, values: Singles) -> None:
            np.savez(_below(folder, f"{name}.npz"), **{self.key: values})  # type: ignore[arg-type]

        yield write

    @contextmanager
    def reading(self, folder: str) -> Iterator[Read]:
        """See `FeatureFiles`."""

        def read(name: str) -> Singles:
            path = os.path.join(folder, f"{name}.npz")
            if not os.path.isfile(path):
                raise KeyError(name)
            with np.load(path, allow_pickle=False) as arrays:
                return np.asarray(arrays[self.key], np.float32)

        yield read


@dataclass(frozen=True, slots=True)
class CsvFiles:
    """A ``.csv`` for each video in the folder `folder_name`: a line of names of columns, then a row a line."""

    folder_name: str

    def check(self, names: Collection[str]) -> None:
        """See `FeatureFiles`."""
        check_paths(names)

    @contextmanager
    def writing(self, folder: str) -> Iterator[Write]:
        """See `FeatureFiles`."""
        os.makedirs(os.path.join(folder, self.folder_name), exist_ok=True)

        def write(name: str, values: Singles) -> None:
            path = _below(folder, f"{self.folder_name}/{name}.csv")
            header = ",".join(f"f{number}" for number in range(values.shape[1]))
            # 9 digits bring every float32 back.
            np.savetxt(path, values, fmt="%.9g", delimiter=",", header=header, comments="")

        yield write

    @contextmanager
    def reading(self, folder: str) -> Iterator[Read]:
        """See `FeatureFiles`."""

        def read(name: str) -> Singles:
            path = os.path.join(folder, self.folder_name, f"{name}.csv")
            if not os.path.isfile(path):
                raise KeyError(name)
            with open(path, encoding="utf-8", newline="") as file:
                lines = csv.reader(file)
                width = len(next(lines))
                return np.array([[float(cell) for cell in line] for line in lines], np.float32).reshape(-1, width)

        yield read


@dataclass(frozen=True, slots=True)
class Hdf5File:
    """One HDF5 file.

    Attributes:
        file_name: of the file in the folder.
        dataset: of the array in a group of the video's name; empty: the name itself is the array.
    """

    file_name: str
    dataset: str = ""

    def check(self, names: Collection[str]) -> None:
        """See `FeatureFiles`."""
        check_paths(names)
        known = set(names)
        for name in names:
            parts = name.split("/")
            above = ("/".join(parts[:depth]) for depth in range(1, len(parts)))
            if found := next((other for other in above if other in known), None):
                raise refused_name(name, f"a name that is not below another's ({found!r})")

    def _path(self, name: str) -> str:
        return f"{name}/{self.dataset}" if self.dataset else name

    @contextmanager
    def writing(self, folder: str) -> Iterator[Write]:
        """See `FeatureFiles`."""
        import h5py

        with h5py.File(os.path.join(folder, self.file_name), "w") as file:
            yield lambda name, values: file.create_dataset(self._path(name), data=values)

    @contextmanager
    def reading(self, folder: str) -> Iterator[Read]:
        """See `FeatureFiles`."""
        import h5py

        with h5py.File(os.path.join(folder, self.file_name), "r") as file:
            yield lambda name: file[self._path(name)][:]


def _below(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    if "/" in name:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    return path


def _loaded(path: str) -> Singles:
    if not os.path.isfile(path):
        raise KeyError(path)
    return np.asarray(np.load(path, allow_pickle=False), np.float32)
