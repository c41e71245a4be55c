"""Highlight detection of QVHighlights: are the clips that people found most salient scored highest?

Each clip of a query has a score of 0 to 4 from each of three people; for a least score s (2 Fair, 3 Good, 4 VeryGood) a
clip is positive for a person who gave at least s. With one predicted score per clip::

    AP    = mean, over the distinct recall levels reached, of the highest precision at that level or beyond;
            clips of equal score enter together. 0 without positives, 1 if every clip is positive.
    mAP   = mean of AP over queries and people
    Hit@1 = share of queries whose best-scored clip is positive for at least one person   (first of equal scores)

Too many predicted clips are cut, missing ones are scored 0. Source: Moment-DETR's evaluation (J. Lei et al., 2021).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Bools, Floats
from clipmill.schemas.errors import UsageError

HIGHLIGHT_LEVELS = {"Fair": 2, "Good": 3, "VeryGood": 4}


@dataclass(frozen=True, slots=True)
class HighlightScore:
    """mAP and Hit@1 per least score, both in [0, 1].

    Attributes:
        levels: least scores of a positive clip.
        num_missing: queries with ground truth but without predictions; they score 0.
    """

    levels: tuple[int, ...]
    mean_average_precision: Floats
    hit_at_one: Floats
    num_queries: int
    num_missing: int


@dataclass(frozen=True, slots=True)
class Highlights:
    """The state of the highlight metrics; immutable: `update` and `merge` return the new state."""

    levels: tuple[int, ...] = (2, 3, 4)
    queries: tuple[str, ...] = ()
    average_precision: tuple[Floats, ...] = field(default=())
    hits: tuple[Floats, ...] = field(default=())
    num_missing: int = 0

    def update(
        self, saliency: Mapping[str, npt.NDArray[np.float64]], predicted: Mapping[str, Sequence[float]]
    ) -> "Highlights":
        """Returns the state with some queries added.

        Args:
            saliency: query id to ``float[clips, people]``.
            predicted: query id to one score per clip.
        """
        precision: list[Floats] = []
        hits: list[Floats] = []
        for name, scores in saliency.items():
            given = predicted.get(name)
            positive = scores[None] >= np.array(self.levels)[:, None, None]
            if given is None or len(given) == 0:
                precision.append(np.zeros(len(self.levels)))
                hits.append(np.zeros(len(self.levels)))
                continue
            best = int(np.argmax(given))
            fitted = np.zeros(len(scores))
            fitted[: len(given)] = np.asarray(given, np.float64)[: len(scores)]
            columns = positive.transpose(0, 2, 1).reshape(-1, len(scores))
            each = clip_average_precision(columns, fitted).reshape(len(self.levels), -1)
            precision.append(np.asarray(each.mean(axis=1), np.float64))
            hit = positive[:, best].any(axis=1) if best < len(scores) else np.zeros(len(self.levels), np.bool_)
            hits.append(np.asarray(hit, np.float64))
        return replace(
            self,
            queries=(*self.queries, *saliency),
            average_precision=(*self.average_precision, *precision),
            hits=(*self.hits, *hits),
            num_missing=self.num_missing + sum(not len(predicted.get(name, ())) for name in saliency),
        )

    def merge(self, other: "Highlights") -> "Highlights":
        """Returns the state of both.

        Raises:
            ValueError: the levels differ.
        """
        if self.levels != other.levels:
            raise ValueError("highlights: expected states of one protocol to merge, got different levels")
        return replace(
            self,
            queries=self.queries + other.queries,
            average_precision=self.average_precision + other.average_precision,
            hits=self.hits + other.hits,
            num_missing=self.num_missing + other.num_missing,
        )

    def result(self) -> HighlightScore:
        """Returns the score; bit-identical for any cut of the work by query.

        Raises:
            UsageError: a query was given more than once.
        """
        order = sorted(range(len(self.queries)), key=self.queries.__getitem__)
        for first, second in zip(order, order[1:], strict=False):
            if self.queries[first] == self.queries[second]:
                raise UsageError(f"query {self.queries[first]}: expected it once, got it twice; cut the work by query")
        nothing = np.full((1, len(self.levels)), np.nan)
        precision = np.array([self.average_precision[row] for row in order]) if order else nothing
        hits = np.array([self.hits[row] for row in order]) if order else nothing
        return HighlightScore(self.levels, precision.mean(axis=0), hits.mean(axis=0), len(order), self.num_missing)


def clip_average_precision(positive: Bools, score: Floats) -> Floats:
    """Returns the AP of one ranking of N clips for each of M ways to call them positive, ``float64[M]``.

    Args:
        positive: ``bool[M, N]``.
        score: ``float64[N]``.
    """
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    last_of_equals = np.r_[ordered[1:] != ordered[:-1], True]
    found = np.cumsum(positive[:, order], axis=1)[:, last_of_equals]
    precision = found / (np.flatnonzero(last_of_equals) + 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    new_level = np.diff(found, axis=1, prepend=0) > 0
    num_levels = new_level.sum(axis=1)
    mean = (best * new_level).sum(axis=1) / np.maximum(num_levels, 1)
    return np.asarray(np.where(positive.all(axis=1), 1.0, mean), np.float64)
