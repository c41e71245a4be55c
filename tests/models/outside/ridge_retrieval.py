"""A model from outside the project, solved in closed form: ridge regression of the video's vector on the image's."""

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor, nn

from clipmill.models.base import Batch, ModelCard, Registration, Sizes
from clipmill.schemas.inputs import Vector
from clipmill.schemas.model import Model
from clipmill.schemas.spaces import Cosine


class Options(Model):
    ridge: float = Field(default=1.0, gt=0)


class RidgeRetrieval(nn.Module):
    scaling = "none"

    def __init__(self, options: Options, sizes: Sizes) -> None:
        super().__init__()
        self.options = options
        self.register_buffer("weights", torch.zeros(sizes.dims["image"], sizes.dims["video"]))

    def solve(self, items: Batch) -> Iterator[dict[str, float]]:
        image, video = items["image"].double(), items["video"].double()
        gram = image.T @ image + self.options.ridge * torch.eye(image.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(gram, image.T @ video)
        self.weights.copy_(weights)
        yield {"total": float((image @ weights - video).square().mean())}

    def spaces(self) -> dict[str, Cosine]:
        return {"regressed": Cosine("regressed", "video")}

    def embed(self, side: str, inputs: dict) -> dict[str, Tensor]:
        if side == "query":
            return {"regressed": inputs["image"].values @ self.weights}
        return {"video": inputs["video"].values}


REGISTRATION = Registration(
    card=ModelCard(
        name="ridge_retrieval",
        summary="ridge regression from images to videos",
        source="made for a test",
        inputs={"image": Vector("first"), "video": Vector("mean")},
        options=Options,
        closed_form=True,
        needs_labels=False,
    ),
    build=RidgeRetrieval,
)
