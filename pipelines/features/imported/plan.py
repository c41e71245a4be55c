"""What an import would do: which items a feature lacks, and whether what is stored of it still holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clipmill.pipelines.features.imported.files import SourceFiles
from clipmill.pipelines.features.imported.places import Located, locate
from clipmill.pipelines.features.imported.recipe import (
    Origin,
    file_digests,
    imported_recipe,
    origin_of,
    source_fingerprint,
)
from clipmill.pipelines.features.imported.rows import ItemRows, RowReader, check_dtype
from clipmill.schemas.config_import import ImportConfig, ImportedFeatureConfig
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video
from clipmill.schemas.rows import Rows
from clipmill.schemas.task import imported_fingerprint
from clipmill.stores.feature import Feature
from clipmill.stores.item_manifests import Item, ItemManifest
from clipmill.stores.store import Store


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """What an import would do for one feature.

    Attributes:
        origins: by position of the item.
        todo: positions of items to import.
        num_before: items whose rows are stored already.
        replaced: key of the recipe whose stored rows are no longer those of the files; None where there is none.
    """

    name: str
    config: ImportedFeatureConfig
    reader: RowReader
    located: Located
    recipe: Recipe
    origins: Mapping[int, Origin]
    todo: tuple[int, ...]
    num_before: int
    replaced: str | None = None


def known_items(manifest: ItemManifest, known: Mapping[str, Video]) -> tuple[Item, ...]:
    """Returns the items as the store knows them: what this manifest has no column for stays as it is.

    A video that a build has read keeps the fingerprint of its bytes, so that its rows stay in force beside imported
    ones. Any other has one that follows from its id: there are no bytes, and a changed row is another recipe's.
    """
    return tuple(_known_item(item, known.get(item.video.id), manifest.columns) for item in manifest.items)


def _known_item(item: Item, known: Video | None, columns: frozenset[str]) -> Item:
    fresh = replace(item.video, fingerprint=imported_fingerprint(item.video.id))
    if known is None:
        return replace(item, video=fresh)
    is_read = bool(known.fingerprint and known.num_bytes)
    video = Video(
        id=known.id,
        uri=known.uri if is_read else fresh.uri or known.uri,
        fingerprint=known.fingerprint if is_read else fresh.fingerprint,
        num_bytes=known.num_bytes,
        header=known.header,
        label=fresh.label if "label" in columns else known.label,
        split=fresh.split if "split" in columns else known.split,
        segments=fresh.segments if "start_seconds" in columns else known.segments,
    )
    header = known.header
    return Item(
        video,
        item.duration_seconds or (header.duration_seconds if header is not None else None),
        item.fps or (header.average_fps if header is not None else None),
    )


def plan_feature(
    name: str,
    config: ImportConfig,
    manifest: ItemManifest,
    items: Sequence[Item],
    files: SourceFiles,
    store: Store | None,
) -> FeaturePlan:
    """Returns what an import would do for the feature `name`; reads files and store, writes nothing.

    Raises:
        UsageError: files, manifest and config do not fit together; one line with counts.
    """
    feature = config.features[name]
    is_by_line = config.clips.from_ == "annotations"
    located = locate(name, feature, manifest, files, is_by_line, config.missing == "skip")
    dtype = check_dtype(name, feature.dtype, located.dtype)
    reader = RowReader(name, feature, config.clips, items, located, files, dtype)
    digests = file_digests(place.file for places in located.places.values() for place in places)
    origins = {item: origin_of(items[item], places, feature, files, digests) for item, places in located.places.items()}
    source = source_fingerprint({items[item].video.id: origin for item, origin in origins.items()})
    recipe = imported_recipe(name, feature, config.clips, located.dim, dtype, source)
    current, stored = _stored(store, name, items)
    replaced = None
    if current is not None and stored is not None:
        # The same, had it been imported from what the stored feature was first imported from.
        alike = imported_recipe(name, feature, config.clips, located.dim, dtype, str(current.options.get("source", "")))
        is_same = alike.fingerprint == current.fingerprint
        if is_same and _still_holds(stored, reader, origins):
            recipe = current
        elif recipe.fingerprint != current.fingerprint:
            replaced = current.key
    done = _done(store, recipe, items)
    todo = tuple(item for item in located.places if items[item].video.id not in done)
    num_before = sum(item.video.id in done for item in items)
    reader.check(todo)
    return FeaturePlan(name, feature, reader, located, recipe, origins, todo, num_before, replaced)


def _stored(store: Store | None, name: str, items: Sequence[Item]) -> tuple[Recipe | None, Feature | None]:
    """Returns the imported recipe that the feature's name stands for now, and its rows of the items."""
    if store is None:
        return None, None
    meaning = store.current_features().get(name)
    current = next((recipe for recipe in store.recipes() if recipe.fingerprint == meaning), None)
    if current is None or not current.is_imported:
        return None, None
    return current, Feature(store, current, {item.video.id: item.video for item in items})


def _done(store: Store | None, recipe: Recipe, items: Sequence[Item]) -> set[str]:
    if store is None:
        return set()
    manifest = {item.video.id: item.video for item in items}
    return set(store.commits_in_force(recipe.fingerprint, manifest).column("video_id").to_pylist())


def _still_holds(stored: Feature, reader: RowReader, origins: Mapping[int, Origin]) -> bool:
    """Returns whether every stored row is the one that the files have now."""
    positions = {item.video.id: number for number, item in enumerate(reader.items)}
    index = stored.index()
    columns = [index.column(name).to_pylist() for name in ("video_id", "passport", "clips")]
    uncertain: dict[int, list[dict[str, float]]] = {}
    steps = reader.config.steps
    for video_id, passport, clips in zip(*columns, strict=True):
        item = positions[video_id]
        if item not in origins:
            continue
        same_place = passport["decoder_version"] == origins[item].text
        same_facts = passport["duration_seconds"] == reader.items[item].duration_seconds
        # Times that follow from the manifest's fps are not in the record, and are compared themselves.
        if not (same_place and same_facts and (steps is None or steps.frames is None or steps.fps is not None)):
            uncertain[item] = clips
    for batch in reader.batches(sorted(uncertain)):
        for item, now in zip(batch, reader.read(batch), strict=True):
            if not _same(stored.stored(reader.items[item].video.id), uncertain[item], now):
                return False
    return True


def _same(stored: Rows, clips: Sequence[Mapping[str, float]], now: ItemRows) -> bool:
    spans = [(clip["start_seconds"], clip["stop_seconds"]) for clip in clips]
    if spans != [(clip.start_seconds, clip.stop_seconds) for clip in now.clips] or set(stored.extras) != set(
        now.rows.extras
    ):
        return False
    pairs = [(getattr(stored, name), getattr(now.rows, name)) for name in ("values", "clip", "start_seconds")]
    pairs.append((stored.stop_seconds, now.rows.stop_seconds))
    pairs += [(stored.extras[name], now.rows.extras[name]) for name in stored.extras]
    return all(np.array_equal(one, other) for one, other in pairs)
