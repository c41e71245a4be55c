"""Average recall against the average number of proposals (AR@AN) and the area below it.

Of the P proposals of all videos together, each of V annotated videos may use the share that brings the average to AN::

    ratio        = max_average * V / P                        of a video's n proposals, the best int(n * ratio) are read
    recall(t, x) = ground truths with tIoU >= t to one of the first int(m * x) of their video's m read proposals, of all
    AR(x)        = mean over thresholds t;     AN(x) = x * (proposals read) / V        x = 1 %, 2 %, ... 100 % of
    max_average area         = integral of AR over AN by trapezoids, divided by the largest AN     printed as "AUC",
    in percent

So a video with more proposals contributes more of them; recall is over instances, not a mean over videos or classes;
one proposal may serve several ground truths; labels play no part. Proposals of videos without annotations enter P
alone; annotated videos without proposals keep their ground truths in the denominator.
Ties: equal scores rank by start, then stop, ascending (the official tool's sort is unstable).
Source: ActivityNet challenge toolkit, proposal task.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from clipmill.pipelines.evaluation.metrics.detection import (
    ACTIVITYNET_THRESHOLDS,
    DetectionCounts,
    account,
    sum_counts,
)
from clipmill.pipelines.evaluation.metrics.detection_matching import group_pairs, rank_order, tiou
from clipmill.schemas.arrays import Floats, Ints
from clipmill.schemas.errors import UsageError
from clipmill.schemas.segments import Segments


@dataclass(frozen=True, slots=True)
class ProposalScore:
    """AR@AN of a set of proposals.

    Attributes:
        thresholds: T tIoU thresholds.
        average_number: ``float64[100]``, AN: proposals per annotated video.
        recall: ``float64[T, 100]``.
        counts: what was scored and what was left out.
    """

    thresholds: tuple[float, ...]
    average_number: Floats
    recall: Floats
    counts: DetectionCounts

    @property
    def average_recall(self) -> Floats:
        """``float64[100]``: AR, the mean of recall over thresholds."""
        return np.asarray(self.recall.mean(axis=0), np.float64)

    @property
    def area(self) -> float:
        """The area under AR against AN, divided by the largest AN: in [0, 1]. NaN without proposals or ground truth."""
        return float(np.trapezoid(self.average_recall, self.average_number) / self.average_number[-1])

    def at(self, average_number: float) -> float:
        """Returns AR@AN, between the points of the curve by a straight line (AR@100 of the ActivityNet challenge)."""
        return float(np.interp(average_number, self.average_number, self.average_recall))

    @property
    def line(self) -> str:
        """The score line."""
        return (
            f"area {self.area:.4f} up to AN {self.average_number[-1]:.1f}; AR there {self.average_recall[-1]:.4f}; "
            f"{self.counts}"
        )


@dataclass(frozen=True, slots=True)
class RankedVideos:
    """One block of videos: for each ground truth, how far one has to read its video's proposals to find it.

    Attributes:
        num_proposals: ``int64[V]``, per annotated video.
        video: ``int64[G]``, position of each ground truth's video among the V.
        first_rank: ``int64[T, G]``, 0-based rank of the first proposal with ``tIoU >= t``; a huge number where none is.
        num_all_proposals: including those of videos without annotations.
    """

    video_ids: tuple[str, ...]
    num_proposals: Ints
    video: Ints
    first_rank: Ints
    num_all_proposals: int
    counts: DetectionCounts


_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class ProposalRecall:
    """The state of AR@AN; immutable: `update` and `merge` return the new state.

    Attributes:
        thresholds: tIoU thresholds.
        max_average_number: the largest AN; None: as many as there are (the challenge: 100).
        blocked: ids of videos that are left out on both sides.
    """

    thresholds: tuple[float, ...] = ACTIVITYNET_THRESHOLDS
    max_average_number: float | None = 100.0
    blocked: frozenset[str] = frozenset()
    blocks: tuple[RankedVideos, ...] = field(default=())

    def update(self, ground_truth: Segments, proposals: Segments) -> "ProposalRecall":
        """Returns the state with some videos added; all segments of a video belong into one update."""
        ground_truth, proposals, counts = account(ground_truth, proposals, self.blocked, drop_duplicates=False)
        proposals = proposals.take(rank_order(proposals.score, proposals.start_seconds, proposals.stop_seconds))
        position = {name: code for code, name in enumerate(ground_truth.video_ids)}
        video = np.array([position.get(name, -1) for name in proposals.video_ids], np.int64)[proposals.video]
        inside = video >= 0
        num_proposals = np.bincount(video[inside], minlength=len(position))
        by_video = np.argsort(video, kind="stable")
        start_of = np.cumsum(num_proposals) - num_proposals
        rank = np.empty(len(video), np.int64)
        rank[by_video] = np.arange(len(video)) - int((~inside).sum())
        rank[inside] -= start_of[video[inside]]
        who, which = group_pairs(ground_truth.video, video)
        overlap = tiou(
            ground_truth.start_seconds[who],
            ground_truth.stop_seconds[who],
            proposals.start_seconds[which],
            proposals.stop_seconds[which],
        )
        first_rank = np.full((len(self.thresholds), len(ground_truth)), _NEVER)
        for row, threshold in enumerate(self.thresholds):
            good = overlap >= threshold
            np.minimum.at(first_rank[row], who[good], rank[which[good]])
        block = RankedVideos(
            ground_truth.video_ids, num_proposals, ground_truth.video, first_rank, len(proposals), counts
        )
        return replace(self, blocks=(*self.blocks, block))

    def merge(self, other: "ProposalRecall") -> "ProposalRecall":
        """Returns the state of both; the settings must be the same.

        Raises:
            ValueError: the settings differ.
        """
        if replace(self, blocks=()) != replace(other, blocks=()):
            raise ValueError("AR@AN: expected states of one protocol to merge, got different settings")
        return replace(self, blocks=self.blocks + other.blocks)

    def result(self) -> ProposalScore:
        """Returns the score; bit-identical for any cut of the work by video.

        Raises:
            UsageError: a video was given in more than one update.
        """
        names = [name for block in self.blocks for name in block.video_ids]
        if len(set(names)) != len(names):
            twice = next(name for index, name in enumerate(names) if name in names[:index])
            raise UsageError(f"video {twice}: expected all its segments in one update, got two; cut the work by video")
        num_proposals = np.concatenate([np.zeros(0, np.int64), *(block.num_proposals for block in self.blocks)])
        offsets = np.cumsum([0, *(len(block.video_ids) for block in self.blocks)])
        of = [block.video + offset for block, offset in zip(self.blocks, offsets[:-1], strict=True)]
        video = np.concatenate([np.zeros(0, np.int64), *of])
        empty = np.zeros((len(self.thresholds), 0), np.int64)
        first_rank = np.concatenate([empty, *(block.first_rank for block in self.blocks)], axis=1)
        num_all = sum(block.num_all_proposals for block in self.blocks)
        average_number, read = self._numbers_read(num_proposals[np.unique(video)], num_all, num_proposals)
        found = (first_rank[:, :, None] < read.T[video][None]).sum(axis=1) if len(video) else np.zeros(read.shape[0])
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = np.broadcast_to(found / np.float64(len(video)), (len(self.thresholds), len(average_number)))
        counts = sum_counts([block.counts for block in self.blocks], 0)
        return ProposalScore(self.thresholds, average_number, recall, counts)

    def _numbers_read(self, annotated: Ints, num_all: int, num_proposals: Ints) -> tuple[Floats, Ints]:
        # The official expressions, in their order: int() of them turns a rounding error into a proposal more or less.
        num_videos = len(annotated)
        if num_videos == 0 or num_all == 0:
            return np.full(100, np.nan), np.zeros((100, len(num_proposals)), np.int64)
        largest = self.max_average_number
        if largest is None:
            largest = float(num_all) / num_videos
        ratio = largest * float(num_videos) / num_all
        kept = np.minimum((num_proposals * ratio).astype(np.int64), num_proposals)
        num_read = int(np.minimum((annotated * ratio).astype(np.int64), annotated).sum())
        if num_read == 0:
            return np.full(100, np.nan), np.zeros((100, len(num_proposals)), np.int64)
        share = np.arange(1, 101) / 100.0 * (largest * float(num_videos) / num_read)
        read = np.minimum((kept[None] * share[:, None]).astype(np.int64), kept[None])
        return share * (float(num_read) / num_videos), read
