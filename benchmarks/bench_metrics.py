"""Prints what the metrics cost, as ratios in one run: against a direct loop over rows, and against trec_eval's C code.

    python benchmarks/bench_metrics.py [--videos 4728] [--predictions 100] [--loop-videos 1000]

The loop is the definition of the metric written down row by row with NumPy inside a row, as the usual evaluators have
it. It runs on some of the videos, ours on the same ones and on all; both must give the same number. pytrec_eval is
compared with where it can be imported (``pip install pytrec-eval-terrier``), ranx otherwise.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402

from clipmill.pipelines.evaluation.metrics.detection import ACTIVITYNET_THRESHOLDS, DetectionMap  # noqa: E402
from clipmill.pipelines.evaluation.metrics.detection_matching import tiou  # noqa: E402
from clipmill.pipelines.evaluation.metrics.trec import evaluate_trec  # noqa: E402
from clipmill.schemas.segments import Segments  # noqa: E402

NUM_CLASSES = 200
TREC_MEASURES = ("map", "gm_map", "Rprec", "bpref", "recip_rank", "iprec_at_recall", "P", "ndcg", "num_ret", "num_rel")


def best(function: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """Returns the shortest processor seconds of `repeats` runs, and the value; everything here runs on one core."""
    times, value = [], None
    for _ in range(repeats):
        start = time.process_time()
        value = function()
        times.append(time.process_time() - start)
    return min(times), value


def detections(num_videos: int, per_video: int) -> tuple[Segments, Segments]:
    """Returns annotations like ActivityNet's (1 to 3 per video, one class) and predictions spread around them."""
    random = np.random.default_rng(0)
    videos = tuple(f"v_{n:05d}" for n in range(num_videos))
    labels = tuple(f"class {n:03d}" for n in range(NUM_CLASSES))
    length, own = random.uniform(30, 200, num_videos), random.integers(0, NUM_CLASSES, num_videos)
    number = random.integers(1, 4, num_videos)
    video = np.repeat(np.arange(num_videos), number)
    start = random.uniform(0, 0.8, len(video)) * length[video]
    stop = start + random.uniform(0.05, 0.5, len(video)) * length[video]
    truth = Segments(videos, labels, video, own[video], start, stop, np.ones(len(video)))
    of = np.repeat(np.arange(num_videos), per_video)
    near = np.r_[0, np.cumsum(number)[:-1]][of] + random.integers(0, 6, len(of)) % number[of]
    first = start[near] + random.normal(0, 0.1, len(of)) * length[of]
    last = np.maximum(first + 0.1, stop[near] + random.normal(0, 0.1, len(of)) * length[of])
    label = np.where(random.random(len(of)) < 0.7, own[of], random.integers(0, NUM_CLASSES, len(of)))
    return truth, Segments(videos, labels, of, label, first, last, random.permutation(len(of)) / len(of))


def by_rows(truth: Segments, predictions: Segments) -> np.ndarray:
    """Returns mAP per threshold, row by row: ``float64[T]``."""
    limits = np.array(ACTIVITYNET_THRESHOLDS)
    values = []
    for label in np.unique(truth.label):
        mine = np.flatnonzero(truth.label == label)
        rows = np.flatnonzero(predictions.label == label)
        rows = rows[np.argsort(-predictions.score[rows], kind="stable")]
        free = np.ones((len(limits), len(truth)), bool)
        hit = np.zeros((len(limits), len(rows)), bool)
        for rank, row in enumerate(rows):
            there = mine[truth.video[mine] == predictions.video[row]]
            overlap = tiou(
                truth.start_seconds[there],
                truth.stop_seconds[there],
                predictions.start_seconds[row],
                predictions.stop_seconds[row],
            )
            best_first = np.argsort(-overlap, kind="stable")
            for line, limit in enumerate(limits):
                for choice in best_first:
                    if overlap[choice] < limit:
                        break
                    if free[line, there[choice]]:
                        free[line, there[choice]] = False
                        hit[line, rank] = True
                        break
        precision = np.cumsum(hit, axis=1) / np.arange(1, len(rows) + 1)
        highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        values.append((highest * hit).sum(axis=1) / len(mine))
    return np.mean(values, axis=0)


def bench_detection(num_videos: int, per_video: int, loop_videos: int) -> None:
    """Prints the seconds of ActivityNet-size mAP, and how many times faster than the loop it is."""
    truth, predictions = detections(num_videos, per_video)
    whole, score = best(lambda: DetectionMap().update(truth, predictions).result())
    print(
        f"detection mAP, {num_videos} videos x {per_video} predictions x {len(ACTIVITYNET_THRESHOLDS)} thresholds, "
        f"{NUM_CLASSES} classes: {whole:.3f} s (average mAP {score.average:.4f})"
    )
    some = set(truth.video_ids[:loop_videos])
    part = (truth.of_videos(some), predictions.of_videos(some))
    ours, score = best(lambda: DetectionMap().update(*part).result())
    loop, expected = best(lambda: by_rows(*part), repeats=1)
    gap = float(np.abs(score.mean_average_precision - expected).max())
    times = f"ours {ours:.4f} s, loop over rows {loop:.2f} s, {loop / ours:.0f}x"
    print(f"  {loop_videos} videos: {times}; differ by {gap:.1e}")
    if gap > 1e-12:
        raise SystemExit("detection mAP: expected the loop's number; the benchmark compares two different things")


def rankings(num_queries: int, depth: int, num_judged: int, decimals: int | None) -> tuple[Any, Any]:
    """Returns qrels and a run of `num_queries` x `depth` documents, half of the judged ones retrieved."""
    random = np.random.default_rng(0)
    names = [f"clueweb09-en{n:07d}" for n in range(100_000)]
    qrels, run = {}, {}
    for query in range(num_queries):
        drawn = random.choice(len(names), depth + num_judged // 2, replace=False)
        score = random.random(depth) if decimals is None else np.round(random.random(depth), decimals)
        run[str(query)] = dict(zip([names[n] for n in drawn[:depth]], score.tolist(), strict=True))
        judged = drawn[depth - num_judged // 2 :]
        values = random.integers(0, 3, len(judged)).tolist()
        qrels[str(query)] = dict(zip([names[n] for n in judged], values, strict=True))
    return qrels, run


def bench_trec() -> None:
    """Prints seconds per evaluation and the ratio to a library."""
    sizes = {"50 queries x 1,000": (50, 1000, 300, None), "1,000 x 1,000": (1000, 1000, 200, None)}
    sizes |= {"1,000 x 1,000, two-decimal scores": (1000, 1000, 200, 2), "20,000 x 50": (20_000, 50, 10, None)}
    for name, size in sizes.items():
        qrels, run = rankings(*size)
        library, theirs = _library(qrels, run)
        ours, other = [], []
        for _ in range(3):
            ours.append(best(lambda: evaluate_trec(qrels, run, TREC_MEASURES), 1)[0])  # noqa: B023
            other.append(best(theirs, 1)[0])
        ratio = min(ours) / min(other)
        print(f"ranked lists, {name}: ours {min(ours):.3f} s, {library} {min(other):.3f} s, ratio {ratio:.2f}")


def _library(qrels: Any, run: Any) -> tuple[str, Callable[[], Any]]:
    try:
        import pytrec_eval
    except ImportError:
        from ranx import Qrels, Run, evaluate

        names = ["map", "r-precision", "bpref", "mrr", "ndcg", *(f"precision@{k}" for k in (5, 10, 15, 20, 30, 100))]

        def theirs() -> Any:
            return evaluate(Qrels(qrels), Run(run), names)

        theirs()  # ranx compiles itself on the first call
        return "ranx (from dictionaries)", theirs
    measures = set(TREC_MEASURES)
    return "pytrec_eval", lambda: pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)


def main() -> None:
    """Prints all ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=4728)
    parser.add_argument("--predictions", type=int, default=100)
    parser.add_argument("--loop-videos", type=int, default=1000)
    options = parser.parse_args()
    bench_detection(options.videos, options.predictions, options.loop_videos)
    bench_trec()


if __name__ == "__main__":
    main()
