"""The YAML file of ``clipmill evaluate`` with ``task: scene_retrieval``."""

from typing import Annotated, Literal

from pydantic import Field

from clipmill.schemas.config_evaluate import PredictionTaskConfig


class SceneRetrievalConfig(PredictionTaskConfig):
    """``task: scene_retrieval``: which clips show what a query image shows, and when, or which frame it is.

    Attributes:
        protocol: ``scenes``: mAP and mP@1 of ranked clips (Stanford I2V); ``seconds``: temporal refinement: how well
            the seconds reported inside the clips agree with those annotated; ``frames``: the first video, shot and
            frame that were found of an image whose frame is known.
        cutoff: ``scenes``: distinct clips of a list that count.
        release: of Stanford I2V; its number of clips is that of the collection, and a ground truth with other numbers
            of queries and clips than the release's is refused. None: not checked.
        num_scenes: ``scenes``: clips in the collection; chance needs it. None: the release's, or no chance baseline.
        scene_separator: ``scenes``: what is ranked are frames or shots of clips, named ``<clip><separator><frame>``; a
            clip has the place of its first, which is that of its best score. None: clips are ranked.
        max_seconds: ``seconds``: of ranked keyframes, how many of a clip count; None: all.
        tolerance_seconds: ``seconds``: by how much annotated stretches are longer on both sides.
        tolerances: ``frames``: seconds within which a frame counts as found.
    """

    task: Literal["scene_retrieval"] = "scene_retrieval"
    protocol: Literal["scenes", "seconds", "frames"] = "scenes"
    cutoff: int = Field(default=100, ge=1)
    release: Literal["full", "600k", "light"] | None = None
    num_scenes: int | None = Field(default=None, ge=1)
    scene_separator: str | None = Field(default=None, min_length=1)
    max_seconds: int | None = Field(default=50, ge=1)
    tolerance_seconds: int = Field(default=1, ge=0)
    tolerances: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = Field(
        default=(0.0, 0.5, 1.0), min_length=1
    )
