"""The YAML file of ``clipmill evaluate`` with ``task: scene_retrieval``."""

from typing import Literal

from pydantic import Field

from clipmill.schemas.config_evaluate import PredictionTaskConfig


class SceneRetrievalConfig(PredictionTaskConfig):
    """``task: scene_retrieval``: which clips show what a query image shows, and when (Stanford I2V).

    Attributes:
        protocol: ``scenes``: mAP and mP@1 of ranked clips; ``seconds``: temporal refinement, how well the seconds
            reported inside the clips agree with the annotated ones.
        cutoff: ``scenes``: distinct clips of a list that count.
        num_scenes: ``scenes``: clips in the collection; chance needs it. None: no chance baseline.
        max_seconds: ``seconds``: of ranked keyframes, how many of a clip count; None: all.
        tolerance_seconds: ``seconds``: by how much annotated stretches are longer on both sides.
    """

    task: Literal["scene_retrieval"] = "scene_retrieval"
    protocol: Literal["scenes", "seconds"] = "scenes"
    cutoff: int = Field(default=100, ge=1)
    num_scenes: int | None = Field(default=None, ge=1)
    max_seconds: int | None = Field(default=50, ge=1)
    tolerance_seconds: int = Field(default=1, ge=0)
