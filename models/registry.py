"""The table of models that can be trained on stored features: name to options and module."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from clipmill.models.map_ivr import MapIvr, MapIvrOptions
from clipmill.models.scaling import Kind
from clipmill.schemas.errors import UsageError, describe, near
from clipmill.schemas.model import Model, validate


class RetrievalModel(Protocol):
    """A torch module that learns image-to-video retrieval from pairs of vectors. `MapIvr` documents each member."""

    image_dim: int
    video_dim: int
    num_labels: int

    @property
    def scaling(self) -> Kind: ...

    @property
    def noise_dim(self) -> int: ...

    @property
    def combined(self) -> Mapping[str, float]: ...

    def losses(self, image: Tensor, video: Tensor, label: Tensor, noise: Tensor) -> Mapping[str, Tensor]: ...

    def spaces(self) -> tuple[str, ...]: ...

    def embed_images(self, image: Tensor) -> Mapping[str, Tensor]: ...

    def embed_videos(self, video: Tensor) -> Mapping[str, Tensor]: ...

    # Of nn.Module:
    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any: ...


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model: its options class and what makes the module of (options, image_dim, video_dim, num_labels)."""

    options: type[Model]
    build: Callable[[Any, int, int, int], RetrievalModel]


MODELS: Mapping[str, ModelEntry] = {"map_ivr": ModelEntry(MapIvrOptions, MapIvr)}


def entry(name: str) -> ModelEntry:
    """Returns the model called `name`.

    Raises:
        UsageError: there is none; the message lists near names.
    """
    if name not in MODELS:
        raise UsageError(describe("model", name, "a known name", "an unknown one", near(name, MODELS)))
    return MODELS[name]


def resolve_options(name: str, given: Mapping[str, Any]) -> Model:
    """Returns the validated options of the model `name`, defaults filled in.

    Raises:
        UsageError: no such model.
        ConfigError: an option is unknown or does not fit.
    """
    return validate(entry(name).options, dict(given), "model.options")


def build(name: str, options: Model, image_dim: int, video_dim: int, num_labels: int, seed: int = 0) -> RetrievalModel:
    """Returns a fresh model whose initial weights are a function of its options, sizes and `seed` alone.

    ours: PyTorch's default initialisation; the publication does not state one.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return entry(name).build(options, image_dim, video_dim, num_labels)
