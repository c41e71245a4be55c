"""What was found of each length, as a table."""

import numpy as np

from clipmill.pipelines.evaluation.metrics.detection_hits import Hits
from clipmill.pipelines.evaluation.metrics.detection_lengths import by_length
from clipmill.pipelines.reports.blocks import Cell, Row, Table, scored


def length_table(hits: Hits, with_precision: bool = True) -> Table:
    """Returns mAP (where classes and ranks mean something) and recall for each length of ground truth."""
    bins = by_length(hits)
    rows = []
    for n in range(len(bins.num_ground_truths)):
        name = bin_name(float(bins.edges_seconds[n]), float(bins.edges_seconds[n + 1]))
        num, found = int(bins.num_ground_truths[n]), int(bins.num_found[n])
        share = found / num if num else float("nan")
        recall = Cell(f"{100 * share:.1f} %", share) if num else Cell("–")
        counts = (Cell(f"{num:,}"), Cell(f"{int(bins.num_predictions[n]):,}"))
        precision = (scored(float(bins.mean_average_precision[n])),) if with_precision else ()
        rows.append(Row(name, (*precision, recall, *counts)))
    note = "Bins hold about as many ground truths each. Recall: found by any prediction, over instances."
    if with_precision:
        note += (
            " mAP of a bin: its ground truths are what is to be found; predictions that found others, and false ones "
            "of other lengths, are left out."
        )
    head = (
        "length of ground truth",
        *(("mAP",) if with_precision else ()),
        "recall",
        "ground truths",
        "predictions so long",
    )
    return Table(f"By length, tIoU {hits.threshold:g}", head, (("", tuple(rows)),), note)


def bin_name(low: float, high: float) -> str:
    """Returns ``up to 1.5 s``, ``1.5 to 3 s`` or ``over 30 s``."""
    if low <= 0:
        return "all" if np.isinf(high) else f"up to {high:g} s"
    return f"over {low:g} s" if np.isinf(high) else f"{low:g} to {high:g} s"
