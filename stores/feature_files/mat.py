"""MATLAB's ``.mat``: version 5 by SciPy, version 7.3 as the HDF5 file it is."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from clipmill.schemas.arrays import Array
from clipmill.stores.feature_files.base import (
    ArrayInfo,
    FeatureFile,
    FeatureFormat,
    ids_of,
    not_numbers,
    not_this_format,
    number_info,
)
from clipmill.stores.feature_files.hdf5 import Hdf5File

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_HDF5_OFFSET = 512
"""MATLAB writes a header of its own in front of version 7.3."""

_DTYPES = {
    "double": "float64",
    "single": "float32",
    "sparse": "float64",
    "logical": "bool",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""Classes of numbers, by MATLAB's names."""


class MatFile:
    """A file of version 5 (or 4): variables by name; one is read whole, and the last one read stays in memory.

    Raises:
        FormatError: it is no ``.mat`` file.
    """

    def __init__(self, path: str) -> None:
        from scipy.io import whosmat

        self._path = path
        try:
            self._variables = {name: (shape, kind) for name, shape, kind in whosmat(path)}
        except Exception:  # SciPy's reader raises errors of many kinds for files that are none
            raise not_this_format(path, "a MATLAB .mat file") from None
        self._last: tuple[str, Any] = ("", None)

    def names(self) -> Sequence[str]:
        """Returns the names of all variables."""
        return list(self._variables)

    def info(self, name: str) -> ArrayInfo:
        """Returns the shape and dtype of a variable."""
        shape, kind = self._variables[name]
        if kind not in _DTYPES:
            raise not_numbers(self._path, name, kind)
        return number_info(self._path, name, shape, _DTYPES[kind])

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> Array:
        """Returns rows of a variable; of a sparse one as a full matrix."""
        self.info(name)
        found = self._variable(name)
        values: Array = np.asarray(found.toarray() if hasattr(found, "toarray") else found)
        return values[start:stop]

    def texts(self, name: str) -> list[str]:
        """Returns a cell array of texts, a matrix of characters, or whole numbers."""
        if name not in self._variables:
            raise KeyError(name)
        values = np.asarray(self._variable(name))
        if values.dtype.kind == "O":
            cells = [np.asarray(cell).reshape(-1) for cell in values.reshape(-1)]
            values = np.array([cell[0] if cell.size else "" for cell in cells], object)
        return ids_of(self._path, name, values)

    def close(self) -> None:
        """Forgets what was read."""
        self._last = ("", None)

    def _variable(self, name: str) -> Any:
        from scipy.io import loadmat

        if self._last[0] != name:
            try:
                self._last = (name, loadmat(self._path, variable_names=[name])[name])
            except Exception:
                raise not_this_format(self._path, f"a MATLAB .mat file whose {name} is whole") from None
        return self._last[1]


def open_mat(path: str) -> FeatureFile:
    """Returns the file at `path`, of whichever version.

    Raises:
        FormatError: it is neither.
    """
    with open(path, "rb") as file:
        head = file.read(_HDF5_OFFSET + len(HDF5_MAGIC))
    if head.startswith(HDF5_MAGIC) or head[_HDF5_OFFSET:] == HDF5_MAGIC:
        return Hdf5File(path, is_matlab=True)
    return MatFile(path)


FORMAT = FeatureFormat("mat", "a MATLAB .mat file", (".mat",), open_mat)
