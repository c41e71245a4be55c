"""``task: classification``: items with one class each, or untrimmed videos with several."""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from clipmill.pipelines.evaluation.metrics.classification import Classification, ClassificationScore
from clipmill.pipelines.evaluation.metrics.classification_videos import VideoClassification, VideoClassificationScore
from clipmill.pipelines.evaluation.metrics.detection import account
from clipmill.pipelines.evaluation.tasks.detection.score import plain_counts, resampled_map
from clipmill.pipelines.evaluation.tasks.result import (
    SCORE_RESAMPLES,
    RunScore,
    Units,
    half_samples,
    mean_intervals,
    resampled_intervals,
)
from clipmill.pipelines.evaluation.tasks.segment_truth import in_order
from clipmill.schemas.arrays import Floats, Ints
from clipmill.schemas.errors import UsageError
from clipmill.schemas.segments import Segments, segments_from_columns
from clipmill.stores.formats.records import ClassScoreTable


@dataclass(frozen=True, slots=True)
class ItemsEvaluation:
    """One set of class scores of items, evaluated; all that a report of it needs.

    Attributes:
        class_names: C names, ascending; the classes of `score`.
        item_ids: the M scored items that have predictions, ascending.
        label, predicted: ``int64[M]``, true and best scored class.
        values: ``float64[M, C]``.
        score: over the items that have predictions (`run` also counts those that have none, as incorrect).
    """

    name: str
    class_names: tuple[str, ...]
    item_ids: tuple[str, ...]
    label: Ints
    predicted: Ints
    values: Floats
    score: ClassificationScore
    run: RunScore


def evaluate_items(
    name: str,
    labels: Mapping[str, str],
    scores: ClassScoreTable,
    at: tuple[int, ...] = (1, 5),
    baselines: bool = True,
    resamples: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> ItemsEvaluation:
    """Returns the accuracies of one set of class scores.

    Classes are numbered by ascending name: of equal scores the first name wins. An item without predictions is
    incorrect in every measure; predicted items without a label are left out; both are counted. A true class that the
    predictions have no column for can only be missed.

    Args:
        labels: item id to class name.
        at: k of top-k.

    Raises:
        UsageError: a score is NaN, or an item is in the predictions twice.
    """
    if len(set(scores.ids)) != len(scores.ids):
        raise UsageError(f"predictions {name}: expected each item once, got one twice; remove the repeated rows")
    names = tuple(sorted({*scores.class_names, *labels.values()}))
    code = {label: position for position, label in enumerate(names)}
    row = {item: position for position, item in enumerate(scores.ids)}
    items = tuple(sorted(item for item in labels if item in row))
    values = np.full((len(items), len(names)), -np.inf)
    values[:, [code[label] for label in scores.class_names]] = scores.values[[row[item] for item in items]]
    label = np.array([code[labels[item]] for item in items], np.int64)
    state = Classification(len(names), at).update(values, label)
    score = state.result()
    num_items, num_missing = len(labels), len(labels) - len(items)
    totals = np.bincount([code[value] for value in labels.values()], minlength=len(names))
    correct = np.diagonal(score.confusion)
    each = {names[c]: int(correct[c]) / int(totals[c]) for c in range(len(names)) if totals[c]}
    metrics = {
        f"top{k}": int(hit) / num_items if num_items else math.nan for k, hit in zip(at, state.hits, strict=True)
    }
    metrics["mean_class_accuracy"] = math.fsum(each.values()) / len(each) if each else math.nan
    own = values[np.arange(len(items)), label][:, None]
    before = (values > own) | ((values == own) & (np.arange(len(names)) < label[:, None]))
    everyone = tuple(sorted(labels))
    place = {item: position for position, item in enumerate(everyone)}
    found = {f"top{k}": np.zeros(num_items) for k in at}
    for k in at:
        found[f"top{k}"][[place[item] for item in items]] = before.sum(axis=1) < k
    frequent = np.sort(totals)[::-1]
    baseline_scores = {
        "chance": {f"top{k}": min(k, len(names)) / len(names) for k in at},
        "most_frequent": {f"top{k}": int(frequent[:k].sum()) / max(num_items, 1) for k in at},
    }
    num_classes = int((totals > 0).sum())
    missing_columns = len({value for value in labels.values() if value not in set(scores.class_names)})
    counts = {
        "num_items": num_items,
        "num_missing": num_missing,
        "num_unknown": len(scores.ids) - len(items),
        "num_classes": len(names),
        "num_classes_with_items": num_classes,
        "num_classes_without_scores": missing_columns,
    }
    run = RunScore(
        name=name,
        headline=f"top{at[0]}",
        shown=tuple(metrics),
        metrics=metrics,
        baselines=baseline_scores if baselines else {},
        intervals=mean_intervals(found, seed, resamples, confidence),
        counts=counts,
        line=_items_line(metrics, counts),
        per_class={label: {"accuracy": value, "num_items": int(totals[code[label]])} for label, value in each.items()},
        units=Units("item", everyone, found),
    )
    predicted = values.argmax(axis=1) if len(items) else np.zeros(0, np.int64)
    return ItemsEvaluation(name, names, items, label, predicted, values, score, run)


def _items_line(metrics: Mapping[str, float], counts: Mapping[str, int]) -> str:
    each = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in metrics.items())
    text = (
        f"{each}; {counts['num_items']} items ({counts['num_missing']} without predictions), "
        f"{counts['num_classes']} classes ({counts['num_classes_with_items']} with items)"
    )
    if counts["num_classes_without_scores"]:
        text += f"; {counts['num_classes_without_scores']} true classes that the predictions do not have"
    return text + f"; {counts['num_unknown']} predicted items not in the ground truth"


@dataclass(frozen=True, slots=True)
class VideoClassificationEvaluation:
    """One set of classes of untrimmed videos, evaluated; all that a report of it needs.

    Attributes:
        ground_truth: the classes of each video. predictions: their scores; times play no part.
        baselines: the scores of ``chance`` and ``most_frequent``.
    """

    name: str
    ground_truth: Segments
    predictions: Segments
    score: VideoClassificationScore
    baselines: Mapping[str, VideoClassificationScore]
    run: RunScore


def evaluate_video_classes(
    name: str,
    ground_truth: Segments,
    predictions: Segments,
    at: tuple[int, ...] = (1, 3),
    blocked: frozenset[str] = frozenset(),
    baselines: bool = True,
    resamples: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> VideoClassificationEvaluation:
    """Returns mAP and hit@k of one set of predictions, as the ActivityNet challenge scores classification.

    Args:
        at: k of hit@k.
        resamples: of the bootstrap over videos, and random halves of the videos for mAP.
    """
    met = blocked.intersection(ground_truth.video_ids) | blocked.intersection(predictions.video_ids)
    truth = in_order(ground_truth.of_videos(set(ground_truth.video_ids) - blocked))
    answers = in_order(predictions.of_videos(set(predictions.video_ids) - blocked))
    state = VideoClassification(at).update(truth, answers)
    score = state.result()
    score = replace(score, counts=replace(score.counts, num_blocked_videos=len(met)))
    metrics = video_class_metrics(score)
    whole = replace(truth, start_seconds=np.zeros(len(truth)), stop_seconds=np.ones(len(truth)))
    once = account(whole, whole.take(np.zeros(0, np.int64)), (), drop_duplicates=True)[0]
    chosen = half_samples(len(truth.video_ids), resamples or SCORE_RESAMPLES, seed)
    resampled = {"map": resampled_map(((state.ranking.blocks[0], 0),), once, True, chosen)[:, 0]}
    names, share = state.hits[0]
    order = sorted(range(len(names)), key=names.__getitem__)
    values = {f"hit@{k}": (share[order, row] > 0).astype(np.float64) for row, k in enumerate(at)}
    values |= {f"average_hit@{k}": share[order, row] for row, k in enumerate(at)}
    others = _video_baselines(truth, at, seed) if baselines else {}
    intervals = resampled_intervals(metrics, resampled, confidence)
    each = zip(score.label_names, score.average_precision.tolist(), strict=True)
    run = RunScore(
        name=name,
        headline="map",
        shown=tuple(metrics),
        metrics=metrics,
        baselines={key: video_class_metrics(value) for key, value in others.items()},
        intervals=intervals | mean_intervals(values, seed, resamples, confidence),
        counts=plain_counts(score.counts),
        line=score.line,
        per_class={label: {"ap": value} for label, value in each},
        units=Units("video", tuple(names[position] for position in order), values),
        resampled=resampled,
    )
    return VideoClassificationEvaluation(name, truth, answers, score, others, run)


def video_class_metrics(score: VideoClassificationScore) -> dict[str, float]:
    """Returns ``map``, ``hit@k`` and ``average_hit@k``."""
    hits = {f"hit@{k}": value for k, value in score.hit.items()}
    return {"map": score.mean_average_precision, **hits} | {
        f"average_hit@{k}": value for k, value in score.average_hit.items()
    }


def _video_baselines(truth: Segments, at: tuple[int, ...], seed: int) -> dict[str, VideoClassificationScore]:
    """Random scores for every class of every video (of the seed and the video's id), and every class's frequency."""
    labels = truth.label_names
    pairs = np.unique(np.stack([truth.video, truth.label], axis=1), axis=0)
    share = np.bincount(pairs[:, 1], minlength=len(labels)) / max(len(pairs), 1)
    drawn = [np.random.default_rng([seed, zlib.crc32(name.encode())]).random(len(labels)) for name in truth.video_ids]
    scores = {"chance": np.concatenate([np.zeros(0), *drawn]), "most_frequent": np.tile(share, len(truth.video_ids))}
    video = [name for name in truth.video_ids for _ in labels]
    nowhere = np.zeros(len(video))
    return {
        name: VideoClassification(at)
        .update(truth, segments_from_columns(video, nowhere, nowhere, labels * len(truth.video_ids), values))
        .result()
        for name, values in scores.items()
    }
