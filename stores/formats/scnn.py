"""S-CNN's windows of THUMOS14's test videos (`res_seg_swin.mat`): a MATLAB file with the matrix ``seg_swin``, N x 14.

::

    column    1        2              5, 6               9       11
              video    window frames  start, stop (s)    score   class 1 to 20, in the order of the class list; 0: none

Rows of class 0 are no detections. The published numbers are of scores that are multiplied by how often a class has that
window length: ``window_weight/weight.mat``, 6 x 20 for windows of 16, 32, ..., 512 frames, given as `window_weights`.
MATLAB files hold no code; objects in them are not read. Source: Z. Shou et al., CVPR 2016, zhengshou/scnn.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.schemas.errors import FormatError, UsageError, describe
from clipmill.schemas.segments import Segments, segments_from_columns
from clipmill.stores.formats.class_lists import read_class_list
from clipmill.stores.formats.reader import Reader, ReadRequest
from clipmill.stores.formats.records import SegmentTable
from clipmill.stores.formats.sniff import listed, looks_like
from clipmill.stores.formats.thumos14 import CLASS_LIST

WINDOWS = "seg_swin"
WEIGHTS = "weight"
_NUM_COLUMNS = 14
_SHORTEST_WINDOW = 16
_EXPECTED = f"S-CNN's windows: a MATLAB file with the matrix {WINDOWS} of {_NUM_COLUMNS} columns"


def read_scnn_windows(
    path: str | Path, class_names: Sequence[str], weights: str | Path | None = None, prefix: str = "video_test_"
) -> Segments:
    """Returns the windows in `path` that have a class, in their order, with scores.

    Args:
        class_names: of class 1, 2, ...
        weights: file of window weights; None: scores stay as they are.
        prefix: of the videos' ids, before seven digits.

    Raises:
        FormatError: a file is something else, or a row names a class or a window that there is not.
    """
    rows = _matrix(path, WINDOWS, _EXPECTED)
    if rows.ndim != 2 or rows.shape[1] != _NUM_COLUMNS:
        got = "x".join(str(size) for size in rows.shape)
        raise FormatError(describe("file", str(path), _EXPECTED, f"one of {got}", "check the file"))
    rows = rows[rows[:, 10] != 0]
    number = rows[:, 10].astype(np.int64)
    if len(number) and not 1 <= number.min() <= number.max() <= len(class_names):
        expected, got = f"class numbers from 1 to {len(class_names)}", f"{number.min()} to {number.max()}"
        raise FormatError(describe("file", str(path), expected, got, "give the whole list of classes"))
    score = rows[:, 8]
    if weights is not None:
        score = score * _weights_of(path, rows[:, 1], number, _matrix(weights, WEIGHTS, "S-CNN's window weights"))
    videos = [f"{prefix}{video:07d}" for video in rows[:, 0].astype(np.int64).tolist()]
    labels = [class_names[code - 1] for code in number.tolist()]
    return segments_from_columns(videos, rows[:, 4], rows[:, 5], labels, score, label_names=class_names)


def _weights_of(
    path: str | Path, frames: npt.NDArray[np.float64], number: npt.NDArray[np.int64], table: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    length = np.log2(frames / _SHORTEST_WINDOW)
    row = np.rint(length).astype(np.int64)
    if table.ndim != 2 or len(row) and (np.any(length != row) or row.min() < 0 or row.max() >= len(table)):
        expected = f"windows of {_SHORTEST_WINDOW} frames times a power of two, with a weight each"
        raise FormatError(describe("file", str(path), expected, "others", "check the weights"))
    return np.asarray(table[row, number - 1], np.float64)


def _matrix(path: str | Path, name: str, expected: str) -> npt.NDArray[np.float64]:
    from scipy.io import loadmat, whosmat

    try:
        there = [entry[0] for entry in whosmat(path)]
        values: Any = loadmat(path, variable_names=[name])[name] if name in there else None
    except Exception:  # Broken MATLAB data raises whatever its bytes lead to; all of it means the same here.
        raise FormatError(describe("file", str(path), expected, looks_like(path), "check the file")) from None
    if values is None or values.dtype.kind not in "fiu":
        got = f"a MATLAB file with {listed(there) or 'nothing'}"
        raise FormatError(describe("file", str(path), expected, got, "check the file"))
    return np.asarray(values, np.float64)


def _detections(request: ReadRequest) -> SegmentTable:
    if isinstance(request.classes, tuple):
        names: tuple[str, ...] = request.classes
    else:
        path = request.classes or str(Path(request.truth_path or "") / CLASS_LIST)
        if request.classes is None and not Path(path).is_file():
            remedy = f"give predictions.classes: {CLASS_LIST}, or a list of names for class 1, 2, ..."
            raise UsageError(describe(request.thing, "classes", "names of the class numbers", "none", remedy))
        names = tuple(read_class_list(path).values())
    return SegmentTable(read_scnn_windows(request.path, names, request.window_weights))


READER = Reader(
    "scnn",
    "S-CNN's windows (.mat)",
    lambda head: head.data.startswith(b"MATLAB 5.0"),
    predictions={"segments": _detections},
    takes=frozenset({"classes", "window_weights"}),
)
