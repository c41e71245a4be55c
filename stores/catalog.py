"""The commits of one recipe as one table, helped by a catalog: a compacted copy that saves opening each commit.

The catalog is a cache and never an authority. A commit's rows are taken from it only while the commit object is still
listed and is older than the catalog; anything else is read from the commit itself. So a catalog may be stale, missing,
damaged or deleted at any time without changing what a reader sees.
"""

from collections.abc import Callable

import pyarrow as pa

from clipmill.schemas.tables import COMMITS
from clipmill.stores.objects import Objects
from clipmill.stores.tables import from_parquet, gather, take, to_parquet

ReadTable = Callable[[str], pa.Table]

_NAME = "commit"
_CATALOG = COMMITS.append(pa.field(_NAME, pa.string(), nullable=False))
_WORTH_IT = 32
"""ours: below as many commits that are not yet in the catalog, reading them is quicker than writing it again."""


def read_commits(objects: Objects, folder: str, read_table: ReadTable) -> pa.Table:
    """Returns the rows of all commits in ``commits/<folder>`` (COMMITS schema), in the order of their names."""
    return _read(objects, folder, read_table)[0]


def write_catalog(objects: Objects, folder: str, read_table: ReadTable) -> bool:
    """Brings the catalog of ``commits/<folder>`` up to date where that is worth it; returns whether it was written."""
    table, names, num_fresh = _read(objects, folder, read_table)
    if num_fresh < _WORTH_IT:
        return False
    objects.write(_path(folder), to_parquet(table.append_column(_CATALOG.field(_NAME), pa.array(names, pa.string()))))
    return True


def _path(folder: str) -> str:
    return f"catalog/{folder}.parquet"


def _read(objects: Objects, folder: str, read_table: ReadTable) -> tuple[pa.Table, list[str], int]:
    """Returns the commits' rows, the commit each row is from, and how many commits the catalog did not have."""
    listed = {item.path.rpartition("/")[2]: item.modified_seconds for item in objects.entries(f"commits/{folder}")}
    catalog, made = _read_catalog(objects, folder)
    cataloged = catalog.column(_NAME).to_pylist()
    # Strictly older: where times are whole seconds, a commit of the same second may have come after.
    older = {name for name, time in listed.items() if time is not None and time < made}
    known = older.intersection(cataloged)
    kept = [row for row, name in enumerate(cataloged) if name in known]
    fresh = sorted(set(listed) - known)
    parts = objects.each(lambda name: read_table(f"commits/{folder}/{name}"), fresh)
    table = gather(COMMITS, [take(catalog.select(COMMITS.names), kept), *parts])
    names = [cataloged[row] for row in kept]
    for name, part in zip(fresh, parts, strict=True):
        names += [name] * part.num_rows
    order = sorted(range(len(names)), key=names.__getitem__)
    return take(table, order), [names[row] for row in order], len(fresh)


def _read_catalog(objects: Objects, folder: str) -> tuple[pa.Table, float]:
    path = _path(folder)
    made = next((item.modified_seconds for item in objects.entries("catalog") if item.path == path), None)
    if made is not None:
        try:
            table = gather(_CATALOG, [from_parquet(objects.read(path))])
        except (FileNotFoundError, pa.ArrowException, OSError):
            return gather(_CATALOG, []), 0.0
        return table, made
    return gather(_CATALOG, []), 0.0
