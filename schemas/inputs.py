"""What a model is given of an item: how each input is read from stored rows, and the rows that were read."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from clipmill.schemas.arrays import Array, Bools, Floats, Ints, Singles


@dataclass(frozen=True, slots=True)
class Vector:
    """One vector an item, ``float32[n, D]``.

    Attributes:
        pick: the clip's ``first`` row or the ``mean`` of its rows, of those whose mask is set.
    """

    pick: Literal["first", "mean"] = "mean"


@dataclass(frozen=True, slots=True)
class Bag:
    """Several vectors an item whose order means nothing, ``float32[n, R, D]`` with ``mask bool[n, R]``.

    Attributes:
        max_rows: most rows of an item.
        choose: which rows where there are more: the best by the column `score` of the feature, or the first.
        allows_single: a feature with one row for every clip will do; else it is refused, as no bag at all.
    """

    max_rows: int
    choose: Literal["score", "first"] = "first"
    allows_single: bool = False


@dataclass(frozen=True, slots=True)
class Sequence:
    """Vectors in the order of time, ``float32[n, T, D]`` with ``mask bool[n, T]``.

    Attributes:
        max_steps: most steps of an item.
        reduce: how longer items are shortened: the ``mean`` of equal stretches of steps, or equally spaced steps
            (``pick``).
    """

    max_steps: int
    reduce: Literal["mean", "pick"] = "mean"


@dataclass(frozen=True, slots=True)
class Tokens:
    """The words of a text as positions in a vocabulary made of the training items, ``int64[n, L]`` with a mask.

    Position 0 fills up and 1 stands for words the vocabulary lacks.

    Attributes:
        max_tokens: words of an item that are read.
        min_count: a word occurs so often among the training items, or it is left out of the vocabulary.
    """

    max_tokens: int
    min_count: int = 1


Input = Vector | Bag | Sequence | Tokens


@dataclass(frozen=True, slots=True, eq=False)
class InputRows:
    """What one input reads of n items, one item after the other.

    Attributes:
        values: ``float32[N, D]``; of tokens ``int64[N]``.
        offsets: ``int64[n + 1]``: item i has the rows ``[offsets[i], offsets[i + 1])``; None: one row an item.
        start_seconds, stop_seconds: ``float64[N]``, the time that each row describes; None where rows have none.
    """

    values: Array
    offsets: Ints | None = None
    start_seconds: Floats | None = None
    stop_seconds: Floats | None = None

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    @property
    def dim(self) -> int:
        """Length of a row; 0 for tokens."""
        return int(self.values.shape[1]) if self.values.ndim == 2 else 0

    def lengths(self) -> Ints:
        """Returns ``int64[n]``, the number of rows of each item."""
        return np.ones(len(self), np.int64) if self.offsets is None else np.diff(self.offsets)

    def take(self, items: Array) -> "InputRows":
        """Returns the items at `items` (positions or a mask), in that order."""
        kept = np.arange(len(self))[items]
        if self.offsets is None:
            rows, offsets = kept, None
        else:
            lengths = self.lengths()[kept]
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            # Of each row: the first row of its item, and its place within it.
            rows = np.repeat(self.offsets[kept] - offsets[:-1], lengths) + np.arange(offsets[-1])
        times = [None if column is None else column[rows] for column in (self.start_seconds, self.stop_seconds)]
        return InputRows(self.values[rows], offsets, *times)

    def padded(self, length: int | None = None) -> tuple[Array, Bools]:
        """Returns ``[n, L, ...]`` filled up with zeros and ``bool[n, L]``, True where there is a row.

        Args:
            length: L; None: that of the longest item, at least 1.
        """
        lengths = self.lengths()
        most = max(1, int(lengths.max(initial=1))) if length is None else length
        mask = np.arange(most) < lengths[:, None]
        values = np.zeros((len(self), most, *self.values.shape[1:]), self.values.dtype)
        values[mask] = self.values
        return values, mask

    def means(self) -> Singles:
        """Returns ``float32[n, D]``, the mean of each item's rows; NaN where it has none."""
        if self.offsets is None:
            return np.asarray(self.values, np.float32)
        found = np.full((len(self), self.dim), np.nan, np.float32)
        for item, (start, stop) in enumerate(zip(self.offsets[:-1], self.offsets[1:], strict=True)):
            if stop > start:
                found[item] = self.values[start:stop].astype(np.float64).mean(axis=0)
        return found


def from_padded(values: Array, mask: Bools) -> InputRows:
    """Returns the items of ``[n, L, ...]`` without what only fills up (`mask` is ``bool[n, L]``)."""
    offsets = np.concatenate([[0], np.cumsum(mask.sum(axis=1))]).astype(np.int64)
    return InputRows(values[mask], offsets)
