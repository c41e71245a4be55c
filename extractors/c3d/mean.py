"""C3D's mean volume: the mean of every pixel of every frame of the training clips, which Caffe subtracts."""

import numpy as np
import numpy.typing as npt

from clipmill.extractors.c3d.options import NUM_FRAMES
from clipmill.extractors.caffe import parse_blob
from clipmill.extractors.preprocess import centre_offset
from clipmill.schemas.errors import WeightsError, describe
from clipmill.schemas.recipe import Preprocess

NUMPY_MAGIC = b"\x93NUMPY"


def read_mean_cube(path: str, preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """Returns a mean volume cut at the crop of `preprocess`: ``float32[3, 16, 112, 112]``, channels as in the file.

    Raises:
        WeightsError: the file cannot be read, or is no volume of the size the frames are resized to.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
        cube = np.load(path, allow_pickle=False) if data.startswith(NUMPY_MAGIC) else parse_blob(data)
    except OSError as error:
        raise WeightsError(
            describe("mean_cube", path, "a readable file", error.strerror or str(error), "correct the path")
        ) from None
    except ValueError as error:
        remedy = "give Caffe's .binaryproto, or .npy"
        raise WeightsError(describe("mean_cube", path, "a mean volume", str(error).splitlines()[0], remedy)) from None
    cube = cube.reshape(cube.shape[cube.ndim - 4 :]) if cube.ndim == 5 and cube.shape[0] == 1 else cube
    if preprocess.resize != "exact" or preprocess.crop is None:
        expected = "preprocess.resize: exact and a crop, as the cube has one size"
        raise WeightsError(describe("mean_cube", path, expected, f"resize: {preprocess.resize}", "leave mean_cube out"))
    height, width = preprocess.size
    if cube.shape != (3, NUM_FRAMES, height, width):
        expected = f"3 x {NUM_FRAMES} x {height} x {width}, the size frames are resized to"
        remedy = "give the cube of these weights, or the preprocess.size and crop_offset that belong to this one"
        raise WeightsError(describe("mean_cube", path, expected, " x ".join(map(str, cube.shape)), remedy))
    row, column = preprocess.crop_offset or centre_offset(preprocess, height, width)
    rows, columns = preprocess.crop
    return np.asarray(cube[:, :, row : row + rows, column : column + columns], dtype=np.float32)
