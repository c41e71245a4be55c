"""The YAML file of ``clipmill train`` where a model and an image network are trained together, on images."""

from typing import Any

from pydantic import Field, field_serializer, field_validator, model_validator

from clipmill.schemas.config import (
    DecodeConfig,
    ModelTrainConfig,
    SplitConfig,
    TextConfig,
    TrainingSplit,
    VideosConfig,
    WeightsConfig,
)
from clipmill.schemas.model import Model
from clipmill.schemas.recipe import Sampling


class ImageDataConfig(Model):
    """Images, and texts of them.

    Attributes:
        images: as a build's `videos`: a manifest's image files, or videos, of which the frames of `network.sampling`
            are images.
        inputs: of a model that reads texts, the file of each.
    """

    images: VideosConfig
    inputs: dict[str, TextConfig] = Field(default_factory=dict)
    split: TrainingSplit = Field(default_factory=SplitConfig)


class ImageNetworkConfig(Model):
    """The image network, as a build's `features` describe it, and how it learns beside the model.

    Attributes:
        extractor, layer, sampling, preprocess, options: as of a build's feature.
        weights: what it begins with: ``{random: seed}``, or a file.
        learning_rate: over ``loop.learning_rate``, which is the model's.
        random_crop: the crop of `preprocess` lies at a random place of what the resize leaves.
        flip: half of the images are mirrored.
        at_once: so many images go through the network together, once more when gradients are computed: it bounds
            memory. None: a worker's whole share of a batch.
        swap_patience: the model learns first, alone; after so many epochs without a smaller ``loop.select`` network and
            model change places: the first number counts for the first change, the last for all that follow. Empty: both
            learn all the time.
    """

    extractor: str
    layer: str | None = None
    weights: WeightsConfig = WeightsConfig(random=0)
    sampling: Sampling | None = None
    preprocess: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    learning_rate: float = Field(default=1.0, gt=0)
    random_crop: bool = True
    flip: bool = True
    at_once: int | None = Field(default=None, ge=1)
    swap_patience: tuple[int, ...] = ()

    @field_serializer("sampling")
    def _sampling_as_written(self, sampling: Sampling | None) -> dict[str, Any] | None:
        return None if sampling is None else sampling.model_dump(mode="json", exclude_unset=True)

    @field_validator("swap_patience")
    @classmethod
    def _whole_epochs(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if any(value < 1 for value in values):
            raise ValueError("expected epochs from 1 up, such as [1, 3]")
        return values


class ImageTrainConfig(ModelTrainConfig):
    """``clipmill train FILE`` where `data` names images. `out` is the folder of the run."""

    data: ImageDataConfig
    network: ImageNetworkConfig
    decode: DecodeConfig = Field(default_factory=DecodeConfig)

    @model_validator(mode="after")
    def _something_to_swap_by(self) -> "ImageTrainConfig":
        if self.network.swap_patience and self.loop.select == "last":
            raise ValueError("network.swap_patience waits for a smaller loss in validation: set loop.select")
        return self
