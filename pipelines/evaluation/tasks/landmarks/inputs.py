"""Ground truth and rankings of landmark images."""

from clipmill.pipelines.evaluation.inputs import read_predictions, read_truth
from clipmill.pipelines.evaluation.tasks.base import Sources
from clipmill.schemas.config_evaluate import PredictionsConfig, TruthConfig
from clipmill.schemas.config_ranking import LandmarksConfig
from clipmill.stores.formats.records import LANDMARKS, RANKINGS, LandmarkTruth


def read_landmark_truth(config: TruthConfig, sources: Sources) -> LandmarkTruth:
    """Returns the ground truth of Oxford or Paris, old (a folder) or revisited.

    Raises:
        FormatError: the file is something else.
    """
    return read_truth(LANDMARKS, config, sources)


def read_landmark_rankings(
    item: PredictionsConfig, truth: LandmarkTruth, config: LandmarksConfig, sources: Sources
) -> dict[str, list[str]]:
    """Returns query to image names, best first; images of equal score in a TREC run rank by name.

    Raises:
        FormatError: the file is something else.
    """
    return read_predictions(RANKINGS, item, sources, truth=truth).ordered(config.ties)
