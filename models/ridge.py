"""Ridge regression (Hoerl and Kennard, Technometrics 1970) of videos on images: a floor for what is trained.

Of centred image vectors X and video vectors Y: ``W = (X' X + a I)^-1 X' Y``.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from clipmill.models.base import Batch, ModelCard, Registration, Sizes
from clipmill.models.linear_map import LinearMap
from clipmill.models.principal_axes import principal_axes
from clipmill.schemas.inputs import Vector
from clipmill.schemas.model import Model


class RidgeOptions(Model):
    """Options of ridge regression.

    Attributes:
        ridges: a, as a share of the image's mean variance times the number of clips: a = r tr(X' X) / D. Of several,
            the one with the least error on clips that were left out one by one is taken.
        scaling: of the input vectors; see models/scaling.py.
    """

    ridges: tuple[float, ...] = Field(default=(0.001, 0.01, 0.1, 1.0, 10.0), min_length=1)  # ours
    scaling: Literal["none", "l2"] = "l2"  # ours: so that each clip counts alike


class Ridge(LinearMap):
    """The regression, and the means of both sides."""

    def __init__(self, options: RidgeOptions, sizes: Sizes) -> None:
        super().__init__("ridge", sizes, options.scaling)
        self.options = options

    def solve(self, items: Batch) -> Iterator[Mapping[str, float]]:
        """Solves for W; yields the mean square of the residuals, ``total``, and of clips left out, ``left_out``."""
        image, video = self.centre(items["image"], items["video"])
        variances, axes = principal_axes(image)
        alphas = [ridge * float(image.square().mean(dim=0).mean()) for ridge in self.options.ridges]
        errors = left_out_errors(image @ axes, variances, video, alphas)
        best = min(range(len(errors)), key=errors.__getitem__)
        shrunk = (image @ axes).T @ video / len(image) / (variances + alphas[best])[:, None]
        weights = axes @ shrunk
        self.weights.copy_(weights)
        residual = float((image @ weights - video).square().mean())
        yield {"total": residual, "left_out": errors[best], "ridge": self.options.ridges[best]}


def left_out_errors(scores: Tensor, variances: Tensor, video: Tensor, alphas: Sequence[float]) -> list[float]:
    """Returns, for each of `alphas`, the mean square of what a solution without a clip misses of that clip.

    Exact without solving again: a residual grows by one over one minus the clip's own weight in its prediction.

    Args:
        scores: ``float64[n, r]``, the image's centred rows along its principal axes.
        variances: ``float64[r]`` of them.
        video: ``float64[n, D]``, centred.
        alphas: added to the variances.
    """
    errors = []
    for alpha in alphas:
        weighted = scores / (variances + alpha) / len(scores)
        # The mean that was subtracted is part of the prediction, too.
        own = (weighted * scores).sum(dim=1) + 1 / len(scores)
        residual = video - weighted @ (scores.T @ video)
        errors.append(float((residual / (1 - own).clamp(min=1e-12)[:, None]).square().mean()))
    return errors


REGISTRATION = Registration(
    card=ModelCard(
        name="ridge",
        summary="videos regressed on images: a floor",
        source="Hoerl and Kennard, Technometrics 1970",
        inputs={"image": Vector("first"), "video": Vector("mean")},
        options=RidgeOptions,
        needs_labels=False,
        closed_form=True,
    ),
    build=Ridge,
)
