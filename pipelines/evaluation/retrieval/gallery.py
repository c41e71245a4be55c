"""Galleries straight from a feature store, whose rows stay there until a block of them is scored."""

from itertools import chain

from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery
from clipmill.schemas.errors import UsageError, describe
from clipmill.stores import Feature


def gallery_of_rows(feature: Feature, name: str = "video") -> Gallery:
    """Returns every row of `feature` as an item ``<video id>#<row>`` with its video's label, lazily.

    Args:
        name: what scorers call the vectors.

    Raises:
        UsageError: the feature has no rows.
    """
    index = feature.index()
    columns = (index.column(key).to_pylist() for key in ("video_id", "num_rows", "label"))
    rows = [(video, int(num), label) for video, num, label in zip(*columns, strict=True)]
    if not sum(num for _, num, _ in rows):
        raise UsageError(describe("feature", feature.recipe.name, "rows", "none", "run clipmill build"))
    ids = list(chain.from_iterable((f"{video}#{row}" for row in range(num)) for video, num, _ in rows))
    labels = list(chain.from_iterable([label] * num for _, num, label in rows))
    return Gallery(ids, labels, {name: feature.dask()})
