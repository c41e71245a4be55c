"""Detection by the length of what is to be found.

Bins hold as many ground truths each as whole-number edges allow. Within a bin, per class::

    AP of a bin = AP with the bin's ground truths as the positives, over the predictions that found one of them and
                  the false ones that are themselves of the bin's length; hits on other lengths are left out

so a bin is not punished for what another bin finds. Recall is over instances: found ground truths / ground truths.
Source: ours; leaving out what belongs to another size follows COCO's evaluation by area (T.-Y. Lin et al., 2014).
"""

from dataclasses import dataclass

import numpy as np

from clipmill.pipelines.evaluation.metrics.detection_hits import NOTHING, Hits, average_precision
from clipmill.schemas.arrays import Floats, Ints
from clipmill.schemas.segments import Segments

NUM_BINS = 5


@dataclass(frozen=True, slots=True)
class LengthBins:
    """What was found of each length.

    Attributes:
        edges_seconds: ``float64[B + 1]``; a bin is longer than its first edge and at most as long as its second; the
            first is 0 (which the first bin includes) and the last infinite.
        num_ground_truths, num_found: ``int64[B]``.
        num_predictions: ``int64[B]``, by their own length.
        mean_average_precision: ``float64[B]``, over the classes with ground truth in the bin; NaN for an empty bin.
    """

    edges_seconds: Floats
    num_ground_truths: Ints
    num_found: Ints
    num_predictions: Ints
    mean_average_precision: Floats


def length_edges(ground_truth: Segments, num_bins: int = NUM_BINS) -> Floats:
    """Returns edges in seconds, of two significant digits, that split the ground truths evenly: ``float64[B + 1]``."""
    length = ground_truth.stop_seconds - ground_truth.start_seconds
    if not len(length):
        return np.array([0.0, np.inf])
    inner = np.quantile(length, np.arange(1, num_bins) / num_bins)
    rounded = sorted({float(f"{value:.2g}") for value in inner.tolist() if value > 0})
    return np.array([0.0, *rounded, np.inf])


def length_codes(segments: Segments, edges_seconds: Floats) -> Ints:
    """Returns the bin of each segment, ``int64[N]``."""
    length = segments.stop_seconds - segments.start_seconds
    return np.maximum(np.searchsorted(edges_seconds, length, "left") - 1, 0)


def by_length(hits: Hits, edges_seconds: Floats | None = None) -> LengthBins:
    """Returns what was found of each length, in bins of `edges_seconds` (default: `length_edges`)."""
    edges = length_edges(hits.ground_truth) if edges_seconds is None else edges_seconds
    num_bins = len(edges) - 1
    truth, own = length_codes(hits.ground_truth, edges), length_codes(hits.predictions, edges)
    # A hit belongs to the bin of what it found, whatever its own length.
    belongs = own.copy()
    belongs[hits.is_hit] = truth[hits.target[hits.is_hit]]
    values = np.full(num_bins, np.nan)
    for code in range(num_bins):
        each = average_precision(hits, belongs == code, truth == code)
        known = each[~np.isnan(each)]
        values[code] = known.mean() if len(known) else np.nan
    return LengthBins(
        edges,
        np.bincount(truth, minlength=num_bins),
        np.bincount(truth[hits.found_by != NOTHING], minlength=num_bins),
        np.bincount(own, minlength=num_bins),
        values,
    )
