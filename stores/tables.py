"""Records to the tables they are kept in, and back."""

import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipmill.schemas.arrays import Ints
from clipmill.schemas.records import Quarantined, Segment, Video, VideoHeader
from clipmill.schemas.secrets import masked
from clipmill.schemas.tables import HEADER, MANIFEST, PROBES, QUARANTINE
from clipmill.schemas.task import TaskPart, TaskResult
from clipmill.stores.key_rows import KeyRows

ProbeKey = tuple[str, int, int]
"""uri, num_bytes, modified_ns: while none of the three changes, a file is not read again."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What planning read of one file: the fingerprint of its bytes, and its header or why it has none.

    Attributes:
        failure: stage, reason and message of the `VideoError` the file met.
    """

    fingerprint: str
    header: VideoHeader | None = None
    failure: tuple[str, str, str] | None = None


def to_parquet(table: pa.Table) -> bytes:
    """Returns `table` as a Parquet file: the same rows give the same bytes."""
    sink = pa.BufferOutputStream()
    # Small tables with many columns: statistics and dictionaries would be most of the file.
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_statistics=False)
    return bytes(sink.getvalue().to_pybytes())


def from_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Returns the table of a file made by `to_parquet`, or those of its `columns`, in that order.

    Args:
        columns: ``passport.truncated`` is that field of the struct `passport` alone.
    """
    # Read by this thread: one of Arrow's that lets go of Python's bytes while the interpreter ends aborts the process.
    table = pq.ParquetFile(io.BytesIO(data), pre_buffer=False).read(columns, use_threads=False)
    return table if columns is None else table.select(whole_columns(columns))


def whole_columns(columns: Iterable[str]) -> list[str]:
    """Returns the names of the columns that `columns`, which may name fields of structs, are or lie in."""
    return list(dict.fromkeys(name.partition(".")[0] for name in columns))


def integers(numbers: Sequence[int] | Ints, kind: pa.DataType) -> pa.Array:
    """Returns `numbers` as an Arrow array, in a way that does not import pandas."""
    data = np.array(numbers, dtype=f"int{kind.bit_width}")
    return pa.Array.from_buffers(kind, len(data), [None, pa.py_buffer(data)])


def numbers_of(column: pa.Array | pa.ChunkedArray) -> Ints:
    """Returns ``int64[n]``, the integers of a column, -1 for null, in a way that does not import pandas."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not len(whole):
        return np.zeros(0, np.int64)
    if whole.null_count:
        whole = pc.fill_null(whole, integers([-1], whole.type)[0])
    num_bits = whole.type.bit_width
    data = np.frombuffer(whole.buffers()[1], f"int{num_bits}", len(whole), whole.offset * num_bits // 8)
    return data.astype(np.int64)


def repeated(text: str, count: int) -> pa.Array:
    """Returns an array of `text`, `count` times, in a way that does not import pandas."""
    data = text.encode()
    offsets = np.arange(count + 1, dtype=np.int32) * len(data)
    return pa.Array.from_buffers(pa.string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(data * count)])


def take(table: pa.Table, rows: Sequence[int] | Ints) -> pa.Table:
    """Returns the `rows` of `table`, in the order given."""
    return table.take(integers(rows, pa.int64()))


def gather(schema: pa.Schema, parts: Iterable[pa.Table]) -> pa.Table:
    """Returns the rows of all `parts` under `schema`; columns an older version did not write yet are null."""
    fitted = []
    for part in parts:
        if part.schema.equals(schema):
            fitted.append(part)
            continue
        missing = [name for name in schema.names if name not in part.schema.names]
        for name in missing:
            part = part.append_column(schema.field(name), pa.nulls(part.num_rows, schema.field(name).type))
        fitted.append(part.select(schema.names).cast(schema))
    return pa.concat_tables(fitted) if fitted else pa.Table.from_batches([], schema)


def manifest_table(videos: Sequence[Video]) -> pa.Table:
    """Returns `videos` as a MANIFEST table."""
    # By columns, as in `manifest_videos`: a million videos take seconds, not minutes.
    columns: dict[str, list[Any]] = {
        "video_id": [video.id for video in videos],
        "uri": [video.uri for video in videos],
        "video_fingerprint": [video.fingerprint for video in videos],
        "num_bytes": [video.num_bytes for video in videos],
        "label": [video.label for video in videos],
        "split": [video.split for video in videos],
        "segments": [[asdict(segment) for segment in video.segments] for video in videos],
        "stream": [video.stream for video in videos],
        "file_digests": [
            [{"recipe": recipe, "digest": digest} for recipe, digest in video.file_digests] or None for video in videos
        ],
    }
    headers = [video.header for video in videos]
    for name in (field.name for field in fields(VideoHeader)):
        columns[name] = [None if header is None else getattr(header, name) for header in headers]
    return pa.Table.from_arrays([pa.array(columns[field.name], field.type) for field in MANIFEST], schema=MANIFEST)


def manifest_videos(table: pa.Table) -> list[Video]:
    """Returns the videos of a MANIFEST table."""
    # By columns: a mapping for each row would take most of the time a store needs to open.
    names = (
        "video_id",
        "uri",
        "video_fingerprint",
        "num_bytes",
        "label",
        "split",
        "segments",
        "stream",
        "file_digests",
    )
    columns = [table.column(name).to_pylist() for name in names]
    headers = zip(*(table.column(field.name).to_pylist() for field in fields(VideoHeader)), strict=True)
    return [
        Video(
            id=video_id,
            uri=uri,
            fingerprint=fingerprint,
            num_bytes=num_bytes,
            header=None if header[0] is None else VideoHeader(*header),
            label=label,
            split=split,
            segments=tuple(Segment(**segment) for segment in segments),
            stream=stream,
            file_digests=tuple((item["recipe"], item["digest"]) for item in digests or ()),
        )
        for video_id, uri, fingerprint, num_bytes, label, split, segments, stream, digests, header in zip(
            *columns, headers, strict=True
        )
    ]


def quarantine_table(run_id: str, items: Sequence[Quarantined], released: bool) -> pa.Table:
    """Returns `items` as a QUARANTINE table, without the secrets of URLs: a video is found again by its id."""
    shown = [replace(item, uri=masked(item.uri), message=masked(item.message)) for item in items]
    rows = [asdict(item) | {"recipes": list(item.recipes), "run_id": run_id, "released": released} for item in shown]
    return pa.Table.from_pylist(rows, schema=QUARANTINE)


def in_force(table: pa.Table) -> pa.Table:
    """Returns the rows of a QUARANTINE table that hold now.

    Per video, bytes and recipe the newest run's row counts, and not when it is a release; `recipes` of a returned row
    lists only those it still holds for. Within one run a failure outweighs a release (a build that puts videos back
    and meets the same failure again).
    """
    if not table.num_rows:
        return table  # Arrow imports pandas to join no chunks, which takes longer than a status
    table = table.combine_chunks()
    keys = [
        table.column(name).to_pylist() for name in ("video_id", "video_fingerprint", "run_id", "released", "recipes")
    ]
    rows = list(zip(*keys, strict=True))
    starts = list(accumulate((len(row[-1]) for row in rows), initial=0))
    newest: dict[tuple[str, str, str], tuple[int, int]] = {}
    for number in sorted(range(len(rows)), key=lambda number: (rows[number][2], not rows[number][3])):
        video_id, video, _, _, recipes = rows[number]
        for place, recipe in enumerate(recipes, start=starts[number]):
            newest[video_id, video, recipe] = (number, place)
    holding: dict[int, list[tuple[str, int]]] = {}
    for (_, _, recipe), (number, place) in newest.items():
        if not rows[number][3]:
            holding.setdefault(number, []).append((recipe, place))
    kept = sorted(holding, key=lambda number: (rows[number][0], rows[number][2], sorted(holding[number])))
    places = [place for number in kept for _, place in sorted(holding[number])]
    offsets = list(accumulate((len(holding[number]) for number in kept), initial=0))
    column = QUARANTINE.get_field_index("recipes")
    values = table.column(column).combine_chunks().flatten().take(integers(places, pa.int64()))
    lists = pa.ListArray.from_arrays(integers(offsets, pa.int32()), values)
    return take(table, kept).set_column(column, QUARANTINE.field(column), lists)


TRUNCATED_AND_JOINED_COLUMNS = ("video_id", "passport.truncated", "passport.num_joined_parts")
"""Of COMMITS: what `truncated_and_joined` looks at."""


def truncated_and_joined(commits: pa.Table) -> tuple[set[str], set[str]]:
    """Returns the ids of videos with rows although they break off, and of those joined end to end, of COMMITS rows."""
    video_ids = commits.column("video_id").to_pylist()
    passports = commits.column("passport").combine_chunks()
    truncated = pc.struct_field(passports, "truncated").to_pylist()
    parts = pc.struct_field(passports, "num_joined_parts").to_pylist()
    return (
        {video_id for video_id, evidence in zip(video_ids, truncated, strict=True) if evidence},
        {video_id for video_id, count in zip(video_ids, parts, strict=True) if (count or 1) > 1},
    )


def probes_table(probes: Mapping[ProbeKey, Probe]) -> pa.Table:
    """Returns `probes` as a PROBES table."""
    rows = []
    for (uri, num_bytes, modified_ns), probe in sorted(probes.items()):
        row: dict[str, Any] = {"uri": uri, "num_bytes": num_bytes, "modified_ns": modified_ns}
        row["video_fingerprint"] = probe.fingerprint
        row["header"] = asdict(probe.header) if probe.header is not None else None
        rows.append(row | dict(zip(("stage", "reason", "message"), probe.failure or (None,) * 3, strict=True)))
    return pa.Table.from_pylist(rows, schema=PROBES)


class ProbeTable(Mapping[ProbeKey, Probe]):
    """The probes of a PROBES table; a later row replaces an earlier one of the same file.

    They stay in the table until they are asked for: a million take 200 MiB there, and a gigabyte as records.
    """

    def __init__(self, table: pa.Table) -> None:
        self._rows = KeyRows(table, ("uri", "num_bytes", "modified_ns"))

    def find(self, keys: Sequence[ProbeKey]) -> list[Probe | None]:
        """Returns the probe of each of `keys`, None where there is none; many at a time are found quicker."""
        rows = self._rows.rows(keys)
        found = iter(_probes(self._rows.table.take(integers(rows[rows >= 0], pa.int64()))))
        return [next(found) if row >= 0 else None for row in rows]

    def without_uris(self, is_left_out: Callable[[str], bool]) -> "ProbeTable":
        """Returns the probes of all files but those whose uri (as in their keys) `is_left_out`."""
        table = self._rows.table
        kept = [row for row, uri in enumerate(table.column("uri").to_pylist()) if not is_left_out(uri)]
        return self if len(kept) == table.num_rows else ProbeTable(take(table, kept))

    def __getitem__(self, key: ProbeKey) -> Probe:
        (found,) = self.find([key])
        if found is None:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[ProbeKey]:
        return iter(dict.fromkeys(self._rows.keys()))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _probes(table: pa.Table) -> list[Probe]:
    fingerprints, *failures = (
        table.column(name).to_pylist() for name in ("video_fingerprint", "stage", "reason", "message")
    )
    structs = table.column("header").combine_chunks() if table.num_rows else pa.nulls(0, HEADER)
    parts = [pc.struct_field(structs, field.name).to_pylist() for field in fields(VideoHeader)]
    # There are few containers and codecs, and a copy of their names with each video would be as large as the rest.
    parts[:2] = [[None if name is None else sys.intern(name) for name in names] for names in parts[:2]]
    return [
        Probe(
            fingerprint=fingerprint,
            header=VideoHeader(*header) if header[0] is not None else None,
            failure=failure if failure[0] is not None else None,
        )
        for fingerprint, failure, header in zip(
            fingerprints, zip(*failures, strict=True), zip(*parts, strict=True), strict=True
        )
    ]


def task_result_json(result: TaskResult) -> str:
    """Returns `result` as JSON text."""
    return json.dumps(asdict(result), ensure_ascii=False, indent=1, sort_keys=True)


def task_result_of(text: str | bytes) -> TaskResult:
    """Returns the TaskResult of JSON text."""
    return _task_result(json.loads(text))


def task_part_json(part: TaskPart) -> str:
    """Returns `part` as JSON text."""
    return json.dumps(asdict(part), ensure_ascii=False, indent=1, sort_keys=True)


def task_part_of(text: str | bytes) -> TaskPart:
    """Returns the TaskPart of JSON text."""
    data = json.loads(text)
    lists = {name: tuple(data.pop(name)) for name in ("video_ids", "recipes")}
    return TaskPart(**data | lists | {"result": _task_result(data["result"])})


def _task_result(data: dict[str, Any]) -> TaskResult:
    items = tuple(Quarantined(**item | {"recipes": tuple(item["recipes"])}) for item in data.pop("quarantined"))
    return TaskResult(**data, quarantined=items)
