"""Items for the inputs of any model: each label has a centre, a time course and words of its own."""

from collections.abc import Mapping

import numpy as np

from clipmill.pipelines.datasets.items import Items, clip_id
from clipmill.pipelines.datasets.text import Vocabulary
from clipmill.schemas.features import FeatureSource
from clipmill.schemas.inputs import Bag, Input, InputRows, Sequence, Tokens, Vector

DIM = 12


def synthetic_items(inputs: Mapping[str, Input], num_labels: int = 4, per_label: int = 12, seed: int = 0) -> Items:
    """Returns items of which the first three of each label are tested and the next three validate."""
    random = np.random.default_rng(seed)
    label = np.repeat(np.arange(num_labels), per_label)
    vocabularies: dict[str, tuple[str, ...]] = {}
    rows: dict[str, InputRows] = {}
    for name, kind in inputs.items():
        if isinstance(kind, Tokens):
            texts = [[f"label{code}", *random.choice(["a", "the", "very"], 2).tolist()] for code in label]
            vocabulary = Vocabulary.of(texts)
            rows[name], vocabularies[name] = vocabulary.rows(texts, kind.max_tokens), vocabulary.words
        else:
            rows[name] = _vectors(kind, label, num_labels, random)
    place = np.arange(len(label)) % per_label
    targets = {}
    if isinstance(inputs.get("video"), Sequence) and "query" in inputs:
        # A moment of each label's own share of its video.
        lengths = rows["video"].lengths()
        first = label * lengths // (2 * num_labels)
        targets["span"] = np.stack([first, first + (lengths - first - 1) // 2], axis=1).astype(np.int64)
    video_ids = tuple(f"class {code}/video {number:03d}.mp4" for number, code in enumerate(label))
    dims = {name: len(vocabularies[name]) + 2 if name in vocabularies else DIM for name in inputs}
    return Items(
        inputs=rows,
        label=label.astype(np.int64),
        label_names=tuple(f"class {code}" for code in range(num_labels)),
        clip_ids=tuple(clip_id(video_id, 0) for video_id in video_ids),
        video_ids=video_ids,
        clips=np.zeros(len(label), np.int32),
        clip_seconds=np.tile([0.0, 10.0], (len(label), 1)),
        part=np.where(place < 3, "test", np.where(place < 6, "validation", "train")),
        sources={name: FeatureSource(f"{name} feature", str(i) * 32, dims[name]) for i, name in enumerate(inputs)},
        vocabularies=vocabularies,
        store_url="somewhere/store",
        dataset="synthetic",
        targets=targets,
    )


def _vectors(
    kind: Vector | Bag | Sequence, label: np.ndarray, num_labels: int, random: np.random.Generator
) -> InputRows:
    centres = random.normal(size=(num_labels, DIM))
    if isinstance(kind, Vector):
        return InputRows((centres[label] + 0.3 * random.normal(size=(len(label), DIM))).astype(np.float32))
    most = kind.max_rows if isinstance(kind, Bag) else kind.max_steps
    lengths = random.integers(1, most + 1, len(label))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values = np.repeat(centres[label], lengths, axis=0) + 0.3 * random.normal(size=(offsets[-1], DIM))
    return InputRows(values.astype(np.float32), offsets)
