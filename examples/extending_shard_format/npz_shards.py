"""A shard format from outside the project: NumPy's .npz, one file per shard, read whole."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.schemas.rows import Rows
from clipmill.stores.objects import Objects
from clipmill.stores.shards import RowColumns, ShardFormat, Span, damaged

COLUMNS = ("clip", "start_seconds", "stop_seconds", "mask")
EXTRA = "extra."


def encode(rows: Rows, videos: Sequence[Span]) -> Mapping[str, bytes]:
    """Returns the one file of a shard. The same rows give the same bytes: np.savez writes no times."""
    arrays: dict[str, Any] = {name: getattr(rows, name) for name in COLUMNS}
    arrays |= {EXTRA + name: column for name, column in sorted(rows.extras.items())}
    arrays |= {
        "values": np.ascontiguousarray(rows.values),
        "video_ids": np.array([name for name, _, _ in videos], dtype=np.str_),
        "bounds": np.array([(start, stop) for _, start, stop in videos], dtype=np.int64).reshape(-1, 2),
    }
    file = io.BytesIO()
    np.savez(file, **arrays)
    return {"": file.getvalue()}


class NpzShard:
    """A shard written by `encode`.

    Raises:
        StoreError: it is gone or damaged.
    """

    def __init__(self, objects: Objects, path: str) -> None:
        try:
            with np.load(io.BytesIO(objects.read(path)), allow_pickle=False) as file:
                self._arrays = {name: file[name] for name in file.files}
        except FileNotFoundError:
            raise damaged(path, "no file") from None
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise damaged(path, f"no readable .npz ({type(error).__name__})") from None
        self.num_rows = len(self._arrays["values"])

    def values(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        """Returns ``[stop - start, D]``, a copy, in the stored dtype."""
        found: npt.NDArray[np.generic] = self._arrays["values"][start:stop].copy()
        return found

    def columns(self) -> RowColumns:
        """Returns the narrow columns of every row."""
        extras = {name.removeprefix(EXTRA): item for name, item in self._arrays.items() if name.startswith(EXTRA)}
        return RowColumns(**{name: self._arrays[name] for name in COLUMNS}, extras=extras)

    def videos(self) -> list[Span]:
        """Returns whose rows these are."""
        ids, bounds = self._arrays["video_ids"].tolist(), self._arrays["bounds"].tolist()
        return [(name, start, stop) for name, (start, stop) in zip(ids, bounds, strict=True)]


FORMAT = ShardFormat("npz", encode, NpzShard)
