"""Segments as a Parquet table: one row per segment, for annotations and predictions alike.

Columns: ``video_id``, ``start_seconds``, ``stop_seconds``, ``label`` (may be null), ``score`` (may be missing or
null: 1). Videos without segments have no row; their ids are kept in the file's metadata, so that missing predictions
stay countable.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipmill.schemas.errors import FormatError, describe
from clipmill.schemas.segments import Segments, segments_from_columns
from clipmill.stores.formats.reader import Reader, ReadRequest
from clipmill.stores.formats.records import SegmentTable
from clipmill.stores.formats.sniff import wrong_format

SEGMENTS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("start_seconds", pa.float64(), nullable=False),
        pa.field("stop_seconds", pa.float64(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("score", pa.float64()),
    ]
)
_EXPECTED = "a Parquet table of segments with the columns video_id, start_seconds, stop_seconds"
_METADATA = b"clipmill.segments"


def read_segments_parquet(path: str | Path) -> Segments:
    """Returns the segments in `path`.

    Raises:
        FormatError: the file is something else, lacks a column, or a column has another type or null values.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        raise wrong_format(path, _EXPECTED) from None
    missing = [name for name in ("video_id", "start_seconds", "stop_seconds") if name not in table.column_names]
    if missing:
        got = f"the columns {', '.join(table.column_names)}"
        raise FormatError(describe("file", str(path), _EXPECTED, got, f"add {', '.join(missing)}"))
    columns = {}
    for field in SEGMENTS:
        if field.name not in table.column_names:
            continue
        try:
            columns[field.name] = table.column(field.name).cast(field.type)
        except pa.ArrowException:
            got = str(table.schema.field(field.name).type)
            where = f"{path} column {field.name}"
            raise FormatError(describe("file", where, str(field.type), got, "convert the column")) from None
        if not field.nullable and columns[field.name].null_count:
            got = f"{columns[field.name].null_count} null values"
            raise FormatError(describe("file", f"{path} column {field.name}", "a value in each row", got, "fill them"))
    listed = json.loads((table.schema.metadata or {}).get(_METADATA, b"{}"))
    label = columns["label"].fill_null("").to_pylist() if "label" in columns else None
    score = columns["score"].fill_null(1.0).to_numpy() if "score" in columns else None
    return segments_from_columns(
        columns["video_id"].to_pylist(),
        columns["start_seconds"].to_numpy(),
        columns["stop_seconds"].to_numpy(),
        label,
        score,
        video_ids=listed.get("video_ids", ()),
        label_names=listed.get("label_names", ()),
    )


def write_segments_parquet(path: str | Path, segments: Segments) -> None:
    """Writes `segments` so that `read_segments_parquet` returns them again; the same segments give the same bytes."""
    videos, labels = (np.array(names, object) for names in (segments.video_ids, segments.label_names))
    table = pa.table(
        {
            "video_id": pa.array(videos[segments.video], pa.string()),
            "start_seconds": segments.start_seconds,
            "stop_seconds": segments.stop_seconds,
            "label": pa.array(labels[segments.label], pa.string()),
            "score": segments.score,
        },
        schema=SEGMENTS,
    )
    listed = json.dumps({"video_ids": segments.video_ids, "label_names": segments.label_names}, ensure_ascii=False)
    pq.write_table(table.replace_schema_metadata({_METADATA: listed.encode()}), path)


def _segments(request: ReadRequest) -> SegmentTable:
    return SegmentTable(read_segments_parquet(request.path))


READER = Reader(
    "parquet",
    "a Parquet table of segments",
    lambda head: head.is_parquet and head.columns >= {"video_id", "start_seconds", "stop_seconds"},
    truth={"segments": _segments},
    predictions=dict.fromkeys(("segments", "windows", "video_classes"), _segments),
    layout="the same columns: pandas' to_parquet",
)
