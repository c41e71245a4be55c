"""The page of ``task: counting``: how far off the counts are."""

import numpy as np

from clipmill.pipelines.evaluation.tasks.base import Evaluation
from clipmill.pipelines.evaluation.tasks.histograms import histograms
from clipmill.pipelines.evaluation.tasks.page import TaskReport
from clipmill.pipelines.reports.blocks import Charts, Section
from counting.score import CountingEvaluation


def counting_report(evaluation: Evaluation[CountingEvaluation]) -> TaskReport:
    """Returns the report; its chart is about the first set of predictions."""
    first = evaluation.evaluated[0]
    gaps = {"videos": np.array([first.predicted.get(video, 0.0) - count for video, count in first.truth.items()])}
    chart = histograms("Predicted minus counted", "repetitions", gaps, "share of videos")
    return TaskReport(
        title=f"Counting: {', '.join(run.name for run in evaluation.score.runs)}",
        subtitle=f"repetitions in {len(first.truth):,} videos",
        score=evaluation.score,
        tiles=("obo", "mae"),
        columns=first.run.shown,
        names={"obo": "off by one at most", "mae": "mean absolute error"},
        sections=(Section("errors", "Errors", (Charts((chart,)),)),),
        explained="Off by one at most: share of videos. Mean absolute error: as a share of the annotated count.",
    )
