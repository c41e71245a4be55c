"""The Wikipedia cross-modal set, where it is at hand: images as SIFT histograms, texts as LDA topics, ten classes.

Its texts stand in the place of videos, so that a model of images and videos can be compared with what was published.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill.models.checkpoints import find_checkpoint, load
from clipmill.models.embedding import embed
from clipmill.pipelines.datasets.items import Items, clip_id
from clipmill.pipelines.training.train import TrainReport, train_items
from clipmill.schemas.config import TrainConfig
from clipmill.schemas.features import FeatureSource
from clipmill.schemas.inputs import InputRows
from clipmill.schemas.model import validate

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "features" / "wikipedia"

needs_wikipedia = pytest.mark.skipif(not FOLDER.is_dir(), reason="../shared/data/features/wikipedia is not at hand")


def wikipedia_items() -> Items:
    """Returns the 2,173 training and 693 test pairs as they were published."""
    from scipy.io import loadmat

    arrays = loadmat(FOLDER / "raw_features.mat")
    lines = [(FOLDER / f"{part}set_txt_img_cat.list").read_text().splitlines() for part in ("train", "test")]
    label = np.array([int(line.split("\t")[2]) - 1 for line in lines[0] + lines[1] if line])
    values = {
        name: np.concatenate([arrays[f"{letter}_tr"], arrays[f"{letter}_te"]]).astype(np.float32)
        for name, letter in (("image", "I"), ("video", "T"))
    }
    ids = tuple(f"{number:04d}" for number in range(len(label)))
    return Items(
        inputs={name: InputRows(rows) for name, rows in values.items()},
        label=label.astype(np.int64),
        label_names=tuple((FOLDER / "categories.list").read_text().split()),
        clip_ids=tuple(clip_id(video_id, 0) for video_id in ids),
        video_ids=ids,
        clips=np.zeros(len(label), np.int32),
        clip_seconds=np.tile([0.0, 1.0], (len(label), 1)),
        part=np.where(np.arange(len(label)) < len(arrays["I_tr"]), "train", "test"),
        sources={name: FeatureSource(name, name[:1] * 32, rows.shape[1]) for name, rows in values.items()},
        dataset="wikipedia",
    )


def trained_on_wikipedia(
    name: str, options: dict[str, Any], out: Path, loop: dict[str, Any] | None = None
) -> tuple[TrainReport, dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Trains the model `name`, and returns the report, both sides of the test pairs, and their labels."""
    data = {
        "data": {"store": "wikipedia", "image": "image", "video": "text"},
        "model": {"name": name, "options": options},
        "loop": {"threads": 1, "device": "cpu"} | (loop or {}),
        "out": str(out),
    }
    items = wikipedia_items()
    report = train_items(validate(TrainConfig, data, "test"), items)
    tested = items.of("test")
    trained = load(find_checkpoint(out))
    images, texts = (embed(trained, side, tested.inputs) for side in ("query", "gallery"))
    return report, images, texts, tested.label


def mean_average_precision(scores: np.ndarray, query_label: np.ndarray, gallery_label: np.ndarray) -> float:
    """Returns mAP over all ranks of scores ``[Q, G]``, greater is better; of equals the first comes first."""
    hits = gallery_label[np.argsort(-scores, axis=1, kind="stable")] == query_label[:, None]
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return float(((precision * hits).sum(axis=1) / hits.sum(axis=1)).mean())


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns ``[Q, G]``."""
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (left, right)]
    return np.asarray(units[0] @ units[1].T)
