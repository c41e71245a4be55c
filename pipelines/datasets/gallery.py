"""What can be found in a store: all clips that have every input of the gallery's side, labelled or not."""

from collections.abc import Mapping
from dataclasses import dataclass

from clipmill.pipelines.datasets.items import check_same_clips
from clipmill.pipelines.datasets.rows import read_rows
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.inputs import Input, InputRows
from clipmill.stores import ClipRows, Feature


@dataclass(frozen=True, slots=True, eq=False)
class GalleryItems:
    """n clips, ordered by video id and clip index, and what each input reads of them."""

    clips: tuple[ClipRows, ...]
    inputs: Mapping[str, InputRows]


def read_gallery(features: Mapping[str, Feature], inputs: Mapping[str, Input], store_url: str) -> GalleryItems:
    """Returns the clips that have rows of every input.

    Args:
        features: by the names of `inputs`.

    Raises:
        UsageError: the features were cut into different clips, or no clip has all.
    """
    check_same_clips(features)
    found = {name: read_rows(features[name], kind) for name, kind in inputs.items()}
    first, *others = found.values()
    keys = sorted(set(first.clips).intersection(*(rows.clips for rows in others)))
    if not keys:
        names = " and ".join(feature.recipe.name for feature in features.values())
        remedy = f"run clipmill build; see clipmill status {store_url}"
        raise UsageError(describe("store", store_url, f"clips with rows of {names}", "none", remedy))
    return GalleryItems(tuple(first.clips[key] for key in keys), {name: rows.of(keys) for name, rows in found.items()})
