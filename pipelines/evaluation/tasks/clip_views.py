"""What a page shows of stored clips and evaluation cannot make itself: decoding lives in another room."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from clipmill.pipelines.reports.lineage import ClipLineage, ClipPlace
from clipmill.pipelines.reports.thumbnails import Thumbnail

if TYPE_CHECKING:
    from clipmill.stores import FeatureStore


class ClipViews(Protocol):
    """Images and lineage of clips whose videos can still be read; those of others are missing or say why."""

    def stills(
        self, store: "FeatureStore", clips: Iterable[ClipPlace], seconds: Mapping[str, Sequence[float]], width: int
    ) -> dict[str, list[bytes]]:
        """Returns JPEGs of each clip at its `seconds`, `width` pixels wide, by clip id."""
        ...

    def moving(self, store: "FeatureStore", clips: Sequence[ClipPlace]) -> dict[str, Thumbnail]:
        """Returns the moving thumbnail of each clip, all of them within a page's budget, by clip id."""
        ...

    def lineage(
        self, store: "FeatureStore", clips: Sequence[ClipPlace], roles: Sequence[tuple[str, str]]
    ) -> dict[str, ClipLineage]:
        """Returns what each clip's rows were made of, by clip id; `roles` are (role, feature name) pairs."""
        ...
