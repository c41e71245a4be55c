"""A model from outside the project, trained by gradients on sequences: a GRU over the video, a linear map of the image.

Its losses are one minus the cosine of a pair, and the classes of both sides by one classifier.
"""

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from clipmill.models.base import Batch, ModelCard, Registration, Sizes
from clipmill.schemas.inputs import Sequence, Vector
from clipmill.schemas.model import Model
from clipmill.schemas.spaces import Cosine


class Options(Model):
    dim: int = Field(default=16, ge=1)


class GruRetrieval(nn.Module):
    scaling = "l2"

    def __init__(self, options: Options, sizes: Sizes) -> None:
        super().__init__()
        self.image = nn.Linear(sizes.dims["image"], options.dim)
        self.video = nn.GRU(sizes.dims["video"], options.dim, batch_first=True)
        self.classifier = nn.Linear(options.dim, sizes.num_labels)

    def _encoded(self, values: Tensor, mask: Tensor) -> Tensor:
        outputs, _ = self.video(values)
        weights = mask.to(outputs.dtype)[..., None]
        return (outputs * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        image, video = self.image(batch["image"]), self._encoded(batch["video"], batch.inputs["video"].mask)
        pair = 1 - functional.cosine_similarity(image, video, dim=-1)
        classes = sum(
            functional.cross_entropy(self.classifier(side), batch.label, reduction="none") for side in (image, video)
        )
        return {"pair": pair, "class": classes, "total": pair + classes}

    def spaces(self) -> dict[str, Cosine]:
        return {"shared": Cosine("shared", "shared")}

    def embed(self, side: str, inputs: dict) -> dict[str, Tensor]:
        if side == "query":
            return {"shared": self.image(inputs["image"].values)}
        return {"shared": self._encoded(inputs["video"].values, inputs["video"].mask)}


REGISTRATION = Registration(
    card=ModelCard(
        name="gru_retrieval",
        summary="a GRU over the rows of a clip",
        source="made for a test",
        inputs={"image": Vector("first"), "video": Sequence(max_steps=4)},
        options=Options,
        loop={"epochs": 3, "batch": 4, "learning_rate": 0.01},
    ),
    build=GruRetrieval,
)
