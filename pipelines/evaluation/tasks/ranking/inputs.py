"""Judged and ranked documents."""

from collections.abc import Mapping

from clipmill.pipelines.evaluation.inputs import read_predictions, read_truth
from clipmill.pipelines.evaluation.tasks.base import Sources
from clipmill.schemas.config_evaluate import PredictionsConfig, TruthConfig
from clipmill.schemas.errors import FormatError, describe
from clipmill.stores.formats.records import JUDGEMENTS, RANKINGS


def read_qrels(config: TruthConfig, sources: Sources) -> Mapping[str, Mapping[str, int]]:
    """Returns query to document to judgement.

    Raises:
        FormatError: the file is something else.
    """
    return read_truth(JUDGEMENTS, config, sources).judgements


def read_run(config: PredictionsConfig, sources: Sources) -> Mapping[str, Mapping[str, float]]:
    """Returns query to document to score.

    Raises:
        FormatError: the file is something else, or has no scores.
    """
    scores = read_predictions(RANKINGS, config, sources).scores
    if scores is None:
        remedy = "give a run with scores"
        raise FormatError(describe("predictions file", str(config.file), "scores of documents", "their order", remedy))
    return scores
