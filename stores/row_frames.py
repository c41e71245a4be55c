"""Rows of many videos together: batches of a number of rows, and frames of pandas."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.records import Video
from clipmill.schemas.rows import Rows

if TYPE_CHECKING:
    import pandas

    from clipmill.stores.feature import Feature

_VIDEO_COLUMNS = ("uri", "label", "split", "num_bytes", "fingerprint")
_HEADER_COLUMNS = ("duration_seconds", "average_fps", "num_frames", "width", "height", "codec", "container")


@dataclass(frozen=True, slots=True)
class RowBatch:
    """N rows of one or more videos.

    Attributes:
        video_ids: of each row.
        rows: ``values`` as ``float32[N, D]``.
    """

    video_ids: tuple[str, ...]
    rows: Rows[np.float32]

    def __len__(self) -> int:
        return len(self.rows)


def batches_of(feature: "Feature", num_rows: int) -> Iterator[RowBatch]:
    """Yields the rows of `feature`, `num_rows` at a time, in the order of its index.

    Raises:
        ValueError: `num_rows` is not positive.
    """
    if num_rows < 1:
        raise ValueError(f"batches: expected at least one row, got {num_rows}")
    index = feature.index()
    ids = np.array(index.column("video_id").to_pylist(), dtype=object)
    stops = np.cumsum(index.column("num_rows").to_numpy())
    total = int(stops[-1]) if len(stops) else 0

    def batches() -> Iterator[RowBatch]:
        for start in range(0, total, num_rows):
            positions = np.arange(start, min(start + num_rows, total))
            owners = ids[np.searchsorted(stops, positions, side="right")]
            yield RowBatch(tuple(owners.tolist()), feature.take(positions))

    return batches()


def frame_of(feature: "Feature", video_ids: Sequence[str]) -> "pandas.DataFrame":
    """Returns a row for each row of `video_ids`, in their order.

    Columns are ``video_id``, ``label`` of the video, ``clip``, ``start_seconds``, ``stop_seconds``, ``mask``,
    ``values`` and those the extractor adds. A cell of ``values`` is an array ``float32[D]``, and
    ``np.stack(frame["values"])`` is ``float32[N, D]``.

    Raises:
        UsageError: pandas is not installed.
        UnknownNameError: a video has no rows.
    """
    labels = dict(zip(*(feature.index().column(name).to_pylist() for name in ("video_id", "label")), strict=True))
    parts = [feature[video_id] for video_id in video_ids]
    lengths = [len(part) for part in parts]
    columns: dict[str, Any] = {
        "video_id": np.repeat(np.array(video_ids, dtype=object), lengths),
        "label": np.repeat(np.array([labels[video_id] for video_id in video_ids], dtype=object), lengths),
    }
    for name in ("clip", "start_seconds", "stop_seconds", "mask"):
        columns[name] = np.concatenate([getattr(part, name) for part in parts]) if parts else []
    columns["values"] = [row for part in parts for row in part.values]
    for name in parts[0].extras if parts else ():
        columns[name] = np.concatenate([part.extras[name] for part in parts])
    return _frame_class()(columns)


def frame_of_videos(videos: Mapping[str, Video]) -> "pandas.DataFrame":
    """Returns a row for each video, by id: uri, label, split, bytes, fingerprint, number of segments, and its header.

    Raises:
        UsageError: pandas is not installed.
    """
    rows = []
    for video_id, video in videos.items():
        row = {"video_id": video_id} | {name: getattr(video, name) for name in _VIDEO_COLUMNS}
        row["num_segments"] = len(video.segments)
        row |= {name: getattr(video.header, name, None) for name in _HEADER_COLUMNS}
        rows.append(row)
    names = ["video_id", *_VIDEO_COLUMNS, "num_segments", *_HEADER_COLUMNS]
    return _frame_class()(rows, columns=names)


def _frame_class() -> "type[pandas.DataFrame]":
    try:
        from pandas import DataFrame
    except ImportError as error:
        remedy = "pip install 'clipmill[pandas]'"
        raise UsageError(describe("to_pandas", "pandas", "the library pandas", str(error), remedy)) from None
    found: type[pandas.DataFrame] = DataFrame
    return found
