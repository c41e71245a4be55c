"""Mean average precision of temporal detections over tIoU thresholds, ActivityNet style.

Per class, all predictions of all videos in one ranking; a prediction is a hit at threshold t if it gets a ground
truth of its video and class with ``tIoU >= t`` that no better-ranked prediction has got (the one with the highest
tIoU that is still free; one hit per ground truth). With precision P after each rank and N ground truths of the class::

    AP(t)  = (sum over hits of max P at or after the rank of the hit) / N          interpolated, Pascal VOC 2010-2012
    mAP(t) = mean of AP(t) over the classes that have ground truth                 macro average, never over instances
    average = mean of mAP(t) over the thresholds

Ties: equal scores rank by video id, then start, then stop, ascending; equal tIoU goes to the later-starting ground
truth. So neither the order of a file nor the cut of the work can change a number. (The official tool leaves both to
an unstable sort; where it is defined, on few rows listed in order of time, it agrees with this.)
Counting, as the official tool does: blocked videos leave both sides; a ground-truth video without predictions keeps its
ground truths in N; predictions in a video without ground truth are false; repeated ground truths each count, unless
``drop_duplicates``. Predictions of a class that has no ground truth have no AP to enter and are only counted.
Source: ActivityNet challenge toolkit, detection task (F. Caba Heilbron et al., CVPR 2015).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from clipmill.pipelines.evaluation.metrics.detection_matching import (
    by_preference,
    claim,
    group_average_precision,
    group_pairs,
    rank_order,
    tiou,
)
from clipmill.schemas.arrays import Bools, Floats, Ints
from clipmill.schemas.errors import UsageError
from clipmill.schemas.segments import Segments

# As the official tool makes them: a few of these are a rounding error above the decimal they stand for.
ACTIVITYNET_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())


@dataclass(frozen=True, slots=True)
class DetectionCounts:
    """What a detection score was computed from, and what was left out of it.

    Attributes:
        num_videos: ground-truth videos that were scored.
        num_missing_videos: of those, how many have no prediction at all.
        num_unknown_videos: videos with predictions but not in the ground truth; their predictions are false.
        num_blocked_videos: blocked videos that were in the ground truth or the predictions.
        num_duplicates: ground truths equal to an earlier one in video, class, start and stop.
        num_unknown_label: predictions of classes that have no ground truth.
    """

    num_videos: int = 0
    num_missing_videos: int = 0
    num_unknown_videos: int = 0
    num_blocked_videos: int = 0
    num_ground_truths: int = 0
    num_duplicates: int = 0
    num_predictions: int = 0
    num_unknown_label: int = 0

    def __str__(self) -> str:
        parts = [
            f"{self.num_videos} videos ({self.num_missing_videos} without predictions)",
            f"{self.num_blocked_videos} blocked",
            f"{self.num_ground_truths} ground truths ({self.num_duplicates} duplicates)",
            f"{self.num_predictions} predictions ({self.num_unknown_label} of unknown classes)",
        ]
        if self.num_unknown_videos:
            parts.append(f"{self.num_unknown_videos} predicted videos not in the ground truth")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class DetectionScore:
    """The mAP of a set of detections.

    Attributes:
        thresholds: T tIoU thresholds.
        label_names: the C classes that have ground truth, ascending.
        average_precision: ``float64[T, C]``.
        num_ground_truths: ``int64[C]``.
        counts: what was scored and what was left out.
    """

    thresholds: tuple[float, ...]
    label_names: tuple[str, ...]
    average_precision: Floats
    num_ground_truths: Ints
    counts: DetectionCounts

    @property
    def mean_average_precision(self) -> Floats:
        """``float64[T]``: the mean over classes; NaN where there is no class."""
        if not self.label_names:
            return np.full(len(self.thresholds), np.nan)
        return np.asarray(self.average_precision.mean(axis=1), np.float64)

    @property
    def average(self) -> float:
        """The mean of mAP over the thresholds."""
        return float(self.mean_average_precision.mean())

    @property
    def line(self) -> str:
        """The score line: mAP per threshold, their average, and everything that was counted or left out."""
        each = " ".join(
            f"{value:.4f}@{threshold:.2f}"
            for value, threshold in zip(self.mean_average_precision, self.thresholds, strict=True)
        )
        return f"mAP {each}; average {self.average:.4f}; {self.counts}"


@dataclass(frozen=True, slots=True)
class Matched:
    """One block of videos after matching: all that is needed of it to score it together with others.

    Attributes:
        hit: ``bool[T, N]`` over the predictions.
        ground_truth_label: ``int64[G]``, position in `label_names`.
    """

    video_ids: tuple[str, ...]
    label_names: tuple[str, ...]
    video: Ints
    label: Ints
    score: Floats
    start_seconds: Floats
    stop_seconds: Floats
    hit: Bools
    ground_truth_label: Ints
    counts: DetectionCounts


@dataclass(frozen=True, slots=True)
class DetectionMap:
    """The state of ActivityNet-style mAP; immutable: `update` and `merge` return the new state.

    Attributes:
        thresholds: tIoU thresholds, ascending.
        blocked: ids of videos that are left out on both sides.
        drop_duplicates: score repeated ground truths once (not the official tool's way).
    """

    thresholds: tuple[float, ...] = ACTIVITYNET_THRESHOLDS
    blocked: frozenset[str] = frozenset()
    drop_duplicates: bool = False
    blocks: tuple[Matched, ...] = field(default=())

    def update(self, ground_truth: Segments, predictions: Segments) -> "DetectionMap":
        """Returns the state with some videos added; all segments of a video belong into one update."""
        return replace(self, blocks=(*self.blocks, self._match(ground_truth, predictions)))

    def merge(self, other: "DetectionMap") -> "DetectionMap":
        """Returns the state of both; the settings must be the same.

        Raises:
            ValueError: the settings differ.
        """
        if replace(self, blocks=()) != replace(other, blocks=()):
            raise ValueError("detection mAP: expected states of one protocol to merge, got different settings")
        return replace(self, blocks=self.blocks + other.blocks)

    def result(self) -> DetectionScore:
        """Returns the score; bit-identical for any cut of the work by video.

        Raises:
            UsageError: a video was given in more than one update.
        """
        return score_blocks(self.blocks, self.thresholds, interpolated=True)

    def _match(self, ground_truth: Segments, predictions: Segments) -> Matched:
        ground_truth, predictions, counts = account(ground_truth, predictions, self.blocked, self.drop_duplicates)
        labels = {name: position for position, name in enumerate(ground_truth.label_names)}
        videos = {name: position for position, name in enumerate(ground_truth.video_ids)}
        all_labels = np.array([labels.setdefault(name, len(labels)) for name in predictions.label_names], np.int64)
        all_videos = np.array([videos.setdefault(name, len(videos)) for name in predictions.video_ids], np.int64)
        label = all_labels[predictions.label]
        video = all_videos[predictions.video]
        hit = match(
            ground_truth,
            predictions,
            ground_truth.video * len(labels) + ground_truth.label,
            video * len(labels) + label,
            self.thresholds,
        )
        return Matched(
            tuple(videos),
            tuple(labels),
            video,
            label,
            predictions.score,
            predictions.start_seconds,
            predictions.stop_seconds,
            hit,
            ground_truth.label,
            counts,
        )


def match(
    ground_truth: Segments,
    predictions: Segments,
    ground_truth_group: Ints,
    group: Ints,
    thresholds: tuple[float, ...],
) -> Bools:
    """Returns which predictions are hits at each threshold, ``bool[T, N]``: one hit per ground truth of the same group.

    Args:
        ground_truth_group, group: ``int64[G]``, ``int64[N]``: equal for equal video and class.
    """
    hit = np.zeros((len(thresholds), len(predictions)), np.bool_)
    found = claims(ground_truth, predictions, ground_truth_group, group, thresholds)
    for line, (rows, _) in enumerate(found):
        hit[line, rows] = True
    return hit


def claims(
    ground_truth: Segments,
    predictions: Segments,
    ground_truth_group: Ints,
    group: Ints,
    thresholds: tuple[float, ...],
) -> Iterator[tuple[Ints, Ints]]:
    """Yields, for each threshold, the predictions that are hits, ``int64[H]``, and the ground truth each one got.

    Args:
        ground_truth_group, group: ``int64[G]``, ``int64[N]``: equal for equal video and class.
    """
    # Of ground truths of equal overlap the later is preferred: pairs come in this order.
    late = np.lexsort((ground_truth.stop_seconds, ground_truth.start_seconds))[::-1]
    row, target = group_pairs(group, ground_truth_group[late])
    target = late[target]
    overlap = tiou(
        predictions.start_seconds[row],
        predictions.stop_seconds[row],
        ground_truth.start_seconds[target],
        ground_truth.stop_seconds[target],
    )
    near = np.flatnonzero(overlap >= min(thresholds, default=0.0))
    row, target, overlap = row[near], target[near], overlap[near]
    # From here on only those predictions that overlap something enough: a part of them all.
    new = np.r_[True, row[1:] != row[:-1]][: len(row)]
    rows = row[new]
    rank = rank_order(predictions.score[rows], predictions.start_seconds[rows], predictions.stop_seconds[rows])
    who, target, overlap = by_preference(np.cumsum(new) - 1, target, overlap, rank)
    for threshold in thresholds:
        good = overlap >= threshold
        winners, taken = claim(who[good], target[good], len(ground_truth))
        yield rows[rank[winners]], taken


def overlapping(
    first: Segments, other: Segments, group: Ints, other_group: Ints, measure: Callable[..., Floats] = tiou
) -> tuple[Ints, Ints, Floats]:
    """Returns ``(i, j, tIoU)`` of all pairs of a group, by i ascending, then tIoU descending, then j ascending."""
    i, j = group_pairs(group, other_group)
    overlap = measure(first.start_seconds[i], first.stop_seconds[i], other.start_seconds[j], other.stop_seconds[j])
    again = i[1:] == i[:-1]
    several = np.flatnonzero(np.r_[False, again] | np.r_[again, False])
    order = np.arange(len(i))
    # Stable sort: pairs of equal tIoU keep the order of j. Most predictions face one ground truth and need no sorting.
    order[several] = several[np.lexsort((-overlap[several], i[several]))]
    return i, j[order], overlap[order]


def account(
    ground_truth: Segments, predictions: Segments, blocked: Iterable[str], drop_duplicates: bool
) -> tuple[Segments, Segments, DetectionCounts]:
    """Returns both sides without blocked videos (and, if asked, without repeated ground truths), and the counts."""
    out = frozenset(blocked)
    met = out.intersection(ground_truth.video_ids) | out.intersection(predictions.video_ids)
    if met:
        ground_truth = ground_truth.of_videos(set(ground_truth.video_ids) - out)
        predictions = predictions.of_videos(set(predictions.video_ids) - out)
    first = first_of_equals(ground_truth)
    num_duplicates = len(ground_truth) - int(first.sum())
    if drop_duplicates:
        ground_truth = ground_truth.take(first)
    known = set(ground_truth.video_ids)
    present = np.flatnonzero(np.bincount(predictions.video, minlength=len(predictions.video_ids)))
    predicted = {predictions.video_ids[position] for position in present.tolist()}
    counts = DetectionCounts(
        num_videos=len(known),
        num_missing_videos=len(known - predicted),
        num_unknown_videos=len(predicted - known),
        num_blocked_videos=len(met),
        num_ground_truths=len(ground_truth),
        num_duplicates=num_duplicates,
        num_predictions=len(predictions),
    )
    return ground_truth, predictions, counts


def first_of_equals(segments: Segments) -> Bools:
    """Returns ``bool[N]``: False for a segment equal to an earlier one in video, class, start and stop."""
    columns = (segments.stop_seconds, segments.start_seconds, segments.label, segments.video)
    order = np.lexsort(columns)
    same = np.ones(max(len(order) - 1, 0), np.bool_)
    for column in columns:
        same &= column[order][1:] == column[order][:-1]
    first = np.ones(len(order), np.bool_)
    first[order[1:][same]] = False
    return first


_Names = Callable[[Matched], tuple[str, ...]]
_Codes = Callable[[Matched], Ints]


def score_blocks(blocks: tuple[Matched, ...], thresholds: tuple[float, ...], interpolated: bool) -> DetectionScore:
    """Returns the score of matched blocks of different videos.

    Raises:
        UsageError: a video is in more than one block.
    """
    names = [name for block in blocks for name in block.video_ids]
    videos = {name: position for position, name in enumerate(sorted(set(names)))}
    if len(videos) != len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise UsageError(f"video {twice}: expected all its segments in one update, got two; cut the work by video")
    labels = {name: position for position, name in enumerate(sorted({n for b in blocks for n in b.label_names}))}

    def codes(names_of: _Names, code: _Codes, known: dict[str, int]) -> Ints:
        parts = [np.array([known[name] for name in names_of(block)], np.int64)[code(block)] for block in blocks]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    label = codes(lambda block: block.label_names, lambda block: block.label, labels)
    truth = codes(lambda block: block.label_names, lambda block: block.ground_truth_label, labels)
    video = codes(lambda block: block.video_ids, lambda block: block.video, videos)
    score = np.concatenate([np.zeros(0), *(block.score for block in blocks)])
    start = np.concatenate([np.zeros(0), *(block.start_seconds for block in blocks)])
    stop = np.concatenate([np.zeros(0), *(block.stop_seconds for block in blocks)])
    hit = np.concatenate([np.zeros((len(thresholds), 0), np.bool_), *(b.hit for b in blocks)], axis=1)

    num_positive = np.bincount(truth, minlength=len(labels))
    order = rank_order(score, video, start, stop)
    # 16-bit integers sort by counting, which is many times faster.
    of = label[order].astype(np.int16 if len(labels) < 1 << 15 else np.int64)
    order = order[np.argsort(of, kind="stable")]
    size = np.bincount(label, minlength=len(labels))
    first = np.cumsum(size) - size
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    scored = num_positive > 0
    values = []
    for line in hit:
        at = np.sort(place[np.flatnonzero(line)])
        group = label[order[at]]
        values.append(group_average_precision(at - first[group], group, num_positive, interpolated))
    table = np.array(values, np.float64).reshape(len(thresholds), len(labels))[:, scored]
    counts = sum_counts([block.counts for block in blocks], int((~scored[label]).sum()))
    kept = tuple(name for name, position in labels.items() if scored[position])
    return DetectionScore(thresholds, kept, table, num_positive[scored], counts)


def sum_counts(parts: list[DetectionCounts], num_unknown_label: int) -> DetectionCounts:
    """Returns the counts of blocks of different videos together; which classes are unknown is only known at the end."""
    names = [name for name in DetectionCounts.__slots__ if name != "num_unknown_label"]
    sums = {name: sum(getattr(part, name) for part in parts) for name in names}
    return DetectionCounts(**sums, num_unknown_label=num_unknown_label)
