"""The YAML file of ``clipmill train`` where a network is trained on the frames of videos."""

from typing import Any

from pydantic import Field, field_serializer, model_validator

from clipmill.schemas.config import (
    DecodeConfig,
    SplitConfig,
    TrainerConfig,
    TrainingSplit,
    VideosConfig,
    WeightsConfig,
)
from clipmill.schemas.config_truth import TruthConfig
from clipmill.schemas.model import LocalPath, Model
from clipmill.schemas.recipe import Sampling


class VideoDataConfig(Model):
    """Videos, and what is annotated of them.

    Attributes:
        annotations: a file of segments with classes, in any format that ``clipmill evaluate`` takes as ground truth;
            their times count from the first frame that is shown. Without one, videos are clips of the class that
            `videos` gives them.
    """

    videos: VideosConfig
    annotations: TruthConfig | None = None
    split: TrainingSplit = Field(default_factory=SplitConfig)


class LearnerConfig(Model):
    """The network that is trained: an extractor, as a build's `features` describe it, and how it learns.

    Attributes:
        name: of an extractor that can be trained.
        weights: what it begins with: ``{random: seed}``, or a file of its own.
        sampling, preprocess, options: as of a build's feature; with these its rows are made again.
        training: options of the training, see the extractor's page in docs/models.
    """

    name: str
    weights: WeightsConfig = WeightsConfig(random=0)
    sampling: Sampling | None = None
    preprocess: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)

    @field_serializer("sampling")
    def _sampling_as_written(self, sampling: Sampling | None) -> dict[str, Any] | None:
        return None if sampling is None else sampling.model_dump(mode="json", exclude_unset=True)


class VideoLoopConfig(Model):
    """Stochastic gradient descent with momentum. What is left out is as the network's publication has it.

    Attributes:
        batch: clips or buffers of one step, over all workers together.
        at_once: of a worker's share, so many go through the network together, and their gradients are added up: it
            bounds memory. None: all. Where batch norm learns, it takes the mean of those that go together.
        learning_rate: of weights; a network's parts may have multiples of it.
        milestones, gamma: after so many epochs the learning rate is multiplied by `gamma`.
        least_learning_rate: the milestones do not lower it further.
        max_gradient_norm: the gradients of a step that are longer, all together, are shortened to it; None: never.
        select: the epoch a run is used by: the ``last``, or the one whose loss of this name (``total``, of clips also
            ``error``) is least on the validation split.
        patience: the training ends after so many epochs without a smaller loss `select`; None: never.
        device, threads, checkpoint_every_epochs, keep_checkpoints: as of other trainings.
    """

    epochs: int = Field(default=8, ge=1)
    batch: int = Field(default=1, ge=1)
    at_once: int | None = Field(default=None, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    milestones: tuple[int, ...] = ()
    gamma: float = Field(default=0.1, gt=0)
    least_learning_rate: float = Field(default=0.0, ge=0)
    max_gradient_norm: float | None = Field(default=None, gt=0)
    select: str = "last"
    patience: int | None = Field(default=None, ge=1)
    seed: int = 0
    checkpoint_every_epochs: int = Field(default=1, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    device: str = "auto"
    threads: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _keys_fit_each_other(self) -> "VideoLoopConfig":
        if self.patience is not None and self.select == "last":
            raise ValueError("patience waits for a smaller loss on the validation split: set select, such as total")
        return self


class LookAheadConfig(DecodeConfig):
    """How frames are decoded while the network is busy.

    Attributes:
        look_ahead: clips or buffers, beyond the one being decoded, that may wait in memory (ours).
    """

    look_ahead: int = Field(default=2, ge=1)


class VideoTrainConfig(Model):
    """``clipmill train FILE`` where `data` names videos. `out` is the folder of the run."""

    data: VideoDataConfig
    model: LearnerConfig
    loop: VideoLoopConfig = Field(default_factory=VideoLoopConfig)
    decode: LookAheadConfig = Field(default_factory=LookAheadConfig)
    trainer: TrainerConfig = Field(default_factory=TrainerConfig)
    out: LocalPath
    resume: bool = True

    @field_serializer("loop")
    def _loop_as_written(self, loop: VideoLoopConfig) -> dict[str, Any]:
        # A default filled in would read as a wish, and come before the network's own value.
        return loop.model_dump(mode="json", exclude_unset=True)
