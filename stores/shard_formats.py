"""Which formats of shards there are, and the shards opened by their suffix.

To add one: a module with a `ShardFormat`, and one line in the table. One from outside the project registers under the
entry point group ``clipmill.shard_formats``.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence

from clipmill.schemas.registry import Registry
from clipmill.schemas.rows import Rows
from clipmill.stores.objects import Objects
from clipmill.stores.shards import RowColumns, Shard, ShardFormat, Span

SHARD_FORMATS = Registry(
    "shard format",
    "clipmill.shard_formats",
    ShardFormat,
    {
        "npy": "clipmill.stores.shards_npy:FORMAT",
        "parquet": "clipmill.stores.shards_parquet:FORMAT",
        "zarr": "clipmill.stores.shards_zarr:FORMAT",
    },
)


def is_registered(name: str) -> bool:
    """Returns whether there is a format `name`; for a built-in one no installed package is looked at."""
    return name in SHARD_FORMATS.built_in or name in SHARD_FORMATS.names


def format_of(path: str) -> ShardFormat:
    """Returns the format of the shard at `path`: its suffix is the format's name.

    Raises:
        UsageError: no such format is registered, or the package that brings it is broken.
    """
    return SHARD_FORMATS.get(path.rpartition(".")[2])


def open_shard(objects: Objects, path: str) -> Shard:
    """Returns the shard at `path`, in the format its suffix names.

    Raises:
        StoreError: it is gone or damaged.
        UsageError: no such format is registered.
    """
    return format_of(path).open(objects, path)


def write_shard(objects: Objects, path: str, rows: Rows, videos: Sequence[Span]) -> None:
    """Writes the rows of `videos` to the shard at `path`, in the format its suffix names.

    Raises:
        StorageUnavailableError: storage refuses.
        UsageError: no such format is registered, or the package that brings it is broken.
    """
    for name, data in format_of(path).encode(rows, videos).items():
        objects.write(f"{path}/{name}" if name else path, data)


def is_written(objects: Objects, path: str) -> bool:
    """Returns whether the shard at `path` is whole: its last object is there."""
    last = format_of(path).last_object
    return objects.exists(f"{path}/{last}" if last else path)


class ShardCache:
    """Shards that stay opened, with their narrow columns, the most recently used first to stay.

    Safe to use from several threads; a copy that travels to another process starts empty.
    """

    def __init__(self, objects: Objects, num_shards: int = 256) -> None:
        self._objects = objects
        self._num_shards = num_shards
        self._opened: OrderedDict[str, tuple[Shard, RowColumns | None]] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["ShardCache"], tuple[Objects, int]]:
        return type(self), (self._objects, self._num_shards)

    def shard(self, path: str) -> Shard:
        """Returns the opened shard at `path`."""
        with self._lock:
            if path in self._opened:
                self._opened.move_to_end(path)
                return self._opened[path][0]
        opened = open_shard(self._objects, path)
        self._keep(path, opened, None)
        return opened

    def columns(self, path: str) -> RowColumns:
        """Returns the narrow columns of the shard at `path`."""
        return self.opened(path)[1]

    def opened(self, path: str) -> tuple[Shard, RowColumns]:
        """Returns the opened shard at `path` and its narrow columns."""
        with self._lock:
            found, columns = self._opened.get(path, (None, None))
            if found is not None and columns is not None:
                self._opened.move_to_end(path)
                return found, columns
        shard = self.shard(path)
        columns = shard.columns()
        self._keep(path, shard, columns)
        return shard, columns

    def _keep(self, path: str, opened: Shard, columns: RowColumns | None) -> None:
        with self._lock:
            self._opened[path] = (opened, columns)
            self._opened.move_to_end(path)
            while len(self._opened) > self._num_shards:
                self._opened.popitem(last=False)
