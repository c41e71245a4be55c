"""The YAML files of ``task: ranking`` and ``task: landmarks``."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from clipmill.schemas.config_evaluate import (
    PredictionTaskConfig,
)


class RankingConfig(PredictionTaskConfig):
    """``task: ranking``: trec_eval's measures of runs against qrels.

    Attributes:
        measures: names as trec_eval prints them; ``official`` (its default set) and ``all`` (``-m all_trec``) are sets.
        complete: score judged queries without results as zeros (``-c``).
        relevance_level: least judgement that is relevant (``-l``).
        max_documents: read so many documents of a query (``-M``).
        judged_only: leave out documents without a judgement (``-J``).
        ties: documents of equal score rank by id, ``descending`` (trec_eval) or ``ascending`` (clipmill's retrieval).
        precision: scores are compared as ``double`` (trec_eval since its pull request 38) or ``single`` (before it),
            where those that differ by less than about 1e-7 of their size may be equal.
    """

    task: Literal["ranking"] = "ranking"
    measures: tuple[str, ...] = Field(default=("official",), min_length=1)
    complete: bool = False
    relevance_level: int = Field(default=1, ge=1)
    max_documents: int | None = Field(default=None, ge=1)
    judged_only: bool = False
    ties: Literal["descending", "ascending"] = "descending"
    precision: Literal["double", "single"] = "double"


class LandmarksConfig(PredictionTaskConfig):
    """``task: landmarks``: Oxford and Paris, old and revisited, with junk images.

    Attributes:
        protocols: of the revisited ground truth; the old one has ``good`` alone (good and ok are correct). None: all.
        ap: the Oxford tool's trapezoids, or rectangles (trec_eval, Stanford I2V).
        cutoffs: k of mP@k.
        query_image: where the query's own image stands in the collection (old Oxford and Paris: among the good ones),
            it is a ``positive`` like any other, as the official tool counts, or ``junk``.
        ties: images of equal score rank by id.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"at": "cutoffs"}

    task: Literal["landmarks"] = "landmarks"
    protocols: tuple[Literal["easy", "medium", "hard", "good"], ...] | None = None
    ap: Literal["trapezoid", "rectangle"] = "trapezoid"
    cutoffs: tuple[int, ...] = (1, 5, 10)
    query_image: Literal["positive", "junk"] = "positive"
    ties: Literal["ascending", "descending"] = "ascending"
