"""``task: counting``, as an installed package brings it."""

from typing import TYPE_CHECKING, Literal

from clipmill.pipelines.evaluation.checks import check_ids
from clipmill.pipelines.evaluation.inputs import bootstrap_of, read_predictions, read_truth, run_names
from clipmill.pipelines.evaluation.tasks.base import Evaluation, Sources, Task
from clipmill.pipelines.evaluation.tasks.result import TaskScore
from clipmill.schemas.config_evaluate import PredictionsConfig, PredictionTaskConfig
from clipmill.schemas.fingerprint import fingerprint
from clipmill.stores.formats.ids import match_ids
from clipmill.stores.formats.reader import ReadRequest
from counting.inputs import COUNTS, Counts, read_counts
from counting.score import CountingEvaluation, evaluate_counts

if TYPE_CHECKING:
    from clipmill.pipelines.evaluation.tasks.page import TaskReport


class CountingConfig(PredictionTaskConfig):
    """``task: counting``.

    Attributes:
        least: videos with fewer annotated repetitions are left out.
    """

    task: Literal["counting"] = "counting"
    least: int = 1


def evaluate(config: CountingConfig, sources: Sources) -> Evaluation[CountingEvaluation]:
    """Returns off-by-one and mean absolute error of each set of predicted counts."""
    counts = read_truth(COUNTS, config.ground_truth, sources).counts
    truth = {video: count for video, count in counts.items() if count >= config.least}
    found = []
    for name, item in zip(run_names(config.predictions), config.predictions, strict=True):
        predicted = read_predictions(COUNTS, item, sources).counts
        notes = check_ids(match_ids(truth, predicted, "the ground truth", "the predictions"))
        found.append(evaluate_counts(name, truth, predicted, config, notes))
    data = {"fingerprint": fingerprint(sorted(truth.items())), "num_videos": len(truth)}
    score = TaskScore(
        config.task, {"least": config.least}, data, tuple(item.run for item in found), bootstrap_of(config, 2000)
    )
    return Evaluation(score, tuple(found))


def report(evaluation: Evaluation[CountingEvaluation], config: CountingConfig, sources: Sources) -> "TaskReport":
    """Returns what the page shows; imported when there is to be a page."""
    from counting.report import counting_report

    return counting_report(evaluation)


def predict(item: PredictionsConfig, config: CountingConfig) -> Counts:
    """Returns what a run counted, for ``predictions: {run: FOLDER}``; here it left a file, a model would be loaded."""
    return read_counts(ReadRequest(f"{item.run}/counts.csv", "predictions"))


TASK = Task(
    "counting",
    "off-by-one and mean absolute error of counted repetitions",
    CountingConfig,
    evaluate,
    report,
    predict,
)
