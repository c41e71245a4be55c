"""HDF5: datasets by their paths. A ``.mat`` of MATLAB 7.3 is one too, with axes the other way round."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from clipmill.schemas.arrays import Array
from clipmill.schemas.errors import FormatError, describe
from clipmill.stores.feature_files.base import (
    ArrayInfo,
    FeatureFormat,
    ids_of,
    not_numbers,
    not_this_format,
    number_info,
)


class Hdf5File:
    """A file of datasets.

    Args:
        is_matlab: arrays were written by MATLAB, whose first axis HDF5 has last, and which keeps texts as codes.

    Raises:
        FormatError: it is no HDF5 file, or a damaged one.
    """

    def __init__(self, path: str, is_matlab: bool = False) -> None:
        import h5py

        self._path = path
        self._is_matlab = is_matlab
        try:
            self._file = h5py.File(path, "r")
        except OSError:
            raise not_this_format(path, "an HDF5 file") from None

    def names(self) -> Sequence[str]:
        """Returns the paths of all datasets."""
        import h5py

        found: list[str] = []
        # MATLAB keeps what cells refer to in groups of its own.
        self._file.visititems(
            lambda name, item: (
                found.append(name) if isinstance(item, h5py.Dataset) and not name.startswith("#") else None
            )
        )
        return found

    def info(self, name: str) -> ArrayInfo:
        """Returns the shape and dtype of a dataset."""
        found = self._dataset(name)
        if found.shape is None:
            raise not_numbers(self._path, name, "an empty dataset")
        return number_info(self._path, name, found.shape[::-1] if self._is_matlab else found.shape, found.dtype)

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> Array:
        """Returns rows of a dataset."""
        self.info(name)
        found = self._dataset(name)
        try:
            if not found.shape:
                return np.asarray(found[()])
            values: Array = found[..., start:stop].T if self._is_matlab else found[start:stop]
        except OSError as error:
            got = (str(error).splitlines() or ["damaged data"])[0]
            remedy = "copy the file again, or install the filter it was written with"
            raise FormatError(describe("file", f"{self._path} {name}", "readable data", got, remedy)) from None
        return values

    def texts(self, name: str) -> list[str]:
        """Returns a dataset of texts or whole numbers."""
        found = self._dataset(name)
        if self._is_matlab and found.dtype.kind == "O":
            return [self._matlab_text(self._file[reference]) for reference in found[()].reshape(-1)]
        if self._is_matlab and found.attrs.get("MATLAB_class") == b"char":
            # A matrix of characters, one id in each of its rows.
            return ["".join(map(chr, codes)).strip() for codes in np.atleast_2d(found[()].T)]
        return ids_of(self._path, name, found[()])

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _dataset(self, name: str) -> Any:
        import h5py

        found = self._file.get(name)
        if not isinstance(found, h5py.Dataset):
            raise KeyError(name)
        return found

    @staticmethod
    def _matlab_text(codes: Any) -> str:
        return "".join(map(chr, codes[()].T.reshape(-1))).strip()


FORMAT = FeatureFormat("hdf5", "an HDF5 file", (".h5", ".hdf5", ".hdf", ".he5"), Hdf5File)
