"""The commits of one recipe as one table, helped by a catalog: a compacted copy that saves opening each commit.

The catalog is a cache and never an authority. A commit's rows are taken from it only while the commit object is still
listed and is older than the catalog; anything else is read from the commit itself. So a catalog may be stale, missing,
damaged or deleted at any time without changing what a reader sees.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.schemas.tables import COMMITS
from clipmill.stores.objects import Objects
from clipmill.stores.tables import from_parquet, gather, numbers_of, repeated, take, to_parquet


class ReadTable(Protocol):
    """Returns the table at a path of the store, or some of its columns."""

    def __call__(self, path: str, columns: Sequence[str] | None = None) -> pa.Table: ...


_NAME = "commit"
_CATALOG = COMMITS.append(pa.field(_NAME, pa.string(), nullable=False))
_WORTH_IT = 32
"""ours: below as many commits that are not yet in the catalog, reading them is quicker than writing it again."""


def read_commits(
    objects: Objects, folder: str, read_table: ReadTable, columns: Sequence[str] | None = None
) -> pa.Table:
    """Returns the rows of all commits in ``commits/<folder>`` (COMMITS schema), in the order of their names.

    Args:
        columns: those that are wanted, or fields of them (``passport.truncated``); None: all.
    """
    listed = _listed(objects, folder)
    catalog = _read_catalog(objects, folder, listed, columns)
    fresh = sorted(set(listed) - catalog.known)
    parts = objects.each(lambda name: read_table(f"commits/{folder}/{name}", columns), fresh)
    return _in_order(catalog, fresh, parts, columns).drop_columns([_NAME])


def write_catalog(objects: Objects, folder: str, read_table: ReadTable) -> bool:
    """Brings the catalog of ``commits/<folder>`` up to date where that is worth it; returns whether it was written."""
    listed = _listed(objects, folder)
    # Their names tell whether there is anything to do; all else of them is most of what a plan would read.
    if len(set(listed) - _read_catalog(objects, folder, listed, []).known) < _WORTH_IT:
        return False
    catalog = _read_catalog(objects, folder, listed, None)
    fresh = sorted(set(listed) - catalog.known)
    parts = objects.each(lambda name: read_table(f"commits/{folder}/{name}"), fresh)
    objects.write(_path(folder), to_parquet(_in_order(catalog, fresh, parts, None)))
    return True


@dataclass(frozen=True, slots=True)
class _Catalog:
    """The rows of a catalog that count, in its order, with a column `_NAME`; the commits that need not be read."""

    table: pa.Table
    known: frozenset[str]


def _path(folder: str) -> str:
    return f"catalog/{folder}.parquet"


def _listed(objects: Objects, folder: str) -> dict[str, float | None]:
    """Returns when each commit of the folder was written, by its name."""
    return {item.path.rpartition("/")[2]: item.modified_seconds for item in objects.entries(f"commits/{folder}")}


def commits_schema(columns: Sequence[str] | None) -> pa.Schema:
    """Returns the COMMITS schema with `columns` alone, which may be fields of structs."""
    return _part_of(COMMITS, columns)


def _part_of(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    if columns is None:
        return schema
    inner = {name.partition(".")[0]: set[str]() for name in columns}
    for name in columns:
        inner[name.partition(".")[0]].add(name.partition(".")[2])
    fields = []
    for name, wanted in inner.items():
        field = schema.field(name)
        if "" not in wanted:
            field = field.with_type(pa.struct([item for item in field.type if item.name in wanted]))
        fields.append(field)
    return pa.schema(fields)


def _in_order(
    catalog: _Catalog, fresh: Sequence[str], parts: Sequence[pa.Table], columns: Sequence[str] | None
) -> pa.Table:
    """Returns the rows of the catalog and of the fresh commits by the names of their commits, which `_NAME` has."""
    schema = _part_of(_CATALOG, None if columns is None else [*columns, _NAME])
    named = [
        gather(schema, [part.append_column(schema.field(_NAME), repeated(name, part.num_rows))])
        for name, part in zip(fresh, parts, strict=True)
    ]
    table = gather(schema, [catalog.table, *named])
    names = table.column(_NAME)
    # Taking rows copies them, and a catalog is written in this order.
    if not table.num_rows or pc.all(pc.less_equal(names[:-1], names[1:])).as_py():
        return table
    texts = names.to_pylist()
    return take(table, sorted(range(len(texts)), key=texts.__getitem__))


def _read_catalog(
    objects: Objects, folder: str, listed: Mapping[str, float | None], columns: Sequence[str] | None
) -> _Catalog:
    path = _path(folder)
    wanted = None if columns is None else [*columns, _NAME]
    schema = _part_of(_CATALOG, wanted)
    made = next((item.modified_seconds for item in objects.entries("catalog") if item.path == path), None)
    nothing = _Catalog(gather(schema, []), frozenset())
    if made is None:
        return nothing
    try:
        table = gather(schema, [from_parquet(objects.read(path), wanted)])
    except (FileNotFoundError, pa.ArrowException, OSError, KeyError):
        return nothing
    names = table.column(_NAME).combine_chunks().dictionary_encode()
    commits = names.dictionary.to_pylist()
    # Strictly older: where times are whole seconds, a commit of the same second may have come after.
    older = {name for name, time in listed.items() if time is not None and time < made}
    known = frozenset(older.intersection(commits))
    if len(known) == len(commits):
        return _Catalog(table, known)
    is_known = np.array([name in known for name in commits], np.bool_)
    return _Catalog(take(table, np.flatnonzero(is_known[numbers_of(names.indices)])), known)
