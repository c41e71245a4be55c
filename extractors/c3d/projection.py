"""The 500-d ActivityNet projection of C3D: a PCA of fc7, published as HDF5 for the 2016 challenge.

``PCA_activitynet_v1-3.hdf5`` has a group ``data`` with ``U [4096, 4096]``, ``S [4096]`` and ``x_mean [1, 4096]``. The
projection subtracts the mean and multiplies by 500 principal directions; it does not divide by S. Published readers
disagree on whether those are columns or rows of U: the author of the features takes columns of the sibling THUMOS file,
others take rows of this one. The file itself does not tell; ``clipmill orient`` asks stored features.
"""

import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from clipmill.schemas.arrays import Singles
from clipmill.schemas.errors import WeightsError, describe

Orientation = Literal["columns", "rows"]

INPUTS = 4096
"""Values of fc6 and fc7."""
PUBLISHED_DIM = 500


class Projection(NamedTuple):
    """``(x - mean) @ directions``; mean ``float32[4096]``, directions ``float32[4096, D]``."""

    mean: Singles
    directions: Singles

    def __call__(self, values: Singles) -> Singles:
        """Returns ``float32[N, D]`` for ``float32[N, 4096]``."""
        projected: Singles = np.matmul(values - self.mean, self.directions, dtype=np.float32)
        return projected


def read_projection(path: str, orientation: Orientation, dim: int) -> Projection:
    """Returns the first `dim` principal directions of the file, taken as its columns or rows, and its mean.

    Raises:
        WeightsError: it cannot be read, has another layout or other shapes, or holds NaN or infinity.
    """

    def read(data: Any) -> Projection:
        shape = data["U"].shape
        taken = shape[::-1] if orientation == "rows" else shape
        if len(shape) != 2 or taken[0] != INPUTS or taken[1] < dim:
            expected = f"data/U of {INPUTS} x {INPUTS}, or at least {dim} {orientation} of {INPUTS}"
            remedy = "give the published file, or another pca_orientation or pca_dim"
            raise WeightsError(describe("pca", path, expected, " x ".join(map(str, shape)), remedy))
        part = data["U"][:dim].T if orientation == "rows" else data["U"][:, :dim]
        return Projection(_vector(path, data, "x_mean"), _finite(path, "U", np.ascontiguousarray(part, np.float32)))

    found: Projection = _reading(path, read)
    return found


def read_variances(path: str) -> Singles:
    """Returns ``float32[4096]``, the file's S: what the variances along its directions are in proportion to."""
    found: Singles = _reading(path, lambda data: _vector(path, data, "S"))
    return found


def _reading(path: str, read: Callable[[Any], Any]) -> Any:
    import h5py

    if not os.path.isfile(path):
        raise WeightsError(describe("pca", path, "a readable file", "none", "correct the path"))
    try:
        with h5py.File(path, "r") as file:
            missing = [name for name in ("U", "S", "x_mean") if not isinstance(file.get(f"data/{name}"), h5py.Dataset)]
            if missing:
                contents = ", ".join(sorted(file)[:4]) or "nothing"
                got = f"none of data/{', data/'.join(missing)} (it holds {contents})"
                raise WeightsError(describe("pca", path, "the published layout", got, "give the published file"))
            return read(file["data"])
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, WeightsError):
            raise
        got = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
        raise WeightsError(describe("pca", path, "an HDF5 file of numbers", got, "fetch it again")) from None


def _vector(path: str, data: Any, name: str) -> Singles:
    found = np.asarray(data[name][()], dtype=np.float32).ravel()
    if found.shape != (INPUTS,):
        got = " x ".join(map(str, data[name].shape)) or "one number"
        raise WeightsError(describe("pca", path, f"data/{name} of {INPUTS} numbers", got, "give the published file"))
    return _finite(path, name, found)


def _finite(path: str, name: str, values: Singles) -> Singles:
    if not np.isfinite(values).all():
        got = f"NaN or infinity in data/{name}"
        raise WeightsError(describe("pca", path, "finite numbers", got, "fetch it again"))
    return values
