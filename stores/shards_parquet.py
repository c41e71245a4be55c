"""Parquet shards: one file, one row per row, in row groups small enough for random reads."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from clipmill.schemas.rows import Rows
from clipmill.schemas.tables import STANDARD_ROW_COLUMNS, rows_schema
from clipmill.stores.objects import Objects
from clipmill.stores.shards import ZSTD_LEVEL, RowColumns, ShardFormat, Span, chunk_rows, damaged

VIDEOS_KEY = b"clipmill.videos"


def encode(rows: Rows, videos: Sequence[Span]) -> Mapping[str, bytes]:
    """Returns the one file of a shard. The same rows give the same bytes."""
    num_rows, dim = rows.values.shape
    spans = [[name, int(start), int(stop)] for name, start, stop in videos]
    table = rows_table(rows, videos).replace_schema_metadata({VIDEOS_KEY: json.dumps(spans, ensure_ascii=False)})
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=chunk_rows(rows.values.itemsize * dim, num_rows),
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        # Dictionaries and statistics of feature values would cost more than they ever save.
        use_dictionary=["video_id"],
        write_statistics=["video_id", "clip"],
        data_page_size=1 << 30,
        write_page_checksum=True,
    )
    return {"": bytes(sink.getvalue().to_pybytes())}


def rows_table(rows: Rows, videos: Sequence[Span]) -> pa.Table:
    """Returns `rows` in the columns of `clipmill.schemas.tables.rows_schema`."""
    num_rows, dim = rows.values.shape
    schema = rows_schema(dim, rows.values.dtype.name, {name: item.dtype.name for name, item in rows.extras.items()})
    ids: list[str | None] = [None] * num_rows
    for name, start, stop in videos:
        ids[start:stop] = [name] * (stop - start)
    flat = pa.array(np.ascontiguousarray(rows.values).reshape(-1))
    columns: dict[str, Any] = {
        "video_id": pa.array(ids, pa.string()),
        "values": pa.FixedSizeListArray.from_arrays(flat, type=schema.field("values").type),
    }
    columns |= {name: pa.array(getattr(rows, name)) for name in STANDARD_ROW_COLUMNS if name != "values"}
    columns |= {name: pa.array(column) for name, column in rows.extras.items()}
    return pa.table([columns[name] for name in schema.names], schema=schema)


class ParquetShard:
    """A shard written by `encode`.

    Raises:
        StoreError: it is gone or damaged.
    """

    def __init__(self, objects: Objects, path: str) -> None:
        self._objects = objects
        self._path = path
        try:
            with objects.open_for_arrow(path) as file:
                self._metadata = pq.read_metadata(file)
        except FileNotFoundError:
            raise damaged(path, "no file") from None
        except (OSError, pa.ArrowException) as error:
            raise damaged(path, f"a file that is no readable Parquet ({type(error).__name__})") from None
        counts = [self._metadata.row_group(index).num_rows for index in range(self._metadata.num_row_groups)]
        self._bounds = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
        self.num_rows = int(self._bounds[-1])
        self._schema = self._metadata.schema.to_arrow_schema()

    def _read(self, columns: list[str], groups: list[int] | None = None) -> pa.Table:
        try:
            # The file is opened for each read: readers share nothing, so threads do not wait for one another.
            with (
                self._objects.open_for_arrow(self._path) as source,
                pq.ParquetFile(
                    source, metadata=self._metadata, pre_buffer=True, page_checksum_verification=True
                ) as file,
            ):
                if groups is None:
                    return file.read(columns, use_threads=False)
                return file.read_row_groups(groups, columns, use_threads=False)
        except FileNotFoundError:
            raise damaged(self._path, "no file") from None
        except (OSError, pa.ArrowException) as error:
            raise damaged(self._path, f"rows that cannot be read ({type(error).__name__})") from None

    def values(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        """Returns ``[stop - start, D]`` in the stored dtype."""
        start, stop = max(0, start), min(stop, self.num_rows)
        kind = cast(pa.FixedSizeListType, self._schema.field("values").type)
        if start >= stop:
            return np.zeros((0, kind.list_size), kind.value_type.to_pandas_dtype())
        first = int(np.searchsorted(self._bounds, start, side="right")) - 1
        last = int(np.searchsorted(self._bounds, stop, side="left"))
        table = self._read(["values"], list(range(first, last)))
        offset = start - int(self._bounds[first])
        # A copy: Arrow's memory is read-only, and holds whole row groups.
        return _matrix(table.column("values"), kind.list_size)[offset : offset + stop - start].copy()

    def columns(self) -> RowColumns:
        """Returns the narrow columns of every row."""
        names = [name for name in self._schema.names if name not in ("values", "video_id")]
        table = self._read(names)
        data = {name: table.column(name).to_numpy() for name in names}
        standard: Any = {name: data.pop(name) for name in STANDARD_ROW_COLUMNS if name != "values"}
        return RowColumns(**standard, extras=data)

    def videos(self) -> list[Span]:
        """Returns whose rows these are, as the shard itself says."""
        spans = json.loads((self._schema.metadata or {}).get(VIDEOS_KEY, b"[]"))
        return [(str(name), int(start), int(stop)) for name, start, stop in spans]


FORMAT = ShardFormat("parquet", encode, ParquetShard)


def _matrix(column: pa.ChunkedArray, dim: int) -> npt.NDArray[np.generic]:
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim) for chunk in column.chunks]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
