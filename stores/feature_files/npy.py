"""NumPy's ``.npy``: one array, which has no name. Pickled objects are refused unread."""

from collections.abc import Sequence

import numpy as np

from clipmill.schemas.arrays import Array
from clipmill.schemas.errors import FormatError, describe
from clipmill.stores.feature_files.base import ArrayInfo, FeatureFormat, ids_of, not_this_format, number_info

UNNAMED = ""
"""What the one array goes by."""


class NpyFile:
    """A file of one array, mapped into memory.

    Raises:
        FormatError: it is no ``.npy``, a damaged one, or holds Python objects.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            if "pickle" not in str(error) and "Python objects" not in str(error):
                raise not_this_format(path, "a NumPy .npy file") from None
            expected = "an array of numbers"
            remedy = "save it with an array of numbers: reading objects would run code"
            raise FormatError(describe("file", path, expected, "Python objects", remedy)) from None
        except (OSError, EOFError):
            raise not_this_format(path, "a NumPy .npy file") from None
        if not isinstance(self._array, np.ndarray):  # np.load opens .npz files too
            raise not_this_format(path, "a NumPy .npy file")

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
