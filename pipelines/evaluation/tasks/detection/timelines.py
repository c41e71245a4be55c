"""Which videos a report of segments shows as timelines, and what stands on them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from clipmill.pipelines.evaluation.metrics.detection_errors import CATEGORIES, categories
from clipmill.pipelines.evaluation.metrics.detection_hits import NOTHING, Hits
from clipmill.pipelines.reports.blocks import Lane, Segment, Timeline
from clipmill.schemas.arrays import Floats, Ints

NUM_TIMELINES = 12
"""ours: videos shown."""
MOST_GROUND_TRUTHS = 40
"""ours: videos with more are left out of the choice where there are others; their bars would hide each other."""
MOST_PREDICTIONS = 40
LEAST_PREDICTIONS = 5
MOST_LANES = 6
"""ours: lines of one class in a video."""
APART = 0.035
"""ours: share of a line that a bar takes at least, so that the signs of neighbours do not lie over each other."""


def choose(values: Floats, sizes: Ints, names: Sequence[str], num: int, seed: int = 0) -> tuple[tuple[str, int], ...]:
    """Returns up to `num` (kind, position): a third best, a third worst, the rest drawn at random with `seed`.

    Args:
        values: ``float64[V]``, what best goes by; NaN is never chosen.
        sizes: ``int64[V]``: of equal values the larger comes first, both among the best and among the worst.
        names: of V, the last word between equals.
    """
    known = np.flatnonzero(~np.isnan(values)).tolist()
    num = min(num, len(known))
    best = sorted(known, key=lambda i: (-values[i], -sizes[i], names[i]))[: num // 3]
    left = [i for i in known if i not in set(best)]
    worst = sorted(left, key=lambda i: (values[i], -sizes[i], names[i]))[: num // 3]
    rest = sorted((i for i in left if i not in set(worst)), key=lambda i: names[i])
    drawn = np.random.default_rng(seed).permutation(len(rest))[: num - len(best) - len(worst)].tolist()
    groups = (("best", best), ("worst", worst), ("random", [rest[i] for i in drawn]))
    return tuple((kind, position) for kind, positions in groups for position in positions)


def found_share(hits: Hits) -> tuple[Floats, Ints]:
    """Returns per video the share of hits among its best-scored G predictions, G being its ground truths (R-precision).

    ``float64[V]``, NaN without ground truth, and G, ``int64[V]``.
    """
    num_videos = len(hits.ground_truth.video_ids)
    sizes = np.bincount(hits.ground_truth.video, minlength=num_videos)
    order = hits.order[~hits.ignored[hits.order]]
    video = hits.predictions.video[order]
    order = order[np.argsort(video, kind="stable")]
    video = hits.predictions.video[order]
    count = np.bincount(video, minlength=num_videos)
    place = np.arange(len(order)) - (np.cumsum(count) - count)[video]
    correct = hits.is_hit[order] & (place < sizes[video])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.bincount(video[correct], minlength=num_videos) / np.where(sizes > 0, sizes, np.nan), sizes


def detection_timelines(
    hits: Hits, durations: Mapping[str, float], num: int, seed: int = 0
) -> tuple[tuple[Timeline, ...], int]:
    """Returns the timelines of up to `num` videos, and how many videos they were chosen from."""
    share, sizes = found_share(hits)
    if bool((sizes[sizes > 0] <= MOST_GROUND_TRUTHS).any()):
        share = np.where(sizes <= MOST_GROUND_TRUTHS, share, np.nan)
    chosen = choose(share, sizes, hits.ground_truth.video_ids, num, seed)
    by_video = hits.order[np.argsort(hits.predictions.video[hits.order], kind="stable")]
    edges = np.searchsorted(hits.predictions.video[by_video], np.arange(len(sizes) + 1))
    lines = []
    for kind, video in chosen:
        ranked = by_video[edges[video] : edges[video + 1]]
        lines.append(_timeline(hits, kind, video, ranked, durations))
    return tuple(lines), int((~np.isnan(share)).sum())


def _timeline(hits: Hits, kind: str, video: int, ranked: Ints, durations: Mapping[str, float]) -> Timeline:
    truth, predictions = hits.ground_truth, hits.predictions
    name = truth.video_ids[video]
    own = np.flatnonzero(truth.video == video)
    num_shown = min(max(len(own), LEAST_PREDICTIONS), MOST_PREDICTIONS)
    shown = ranked[:num_shown]
    rank_of = {row: place for place, row in enumerate(ranked.tolist(), start=1)}
    length = length_of(durations.get(name), truth.stop_seconds[own], predictions.stop_seconds[shown])
    kinds = categories(hits, shown)
    lanes: list[Lane] = []
    # Classes in the order of their first ground truth, then those that are only predicted, best first.
    order = own[np.lexsort((truth.stop_seconds[own], truth.start_seconds[own]))]
    labels = list(dict.fromkeys([*truth.label[order].tolist(), *predictions.label[shown].tolist()]))
    num_hidden = 0
    for label in labels:
        title = truth.label_names[label] or "segments"
        targets = [row for row in order.tolist() if truth.label[row] == label]
        bars = [_truth_bar(hits, row, rank_of) for row in targets]
        lanes += lanes_of(bars, length, f"{title}, truth", is_truth=True)[0]
        rows = [place for place, row in enumerate(shown.tolist()) if predictions.label[row] == label]
        bars = [_prediction_bar(hits, int(shown[place]), place + 1, int(kinds[place]), own) for place in rows]
        made, hidden = lanes_of(bars, length, f"{title}, predicted", is_truth=False)
        lanes += made
        num_hidden += hidden
    num_found = int((hits.found_by[own] != NOTHING).sum())
    counting = ranked[~hits.ignored[ranked]]
    num_correct = int(hits.is_hit[counting[: len(own)]].sum())
    summary = (
        f"Correct among the best G = {len(own)}: {num_correct}. Ground truths found by any: {num_found} of {len(own)}."
    )
    drawn = len(shown) - num_hidden
    detail = f"{drawn} of {len(ranked):,} predictions drawn." if len(ranked) else "No predictions."
    return Timeline(kind, name, summary, length, tuple(lanes), detail)


def _truth_bar(hits: Hits, row: int, rank_of: Mapping[int, int]) -> Segment:
    truth = hits.ground_truth
    label = truth.label_names[truth.label[row]]
    finder = int(hits.found_by[row])
    outcome = "missed"
    if finder != NOTHING:
        score = float(hits.predictions.score[finder])
        outcome = f"found by prediction {rank_of[finder]} of this video, score {score:.4g}"
    start, stop = float(truth.start_seconds[row]), float(truth.stop_seconds[row])
    text = f"Ground truth{': ' + label if label else ''}, {seconds_text(start, stop)}; {outcome}."
    return Segment(start, stop, "missed" if finder == NOTHING else "truth", text)


def _prediction_bar(hits: Hits, row: int, rank: int, kind: int, own: Ints) -> Segment:
    predictions, truth = hits.predictions, hits.ground_truth
    start, stop = float(predictions.start_seconds[row]), float(predictions.stop_seconds[row])
    label = predictions.label_names[predictions.label[row]]
    overlap = hits.overlaps(np.full(len(own), row), own)
    if hits.is_hit[row]:
        mark, judged, other = "correct", "Correct", int(hits.target[row])
        value = float(overlap[own == other][0])
    else:
        place = int(np.argmax(overlap)) if len(own) else -1
        value = float(overlap[place]) if len(own) else 0.0
        other = int(own[place]) if value > 0 else NOTHING
        mark, judged = "incorrect", f"Incorrect, {CATEGORIES[kind]}"
        if hits.ignored[row]:
            mark, judged = "ignored", "Ignored, in an ambiguous interval"
    near = ""
    if other != NOTHING:
        times = seconds_text(float(truth.start_seconds[other]), float(truth.stop_seconds[other]))
        near = f"; tIoU {value:.2f} with {truth.label_names[truth.label[other]] or 'ground truth'} {times}"
    score = float(predictions.score[row])
    what = f"{label}, score {score:.4g}" if label else f"score {score:.4g}"
    return Segment(start, stop, mark, f"{judged}: {what}, rank {rank}, {seconds_text(start, stop)}{near}.")


def lanes_of(bars: Sequence[Segment], length: float, name: str, is_truth: bool) -> tuple[list[Lane], int]:
    """Returns the bars in lines without overlap, each as high up as it fits, and how many found no line."""
    bars = [_inside(bar, length) for bar in bars]
    lines: list[list[Segment]] = []
    num_hidden = 0
    for bar in bars:
        for line in lines:
            if all(_apart(bar, other, length) for other in line):
                line.append(bar)
                break
        else:
            if len(lines) < MOST_LANES or is_truth:
                lines.append([bar])
            else:
                num_hidden += 1
    ordered = [tuple(sorted(line, key=lambda bar: (bar.start_seconds, bar.stop_seconds))) for line in lines]
    return [Lane(name if not n else "", is_truth, line) for n, line in enumerate(ordered)], num_hidden


def length_of(duration: float | None, truth_stop: Floats, prediction_stop: Floats) -> float:
    """Returns the seconds a line stands for: the video, or what is annotated and predicted where that is not known."""
    known = duration is not None and np.isfinite(duration) and duration > 0
    last = max(truth_stop.max(initial=0.0), duration if known and duration else prediction_stop.max(initial=0.0))
    return float(last) or 1.0


def _inside(bar: Segment, length: float) -> Segment:
    """Returns the bar as far as it can be drawn: a prediction may begin before the video, or end after it."""
    start, stop = (min(max(value, 0.0), length) for value in (bar.start_seconds, bar.stop_seconds))
    return replace(bar, start_seconds=start, stop_seconds=stop)


def _apart(one: Segment, other: Segment, length: float) -> bool:
    first, second = sorted((one, other), key=lambda bar: bar.start_seconds)
    taken = max(first.stop_seconds, first.start_seconds + APART * length)
    # Two bars at the very end of a video would both be pushed there.
    return second.start_seconds >= taken


def seconds_text(start: float, stop: float) -> str:
    """Returns ``12.3 to 18.4 s``."""
    return f"{start:.1f} to {stop:.1f} s"


def timelines_text(hits: Hits, num_videos: int) -> str:
    """Returns what stands above the timelines."""
    return (
        f"Ground truth above the best predictions, at tIoU {hits.threshold:g}, from {num_videos:,} videos with up to "
        f"{MOST_GROUND_TRUTHS} ground truths. Ground truth: ● found, ○ missed. Predictions: ✓ correct (solid), ✗ "
        "incorrect (hatched), – ignored (dotted)."
    )
