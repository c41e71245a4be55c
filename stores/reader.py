"""Opening a store to read it: `FeatureStore`. What counts is decided by commits and the manifest, nothing else."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from clipmill.schemas.errors import StoreError, UnknownNameError, near
from clipmill.schemas.fingerprint import short
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video
from clipmill.stores.feature import Feature
from clipmill.stores.row_frames import frame_of_videos
from clipmill.stores.store import Store

if TYPE_CHECKING:
    import pandas


class FeatureStore:
    """The features in the store at `url`.

    ``FeatureStore(url)["c3d"]["video id"]`` gives `Rows`: ``values float32[T, D]``, ``start_seconds[T]``,
    ``stop_seconds[T]``, ``mask[T]``. What it shows is the store at the time it was opened.

    Raises:
        StoreError: there is no store at `url`.
    """

    def __init__(self, url: str) -> None:
        self.store = Store.open(url)
        self._opened: dict[str, Feature] = {}

    @property
    def url(self) -> str:
        """Where the store is."""
        return self.store.url

    @cached_property
    def features(self) -> list[str]:
        """The names of the features, sorted."""
        return list(self._meanings)

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """Every recipe rows may exist for, by its key (``c3d-1a2b3c4d``)."""
        return {recipe.key: recipe for recipe in self.store.recipes()}

    @cached_property
    def _meanings(self) -> dict[str, str]:
        return self.store.current_features()

    @cached_property
    def _manifest(self) -> Mapping[str, Video]:
        return self.store.manifest()

    def videos(self) -> dict[str, Video]:
        """Returns the manifest: every video of the dataset by id, whether or not it has rows."""
        return dict(self._manifest)

    def __getitem__(self, name: str) -> Feature:
        """Returns the feature `name`, or that of a recipe's key, such as ``c3d-1a2b3c4d``.

        Raises:
            UnknownNameError: there is none; a KeyError that lists near names.
        """
        if name not in self._opened:
            recipe = self._recipe(name)
            self._opened[name] = Feature(self.store, recipe, self._manifest)
        return self._opened[name]

    def _recipe(self, name: str) -> Recipe:
        wanted = self._meanings.get(name)
        if wanted is None:
            if name in self.recipes:
                return self.recipes[name]
            carrying = sorted(key for key, recipe in self.recipes.items() if recipe.name == name)
            if carrying:
                raise StoreError(
                    f"feature {name}: expected one recipe in store {self.url}, got {len(carrying)} and no build that "
                    f"chooses; name {' or '.join(carrying)}"
                )
            known = [*self._meanings, *self.recipes]
            hint = near(name, known) if known else "the store holds none yet; run clipmill build"
            raise UnknownNameError(f"feature {name}: expected one of store {self.url}, got an unknown name; {hint}")
        found = [recipe for recipe in self.recipes.values() if recipe.fingerprint == wanted]
        if not found:
            raise StoreError(
                f"feature {name}: expected its recipe {short(wanted)} in store {self.url}, got none; "
                "its file below recipes/ was deleted, run clipmill build again"
            )
        return next((recipe for recipe in found if recipe.name == name), found[0])

    def __contains__(self, name: object) -> bool:
        return name in self._meanings or name in self.recipes

    def __iter__(self) -> Iterator[str]:
        return iter(self.features)

    def __len__(self) -> int:
        return len(self.features)

    def __bool__(self) -> bool:
        return True  # a store without features is a store

    def keys(self) -> list[str]:
        """Returns `features`."""
        return self.features

    def items(self) -> Iterator[tuple[str, Feature]]:
        """Yields the name and the `Feature` of each feature, sorted by name; no rows are read."""
        for name in self.features:
            yield name, self[name]

    def values(self) -> Iterator[Feature]:
        """Yields each `Feature`, sorted by name."""
        for name in self.features:
            yield self[name]

    def get(self, name: str) -> Feature | None:
        """Returns the feature `name`, or None where there is none."""
        return self[name] if name in self else None

    def to_pandas(self) -> "pandas.DataFrame":
        """Returns a row for each video of the manifest, whether or not it has rows: id, uri, label, split and header.

        Raises:
            UsageError: pandas is not installed (extra ``[pandas]``).
        """
        return frame_of_videos(self._manifest)
