"""Classification: top-k accuracy, mean class accuracy, confusion; and untrimmed video classification (ActivityNet).

With one true class per item and a score per class::

    top-k accuracy      = share of items whose class is among the k best scored             micro: over items
    mean class accuracy = mean, over the classes that have items, of their own accuracy      macro: over classes
    confusion[i, j]     = items of class i whose best scored class is j

Ties: equal scores rank by class number ascending, as argmax does; so constant scores give the share of the first
classes, never a perfect score. A score of NaN is refused.
Floors: `chance` is k / C; `most_frequent` is what always answering the k most frequent classes scores.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Floats, Ints
from clipmill.schemas.errors import UsageError


@dataclass(frozen=True, slots=True)
class ClassificationScore:
    """The accuracies of a set of items.

    Attributes:
        at: k of the top-k accuracies.
        top: k to accuracy.
        mean_class_accuracy: of the best scored class; NaN without items.
        class_accuracy: ``float64[C]``, NaN for a class without items.
        confusion: ``int64[C, C]``, true by predicted.
        chance: k to accuracy of guessing.
        most_frequent: k to accuracy of always answering the k most frequent true classes.
    """

    top: dict[int, float]
    mean_class_accuracy: float
    class_accuracy: Floats
    confusion: Ints
    chance: dict[int, float]
    most_frequent: dict[int, float]

    @property
    def num_items(self) -> int:
        """Items that were scored."""
        return int(self.confusion.sum())

    @property
    def line(self) -> str:
        """The score line with its floors."""
        each = [
            f"top-{k} {value:.4f} (chance {self.chance[k]:.4f}, most frequent {self.most_frequent[k]:.4f})"
            for k, value in self.top.items()
        ]
        num_empty = int(np.isnan(self.class_accuracy).sum())
        return (
            f"{', '.join(each)}; mean class accuracy {self.mean_class_accuracy:.4f}; {self.num_items} items, "
            f"{len(self.class_accuracy)} classes ({num_empty} without items)"
        )


@dataclass(frozen=True, slots=True)
class Classification:
    """The state of the accuracies: counts, so that any cut of the work gives the identical number. Immutable.

    Attributes:
        num_classes: C.
        at: k of the top-k accuracies.
        hits: ``int64[len(at)]``.
        confusion: ``int64[C, C]``.
    """

    num_classes: int
    at: tuple[int, ...] = (1, 5)
    hits: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    confusion: Ints = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    def __post_init__(self) -> None:
        if self.num_classes < 1 or any(k < 1 for k in self.at):
            raise ValueError(f"classification: expected positive numbers, got {self.num_classes} classes, k {self.at}")
        if not self.hits.size:
            object.__setattr__(self, "hits", np.zeros(len(self.at), np.int64))
            object.__setattr__(self, "confusion", np.zeros((self.num_classes, self.num_classes), np.int64))

    def update(self, scores: npt.ArrayLike, labels: npt.ArrayLike) -> "Classification":
        """Returns the state with N items added.

        Args:
            scores: ``float[N, C]``.
            labels: ``int[N]``, the true classes.

        Raises:
            UsageError: the shapes do not fit, a label is no class, or a score is NaN.
        """
        table, truth = np.asarray(scores, np.float64), np.asarray(labels, np.int64)
        expected = (len(truth), self.num_classes)
        if table.shape != expected:
            raise UsageError(f"scores: expected shape {expected}, got {table.shape}; give one score per class")
        if len(truth) and not 0 <= int(truth.min()) <= int(truth.max()) < self.num_classes:
            got = f"{truth.min()} to {truth.max()}"
            raise UsageError(f"labels: expected 0 to {self.num_classes - 1}, got {got}; check the class list")
        if np.isnan(table).any():
            row = int(np.flatnonzero(np.isnan(table).any(axis=1))[0])
            raise UsageError(f"scores row {row}: expected numbers, got NaN; correct the predictions")
        own = table[np.arange(len(truth)), truth][:, None]
        # The rank of the true class: better scores, and equal scores of smaller classes, come before it.
        before = (table > own) | ((table == own) & (np.arange(self.num_classes) < truth[:, None]))
        rank = before.sum(axis=1)
        hits = np.array([(rank < k).sum() for k in self.at], np.int64)
        confusion = self.confusion.copy()
        np.add.at(confusion, (truth, table.argmax(axis=1)) if len(truth) else (truth, truth), 1)
        return replace(self, hits=self.hits + hits, confusion=confusion)

    def merge(self, other: "Classification") -> "Classification":
        """Returns the state of both.

        Raises:
            ValueError: the numbers of classes or the cut-offs differ.
        """
        if (self.num_classes, self.at) != (other.num_classes, other.at):
            raise ValueError("classification: expected states of one protocol to merge, got different settings")
        return replace(self, hits=self.hits + other.hits, confusion=self.confusion + other.confusion)

    def result(self) -> ClassificationScore:
        """Returns the score; NaN without items."""
        per_class = self.confusion.sum(axis=1)
        num_items = int(per_class.sum())
        with np.errstate(invalid="ignore"):
            each = np.asarray(np.diagonal(self.confusion) / per_class, np.float64)
        frequent = np.sort(per_class)[::-1]
        known = each[per_class > 0]
        return ClassificationScore(
            {k: int(hit) / num_items if num_items else math.nan for k, hit in zip(self.at, self.hits, strict=True)},
            math.fsum(known.tolist()) / len(known) if len(known) else math.nan,
            each,
            self.confusion,
            {k: min(k, self.num_classes) / self.num_classes for k in self.at},
            {k: int(frequent[:k].sum()) / num_items if num_items else math.nan for k in self.at},
        )
