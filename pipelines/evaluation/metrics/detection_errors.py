"""Why predictions are incorrect: the false positives of temporal detection by kind, and the confusion of classes.

Of each class with G ground truths the k G best-ranked predictions are read (top-kG), at tIoU threshold t. A prediction
is, in this order of precedence::

    true positive     it found a ground truth (matched as the protocol matches)
    double detection  tIoU >= t with a ground truth of its class, which another prediction found
    wrong label       tIoU >= t with a ground truth of another class
    localisation      t > tIoU >= 0.1 with a ground truth of its class
    confusion         t > tIoU >= 0.1 with a ground truth of another class
    background        tIoU < 0.1 with every ground truth of its video

so each prediction is in one category. ``mAP without`` a category is the mAP of the top-kG predictions with those of
that category taken out, everything else kept: what there is to gain by curing it.
Source: H. Alwassel, F. Caba Heilbron, V. Escorcia, B. Ghanem, Diagnosing Error in Temporal Action Detectors (DETAD),
ECCV 2018; from memory, without its code at hand. The precedence where a prediction overlaps several ground truths is
ours; DETAD normalises its mAP by the average number of ground truths, ours is not normalised. Under THUMOS14's protocol
``tIoU > t`` stands for ``tIoU >= t``, and predictions ignored in ambiguous intervals are in no category.
"""

from dataclasses import dataclass

import numpy as np

from clipmill.pipelines.evaluation.metrics.detection_hits import NOTHING, Hits, average_precision
from clipmill.pipelines.evaluation.metrics.detection_matching import by_preference, claim, group_pairs
from clipmill.schemas.arrays import Floats, Ints

CATEGORIES = ("true positive", "double detection", "wrong label", "localisation", "confusion", "background")
MINIMUM_TIOU = 0.1
TIMES_GROUND_TRUTHS = 10


@dataclass(frozen=True, slots=True)
class FalsePositives:
    """The predictions by category, and what each category costs.

    Attributes:
        threshold: tIoU of the breakdown.
        counts: ``int64[K, 6]``, predictions among the top-kG of all classes, for k = 1, 2, ..., K, per category.
        category: ``int64[N]``, of each of the N predictions, -1 beyond the top-KG, for ignored ones and for classes
            without ground truth.
        mean_average_precision: of the top-KG predictions.
        without: ``float64[6]``, the same after taking out a category; NaN for true positives.
    """

    threshold: float
    counts: Ints
    category: Ints
    mean_average_precision: float
    without: Floats


def false_positives(
    hits: Hits, times_ground_truths: int = TIMES_GROUND_TRUTHS, minimum_tiou: float = MINIMUM_TIOU
) -> FalsePositives:
    """Returns the breakdown of the top-kG predictions for k up to `times_ground_truths`.

    Args:
        minimum_tiou: overlap below which a prediction is background.
    """
    rows, label, place = hits.best(times_ground_truths)
    category = np.full(len(hits.predictions), NOTHING, np.int64)
    category[rows] = categories(hits, rows, minimum_tiou)
    # The k at which a prediction comes in: rank 0 to G - 1 with k = 1.
    step = place // hits.num_ground_truths[label]
    counts = np.bincount(step * len(CATEGORIES) + category[rows], minlength=times_ground_truths * len(CATEGORIES))
    table = counts.reshape(times_ground_truths, len(CATEGORIES)).cumsum(axis=0)
    inside = category != NOTHING
    without = np.array([_mean(average_precision(hits, inside & (category != code))) for code in range(len(CATEGORIES))])
    without[0] = np.nan
    return FalsePositives(hits.threshold, table, category, _mean(average_precision(hits, inside)), without)


def categories(hits: Hits, rows: Ints, minimum_tiou: float = MINIMUM_TIOU) -> Ints:
    """Returns the category of the predictions at `rows`, ``int64[len(rows)]``, ignored ones among them too."""
    who, which = group_pairs(hits.predictions.video[rows], hits.ground_truth.video)
    overlap = hits.overlaps(rows[who], which)
    same = hits.predictions.label[rows[who]] == hits.ground_truth.label[which]
    own, other = np.zeros(len(rows)), np.zeros(len(rows))
    np.maximum.at(own, who[same], overlap[same])
    np.maximum.at(other, who[~same], overlap[~same])
    return np.select(
        [
            hits.is_hit[rows],
            hits.reaches(own),
            hits.reaches(other),
            own >= minimum_tiou,
            other >= minimum_tiou,
        ],
        [0, 1, 2, 3, 4],
        5,
    ).astype(np.int64)


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def class_confusion(hits: Hits, times_ground_truths: int = 1) -> Ints:
    """Returns how ground truths were classified by what lies where they are, ``int64[C, C + 1]``: true by predicted.

    The top-kG predictions of every class are matched in time alone: best-ranked first, each takes the free ground truth
    of its video, of any class, that it overlaps most (tIoU as the protocol asks; of equal overlaps, one of its own
    class). The last column counts the ground truths nobody took. Scores are compared across classes here, which AP
    never does. Ours: k = 1.
    """
    label = hits.predictions.label
    num_labels = len(hits.predictions.label_names)
    chosen = np.zeros(len(label), np.bool_)
    chosen[hits.best(times_ground_truths)[0]] = True
    rows = hits.order[chosen[hits.order]]
    who, which = group_pairs(hits.predictions.video[rows], hits.ground_truth.video)
    overlap = hits.overlaps(rows[who], which)
    good = hits.reaches(overlap)
    who, which, overlap = who[good], which[good], overlap[good]
    foreign = label[rows[who]] != hits.ground_truth.label[which]
    first = np.lexsort((which, foreign, who))
    who, which, overlap = who[first], which[first], overlap[first]
    new = np.r_[True, who[1:] != who[:-1]][: len(who)]
    names = who[new]
    ranked, target, _ = by_preference(np.cumsum(new) - 1, which, overlap, np.arange(len(names)))
    winners, taken = claim(ranked, target, len(hits.ground_truth))
    answer = np.full(len(hits.ground_truth), num_labels, np.int64)
    answer[taken] = label[rows[names[winners]]]
    table = np.bincount(hits.ground_truth.label * (num_labels + 1) + answer, minlength=num_labels * (num_labels + 1))
    return table.reshape(num_labels, num_labels + 1)
