"""Annotated and predicted scores of clips."""

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.evaluation.inputs import read_predictions, read_truth
from clipmill.pipelines.evaluation.tasks.base import Sources
from clipmill.schemas.config_evaluate import PredictionsConfig, TruthConfig
from clipmill.stores.formats.records import SALIENCY, Saliency


def read_saliency(config: TruthConfig, sources: Sources) -> Saliency:
    """Returns annotated scores ``float64[clips, people]`` by query id.

    Raises:
        FormatError: the file is something else, or has no saliency scores.
    """
    return read_truth(SALIENCY, config, sources)


def read_clip_scores(config: PredictionsConfig, sources: Sources) -> dict[str, npt.NDArray[np.float64]]:
    """Returns query id to one predicted score per clip, ``float64[clips]``.

    Raises:
        FormatError: the file is something else, or has no saliency scores.
    """
    return {query: table[:, 0] for query, table in read_predictions(SALIENCY, config, sources).scores.items()}
