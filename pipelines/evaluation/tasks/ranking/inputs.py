"""Judged and ranked documents."""

from collections.abc import Mapping

from clipmill.pipelines.evaluation.inputs import read_predictions, read_truth
from clipmill.pipelines.evaluation.tasks.base import Sources
from clipmill.schemas.config_evaluate import PredictionsConfig, TruthConfig
from clipmill.stores.formats.records import JUDGEMENTS, RANKINGS


def read_qrels(config: TruthConfig, sources: Sources) -> Mapping[str, Mapping[str, int]]:
    """Returns query to document to judgement.

    Raises:
        FormatError: the file is something else.
    """
    return read_truth(JUDGEMENTS, config, sources).judgements


def read_run(config: PredictionsConfig, sources: Sources) -> Mapping[str, Mapping[str, float]]:
    """Returns query to document to score; where only their order is known, to numbers that fall in that order.

    Raises:
        FormatError: the file is something else.
    """
    ranked = read_predictions(RANKINGS, config, sources)
    if ranked.scores is not None:
        return ranked.scores
    return {
        query: {document: float(len(names) - place) for place, document in enumerate(names)}
        for query, names in (ranked.order or {}).items()
    }
