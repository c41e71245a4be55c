"""The items a model is trained and tested on: clips of a store that have every input, labelled and split by video."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.datasets.label_map import merged_labels, read_label_map
from clipmill.pipelines.datasets.provenance import source_of
from clipmill.pipelines.datasets.rows import ItemRows, read_rows
from clipmill.pipelines.datasets.split import manifest_parts, random_parts
from clipmill.pipelines.datasets.text import Vocabulary, read_tokens
from clipmill.schemas.arrays import Array, Bools, Singles
from clipmill.schemas.config import DataConfig, SplitConfig, TextConfig
from clipmill.schemas.errors import ManifestError, UsageError, describe
from clipmill.schemas.features import FeatureSource
from clipmill.schemas.inputs import Bag, Input, InputRows, Tokens
from clipmill.schemas.records import Video
from clipmill.stores import ClipRows, Feature, FeatureStore

_TIME_TOLERANCE_SECONDS = 0.05
"""ours: times of one clip that differ by less are rounded, not others."""


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """n clips that have every input, ordered by video id and clip index.

    Attributes:
        inputs: by name, what the model is given of each clip.
        label: ``int64[n]``, position in `label_names`; -1 where clips have none.
        label_names: sorted; empty where clips have none.
        clip_ids: ``<video id>#<clip index>``, unique.
        video_ids: of each clip's video.
        clips: ``int32[n]``, the clip's index within its video.
        clip_seconds: ``float64[n, 2]``, start and stop of the clip.
        part: ``str[n]``: ``train``, ``validation`` or ``test``.
        sources: by input, what it was read from.
        vocabularies: of inputs that read tokens: the words of the training clips.
        store_url, dataset: where the features lie.
        num_only: by input, clips left out because they have rows of it but not of all others.
        targets: by name, ``[n, ...]``: what a model is to find of each item.
        word_vectors: of inputs that read tokens: ``float32[V, D]``, and ``bool[V]``, which of the V words have one.
        notes: what to know of them.
    """

    inputs: Mapping[str, InputRows]
    label: npt.NDArray[np.int64]
    label_names: tuple[str, ...]
    clip_ids: tuple[str, ...]
    video_ids: tuple[str, ...]
    clips: npt.NDArray[np.int32]
    clip_seconds: npt.NDArray[np.float64]
    part: npt.NDArray[np.str_]
    sources: Mapping[str, FeatureSource]
    vocabularies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    store_url: str = ""
    dataset: str = ""
    num_only: Mapping[str, int] = field(default_factory=dict)
    targets: Mapping[str, Array] = field(default_factory=dict)
    word_vectors: Mapping[str, tuple[Singles, Bools]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.clip_ids)

    def of(self, part: str) -> "Items":
        """Returns the clips of one part of the split."""
        return self.take(self.part == part)

    @property
    def test_clip_ids(self) -> tuple[str, ...]:
        """Ids of the clips kept for the test, in order."""
        return tuple(clip for clip, part in zip(self.clip_ids, self.part.tolist(), strict=True) if part == "test")

    @property
    def labels_without_training(self) -> tuple[str, ...]:
        """Labels of which no clip is trained on: queries of them can only be found by luck."""
        return self._labels_missing_in("train")

    @property
    def labels_without_test(self) -> tuple[str, ...]:
        """Labels of which no clip is tested."""
        return self._labels_missing_in("test")

    def _labels_missing_in(self, part: str) -> tuple[str, ...]:
        present = set(self.label[self.part == part].tolist())
        return tuple(name for code, name in enumerate(self.label_names) if code not in present)

    def take(self, rows: npt.NDArray[np.generic]) -> "Items":
        """Returns the clips at `rows` (positions or a mask), with the same label names."""
        kept = np.arange(len(self))[rows]
        return replace(
            self,
            inputs={name: item.take(kept) for name, item in self.inputs.items()},
            label=self.label[kept],
            clip_ids=tuple(self.clip_ids[row] for row in kept),
            video_ids=tuple(self.video_ids[row] for row in kept),
            clips=self.clips[kept],
            clip_seconds=self.clip_seconds[kept],
            part=self.part[kept],
            targets={name: values[kept] for name, values in self.targets.items()},
        )


def clip_id(video_id: str, clip: int) -> str:
    """Returns the id of a clip: unique in a dataset whatever video ids look like, for it ends with its index."""
    return f"{video_id}#{clip}"


def read_items(
    config: DataConfig,
    inputs: Mapping[str, Input],
    needs_labels: bool = True,
    vocabularies: Mapping[str, tuple[str, ...]] | None = None,
) -> Items:
    """Returns the clips that have rows of every input, split as `config` says.

    Args:
        inputs: of the model, see `models.base.ModelCard`; `config` names what each is read from.
        vocabularies: of a trained model; None: they are made of the training clips.

    Raises:
        StoreError: no store there, or no feature of that name (near names are listed).
        UsageError: other inputs are named than the model has, the features were cut into different clips, no clip has
            all, a row is not finite, a bag that needs several rows never has them, there are fewer than two labels (of
            all clips, or of those that train), or nothing is left to train on, to test, or to validate on where that
            was asked.
        ManifestError: a clip has no label or no text, or the manifest's column `split` is incomplete.
    """
    check_inputs(config, inputs)
    store = FeatureStore(config.store)
    features = {name: store[source] for name, source in config.sources.items() if isinstance(source, str)}
    check_same_clips(features)
    found = {name: read_rows(features[name], inputs[name]) for name in inputs if name in features}
    for name, rows in found.items():
        _check_bag(inputs[name], rows, features[name])
    _check_same_times(found, features)
    clips = _in_common(found, config)
    if config.label_map is not None:
        merged = merged_labels((clip.label for clip in clips), read_label_map(config.label_map), config.label_map)
        clips = [replace(clip, label=label) for clip, label in zip(clips, merged, strict=True)]
    label, label_names = _labels(clips, needs_labels)
    items = Items(
        inputs={name: rows.of([clip.key for clip in clips]) for name, rows in found.items()},
        label=label,
        label_names=label_names,
        clip_ids=tuple(clip_id(*clip.key) for clip in clips),
        video_ids=tuple(clip.video_id for clip in clips),
        clips=np.array([clip.clip for clip in clips], np.int32),
        clip_seconds=np.array([(clip.start_seconds, clip.stop_seconds) for clip in clips], np.float64),
        part=np.full(len(clips), "train", dtype="<U10"),
        sources={
            name: source_of(str(config.sources[name]), features[name], {clip.video_id for clip in clips})
            for name in found
        },
        store_url=config.store,
        dataset=store.store.dataset,
        num_only={name: len(rows.clips) - len(clips) for name, rows in found.items()},
    )
    items = split_items(items, config.split, store.videos())
    if needs_labels and config.split.from_ != "none":
        check_trained_labels(items)
    return with_texts(items, config.sources, inputs, vocabularies or {})


def check_inputs(config: DataConfig, inputs: Mapping[str, Input]) -> None:
    """Makes sure that `config` names a source for each of the model's inputs, of its kind, and no other.

    Raises:
        UsageError: it does not.
    """
    if config.sources.keys() != inputs.keys():
        expected, got = (", ".join(names) or "none" for names in (inputs, config.sources))
        remedy = "give each under data.image, data.video or data.inputs"
        raise UsageError(describe("data", "inputs", f"what the model is given ({expected})", got, remedy))
    for name, source in config.sources.items():
        if isinstance(inputs[name], Tokens) != isinstance(source, TextConfig):
            wanted = "a file of texts, such as {file: texts.csv}" if isinstance(inputs[name], Tokens) else "a feature"
            raise UsageError(describe("data", name, wanted, str(source), "see docs/training.md"))


def check_same_clips(features: Mapping[str, Feature]) -> None:
    """Makes sure that all features were cut into the same clips.

    Raises:
        UsageError: they were not.
    """
    (first, one), *others = features.items()
    for _, other in others:
        if other.recipe.clips != one.recipe.clips:
            raise UsageError(
                describe(
                    "features",
                    f"{one.recipe.name} and {other.recipe.name}",
                    "the same clips",
                    f"{one.recipe.clips.from_} and {other.recipe.clips.from_} cut differently",
                    "build both in one config, which has one clips rule",
                )
            )


def _check_bag(kind: Input, rows: ItemRows, feature: Feature) -> None:
    if not isinstance(kind, Bag) or kind.allows_single or kind.max_rows < 2:
        return
    if not len(rows.rows) or rows.rows.lengths().max() > 1:
        return
    got = f"one row for each of {len(rows.rows)} clips"
    remedy = "take a feature of proposals (rc3d) or of several windows a clip"
    raise UsageError(describe("feature", feature.recipe.name, "several rows a clip, which make a bag", got, remedy))


def _check_same_times(found: Mapping[str, ItemRows], features: Mapping[str, Feature]) -> None:
    """Makes sure that clips of one number are the same seconds of a video: imported features may say otherwise."""
    if len(found) < 2:
        return
    (first, one), *others = found.items()
    if features[first].recipe.clips.from_ == "whole":
        return
    for name, other in others:
        keys = [key for key in one.clips if key in other.clips]
        apart = [key for key in keys if _are_apart(one.clips[key], other.clips[key])]
        if apart:
            (left, right) = (rows.clips[apart[0]] for rows in (one, other))
            raise UsageError(
                describe(
                    "features",
                    f"{features[first].recipe.name} and {features[name].recipe.name}",
                    "the same clips",
                    f"other times for {len(apart)} of {len(keys)}, such as {clip_id(*apart[0])!r} "
                    f"({left.start_seconds:g} to {left.stop_seconds:g} s and {right.start_seconds:g} to "
                    f"{right.stop_seconds:g} s)",
                    "build or import both with the same times",
                )
            )


def _are_apart(left: ClipRows, right: ClipRows) -> bool:
    pairs = ((left.start_seconds, right.start_seconds), (left.stop_seconds, right.stop_seconds))
    return any(abs(mine - other) > _TIME_TOLERANCE_SECONDS for mine, other in pairs)


def check_trained_labels(items: Items) -> None:
    """Makes sure that there are two labels to tell apart among the clips that train.

    Raises:
        UsageError: there is one alone.
    """
    trained = np.unique(items.label[items.part == "train"])
    if items.label_names and len(trained) < 2:
        got = f"only {items.label_names[int(trained[0])]!r}"
        remedy = "train clips of more labels: correct the column split, or take data.split.from: random"
        raise UsageError(describe("labels", "of the training clips", "at least two", got, remedy))


def _in_common(found: Mapping[str, ItemRows], config: DataConfig) -> list[ClipRows]:
    first, *others = found.values()
    common = set(first.clips).intersection(*(rows.clips for rows in others))
    if not common:
        names = [str(config.sources[name]) for name in found]
        counts = [f"{len(rows.clips)} with {name}" for name, rows in zip(names, found.values(), strict=True)]
        raise UsageError(
            describe(
                "store",
                config.store,
                f"clips with rows of {' and '.join(names)}",
                ", ".join(counts) + (", none with all" if others else ""),
                "build the features over the same videos; see clipmill status",
            )
        )
    return [first.clips[key] for key in sorted(common)]


def split_items(items: Items, config: SplitConfig, videos: Mapping[str, Video]) -> Items:
    """Returns `items` with `part` set.

    Args:
        videos: of the store, by id.

    Raises:
        ManifestError: the manifest's column `split` is incomplete.
        UsageError: nothing is left to train on, or nothing to test.
    """
    if config.from_ == "none":
        return replace(items, part=np.full(len(items), "test", dtype="<U10"))
    contents = {name: video.fingerprint for name, video in videos.items()}
    if config.from_ == "manifest":
        part = manifest_parts(items.video_ids, {name: video.split for name, video in videos.items()}, contents)
    else:
        labels = [items.label_names[code] if items.label_names else "" for code in items.label]
        shares = config.test_fraction, config.validation_fraction
        part = random_parts(items.video_ids, labels, *shares, config.seed, contents)
    for side in ("test", "train"):
        if not (part == side).any():
            raise UsageError(
                describe(
                    "data.split",
                    config.from_,
                    "clips on both sides",
                    f"none to {side}",
                    "random needs two videos of a label, manifest a column split with train and test",
                )
            )
    if config.from_ == "random" and config.validation_fraction > 0 and not (part == "validation").any():
        got = f"none of {len(set(items.video_ids))} videos"
        remedy = "raise it, or give labels with more videos: each keeps one to train and one to test"
        expected = "a share that makes at least one video of a label"
        raise UsageError(describe("data.split", "validation_fraction", expected, got, remedy))
    return replace(items, part=part)


def _labels(clips: list[ClipRows], needs_labels: bool) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    bare = [clip_id(*clip.key) for clip in clips if clip.label is None]
    if bare and needs_labels:
        raise ManifestError(
            describe(
                "labels",
                "of the clips",
                "one for every clip",
                f"none for {len(bare)} of {len(clips)}, such as {bare[0]!r}",
                "build with label: parent_folder, or give the manifest a column label",
            )
        )
    if bare:
        return np.full(len(clips), -1, np.int64), ()
    labels = [str(clip.label) for clip in clips]
    names = tuple(sorted(set(labels)))
    if len(names) < 2 and needs_labels:
        raise UsageError(
            describe("labels", "of the clips", "at least two", f"only {names[0]!r}", "retrieval needs classes to tell")
        )
    position = {name: code for code, name in enumerate(names)}
    return np.array([position[label] for label in labels], np.int64), names


def with_texts(
    items: Items,
    sources: Mapping[str, str | TextConfig],
    inputs: Mapping[str, Input],
    vocabularies: Mapping[str, tuple[str, ...]],
) -> Items:
    """Returns `items` with the inputs that read tokens, by the given vocabularies or those of the training clips.

    Raises:
        ManifestError: a file cannot be read, or has no word for a clip.
    """
    for name, kind in inputs.items():
        text = sources[name]
        if not isinstance(kind, Tokens) or not isinstance(text, TextConfig):
            continue
        texts = read_tokens(text, items.clip_ids, items.video_ids, kind.tokeniser)
        if name in vocabularies:
            vocabulary = Vocabulary(vocabularies[name])
        else:
            training = [words for words, part in zip(texts.words, items.part.tolist(), strict=True) if part == "train"]
            vocabulary = Vocabulary.of(training, kind.min_count)
        source = FeatureSource(text.file, texts.digest, vocabulary.size)
        items = replace(
            items,
            inputs={**items.inputs, name: vocabulary.rows(texts.words, kind.max_tokens)},
            sources={**items.sources, name: source},
            vocabularies={**items.vocabularies, name: vocabulary.words},
        )
    # In the order of `inputs`; what is none of them comes first.
    others = {name: rows for name, rows in items.inputs.items() if name not in inputs}
    return replace(items, inputs=others | {name: items.inputs[name] for name in inputs})
