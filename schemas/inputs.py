"""What a model is given of an item: how each input is read from stored rows, and the rows that were read."""

from dataclasses import dataclass, replace
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
        reduce: how longer items of T steps are shortened to S: the ``mean`` of equal stretches (VSLNet, 2D-TAN), the
            step in the middle of each (``pick``), or the steps round(i T / S), halves to even (``sample``: LGI, at the
            phase of its test; it draws the phase in training).
    """

    max_steps: int
    reduce: Literal["mean", "pick", "sample"] = "mean"


@dataclass(frozen=True, slots=True)
class Tokens:
    """The words of a text as positions in a vocabulary made of the training items, ``int64[n, L]`` with a mask.

    Position 0 fills up and 1 stands for words the vocabulary lacks.

    Attributes:
        max_tokens: words of an item that are read.
        min_count: a word occurs so often among the training items, or it is left out of the vocabulary.
        tokeniser: ``words``: runs of letters and digits; ``lgi``: what is between spaces once punctuation is deleted;
            ``treebank``: as the Penn Treebank cuts them, punctuation kept (VSLNet). All in lower case.
        vocabulary: ``train``: the words of the training items, the most frequent first; ``lgi``: the same by alphabet,
            after two marks that no text has; ``vslnet``: the words of all annotations named that have a vector.
        vector_dim: length of a word's vector, where the model can begin with vectors of a file.
    """

    max_tokens: int
    min_count: int = 1
    tokeniser: Literal["words", "lgi", "treebank"] = "words"
    vocabulary: Literal["train", "lgi", "vslnet"] = "train"
    vector_dim: int | None = None


Input = Vector | Bag | Sequence | Tokens


@dataclass(frozen=True, slots=True, eq=False)
class InputRows:
    """What one input reads of n items, one item after the other.

    Attributes:
        values: ``float32[N, D]``; of tokens ``int64[N]``.
        offsets: ``int64[n + 1]``: item i has the rows ``[offsets[i], offsets[i + 1])``; None: one row an item.
        start_seconds, stop_seconds: ``float64[N]``, the time that each row describes; None where rows have none.
        entry: ``int64[n]``, where items share rows (queries about one video): item i has those of entry ``entry[i]``
            of `offsets`, which may have more; None: each has its own.
    """

    values: Array
    offsets: Ints | None = None
    start_seconds: Floats | None = None
    stop_seconds: Floats | None = None
    entry: Ints | None = None

    def __post_init__(self) -> None:
        if self.entry is not None and self.offsets is None:
            raise ValueError("rows that items share: expected offsets, got none")

    def __len__(self) -> int:
        if self.entry is not None:
            return len(self.entry)
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    @property
    def dim(self) -> int:
        """Length of a row; 0 for tokens."""
        return int(self.values.shape[1]) if self.values.ndim == 2 else 0

    def lengths(self) -> Ints:
        """Returns ``int64[n]``, the number of rows of each item."""
        if self.offsets is None:
            return np.ones(len(self), np.int64)
        lengths = np.diff(self.offsets)
        return lengths if self.entry is None else lengths[self.entry]

    def take(self, items: Array) -> "InputRows":
        """Returns the items at `items` (positions or a mask), in that order; rows that items share are not copied."""
        kept = np.arange(len(self))[items]
        if self.entry is not None:
            return replace(self, entry=self.entry[kept])
        if self.offsets is None:
            rows, offsets = kept, None
        else:
            lengths = self.lengths()[kept]
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            # Of each row: the first row of its item, and its place within it.
            rows = np.repeat(self.offsets[kept] - offsets[:-1], lengths) + np.arange(offsets[-1])
        times = [None if column is None else column[rows] for column in (self.start_seconds, self.stop_seconds)]
        return InputRows(self.values[rows], offsets, *times)

    def unshared(self) -> "InputRows":
        """Returns the same items, each with rows of its own."""
        if self.entry is None:
            return self
        return replace(self, entry=None).take(self.entry)

    def padded(self, length: int | None = None) -> tuple[Array, Bools]:
        """Returns ``[n, L, ...]`` filled up with zeros and ``bool[n, L]``, True where there is a row.

        Args:
            length: L; None: that of the longest item, at least 1.
        """
        if self.entry is not None:
            return self.unshared().padded(length)
        lengths = self.lengths()
        most = max(1, int(lengths.max(initial=1))) if length is None else length
        mask = np.arange(most) < lengths[:, None]
        values = np.zeros((len(self), most, *self.values.shape[1:]), self.values.dtype)
        values[mask] = self.values
        return values, mask

    def means(self) -> Singles:
        """Returns ``float32[n, D]``, the mean of each item's rows; NaN where it has none."""
        if self.entry is not None:
            return np.asarray(replace(self, entry=None).means()[self.entry], np.float32)
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
