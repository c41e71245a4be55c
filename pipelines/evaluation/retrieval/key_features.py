"""Image to video by key features: votes for shots, and the frame inside them (Garcia, Vogiatzis, ICCVW 2017).

*Dress like a Star*. An index holds one 256-bit vector for each track of each shot (`extractors.tracks`). Each
descriptor of a query image votes for the shots of its nearest key features, **all** that are as near; the shots with
most votes are the answer. Inside a shot it is the frame with which most of the query's descriptors match: those whose
nearest of the frame's own descriptors is below a distance.

The index is exact (Hamming distances of all pairs), or one of faiss: ``flat``, exact as well, or ``ivf``, which looks
into some of its lists. The authors' kd-tree is not copied: what it approximates, these do with a measured loss.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Floats, Ints
from clipmill.schemas.errors import UsageError, describe
from clipmill.stores import Feature

Codes = npt.NDArray[np.uint8]

MATCH_DISTANCE = 20
"""Published: descriptors of a query and a frame match below this."""
_PAIRS = 1 << 22
"""ours: distances that are held at a time."""
_FIRST_NEIGHBOURS = 16
"""ours: neighbours asked of faiss at first; of a descriptor that all of them tie for, more."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A shot of a video: `shot` counts from 0 within the clip; its times are those of its key features."""

    video_id: str
    clip: int
    shot: int
    start_seconds: float
    stop_seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class KeyFeatures:
    """The key features of many videos.

    Attributes:
        codes: ``uint8[N, 32]``.
        shot: ``int64[N]``, position in `shots`.
        shots: by video id, clip and number.
    """

    codes: Codes
    shot: Ints
    shots: tuple[Shot, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the vectors and of the number of each one's shot (4)."""
        return int(self.codes.nbytes) + 4 * len(self.shot)

    def sizes(self) -> Ints:
        """Returns ``int64[S]``, the key features of each shot."""
        return np.bincount(self.shot, minlength=len(self.shots)).astype(np.int64)


def read_key_features(feature: Feature) -> KeyFeatures:
    """Returns the key features of all videos of a store; masked rows (clips in which nothing was tracked) are left out.

    Raises:
        UsageError: the feature is none of key features, or no video has any.
    """
    check_layer(feature, "key_features")
    codes, shot = [], []
    shots: list[Shot] = []
    for video_id in feature.video_ids:
        rows = feature.stored(video_id)
        kept = np.flatnonzero(rows.mask)
        numbers = np.stack([rows.clip[kept], np.asarray(rows.extras["shot"])[kept]], axis=1).astype(np.int64)
        found, position = np.unique(numbers, axis=0, return_inverse=True)
        codes.append(np.asarray(rows.values[kept], np.uint8))
        shot.append(position.reshape(-1) + len(shots))
        for place, (clip, number) in enumerate(found.tolist()):
            own = kept[position.reshape(-1) == place]
            start, stop = float(rows.start_seconds[own].min()), float(rows.stop_seconds[own].max())
            shots.append(Shot(video_id, clip, number, start, stop))
    if not shots:
        got, remedy = f"none in {len(feature.video_ids)} videos", "see docs/extractors/tracks.md"
        raise UsageError(describe("feature", feature.recipe.name, "key features to search", got, remedy))
    return KeyFeatures(np.concatenate(codes), np.concatenate(shot).astype(np.int64), tuple(shots))


def check_layer(feature: Feature, layer: str) -> None:
    """Makes sure that a feature is the layer `layer` of the extractor tracks.

    Raises:
        UsageError: it is not.
    """
    recipe = feature.recipe
    if (recipe.extractor, recipe.layer) != ("tracks", layer):
        got, remedy = f"{recipe.extractor} {recipe.layer}", f"build {{extractor: tracks, layer: {layer}}}"
        raise UsageError(describe("feature", recipe.name, f"tracks {layer}", got, remedy))


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest key features of Q descriptors, all of those that are as near.

    Attributes:
        query, item: ``int64[P]``, pairs of a descriptor and a key feature.
        distance: ``int64[Q]``, in bits.
    """

    query: Ints
    item: Ints
    distance: Ints


def hamming_distances(left: Codes, right: Codes) -> npt.NDArray[np.uint16]:
    """Returns ``uint16[Q, N]``, the bits in which ``uint8[Q, 32]`` and ``uint8[N, 32]`` differ."""
    first, second = (np.ascontiguousarray(codes).view(np.uint64) for codes in (left, right))
    found = np.zeros((len(first), len(second)), np.uint16)
    for word in range(first.shape[1]):
        found += np.bitwise_count(first[:, word, None] ^ second[None, :, word])
    return found


class ExactIndex:
    """Compares with every key feature."""

    def __init__(self, codes: Codes) -> None:
        self._codes = codes

    @property
    def num_bytes(self) -> int:
        """Bytes it holds."""
        return int(self._codes.nbytes)

    def nearest(self, queries: Codes) -> Nearest:
        """Returns the nearest of ``uint8[Q, 32]``."""
        best = np.full(len(queries), 257, np.int64)
        parts: list[tuple[Ints, Ints, Ints]] = []
        size = max(1, _PAIRS // max(1, len(queries)))
        for start in range(0, len(self._codes), size):
            found = hamming_distances(queries, self._codes[start : start + size])
            least = found.min(axis=1).astype(np.int64)
            best = np.minimum(best, least)
            query, item = np.nonzero(found == least[:, None])
            parts.append((query, item + start, least[query]))
        query, item, distance = (np.concatenate(column) for column in zip(*parts, strict=True))
        kept = distance == best[query]
        return Nearest(query[kept].astype(np.int64), item[kept].astype(np.int64), best)


class FaissIndex:
    """One of faiss's indexes of binary vectors.

    Args:
        kind: ``flat``, exact; ``ivf``, which looks into some of its lists.
        probes: so many of them (ours, and how many there are: 4 sqrt(N), at most N / 39).
        seed: of the lists' centres.
    """

    def __init__(self, codes: Codes, kind: Literal["flat", "ivf"], probes: int = 8, seed: int = 0) -> None:
        import faiss

        num_bits = 8 * codes.shape[1]
        self._num_items = len(codes)
        flat = faiss.IndexBinaryFlat(num_bits)
        self._index: Any = flat
        if kind == "ivf":
            lists = max(1, min(round(4 * math.sqrt(len(codes))), len(codes) // 39))
            self._index = faiss.IndexBinaryIVF(flat, num_bits, lists)
            self._index.quantizer_is_owned = flat  # keeps it alive: the index holds a bare pointer
            self._index.cp.seed, self._index.cp.min_points_per_centroid = seed + 1, 1
            self._index.nprobe = probes
            self._index.train(np.ascontiguousarray(codes))
        self._index.add(np.ascontiguousarray(codes))
        self._serialized = int(faiss.serialize_index_binary(self._index).nbytes)

    @property
    def num_bytes(self) -> int:
        """Bytes it holds, as it would be written."""
        return self._serialized

    def nearest(self, queries: Codes) -> Nearest:
        """Returns the nearest of ``uint8[Q, 32]`` among those it looks at."""
        waiting = np.arange(len(queries))
        best = np.full(len(queries), 257, np.int64)
        parts: list[tuple[Ints, Ints]] = []
        num = min(_FIRST_NEIGHBOURS, self._num_items)
        while len(waiting):
            distances, items = self._index.search(np.ascontiguousarray(queries[waiting]), num)
            found = items >= 0
            best[waiting] = np.where(found[:, 0], distances[:, 0], 257)
            ties = found & (distances == distances[:, :1])
            # Where all that came back are as near, there may be more.
            is_done = ~ties.all(axis=1) | (num == self._num_items)
            row, column = np.nonzero(ties & is_done[:, None])
            parts.append((waiting[row].astype(np.int64), items[row, column].astype(np.int64)))
            waiting, num = waiting[~is_done], min(8 * num, self._num_items)
        query, item = (np.concatenate(column) for column in zip(*parts, strict=True)) if parts else (waiting, waiting)
        return Nearest(query, item, best)


Index = ExactIndex | FaissIndex


def make_index(codes: Codes, kind: Literal["exact", "flat", "ivf"], probes: int = 8) -> Index:
    """Returns the index called `kind` of ``uint8[N, 32]``."""
    return ExactIndex(codes) if kind == "exact" else FaissIndex(codes, kind, probes)


def votes(features: KeyFeatures, nearest: Nearest, max_distance: int | None = None, normalise: bool = False) -> Floats:
    """Returns ``float64[S]``, the votes for each shot: one for each of the nearest key features of each descriptor.

    Args:
        max_distance: only descriptors whose nearest is at most so far vote; None: all, as published.
        normalise: divide by the square root of the number of the shot's key features (ours): a long shot has more to
            be near.
    """
    item = nearest.item
    if max_distance is not None:
        item = item[nearest.distance[nearest.query] <= max_distance]
    found = np.bincount(features.shot[item], minlength=len(features.shots)).astype(np.float64)
    return found / np.sqrt(np.maximum(1, features.sizes())) if normalise else found


def top_shots(scores: Floats, k: int) -> Ints:
    """Returns ``int64[min(k, S)]``, the shots with most votes, best first; of equal ones the first."""
    return np.argsort(-scores, kind="stable")[:k].astype(np.int64)


def best_frame(queries: Codes, frames: "ShotFrames", max_distance: int = MATCH_DISTANCE) -> tuple[float, int]:
    """Returns when the frame begins with which most descriptors match, and how many do; the first of equal ones.

    A descriptor matches where its nearest in the frame is below `max_distance`.
    """
    best = (frames.seconds[0] if len(frames.seconds) else math.nan, -1)
    for start, stop, seconds in zip(frames.offsets[:-1], frames.offsets[1:], frames.seconds, strict=True):
        if stop == start:
            continue
        near = hamming_distances(queries, frames.codes[start:stop]).min(axis=1) < max_distance
        num = int(near.sum())
        if num > best[1]:
            best = (float(seconds), num)
    return float(best[0]), max(0, best[1])


@dataclass(frozen=True, slots=True, eq=False)
class ShotFrames:
    """The descriptors of each frame of one shot.

    Attributes:
        codes: ``uint8[M, 32]``, frame after frame.
        offsets: ``int64[F + 1]``, where each frame's begin.
        seconds: ``float64[F]``, when each frame begins.
    """

    codes: Codes
    offsets: Ints
    seconds: Floats


def read_frames(feature: Feature, shot: Shot) -> ShotFrames:
    """Returns the descriptors of the frames of `shot`, of a feature ``tracks frame_descriptors``.

    Raises:
        StoreError: the video has none.
    """
    rows = feature.clip_rows(shot.video_id, shot.clip)
    kept = np.flatnonzero(rows.mask & (np.asarray(rows.extras["shot"]) == shot.shot))
    seconds, first = np.unique(rows.start_seconds[kept], return_index=True)
    offsets = np.append(first, len(kept)).astype(np.int64)
    return ShotFrames(np.asarray(rows.values[kept], np.uint8), offsets, seconds)
