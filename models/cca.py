"""Canonical correlation analysis (Hotelling, Biometrika 1936), regularised, for retrieval (Rasiwasia et al., MM 2010).

Of centred image vectors X and video vectors Y with covariances C_xx, C_yy, C_xy it finds directions a and b, one pair
after the other, that maximise ``a' C_xy b`` under ``a' (C_xx + r_x I) a = b' (C_yy + r_y I) b = 1`` (Vinod, Journal of
Econometrics 1976: the canonical ridge). Both sides are projected, ``A' (x - mean)`` and ``B' (y - mean)``, and compared
by cosine, which is that paper's correlation matching under its best distance.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clipmill.models.base import Batch, ModelCard, Registration, Side, Sizes, Values
from clipmill.models.principal_axes import principal_axes
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.inputs import Vector
from clipmill.schemas.model import Model
from clipmill.schemas.spaces import Cosine, Space


class CcaOptions(Model):
    """Options of CCA.

    Attributes:
        components: pairs of directions; None: chosen by cross-validation on the training clips.
        max_components: most that cross-validation may choose.
        ridges: r, as a share of a side's mean variance: r_x = r tr(C_xx) / D_x. Of several, cross-validation chooses.
        folds: of the cross-validation; clips of one video are held out together.
        max_axes: the cross-validation takes at most so many principal axes of a side, those of the greatest variance.
        scaling: of the input vectors; see models/scaling.py.
    """

    components: int | None = Field(default=None, ge=1)  # the publication cross-validates, too, and gives no number
    max_components: int = Field(default=128, ge=1)  # ours: the publication's image vectors are that long
    # ours: the publication has none, which long vectors of few clips do not survive.
    ridges: tuple[float, ...] = Field(default=(0.001, 0.01, 0.1, 1.0), min_length=1)
    folds: int = Field(default=5, ge=2)  # ours: not stated
    max_axes: int = Field(default=512, ge=1)  # ours: with thousands, each fold and ridge would take minutes
    scaling: Literal["none", "l2"] = "none"


@dataclass(frozen=True, slots=True)
class Directions:
    """What CCA finds, before it is cut to a number of components.

    Attributes:
        image, video: ``float64[D, k]``, A and B.
        strength: ``float64[k]``, ``a' C_xy b`` of each pair: its correlation on the training clips where r is 0.
    """

    image: Tensor
    video: Tensor
    strength: Tensor


class Cca(nn.Module):
    """Both projections, in double precision."""

    image_mean: Tensor
    video_mean: Tensor
    image_directions: Tensor
    video_directions: Tensor
    num_components: Tensor

    def __init__(self, options: CcaOptions, sizes: Sizes) -> None:
        super().__init__()
        self.options = options
        self.width = min(options.components or options.max_components, *sizes.dims.values())
        for name, dim in sizes.dims.items():
            self.register_buffer(f"{name}_mean", torch.zeros(dim, dtype=torch.float64))
            self.register_buffer(f"{name}_directions", torch.zeros(dim, self.width, dtype=torch.float64))
        self.register_buffer("num_components", torch.tensor(self.width))

    @property
    def scaling(self) -> Literal["none", "l2"]:
        """How the vectors it is given are scaled."""
        return self.options.scaling

    def solve(self, items: Batch) -> Iterator[Mapping[str, float]]:
        """Solves for both projections; yields one line.

        ``total`` is one minus the mean correlation of the pairs of directions on the training clips. Where something
        was chosen, ``partner_rank`` is the mean share of held-out clips that came before a clip's own partner.
        """
        image, video = items["image"].double(), items["video"].double()
        reached = {}
        components, ridge = self.options.components, self.options.ridges[0]
        if components is None or len(self.options.ridges) > 1:
            components, ridge, reached["partner_rank"] = choose(image, video, self.options, self.width, items.video)
        image_mean, video_mean = image.mean(dim=0), video.mean(dim=0)
        image, video = image - image_mean, video - video_mean
        found = next(iter(canonical_directions(image, video, (ridge,))))
        components = min(components, self.width, len(found.strength))
        self.image_mean.copy_(image_mean)
        self.video_mean.copy_(video_mean)
        self.image_directions.zero_()[:, :components] = found.image[:, :components]
        self.video_directions.zero_()[:, :components] = found.video[:, :components]
        self.num_components.fill_(components)
        left, right = image @ found.image[:, :components], video @ found.video[:, :components]
        correlation = float((unit(left.T) * unit(right.T)).sum(dim=1).mean())
        yield {"total": 1 - correlation, "correlation": correlation, "components": components, "ridge": ridge} | reached

    def spaces(self) -> Mapping[str, Space]:
        """Returns the one space it ranks in."""
        return {"common": Cosine("common", "common")}

    def embed(self, side: Side, inputs: Mapping[str, Values]) -> Mapping[str, Tensor]:
        """Returns ``common [B, components]``, the canonical variates."""
        name, mean, directions = (
            ("image", self.image_mean, self.image_directions)
            if side == "query"
            else ("video", self.video_mean, self.video_directions)
        )
        projected = (inputs[name].values.double() - mean) @ directions[:, : int(self.num_components)]
        return {"common": projected.float()}


def canonical_directions(
    image: Tensor, video: Tensor, ridges: Sequence[float], dims: tuple[int, int] | None = None
) -> Iterator[Directions]:
    """Yields, for each of `ridges`, all pairs of directions, the strongest first.

    Args:
        image, video: ``float64[n, D]`` of mean 0, paired by row.
        dims: D of both sides by which a ridge is measured, where the rows are cut to some axes.

    Raises:
        UsageError: the rows of a side are all alike.
    """
    sides = [principal_axes(image), principal_axes(video)]
    for name, (variances, _) in zip(("image", "video"), sides, strict=True):
        if not len(variances):
            expected, got = "training clips that differ", f"{len(image)} alike"
            raise UsageError(describe("cca", f"{name} vectors", expected, got, "give it more clips"))
    (image_variances, image_axes), (video_variances, video_axes) = sides
    image_dim, video_dim = dims or (image.shape[1], video.shape[1])
    covariance = (image @ image_axes).T @ (video @ video_axes) / len(image)
    for ridge in ridges:
        left = 1 / (image_variances + ridge * image_variances.sum() / image_dim).sqrt()
        right = 1 / (video_variances + ridge * video_variances.sum() / video_dim).sqrt()
        u, strength, v = torch.linalg.svd(left[:, None] * covariance * right, full_matrices=False)
        yield Directions(image_axes @ (left[:, None] * u), video_axes @ (right[:, None] * v.T), strength)


def choose(
    image: Tensor, video: Tensor, options: CcaOptions, most: int, groups: Tensor | None = None
) -> tuple[int, float, float]:
    """Returns the number of components and the ridge under which held-out clips find their own partners best.

    ours: which clips are held out together is drawn with a fixed seed, and no label is looked at.

    Args:
        image, video: ``float64[n, D]``, paired by row.
        most: components.
        groups: ``int64[n]``, equal where clips are of one video; None: each is of its own.

    Returns:
        Components, ridge, and their mean partner rank.

    Raises:
        UsageError: there are too few clips.
    """
    num_items = len(image)
    groups = torch.arange(num_items) if groups is None else groups
    num_groups = int(groups.max()) + 1
    folds = min(options.folds, num_groups // 2)
    if folds < 2:
        remedy = "set model.options.components and one value in ridges"
        got = f"{num_items} of {num_groups}"
        raise UsageError(describe("cca", "training clips", "at least 4 videos to cross-validate on", got, remedy))
    fold = (torch.randperm(num_groups, generator=torch.Generator().manual_seed(0)) % folds)[groups]
    dims = image.shape[1], video.shape[1]
    image, video = (_on_axes(rows, options.max_axes) for rows in (image, video))
    counts = [options.components] if options.components is not None else component_counts(most)
    ranks = torch.zeros(len(options.ridges), len(counts), dtype=torch.float64)
    for number in range(folds):
        trained, held = fold != number, fold == number
        means = image[trained].mean(dim=0), video[trained].mean(dim=0)
        found = canonical_directions(image[trained] - means[0], video[trained] - means[1], options.ridges, dims)
        for place, directions in enumerate(found):
            left, right = (image[held] - means[0]) @ directions.image, (video[held] - means[1]) @ directions.video
            scores = [partner_rank(left[:, :count], right[:, :count]) for count in counts]
            ranks[place] += torch.tensor(scores, dtype=torch.float64) * int(held.sum()) / num_items
    # Of equals the first: the least ridge and the fewest components.
    best = int(ranks.argmin())
    ridge, count = divmod(best, len(counts))
    return counts[count], options.ridges[ridge], float(ranks.flatten()[best])


def _on_axes(rows: Tensor, most: int) -> Tensor:
    """Returns `rows` on their `most` principal axes of the greatest variance; as they are where they have no more."""
    if rows.shape[1] <= most:
        return rows
    rows = rows - rows.mean(dim=0)
    return rows @ principal_axes(rows)[1][:, :most]


def component_counts(most: int) -> list[int]:
    """Returns the numbers of components that are tried: all up to 8, then each a quarter more (ours)."""
    counts = [1]
    while counts[-1] < most:
        counts.append(min(most, max(counts[-1] + 1, counts[-1] * 5 // 4)))
    return counts


def partner_rank(left: Tensor, right: Tensor) -> float:
    """Returns the mean share, from 0 to 1, of other items that are nearer by cosine than an item's own partner.

    Both ways, from `left` ``[n, k]`` to `right` and back; ties count half.
    """
    scores = unit(left) @ unit(right).T
    own = scores.diagonal()
    ways = [(values > own).double() + 0.5 * (values == own).double() for values in (scores.T, scores)]
    others = max(1, len(scores) - 1)
    return float(sum((way.sum(dim=0) - 0.5).mean() / others for way in ways) / 2)


def unit(rows: Tensor) -> Tensor:
    """Returns ``[n, D]`` with each row divided by its norm; a row of zeros stays so."""
    return nn.functional.normalize(rows, dim=1)


REGISTRATION = Registration(
    card=ModelCard(
        name="cca",
        summary="linear projections of images and videos whose correlation is greatest",
        source="Hotelling, Biometrika 1936; regularised: Vinod, 1976; for retrieval: Rasiwasia et al., MM 2010",
        inputs={"image": Vector("first"), "video": Vector("mean")},
        options=CcaOptions,
        needs_labels=False,
        closed_form=True,
    ),
    build=Cca,
)
