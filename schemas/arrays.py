"""Names of the array types that stand in many signatures."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Singles = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Keys = npt.NDArray[np.uint64]
