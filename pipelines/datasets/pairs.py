"""Pairs of an image vector and a video vector of the same clip, read from a feature store and split by video."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.datasets.split import manifest_parts, random_test_videos
from clipmill.schemas.config import RetrievalDataConfig, SplitConfig
from clipmill.schemas.errors import ManifestError, UsageError, describe
from clipmill.schemas.features import FeatureSource
from clipmill.stores import ClipRows, Feature, FeatureStore

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PairedFeatures:
    """n clips that have both vectors, ordered by video id and clip index.

    Attributes:
        image: ``float32[n, Di]``, the clip's first row of the image feature.
        video: ``float32[n, Dv]``, the mean of the clip's rows of the video feature.
        label: ``int64[n]``, position in `label_names`.
        label_names: sorted.
        clip_ids: ``<video id>#<clip index>``, unique.
        video_ids: of each clip's video.
        clips: ``int32[n]``, the clip's index within its video.
        clip_seconds: ``float64[n, 2]``, start and stop of the clip.
        image_seconds: ``float64[n]``, presentation time of the frame the image vector was made from.
        is_test: ``bool[n]``.
        image_source, video_source: the two features.
        store_url, dataset: where they lie.
        num_only_image, num_only_video: clips left out because they have rows of one feature alone.
        num_validation: clips left out because the manifest keeps them for validation.
    """

    image: Floats
    video: Floats
    label: npt.NDArray[np.int64]
    label_names: tuple[str, ...]
    clip_ids: tuple[str, ...]
    video_ids: tuple[str, ...]
    clips: npt.NDArray[np.int32]
    clip_seconds: npt.NDArray[np.float64]
    image_seconds: npt.NDArray[np.float64]
    is_test: npt.NDArray[np.bool_]
    image_source: FeatureSource
    video_source: FeatureSource
    store_url: str = ""
    dataset: str = ""
    num_only_image: int = 0
    num_only_video: int = 0
    num_validation: int = 0

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def test_clip_ids(self) -> tuple[str, ...]:
        """Ids of the clips kept for the test, in order."""
        return tuple(clip_id for clip_id, tested in zip(self.clip_ids, self.is_test, strict=True) if tested)

    @property
    def labels_without_training(self) -> tuple[str, ...]:
        """Labels of which no clip is trained on: queries of them can only be found by luck."""
        trained = set(self.label[~self.is_test].tolist())
        return tuple(name for code, name in enumerate(self.label_names) if code not in trained)

    @property
    def labels_without_test(self) -> tuple[str, ...]:
        """Labels of which no clip is tested."""
        tested = set(self.label[self.is_test].tolist())
        return tuple(name for code, name in enumerate(self.label_names) if code not in tested)

    def take(self, rows: npt.NDArray[np.generic]) -> "PairedFeatures":
        """Returns the clips at `rows` (positions or a mask), with the same label names."""
        kept = np.arange(len(self))[rows]
        return replace(
            self,
            image=self.image[kept],
            video=self.video[kept],
            label=self.label[kept],
            clip_ids=tuple(self.clip_ids[row] for row in kept),
            video_ids=tuple(self.video_ids[row] for row in kept),
            clips=self.clips[kept],
            clip_seconds=self.clip_seconds[kept],
            image_seconds=self.image_seconds[kept],
            is_test=self.is_test[kept],
        )


def clip_id(video_id: str, clip: int) -> str:
    """Returns the id of a clip: unique in a dataset whatever video ids look like, for it ends with its index."""
    return f"{video_id}#{clip}"


def read_pairs(config: RetrievalDataConfig) -> PairedFeatures:
    """Returns the clips that have rows of both features, split as `config` says.

    Raises:
        StoreError: no store there, or no feature of that name (near names are listed).
        UsageError: the features were cut into different clips, no clip has both, a clip has no label, there are fewer
            than two labels, or nothing is left to train on or to test.
        ManifestError: the manifest's column `split` is incomplete.
    """
    store = FeatureStore(config.store)
    image, video = store[config.image], store[config.video]
    if image.recipe.clips != video.recipe.clips:
        raise UsageError(
            describe(
                "features",
                f"{config.image} and {config.video}",
                "the same clips",
                f"{image.recipe.clips.from_} and {video.recipe.clips.from_} cut differently",
                "build both in one config, which has one clips rule",
            )
        )
    image_rows, image_seconds = first_rows(image)
    clips = {(clip.video_id, clip.clip): clip for clip in video.clips()}
    keys = sorted(image_rows.keys() & clips.keys())
    means = video.clip_means([clips[key] for key in keys]) if keys else np.zeros((0, video.dim), np.float32)
    whole: npt.NDArray[np.bool_] = np.logical_not(np.isnan(means).any(axis=1))
    num_video = len(clips) - int(np.count_nonzero(~whole))
    keys = [key for key, kept in zip(keys, whole.tolist(), strict=True) if kept]
    if not keys:
        raise UsageError(
            describe(
                "store",
                config.store,
                f"clips with rows of both {config.image} and {config.video}",
                f"{len(image_rows)} with the one, {num_video} with the other, none with both",
                "build both features over the same videos; see clipmill status",
            )
        )
    pairs = _labelled(
        [clips[key] for key in keys],
        np.stack([image_rows[key] for key in keys]),
        means[whole],
        np.array([image_seconds[key] for key in keys], np.float64),
        (_source(config.image, image), _source(config.video, video)),
    )
    pairs = replace(
        pairs,
        store_url=config.store,
        dataset=store.store.dataset,
        num_only_image=len(image_rows) - len(keys),
        num_only_video=num_video - len(keys),
    )
    return split_pairs(pairs, config.split, {name: entry.split for name, entry in store.videos().items()})


def first_rows(feature: Feature) -> tuple[dict[tuple[str, int], Floats], dict[tuple[str, int], float]]:
    """Returns each clip's first row that its mask keeps, ``float32[D]``, and that row's time, by (video id, clip)."""
    rows: dict[tuple[str, int], Floats] = {}
    seconds: dict[tuple[str, int], float] = {}
    for video_id in feature.video_ids:
        found = feature[video_id]
        kept = np.flatnonzero(found.mask)
        numbers, first = np.unique(found.clip[kept], return_index=True)
        for clip, row in zip(numbers.tolist(), kept[first].tolist(), strict=True):
            # A copy, so that the rest of a long video is not kept in memory with it.
            rows[video_id, clip] = np.array(found.values[row], np.float32)
            seconds[video_id, clip] = float(found.start_seconds[row])
    return rows, seconds


def split_pairs(
    pairs: PairedFeatures, config: SplitConfig, manifest_splits: Mapping[str, str | None]
) -> PairedFeatures:
    """Returns `pairs` with `is_test` set; clips the manifest keeps for validation are left out and counted.

    Raises:
        ManifestError: the manifest's column `split` is incomplete.
        UsageError: nothing is left to train on, or nothing to test.
    """
    if config.from_ == "manifest":
        parts = manifest_parts(pairs.video_ids, manifest_splits)
        kept = parts != "validation"
        pairs = replace(pairs, is_test=parts == "test", num_validation=int(np.count_nonzero(~kept))).take(kept)
    else:
        labels = [pairs.label_names[code] for code in pairs.label]
        tested = random_test_videos(pairs.video_ids, labels, config.test_fraction, config.seed)
        pairs = replace(pairs, is_test=np.array([video_id in tested for video_id in pairs.video_ids], np.bool_))
    num_test = int(pairs.is_test.sum())
    if num_test in (0, len(pairs)):
        side = "test" if num_test == 0 else "train"
        raise UsageError(
            describe(
                "data.split",
                config.from_,
                "clips on both sides",
                f"none to {side}",
                "random needs two videos of a label, manifest a column split with train and test",
            )
        )
    return pairs


def _labelled(
    clips: Sequence[ClipRows],
    image: Floats,
    video: Floats,
    image_seconds: npt.NDArray[np.float64],
    sources: tuple[FeatureSource, FeatureSource],
) -> PairedFeatures:
    bare = [clip_id(clip.video_id, clip.clip) for clip in clips if clip.label is None]
    if bare:
        raise ManifestError(
            describe(
                "labels",
                "of the clips",
                "one for every clip",
                f"none for {len(bare)} of {len(clips)}, such as {bare[0]!r}",
                "build with label: parent_folder, or give the manifest a column label",
            )
        )
    labels = [str(clip.label) for clip in clips]
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        raise UsageError(
            describe("labels", "of the clips", "at least two", f"only {names[0]!r}", "retrieval needs classes to tell")
        )
    position = {name: code for code, name in enumerate(names)}
    return PairedFeatures(
        image=image,
        video=video,
        label=np.array([position[label] for label in labels], np.int64),
        label_names=names,
        clip_ids=tuple(clip_id(clip.video_id, clip.clip) for clip in clips),
        video_ids=tuple(clip.video_id for clip in clips),
        clips=np.array([clip.clip for clip in clips], np.int32),
        clip_seconds=np.array([(clip.start_seconds, clip.stop_seconds) for clip in clips], np.float64),
        image_seconds=image_seconds,
        is_test=np.zeros(len(clips), np.bool_),
        image_source=sources[0],
        video_source=sources[1],
    )


def _source(name: str, feature: Feature) -> FeatureSource:
    return FeatureSource(name, feature.recipe.fingerprint, feature.dim)
