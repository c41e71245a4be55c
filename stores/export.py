"""A feature written out in formats other tools read: HDF5, npy, Parquet, Arrow, Zarr, WebDataset, Lance."""

import csv
import hashlib
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from clipmill.schemas.errors import UsageError, describe, near
from clipmill.schemas.rows import Rows, concatenate
from clipmill.schemas.tables import STANDARD_ROW_COLUMNS, rows_schema
from clipmill.stores.feature import Feature
from clipmill.stores.objects import storage_error
from clipmill.stores.shards import Span, chunk_rows
from clipmill.stores.shards_parquet import rows_table

INDEX_NAME = "index.csv"
_MOST_NAME_BYTES = 200
"""ours: file systems take 255 bytes; the rest is room for a suffix."""
_BATCH_BYTES = 32 << 20
"""ours: bytes of values of a batch; one is held while the next is read."""
_TAR_BYTES = 1 << 30
"""ours: of one WebDataset shard, which is what a worker of a loader is given."""
_HDF5_QUOTED = {"%": "%25", "/": "%2F", ".": "%2E", "\0": "%00"}
_Item = TypeVar("_Item")


def export_feature(feature: Feature, format: str, out: str) -> dict[str, Any]:
    """Writes every video's rows of `feature` to the local path `out`; returns ``num_videos``, ``num_rows``, ``format``.

    Values keep the dtype they are stored in. Videos come in the order of their ids.

    - ``hdf5``: one file; one group per video (see `group_names`; the id itself is its attribute ``video_id``) with
      ``values``, ``start_seconds``, ``stop_seconds``, ``mask``, ``clip``.
    - ``npy``: a folder; per video one ``.npy`` of its values under a safely quoted name, and ``index.csv``.
    - ``parquet``: one file with one row per row, in the columns of a Parquet shard.
    - ``arrow``: the same table as one Arrow (IPC) file, which can be mapped into memory.
    - ``lance``: the same table as a Lance data set; `values` is a vector column.
    - ``webdataset``: a folder of tar files of at most about 1 GiB; per video ``<key>.npy`` of its values and
      ``<key>.json`` with its id, label, times, mask and clips.
    - ``zarr``: one Zarr v3 group with one array per column over all videos, and ``row_start``, ``row_stop``.

    Raises:
        UsageError: an unknown format, one whose library is not installed, or `out` exists.
        StorageUnavailableError: `out` cannot be written.
    """
    if format not in _WRITERS:
        *most, last = _WRITERS
        expected = f"{', '.join(most)} or {last}"
        raise UsageError(describe("export", "format", expected, repr(format), near(format, _WRITERS)))
    with new_local_path(out) as path:
        _WRITERS[format](feature, path)
    return {"format": format, "num_videos": len(feature), "num_rows": _num_rows(feature)}


def _num_rows(feature: Feature) -> int:
    return int(pc.sum(feature.index().column("num_rows")).as_py() or 0)


@contextmanager
def new_local_path(out: str) -> Iterator[str]:
    """Yields a path beside `out` that becomes `out` at the end: an export is there whole or not at all.

    Raises:
        UsageError: `out` is a URL, or exists.
        StorageUnavailableError: it cannot be written.
    """
    if "://" in out:
        raise UsageError(describe("export", out, "a local path", "a URL", "export to a folder here and copy it"))
    if os.path.lexists(out):
        raise UsageError(describe("export", out, "a new path", "one that exists", "choose another, or delete it"))
    folder, name = os.path.split(os.path.abspath(out))
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        os.makedirs(folder, exist_ok=True)
        yield temporary
        os.replace(temporary, out)
    except OSError as error:
        raise storage_error(out, "cannot write", error, "export") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            os.unlink(temporary)


def safe_name(video_id: str) -> str:
    """Returns a file name for any video id: percent-quoted, distinct for distinct ids, at most 200 bytes.

    A name too long is cut and ends in ``~`` and a digest of the id.
    """
    quoted = quote(video_id, safe=" ()[]{}+,;=@!&'").replace("~", "%7E")
    if quoted.startswith((".", " ", "-")):
        quoted = f"%{ord(quoted[0]):02X}{quoted[1:]}"
    if len(quoted) <= _MOST_NAME_BYTES:
        return quoted
    digest = hashlib.blake2b(video_id.encode(), digest_size=8).hexdigest()
    return f"{quoted[: _MOST_NAME_BYTES - 17]}~{digest}"


def _ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """Yields `items`, each of which is read on a thread while the one before it is written."""
    end = object()
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = reader.submit(next, items, end)
            yield item  # type: ignore[misc]  # the end is told apart above


def _videos(feature: Feature) -> Iterator[tuple[str, Rows]]:
    """Yields the rows of each video in the order of their ids."""
    return _ahead((video_id, feature.stored(video_id)) for video_id in feature.video_ids)


def _columns(rows: Rows) -> dict[str, Any]:
    return {name: getattr(rows, name) for name in STANDARD_ROW_COLUMNS} | dict(rows.extras)


def group_names(video_ids: Sequence[str]) -> dict[str, str]:
    """Returns the HDF5 path of each video's group: the id itself wherever HDF5 can hold it, so ``file[id]`` works.

    Slashes of an id make groups within groups. Where that would be ambiguous (an id below another id, an empty part,
    a part ``.`` or ``..``, a ``%`` or zero byte), the id is percent-quoted instead; no id's own path has a ``%``.
    """
    known = set(video_ids)
    names = {}
    for video_id in video_ids:
        parts = video_id.split("/")
        above = ("/".join(parts[:depth]) for depth in range(1, len(parts)))
        is_path = not ({"%", "\0"} & set(video_id) or {"", ".", ".."} & set(parts))
        plain = is_path and not any(name in known for name in above)
        names[video_id] = video_id if plain else "".join(_HDF5_QUOTED.get(letter, letter) for letter in video_id)
    return names


def _write_hdf5(feature: Feature, path: str) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["recipe"] = feature.recipe.model_dump_json(by_alias=True)
        names = group_names(feature.video_ids)
        for video_id, rows in _videos(feature):
            group = file.create_group(names[video_id])
            group.attrs["video_id"] = video_id
            for column, data in _columns(rows).items():
                group.create_dataset(column, data=data)


def _write_npy(feature: Feature, path: str) -> None:
    os.mkdir(path)
    labels = dict(zip(*(feature.index().column(name).to_pylist() for name in ("video_id", "label")), strict=True))
    with open(os.path.join(path, INDEX_NAME), "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video_id", "file", "row", "clip", "start_seconds", "stop_seconds", "mask", "label"])
        # Python's writer leaves a carriage return unquoted, which readers take for the end of the line.
        quoting = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        plain = writer
        for video_id, rows in _videos(feature):
            name = f"{safe_name(video_id)}.npy"
            writer = quoting if "\r" in video_id + (labels[video_id] or "") else plain
            np.save(os.path.join(path, name), rows.values)
            columns = (rows.clip, rows.start_seconds, rows.stop_seconds, rows.mask.astype(np.int8))
            lists = (column.tolist() for column in columns)
            same = (repeat(video_id), repeat(name), range(len(rows)))
            writer.writerows(zip(*same, *lists, repeat(labels[video_id] or "")))  # noqa: B905 -- repeats have no end
            if not len(rows):
                writer.writerow([video_id, name, "", "", "", "", "", labels[video_id] or ""])


def _batches(feature: Feature) -> Iterator[tuple[Rows, list[Span]]]:
    """Yields the rows of all videos in the order of their ids, some videos together in bounded memory."""
    return _ahead(_read_batches(feature))


def _read_batches(feature: Feature) -> Iterator[tuple[Rows, list[Span]]]:
    parts: list[Rows] = []
    spans: list[Span] = []
    for video_id in feature.video_ids:
        rows = feature.stored(video_id)
        position = spans[-1][2] if spans else 0
        parts.append(rows)
        spans.append((video_id, position, position + len(rows)))
        if spans[-1][2] * rows.values.shape[1] * rows.values.itemsize >= _BATCH_BYTES:
            yield concatenate(parts), spans
            parts, spans = [], []
    if parts:
        yield concatenate(parts), spans


def _tables(feature: Feature) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """Returns the rows of all videos as tables of one schema, of which one at a time is in memory."""
    tables = (rows_table(rows, spans) for rows, spans in _batches(feature))
    first = next(tables, rows_schema(feature.dim, feature.recipe.dtype, {}).empty_table())
    return first.schema, chain([first], tables)


def _write_parquet(feature: Feature, path: str) -> None:
    schema, tables = _tables(feature)
    row_bytes = feature.dim * np.dtype(feature.recipe.dtype).itemsize
    # Dictionaries and statistics of feature values cost three times the writing, and make the file larger.
    kept = {"use_dictionary": ["video_id"], "write_statistics": ["video_id", "clip"]}
    with pq.ParquetWriter(path, schema, compression="zstd", **kept) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=chunk_rows(row_bytes, 1 << 20))


def _write_arrow(feature: Feature, path: str) -> None:
    schema, tables = _tables(feature)
    with ipc.new_file(path, schema) as writer:
        for table in tables:
            writer.write_table(table)


def _write_lance(feature: Feature, path: str) -> None:
    try:
        import lance
    except ImportError as error:
        raise _no_library("lance", error) from None
    schema, tables = _tables(feature)
    batches = (batch for table in tables for batch in table.to_batches())
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches), path, schema=schema)


def _write_webdataset(feature: Feature, path: str) -> None:
    try:
        import webdataset
    except ImportError as error:
        raise _no_library("webdataset", error) from None
    os.mkdir(path)
    labels = dict(zip(*(feature.index().column(name).to_pylist() for name in ("video_id", "label")), strict=True))
    # The pattern is formatted by %; times of now would make equal exports differ.
    pattern = os.path.join(path.replace("%", "%%"), "%06d.tar")
    with webdataset.ShardWriter(pattern, maxsize=_TAR_BYTES, maxcount=sys.maxsize, verbose=0, mtime=0.0) as writer:
        for video_id, rows in _videos(feature):
            columns = _columns(rows)
            values = columns.pop("values")
            about = {name: column.tolist() for name, column in columns.items()}
            # A key ends at its first dot.
            key = safe_name(video_id).replace(".", "%2E")
            about = {"video_id": video_id, "label": labels[video_id]} | about
            writer.write({"__key__": key, "npy": values, "json": about})


def _no_library(name: str, error: ImportError) -> UsageError:
    remedy = f"pip install 'clipmill[{name}]'"
    return UsageError(describe("export", f"format {name}", f"the library {name}", str(error), remedy))


def _write_zarr(feature: Feature, path: str) -> None:
    import zarr

    from clipmill.stores.zarr_loop import end_at_exit

    end_at_exit()

    num_rows = _num_rows(feature)
    attributes = {"recipe": feature.recipe.model_dump(mode="json", by_alias=True), "video_ids": feature.video_ids}
    group = zarr.create_group(path, attributes=attributes)
    arrays: dict[str, Any] = {}
    row_starts: list[int] = []
    position = 0
    for rows, spans in _batches(feature):
        for name, column in _columns(rows).items():
            if name not in arrays:
                shape = (num_rows, *column.shape[1:])
                # Not sharded, so that batches append without reading back: chunks of eight times a shard's.
                most = 8 * chunk_rows(column.itemsize * int(np.prod(shape[1:])), max(1, num_rows))
                chunks = (min(most, max(1, num_rows)), *shape[1:])
                arrays[name] = group.create_array(name, shape=shape, dtype=column.dtype, chunks=chunks)
            if len(rows):
                arrays[name][position : position + len(rows)] = column
        row_starts += [position + start for _, start, _ in spans]
        position += len(rows)
    group.create_array("row_start", data=np.array(row_starts, dtype=np.int64))
    group.create_array("row_stop", data=np.array([*row_starts[1:], position][: len(row_starts)], dtype=np.int64))


_WRITERS: dict[str, Callable[[Feature, str], None]] = {
    "hdf5": _write_hdf5,
    "npy": _write_npy,
    "parquet": _write_parquet,
    "arrow": _write_arrow,
    "zarr": _write_zarr,
    "webdataset": _write_webdataset,
    "lance": _write_lance,
}
