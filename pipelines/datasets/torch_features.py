"""Data sets of PyTorch over a store's features, map-style and iterable, and the batches both are drawn in.

Rows are read when they are drawn: of a batch those that lie near each other together, and no others. What travels to
a worker is the index; each process opens the storage for itself, whether it was forked or spawned.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from clipmill.pipelines.datasets.epoch_order import epoch_order, share
from clipmill.pipelines.datasets.feature_items import FeatureItems, Kind, Windows, feature_items
from clipmill.schemas.arrays import Ints
from clipmill.schemas.config import SplitConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.rows import Rows
from clipmill.stores import Feature, FeatureStore

Item = dict[str, Any]
"""``values``, ``start_seconds``, ``stop_seconds``, ``mask`` (of several features ``features``: such a mapping each, by
name), ``label``, ``video_id`` and ``clip``."""

_PER_ROW = ("values", "start_seconds", "stop_seconds", "mask")


class FeatureDataset(Dataset[Item]):
    """Items of a store by position: for a `DataLoader` with samplers of one's own, or with `GlobalBatches`.

    Item i is a mapping of

    - ``values`` ``float32[T, D]`` (``[D]`` of a row), ``start_seconds`` and ``stop_seconds`` ``float64[T]``, ``mask``
      ``bool[T]``: False for rows that only fill up; their values are 0. Of several features ``features`` holds such
      a mapping each, by name.
    - ``label`` ``int64``, a position in `label_names` or -1; ``video_id``; ``clip``, its index within the video, -1
      of whole videos.

    Args:
        store: a folder, or any URL that fsspec takes.
        features: one name, or several, for clips and videos.
        item: ``row`` (each whose mask is set), ``clip``, ``video``, or ``window`` (`window_rows` consecutive rows of
            one clip).
        part: ``train``, ``validation`` or ``test`` of `split`; None: everything.
        split: as in a training config (``{"from": "random", "test_fraction": 0.2, "seed": 0}``); None: by the
            manifest's column `split`.
        window_rows, step_rows: of windows; a step of None is a whole window.
        tail: ``pad`` fills the last window of a clip up, ``drop`` leaves it out.

    Raises:
        StoreError: no store there, or no such feature.
        UsageError: nothing to draw, or the arguments do not fit each other.
        ManifestError: the manifest's column `split` is incomplete.
    """

    def __init__(
        self,
        store: str | FeatureStore,
        features: str | Sequence[str],
        item: Kind = "clip",
        *,
        part: str | None = None,
        split: SplitConfig | Mapping[str, Any] | None = None,
        window_rows: int | None = None,
        step_rows: int | None = None,
        tail: Literal["pad", "drop"] = "pad",
    ) -> None:
        opened = store if isinstance(store, FeatureStore) else FeatureStore(store)
        windows = _windows(item, window_rows, step_rows, tail)
        names = [features] if isinstance(features, str) else list(features)
        self.items: FeatureItems = feature_items(opened, names, item, part, split, windows)
        self._is_single = isinstance(features, str)
        self._is_row = item == "row"
        self._opened: dict[str, Feature] = dict(self.items.features)
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        # Process 0 is none: whoever unpickles it opens the storage.
        return self.__dict__ | {"_process": 0}

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels, sorted; of all items of the store, so that parts agree."""
        return self.items.label_names

    def dims(self) -> dict[str, int]:
        """Returns the length of a row of each feature."""
        return {name: feature.dim for name, feature in self.items.features.items()}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        """Returns one item."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Returns the items at `indices`, whose rows are read together: what a DataLoader asks for a batch.

        Raises:
            IndexError: there is no such item.
        """
        wanted = self._wanted(indices)
        read = {name: self._items(name, wanted) for name in self._opened}
        found = []
        for place, number in enumerate(wanted.tolist()):
            parts = {name: each[place] for name, each in read.items()}
            rows = next(iter(parts.values())) if self._is_single else {"features": parts}
            about = {
                "label": torch.tensor(int(self.items.label[number])),
                "video_id": self.items.video_ids[number],
                "clip": int(self.items.clip[number]),
            }
            found.append({**rows, **about})
        return found

    def batch(self, indices: Sequence[int]) -> Item:
        """Returns the items at `indices` as `collate` puts them together, without making each of them.

        Raises:
            IndexError: there is no such item.
        """
        wanted = self._wanted(indices)
        parts = {name: self._padded(name, wanted) for name in self._opened}
        rows = next(iter(parts.values())) if self._is_single else {"features": parts}
        about = {
            "label": torch.from_numpy(self.items.label[wanted]),
            "video_id": [self.items.video_ids[number] for number in wanted.tolist()],
            "clip": torch.from_numpy(self.items.clip[wanted].astype(np.int64)),
        }
        return {**rows, **about}

    def _wanted(self, indices: Sequence[int]) -> Ints:
        """Returns `indices` from 0 on; opens the storage where this is another process than the last time."""
        if self._process != os.getpid():
            self._opened = {name: feature.reopened() for name, feature in self.items.features.items()}
            self._process = os.getpid()
        wanted = np.asarray(indices, np.int64).reshape(-1)
        if len(wanted) and not (-len(self) <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(f"item: expected -{len(self)} to {len(self) - 1}, got {wanted.min()} to {wanted.max()}")
        return wanted % max(1, len(self))

    def _read(self, name: str, wanted: Ints) -> tuple[Rows, Ints]:
        """Returns the rows of all items wanted, one after the other, and ``int64[B]``, how many each has."""
        offsets = self.items.offsets[name]
        lengths = offsets[wanted + 1] - offsets[wanted]
        # Of each row: the first of its item, and its place within it.
        starts = offsets[wanted] - (np.cumsum(lengths) - lengths)
        rows = self._opened[name].take(
            self.items.positions[name][np.repeat(starts, lengths) + np.arange(int(lengths.sum()))]
        )
        rows.values[~rows.mask] = 0
        return rows, lengths

    def _items(self, name: str, wanted: Ints) -> list[dict[str, torch.Tensor]]:
        rows, lengths = self._read(name, wanted)
        edges = np.cumsum([0, *lengths.tolist()]).tolist()
        return [self._tensors(rows.slice(first, last)) for first, last in zip(edges, edges[1:], strict=False)]

    def _tensors(self, rows: Rows) -> dict[str, torch.Tensor]:
        # Copies: views of a batch's rows would travel to another process, and be pinned, whole.
        found = {name: torch.from_numpy(getattr(rows, name).copy()) for name in _PER_ROW}
        if self._is_row:
            return {name: values[0] for name, values in found.items()}
        length = self.items.length
        return found if length is None else {name: _filled(values, length) for name, values in found.items()}

    def _padded(self, name: str, wanted: Ints) -> dict[str, torch.Tensor]:
        rows, lengths = self._read(name, wanted)
        columns = {column: np.asarray(getattr(rows, column)) for column in _PER_ROW}
        if self._is_row:
            return {column: torch.from_numpy(values) for column, values in columns.items()}
        length = self.items.length if self.items.length is not None else int(lengths.max())
        present = np.arange(length) < lengths[:, None]
        found = {}
        for column, values in columns.items():
            filled = np.zeros((*present.shape, *values.shape[1:]), values.dtype)
            filled[present] = values
            found[column] = torch.from_numpy(filled)
        return found


class GlobalBatches(Sampler[list[int]]):
    """Batch sampler: the same global batches in each epoch for any number of ranks, of which each draws its share.

    The order of epoch e and the cut of a batch are those of ``clipmill train`` with the same seed. Give it to a
    `DataLoader` as `batch_sampler`; no DistributedSampler is needed. The last batch holds what is left, and is left
    out where that is less than one item for each rank.

    Args:
        num_items: of the data set.
        batch: items of a global batch, over all ranks together.
        shuffle: False: in the order of the data set.
        rank, num_ranks: default: of the initialised process group, else 0 of 1.
        drop_last: leave the last batch out where it is short.

    Raises:
        UsageError: a batch that does not hold an item for each rank, or more than there are.
    """

    def __init__(
        self,
        num_items: int,
        batch: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int | None = None,
        num_ranks: int | None = None,
        drop_last: bool = False,
    ) -> None:
        self.rank, self.num_ranks = _ranks(rank, num_ranks)
        if not self.num_ranks <= batch:
            expected, remedy = f"at least {self.num_ranks}, one item for each rank", "raise it"
            raise UsageError(describe("batches", "batch", expected, str(batch), remedy))
        if num_items < self.num_ranks or drop_last and num_items < batch:
            got, remedy = f"{num_items} items", "lower batch, or take drop_last=False"
            raise UsageError(describe("batches", "batch", f"at most as many as there are ({num_items})", got, remedy))
        self.num_items, self.batch, self.seed, self.shuffle = num_items, batch, seed, shuffle
        self.epoch = 0
        rest = num_items % batch
        self._num_batches = num_items // batch + (rest >= self.num_ranks and not drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Makes the next iteration draw epoch `epoch` (from 0)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[list[int]]:
        order = epoch_order(self.num_items, self.seed, self.epoch) if self.shuffle else torch.arange(self.num_items)
        for number in range(self._num_batches):
            taken = order[number * self.batch : (number + 1) * self.batch].tolist()
            yield taken[share(len(taken), self.rank, self.num_ranks)]


class FeatureStream(IterableDataset[Item]):
    """Batches of a `FeatureDataset`, collated: for ``DataLoader(stream, batch_size=None, num_workers=...)``.

    Worker w of W makes the batches w, w + W, ...; the loader takes them in turn, so they come in one order whatever
    the number of workers. Arguments are those of `GlobalBatches`.
    """

    def __init__(self, dataset: FeatureDataset, batch: int, **arguments: Any) -> None:
        super().__init__()
        self.dataset = dataset
        self.batches = GlobalBatches(len(dataset), batch, **arguments)
        # Shared memory: workers that are kept between epochs see what the loop sets.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Makes the next iteration draw epoch `epoch` (from 0), in persistent workers, too."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Item]:
        self.batches.set_epoch(int(self._epoch))
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number, indices in enumerate(self.batches):
            if number % step == first:
                yield self.dataset.batch(indices)


def collate(items: Sequence[Item]) -> Item:
    """Returns a batch of items: tensors stacked, rows filled up to the longest with zeros and a mask of False.

    ``values`` are ``float32[B, T, D]`` (``[B, D]`` of rows), ``mask`` ``bool[B, T]``, ``label`` and ``clip``
    ``int64[B]``, ``video_id`` a list.
    """
    first = items[0]
    return {key: _together([item[key] for item in items]) for key in first}


def _together(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Mapping):
        return collate(values)
    if isinstance(first, torch.Tensor):
        if first.ndim == 0:
            return torch.stack(list(values))
        length = max(len(each) for each in values)
        return torch.stack([_filled(each, length) for each in values])
    return torch.tensor(values) if isinstance(first, int) else list(values)


def _filled(values: torch.Tensor, length: int) -> torch.Tensor:
    if len(values) == length:
        return values
    return torch.cat([values, values.new_zeros((length - len(values), *values.shape[1:]))])


def _windows(item: Kind, rows: int | None, step: int | None, tail: Literal["pad", "drop"]) -> Windows | None:
    if item not in ("row", "clip", "video", "window"):
        raise UsageError(describe("features", "item", "row, clip, video or window", repr(item), "correct it"))
    if (item == "window") != (rows is not None):
        expected = "the rows of a window" if item == "window" else f"none for item {item}"
        raise UsageError(describe("features", "window_rows", expected, str(rows), "they go with item='window'"))
    if rows is None:
        return None
    if rows < 1 or (step is not None and step < 1):
        raise UsageError(describe("features", "window_rows and step_rows", "at least 1", f"{rows}, {step}", "correct"))
    if tail not in ("pad", "drop"):
        raise UsageError(describe("features", "tail", "pad or drop", repr(tail), "correct it"))
    return Windows(rows, rows if step is None else step, tail)


def _ranks(rank: int | None, num_ranks: int | None) -> tuple[int, int]:
    if (rank is None) != (num_ranks is None):
        raise UsageError(describe("batches", "rank", "rank and num_ranks, or neither", "one of them", "give both"))
    if rank is None or num_ranks is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1
    if not 0 <= rank < num_ranks:
        raise UsageError(describe("batches", "rank", f"0 to {num_ranks - 1}", str(rank), "correct it"))
    return rank, num_ranks
