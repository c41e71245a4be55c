"""Untrimmed video classification: mAP over classes and hit@k over videos, as the ActivityNet challenge scores it.

A video may have several true classes; predictions are (video, class, score), and a class of a video counts once::

    AP of a class = interpolated average precision of all videos' predictions of that class, over its true videos
    mAP           = mean over the classes that have videos
    hit@k         = share of annotated videos with a true class among their k best scored predictions
    average hit@k = mean over annotated videos of the share of their true classes among the k best scored

A second prediction of the same class of a video is false. Videos without predictions score 0.
Ties: equal scores rank by video id ascending (AP), by class name ascending (hit@k).
Source: ActivityNet challenge toolkit, classification task.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from clipmill.pipelines.evaluation.metrics.detection import DetectionCounts, DetectionMap
from clipmill.pipelines.evaluation.metrics.detection_matching import rank_order
from clipmill.schemas.arrays import Floats, Ints
from clipmill.schemas.errors import UsageError
from clipmill.schemas.segments import Segments


@dataclass(frozen=True, slots=True)
class VideoClassificationScore:
    """The scores of untrimmed video classification.

    Attributes:
        label_names: the C classes that have videos, ascending.
        average_precision: ``float64[C]``.
        hit, average_hit: k to value.
        counts: videos scored, missing and unknown.
    """

    label_names: tuple[str, ...]
    average_precision: Floats
    hit: dict[int, float]
    average_hit: dict[int, float]
    counts: DetectionCounts

    @property
    def mean_average_precision(self) -> float:
        """The mean over classes."""
        return float(self.average_precision.mean()) if len(self.average_precision) else float("nan")

    @property
    def line(self) -> str:
        """The score line."""
        hits = [f"hit@{k} {value:.4f} (average {self.average_hit[k]:.4f})" for k, value in self.hit.items()]
        return f"mAP {self.mean_average_precision:.4f}; {', '.join(hits)}; {self.counts}"


@dataclass(frozen=True, slots=True)
class VideoClassification:
    """The state of untrimmed video classification; immutable: `update` and `merge` return the new state.

    Attributes:
        at: k of hit@k.
        blocked: ids of videos that are left out on both sides.
        ranking: the classes of a video are its one-second ground truths, and AP is that of detection.
        hits: per block, for each annotated video, the share of its classes among the k best, ``float64[V, len(at)]``.
    """

    at: tuple[int, ...] = (1, 3)
    blocked: frozenset[str] = frozenset()
    ranking: DetectionMap = field(default_factory=lambda: DetectionMap((0.5,), drop_duplicates=True))
    hits: tuple[tuple[tuple[str, ...], Floats], ...] = ()

    def update(self, ground_truth: Segments, predictions: Segments) -> "VideoClassification":
        """Returns the state with some videos added; their times play no part."""
        ground_truth, predictions = (
            side.of_videos(set(side.video_ids) - self.blocked) for side in (ground_truth, predictions)
        )
        whole = [
            replace(side, start_seconds=np.zeros(len(side)), stop_seconds=np.ones(len(side)))
            for side in (ground_truth, predictions)
        ]
        return replace(
            self,
            ranking=self.ranking.update(*whole),
            hits=(*self.hits, self._hits(ground_truth, predictions)),
        )

    def merge(self, other: "VideoClassification") -> "VideoClassification":
        """Returns the state of both.

        Raises:
            ValueError: the settings differ.
        """
        if (self.at, self.blocked) != (other.at, other.blocked):
            raise ValueError("video classification: expected states of one protocol to merge, got different settings")
        return replace(self, ranking=self.ranking.merge(other.ranking), hits=self.hits + other.hits)

    def result(self) -> VideoClassificationScore:
        """Returns the score; bit-identical for any cut of the work by video.

        Raises:
            UsageError: a video was given in more than one update.
        """
        ranked = self.ranking.result()
        names = [name for block, _ in self.hits for name in block]
        if len(set(names)) != len(names):
            raise UsageError("video classification: expected each video in one update, got one in two; cut by video")
        order = sorted(range(len(names)), key=names.__getitem__)
        share = np.concatenate([np.zeros((0, len(self.at))), *(values for _, values in self.hits)])[order]
        number = np.float64(len(names))
        with np.errstate(invalid="ignore"):
            hit, average = (share > 0).sum(axis=0) / number, share.sum(axis=0) / number
        return VideoClassificationScore(
            ranked.label_names,
            ranked.average_precision[0],
            {k: float(value) for k, value in zip(self.at, hit, strict=True)},
            {k: float(value) for k, value in zip(self.at, average, strict=True)},
            ranked.counts,
        )

    def _hits(self, ground_truth: Segments, predictions: Segments) -> tuple[tuple[str, ...], Floats]:
        labels = {name: code for code, name in enumerate(sorted({*ground_truth.label_names, *predictions.label_names}))}
        videos = {name: code for code, name in enumerate(ground_truth.video_ids)}
        pairs = np.unique(np.stack([ground_truth.video, _codes(ground_truth, labels)], axis=1), axis=0)
        label = _codes(predictions, labels)
        video = np.array([videos.get(name, -1) for name in predictions.video_ids], np.int64)[predictions.video]
        order = rank_order(predictions.score, label)
        order = order[np.argsort(video[order], kind="stable")]
        counts = np.bincount(video + 1, minlength=len(videos) + 1)
        rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        total = np.bincount(pairs[:, 0], minlength=len(videos))
        share = np.zeros((len(videos), len(self.at)))
        for column, k in enumerate(self.at):
            best = order[rank < k]
            inside = best[video[best] >= 0]
            found = np.isin(pairs @ [len(labels), 1], video[inside] * len(labels) + label[inside])
            share[:, column] = np.bincount(pairs[found, 0], minlength=len(videos)) / np.maximum(total, 1)
        annotated = total > 0
        return tuple(name for name, code in videos.items() if annotated[code]), share[annotated]


def _codes(segments: Segments, labels: dict[str, int]) -> Ints:
    return np.array([labels[name] for name in segments.label_names], np.int64)[segments.label]
