"""NumPy's ``.npy``: one array, which has no name. Pickled objects are refused unread."""

from collections.abc import Sequence

import numpy as np

from clipmill.schemas.arrays import Array
from clipmill.schemas.errors import FormatError, describe
from clipmill.stores.feature_files.base import ArrayInfo, FeatureFormat, ids_of, not_this_format, number_info

_MAGIC = b"\x93NUMPY"
UNNAMED = ""
"""What the one array goes by."""


class NpyFile:
    """A file of one array, mapped into memory.

    Raises:
        FormatError: it is no ``.npy``, a damaged one, or holds Python objects.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with open(path, "rb") as file:
            # Of anything else np.load would say that it is a pickle.
            if file.read(len(_MAGIC)) != _MAGIC:
                raise not_this_format(path, "a NumPy .npy file")
        try:
            self._array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            if "Python objects" not in str(error) and "pickle" not in str(error):
                raise not_this_format(path, "a whole NumPy .npy file") from None
            remedy = "save it with an array of numbers: reading objects would run code"
            raise FormatError(describe("file", path, "an array of numbers", "Python objects", remedy)) from None

    def names(self) -> Sequence[str]:
        """Returns the one name."""
        return [UNNAMED]

    def info(self, name: str) -> ArrayInfo:
        """Returns the shape and dtype of the array."""
        found = self._named(name)
        return number_info(self._path, "", found.shape, found.dtype)

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> Array:
        """Returns rows of the array."""
        self.info(name)
        return np.array(self._array[start:stop] if self._array.ndim else self._array)

    def texts(self, name: str) -> list[str]:
        """Returns the array as texts."""
        return ids_of(self._path, "", self._named(name))

    def close(self) -> None:
        """Unmaps the file."""
        self._array = np.zeros(0)

    def _named(self, name: str) -> Array:
        if name != UNNAMED:
            raise KeyError(name)
        return self._array


FORMAT = FeatureFormat("npy", "a NumPy .npy file", (".npy",), NpyFile)
