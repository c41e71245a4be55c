"""``clipmill orient``: whether a published PCA's directions are columns or rows of its matrix; stored features tell.

The file of C3D's ActivityNet projection does not say, and its readers disagree (docs/extractors/c3d.md).
"""

from typing import Literal, get_args

from clipmill.extractors.base import options_of
from clipmill.extractors.c3d.card import CARD
from clipmill.extractors.c3d.options import C3DOptions
from clipmill.extractors.c3d.projection import PUBLISHED_DIM, Orientation, read_projection, read_variances
from clipmill.jobs.output import Outcome
from clipmill.pipelines.evaluation.orientation import follows, sample_rows
from clipmill.pipelines.evaluation.retrieval.blocks import computing
from clipmill.schemas.errors import UsageError, describe
from clipmill.stores import FeatureStore

LEAST_ROWS = 500
"""ours: fewer do not rank 500 variances."""
LEAST_CORRELATION = 0.5
"""ours: of the right orientation; the other's must be less than half of it. By chance it is within 0.15 of zero."""


def run_orient(url: str, name: str, pca: str) -> Outcome:
    """Projects a few thousand rows of the feature both ways, and says which way their variances fall as the file's do.

    Raises:
        UsageError: the feature is not C3D's fc7 or fc6, has too few rows, or neither way fits.
    """
    feature = FeatureStore(url)[name]
    recipe = feature.recipe
    if recipe.extractor != CARD.name or recipe.layer not in ("fc6", "fc7"):
        got = f"{recipe.layer} of {recipe.extractor}"
        raise UsageError(describe("feature", name, "fc7 (or fc6) of c3d", got, "build one with {layer: fc7}"))
    options: C3DOptions = options_of(CARD, recipe)
    if options.pca is not None or recipe.pooling != "none":
        got = "projected rows" if options.pca is not None else f"pooling: {recipe.pooling}"
        remedy = "build it without options.pca and pooling"
        raise UsageError(describe("feature", name, "rows as the network gives them", got, remedy))
    with computing(None) as workers:
        rows = sample_rows(feature.dask(), workers.run)
    if len(rows) < LEAST_ROWS:
        remedy = "build more videos"
        raise UsageError(describe("feature", name, f"at least {LEAST_ROWS} rows", str(len(rows)), remedy))
    variances = read_variances(pca)[:PUBLISHED_DIM]
    found = {
        orientation: follows(read_projection(pca, orientation, PUBLISHED_DIM)(rows), variances)
        for orientation in get_args(Orientation)
    }
    chosen = _verdict(found)
    if chosen is None:
        got = " and ".join(f"{value:.2f} by {orientation}" for orientation, value in found.items())
        expected = "variances that follow data/S in one orientation"
        remedy = f"is {name} of the weights the file was made for?"
        raise UsageError(describe("pca", pca, expected, f"correlations of {got}", remedy))
    data = {"pca": pca, "store": url, "feature": name, "num_rows": len(rows), "correlation": found}
    lines = [f"{pca}: pca_orientation: {chosen}"]
    lines += [
        f"  {orientation:<8} variances of {len(rows)} rows follow data/S by {value:.3f}"
        for orientation, value in found.items()
    ]
    return Outcome(data | {"pca_orientation": chosen}, "\n".join(lines))


def _verdict(found: dict[Orientation, float]) -> Literal["columns", "rows"] | None:
    best, other = sorted(found, key=lambda orientation: -found[orientation])
    fits = found[best] >= LEAST_CORRELATION and found[other] < found[best] / 2
    return best if fits else None
