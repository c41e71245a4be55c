"""NumPy's ``.npz``: arrays by name. Pickled objects are refused unread."""

import zipfile
from collections.abc import Sequence

import numpy as np

from clipmill.schemas.arrays import Array
from clipmill.stores.feature_files.base import (
    ArrayInfo,
    FeatureFormat,
    ids_of,
    not_numbers,
    not_this_format,
    number_info,
)


class NpzFile:
    """A file of named arrays; one is read whole, and the last one read stays in memory.

    Raises:
        FormatError: it is no ``.npz``.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._arrays = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            raise not_this_format(path, "a NumPy .npz file") from None
        if isinstance(self._arrays, np.ndarray):  # np.load opens .npy files too
            raise not_this_format(path, "a NumPy .npz file")
        self._last: tuple[str, Array] = ("", np.zeros(0))

    def names(self) -> Sequence[str]:
        """Returns the names of all arrays."""
        return list(self._arrays.files)

    def info(self, name: str) -> ArrayInfo:
        """Returns the shape and dtype of an array, which is read for it."""
        values = self._array(name)
        return number_info(self._path, name, values.shape, values.dtype)

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> Array:
        """Returns rows of an array."""
        self.info(name)
        values = self._array(name)
        return values[start:stop] if values.ndim else values

    def texts(self, name: str) -> list[str]:
        """Returns an array as texts."""
        return ids_of(self._path, name, self._array(name))

    def close(self) -> None:
        """Closes the file."""
        self._arrays.close()
        self._last = ("", np.zeros(0))

    def _array(self, name: str) -> Array:
        if name not in self._arrays.files:
            raise KeyError(name)
        if self._last[0] != name or not name:
            try:
                self._last = (name, self._arrays[name])
            except ValueError:
                raise not_numbers(self._path, name, "Python objects") from None
            except (OSError, EOFError, zipfile.BadZipFile):
                raise not_this_format(self._path, f"a NumPy .npz file whose {name} is whole") from None
        return self._last[1]


FORMAT = FeatureFormat("npz", "a NumPy .npz file", (".npz",), NpzFile)
