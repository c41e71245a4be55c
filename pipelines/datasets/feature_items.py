"""What a data set draws from a store: single rows, clips, videos or windows of rows, as positions of stored rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from clipmill.pipelines.datasets.items import check_same_clips
from clipmill.pipelines.datasets.split import SPLIT_NAMES, manifest_parts, random_parts
from clipmill.schemas.arrays import Ints
from clipmill.schemas.config import SplitConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.model import validate
from clipmill.stores import ClipRows, Feature, FeatureStore

Kind = Literal["row", "clip", "video", "window"]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureItems:
    """n items, ordered by video id and clip.

    Attributes:
        features: by name, what they are read from.
        positions: by feature, ``int64[N]``, the rows of all items one after the other, as of `Feature.take`.
        offsets: by feature, ``int64[n + 1]``: item i has the rows ``[offsets[i], offsets[i + 1])`` of `positions`.
        video_ids: of each item.
        clip: ``int32[n]``, index of the item's clip within its video; -1 where it is a whole video.
        label: ``int64[n]``, position in `label_names`; -1 where it has none.
        label_names: of all items of the store, sorted, whatever part was taken.
        length: rows of every item, shorter ones being filled up; None: they have as many as there are.
    """

    features: Mapping[str, Feature]
    positions: Mapping[str, Ints]
    offsets: Mapping[str, Ints]
    video_ids: tuple[str, ...]
    clip: np.ndarray[Any, np.dtype[np.int32]]
    label: Ints
    label_names: tuple[str, ...]
    length: int | None = None

    def __len__(self) -> int:
        return len(self.video_ids)


@dataclass(frozen=True, slots=True)
class Windows:
    """How clips are cut into windows.

    Attributes:
        rows: of a window.
        step: from the first row of one to that of the next.
        tail: what becomes of rows at the end of a clip that no whole window holds: ``pad``, a last window that is
            filled up, or ``drop``. A clip shorter than a window is one that is filled up, or none.
    """

    rows: int
    step: int
    tail: Literal["pad", "drop"] = "pad"

    def cut(self, positions: Ints) -> list[Ints]:
        """Returns the windows of one clip's rows."""
        starts = list(range(0, max(0, len(positions) - self.rows) + 1, self.step)) if len(positions) else []
        if starts and starts[-1] + self.rows < len(positions) and self.tail == "pad":
            starts.append(starts[-1] + self.step)
        found = [positions[start : start + self.rows] for start in starts if start < len(positions)]
        return found if self.tail == "pad" else [window for window in found if len(window) == self.rows]


def feature_items(
    store: FeatureStore,
    names: Sequence[str],
    kind: Kind,
    part: str | None = None,
    split: SplitConfig | Mapping[str, Any] | None = None,
    windows: Windows | None = None,
) -> FeatureItems:
    """Returns the items that have rows of every feature named.

    Args:
        part: ``train``, ``validation`` or ``test``; None: all.
        split: as in a training config; None: by the manifest's column `split`.
        windows: of kind ``window``.

    Raises:
        StoreError: there is no feature of that name.
        UsageError: several features of which single rows or windows are asked, features cut into different clips, or
            no item at all.
        ManifestError: the manifest's column `split` is incomplete.
    """
    features = {name: store[name] for name in names}
    if kind in ("row", "window") and len(features) != 1:
        remedy = "rows of several features have no common order; draw clips or videos"
        raise UsageError(describe("features", kind, "one", str(len(features)), remedy))
    if part is not None and part not in SPLIT_NAMES:
        raise UsageError(describe("features", "part", ", ".join(SPLIT_NAMES), repr(part), "correct the name"))
    if kind != "video":
        check_same_clips(features)
    groups = _groups(features, kind)
    if not groups.owners:
        remedy = f"see clipmill status {store.url}"
        raise UsageError(describe("features", " and ".join(names), f"a {kind} with rows of each", "none", remedy))
    if part is not None:
        groups = _part_of(groups, store, part, split)
    return _items(features, groups, kind, windows)


@dataclass(frozen=True, slots=True, eq=False)
class _Groups:
    """Clips or videos: who they are, and by feature the positions of their rows."""

    owners: list[ClipRows]
    rows: dict[str, list[Ints]]
    label_names: tuple[str, ...]


def _groups(features: Mapping[str, Feature], kind: Kind) -> _Groups:
    found: dict[str, dict[tuple[str, int], Ints]] = {}
    owners: dict[tuple[str, int], ClipRows] = {}
    for name, feature in features.items():
        clips = feature.clips() if kind != "video" else _videos(feature)
        rows = feature.clip_positions(clips) if kind != "video" else _video_positions(feature)
        found[name] = {clip.key: at for clip, at in zip(clips, rows, strict=True) if len(at)}
        owners |= {clip.key: clip for clip in clips}
    keys = sorted(set.intersection(*(set(rows) for rows in found.values())))
    kept = [owners[key] for key in keys]
    labels = tuple(sorted({clip.label for clip in kept if clip.label is not None}))
    return _Groups(kept, {name: [rows[key] for key in keys] for name, rows in found.items()}, labels)


def _videos(feature: Feature) -> list[ClipRows]:
    labels = feature.index().column("label").to_pylist()
    ids = feature.index().column("video_id").to_pylist()
    return [ClipRows(video_id, -1, 0.0, 0.0, label) for video_id, label in zip(ids, labels, strict=True)]


def _video_positions(feature: Feature) -> list[Ints]:
    columns = (feature.index().column(name).to_pylist() for name in ("first_row", "num_rows"))
    return [np.arange(first, first + num, dtype=np.int64) for first, num in zip(*columns, strict=True)]


def _part_of(groups: _Groups, store: FeatureStore, part: str, split: SplitConfig | Mapping[str, Any] | None) -> _Groups:
    video_ids = [owner.video_id for owner in groups.owners]
    given = {"from": "manifest"} if split is None else split
    config = given if isinstance(given, SplitConfig) else validate(SplitConfig, dict(given), "split")
    contents = {name: entry.fingerprint for name, entry in store.videos().items()}
    if config.from_ == "none":
        parts = np.full(len(video_ids), "test")
    elif config.from_ == "manifest":
        parts = manifest_parts(video_ids, {name: entry.split for name, entry in store.videos().items()}, contents)
    else:
        labels = [owner.label or "" for owner in groups.owners]
        shares = config.test_fraction, config.validation_fraction
        parts = random_parts(video_ids, labels, *shares, config.seed, contents)
    kept = np.flatnonzero(parts == part).tolist()
    if not kept:
        remedy = "see data.split in docs/training.md"
        raise UsageError(describe("split", config.from_, f"items to {part}", "none", remedy))
    rows = {name: [each[number] for number in kept] for name, each in groups.rows.items()}
    return replace(groups, owners=[groups.owners[number] for number in kept], rows=rows)


def _items(features: Mapping[str, Feature], groups: _Groups, kind: Kind, windows: Windows | None) -> FeatureItems:
    owners, rows = groups.owners, groups.rows
    if kind in ("row", "window"):
        [(name, feature)] = features.items()
        if windows is not None:
            cut = [windows.cut(each) for each in rows[name]]
        else:
            cut = [[each[at : at + 1] for at in range(len(each))] for each in _kept(feature, rows[name])]
        owners = [owner for owner, parts in zip(owners, cut, strict=True) for _ in parts]
        rows = {name: [part for parts in cut for part in parts]}
        if not owners:
            got = "none whose mask is set" if windows is None else f"none of {windows.rows} rows"
            raise UsageError(describe("feature", name, f"at least one {kind}", got, "take clips, or tail='pad'"))
    codes = {name: code for code, name in enumerate(groups.label_names)}
    return FeatureItems(
        features,
        {name: np.concatenate(each) for name, each in rows.items()},
        {name: np.cumsum([0, *map(len, each)]).astype(np.int64) for name, each in rows.items()},
        tuple(owner.video_id for owner in owners),
        np.array([owner.clip for owner in owners], np.int32),
        np.array([-1 if owner.label is None else codes[owner.label] for owner in owners], np.int64),
        groups.label_names,
        windows.rows if windows is not None else None,
    )


def _kept(feature: Feature, rows: Sequence[Ints]) -> list[Ints]:
    """Returns those of the positions whose mask is set."""
    every = np.concatenate(rows)
    mask = feature.mask(every)
    edges = np.cumsum([0, *map(len, rows)])
    pairs = zip(edges, edges[1:], strict=False)
    return [each[mask[first:last]] for each, (first, last) in zip(rows, pairs, strict=True)]
