"""JFSSL: joint feature selection and subspace learning for cross-modal retrieval (Wang et al., TPAMI 38(10), 2016).

Of centred image and video vectors X_1, X_2 ``[n, D_p]`` and one-hot labels Y ``[n, C]`` it finds projections U_1, U_2
into the space of the labels that minimise

    sum_p ||X_p U_p - Y||_F^2 + lambda_1 sum_p ||U_p||_2,1 + lambda_2 sum_p sum_q tr(U_p' X_p' L_pq X_q U_q).

The l2,1 norm, the sum of the norms of the rows, selects features: it lets whole rows of U_p vanish. L is the Laplacian
of a graph over all images and videos: two of one modality are joined where one is among the other's k nearest, by a
Gaussian of their distance, and an image and a video where they share a label. Solved by alternation: with the weights
``1 / (2 ||u||)`` of the rows as they are, each U_p in turn is the solution of a linear system. Each such step lowers
the objective, in which a row's norm is ``sqrt(||u||^2 + epsilon)``, so that it has a derivative at 0.

The authors' code was not found; a third party's (2012013382/JFSSL-Cross-Modal-Retrieval) has these updates and weights.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clipmill.models.base import Batch, ModelCard, Registration, Side, Sizes, Values
from clipmill.schemas.inputs import Vector
from clipmill.schemas.model import Model
from clipmill.schemas.spaces import Cosine, Space

_SIDES = ("image", "video")


class JfsslOptions(Model):
    """Options of JFSSL.

    Attributes:
        lambda_1: weight of the l2,1 norm, over the number of training clips.
        lambda_2: weight of the graph.
        beta: weight of neighbours of one modality against items of both that share a label.
        neighbours: k, of a graph within a modality.
        sigma: of the Gaussian; None: the root mean square distance of neighbours.
        epsilon: added to the squared norm of a row.
        iterations: most; each solves for both projections.
        tolerance: the alternation ends where an iteration lowers the objective by a smaller share.
        scaling: of the input vectors; see models/scaling.py.
    """

    # ours: cross-validated on the Wikipedia training set. The first is printed without the number of clips, which is
    # ours, too: else it would mean more for fewer clips.
    lambda_1: float = Field(default=0.001, ge=0)
    lambda_2: float = Field(default=0.1, ge=0)
    beta: float = Field(default=1.0, ge=0)  # the third party's: "not much influence"
    neighbours: int = Field(default=5, ge=1)  # ours: not at hand; the third party's code joins all with all
    sigma: float | None = Field(default=None, gt=0)  # ours: not at hand; the third party's, for one data set, is 0.1
    epsilon: float = Field(default=1e-5, gt=0)  # the third party's
    iterations: int = Field(default=30, ge=1)  # ours: the third party's stops after 5
    tolerance: float = Field(default=1e-6, ge=0)  # ours
    scaling: Literal["none", "l2"] = "l2"  # ours: so that lambda_1 means the same for any vectors


@dataclass(frozen=True, slots=True)
class Problem:
    """The objective, in products that do not grow with the number of clips.

    Attributes:
        gram: by modality, ``X_p' X_p``.
        target: by modality, ``X_p' Y``.
        within: by modality, ``X_p' L_pp X_p``.
        between: ``X_1' L_12 X_2``.
        constant: ``||Y||^2``.
        lambda_1: as printed.
        lambda_2, epsilon: see the options.
    """

    gram: tuple[Tensor, Tensor]
    target: tuple[Tensor, Tensor]
    within: tuple[Tensor, Tensor]
    between: Tensor
    constant: float
    lambda_1: float
    lambda_2: float
    epsilon: float

    def solved(self, modality: int, projections: tuple[Tensor, Tensor], row_weights: Tensor) -> Tensor:
        """Returns the best projection of a modality, the other one and the weights of its rows as they are."""
        coupling = self.between @ projections[1] if modality == 0 else self.between.T @ projections[0]
        system = self.gram[modality] + self.lambda_2 * self.within[modality] + self.lambda_1 * torch.diag(row_weights)
        found: Tensor = torch.linalg.solve(system, self.target[modality] - self.lambda_2 * coupling)
        return found

    def row_norms(self, projection: Tensor) -> Tensor:
        """Returns the norm of each row, never 0."""
        return (projection.square().sum(dim=1) + self.epsilon).sqrt()

    def parts(self, projections: tuple[Tensor, Tensor]) -> dict[str, float]:
        """Returns the objective as ``total``, and the three parts it is made of, unweighted."""
        regression = selection = graph = 0.0
        for projection, gram, target, within in zip(projections, self.gram, self.target, self.within, strict=True):
            fitted = (projection * (gram @ projection)).sum() - 2 * (projection * target).sum()
            regression += float(fitted) + self.constant
            selection += float(self.row_norms(projection).sum())
            graph += float((projection * (within @ projection)).sum())
        graph += 2 * float((projections[0] * (self.between @ projections[1])).sum())
        total = regression + self.lambda_1 * selection + self.lambda_2 * graph
        return {"total": total, "regression": regression, "selection": selection, "graph": graph}


class Jfssl(nn.Module):
    """Both projections, in double precision."""

    image_mean: Tensor
    video_mean: Tensor
    image_projection: Tensor
    video_projection: Tensor

    def __init__(self, options: JfsslOptions, sizes: Sizes) -> None:
        super().__init__()
        self.options = options
        for name, dim in sizes.dims.items():
            self.register_buffer(f"{name}_mean", torch.zeros(dim, dtype=torch.float64))
            self.register_buffer(f"{name}_projection", torch.zeros(dim, sizes.num_labels, dtype=torch.float64))

    @property
    def scaling(self) -> Literal["none", "l2"]:
        """How the vectors it is given are scaled."""
        return self.options.scaling

    def solve(self, items: Batch) -> Iterator[Mapping[str, float]]:
        """Solves for both projections; yields the objective of each iteration and its parts, each per clip.

        ``image_features`` and ``video_features`` count the rows that did not vanish: their square exceeds epsilon.
        """
        values = items["image"].double(), items["video"].double()
        means = values[0].mean(dim=0), values[1].mean(dim=0)
        self.image_mean.copy_(means[0])
        self.video_mean.copy_(means[1])
        num_labels = self.image_projection.shape[1]
        problem = problem_of(values[0] - means[0], values[1] - means[1], items.labels, num_labels, self.options)
        for projections in alternation(problem, self.options.iterations, self.options.tolerance):
            self.image_projection.copy_(projections[0])
            self.video_projection.copy_(projections[1])
            reached = {name: value / len(values[0]) for name, value in problem.parts(projections).items()}
            for name, projection in zip(_SIDES, projections, strict=True):
                reached[f"{name}_features"] = float((projection.square().sum(dim=1) > self.options.epsilon).sum())
            yield reached

    def spaces(self) -> Mapping[str, Space]:
        """Returns the one space it ranks in."""
        return {"labels": Cosine("labels", "labels")}

    def embed(self, side: Side, inputs: Mapping[str, Values]) -> Mapping[str, Tensor]:
        """Returns ``labels [B, num_labels]``, the vectors in the space of the labels."""
        if side == "query":
            projected = (inputs["image"].values.double() - self.image_mean) @ self.image_projection
        else:
            projected = (inputs["video"].values.double() - self.video_mean) @ self.video_projection
        return {"labels": projected.float()}


def alternation(problem: Problem, iterations: int, tolerance: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields both projections after each iteration.

    ours: it begins where all rows weigh the same and the modalities do not see each other.
    """
    nothing = torch.zeros_like(problem.target[0]), torch.zeros_like(problem.target[1])
    alike = [torch.full_like(target[:, 0], 0.5) for target in problem.target]
    projections = problem.solved(0, nothing, alike[0]), problem.solved(1, nothing, alike[1])
    before = problem.parts(projections)["total"]
    for _ in range(iterations):
        image = problem.solved(0, projections, 0.5 / problem.row_norms(projections[0]))
        # With the image's new projection: only so does every step lower the objective.
        projections = image, projections[1]
        projections = image, problem.solved(1, projections, 0.5 / problem.row_norms(projections[1]))
        yield projections
        now = problem.parts(projections)["total"]
        if before - now < tolerance * abs(before):
            return
        before = now


def problem_of(image: Tensor, video: Tensor, label: Tensor, num_labels: int, options: JfsslOptions) -> Problem:
    """Returns the objective of centred vectors ``float64[n, D_p]`` and labels ``int64[n]``.

    ours: Y is centred as well, so that the projections have an intercept, which no cosine needs.
    """
    one_hot = nn.functional.one_hot(label, num_labels).double()
    centred = one_hot - one_hot.mean(dim=0)
    # An image is joined to each video of its label, and the other way round.
    joined = one_hot.sum(dim=0)[label]
    within = []
    for values in (image, video):
        graph = neighbour_graph(values, options.neighbours, options.sigma)
        edges = options.beta * (values.T @ torch.sparse.mm(graph, values))
        degrees = options.beta * torch.sparse.sum(graph, dim=1).to_dense() + joined
        within.append(values.T @ (degrees[:, None] * values) - edges)
    return Problem(
        gram=(image.T @ image, video.T @ video),
        target=(image.T @ centred, video.T @ centred),
        within=(within[0], within[1]),
        between=-(image.T @ one_hot) @ (video.T @ one_hot).T,
        constant=float(centred.square().sum()),
        lambda_1=options.lambda_1 * len(image),
        lambda_2=options.lambda_2,
        epsilon=options.epsilon,
    )


def neighbour_graph(values: Tensor, neighbours: int, sigma: float | None) -> Tensor:
    """Returns a sparse ``[n, n]``: exp(-||x - y||^2 / (2 sigma^2)) where one is among the other's nearest, else 0.

    Args:
        values: ``float64[n, D]``.
        neighbours: how many nearest; at most n - 1 are taken.
        sigma: None: the root mean square distance of neighbours.
    """
    num_items = len(values)
    count = min(neighbours, num_items - 1)
    squares = values.square().sum(dim=1)
    found, distances = [], []
    for start in range(0, num_items, 1024):
        rows = torch.arange(start, min(start + 1024, num_items))
        block = (squares[rows, None] + squares - 2 * values[rows] @ values.T).clamp(min=0)
        block[torch.arange(len(rows)), rows] = torch.inf
        nearest = block.topk(count, largest=False)
        found.append(nearest.indices)
        distances.append(nearest.values)
    columns, distance = torch.cat(found), torch.cat(distances)
    width = float(distance.mean()) if sigma is None else sigma**2
    weights = (-distance / (2 * width if width > 0 else 1.0)).exp()
    rows = torch.arange(num_items)[:, None].expand_as(columns)
    # Each edge once per direction, by its place in the matrix; both ends agree on its weight.
    places = torch.cat([(rows * num_items + columns).flatten(), (columns * num_items + rows).flatten()])
    places, first = torch.unique(places, return_inverse=True)
    kept = torch.zeros(len(places), dtype=weights.dtype)
    kept[first] = torch.cat([weights.flatten(), weights.flatten()])
    where = torch.stack([places // num_items, places % num_items])
    return torch.sparse_coo_tensor(where, kept, (num_items, num_items), check_invariants=True).coalesce()


REGISTRATION = Registration(
    card=ModelCard(
        name="jfssl",
        summary="sparse linear projections of images and videos into the space of the labels, kept smooth by a graph",
        source="JFSSL, TPAMI 38(10), 2016, pp. 2010-2023; a third party's code: 2012013382/JFSSL-Cross-Modal-Retrieval",
        inputs={"image": Vector("first"), "video": Vector("mean")},
        options=JfsslOptions,
        closed_form=True,
    ),
    build=Jfssl,
)
