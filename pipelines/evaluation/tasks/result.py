"""What every evaluation task has to say, whatever it measured: one record, and its JSON.

``results.json`` holds the same for all tasks::

    {"version": 2, "task": "detection", "protocol": {every switch that changes a number},
     "data": {"fingerprint": "...", counts of the ground truth}, "bootstrap": {"seed", "resamples", "confidence"},
     "about": {what was evaluated, where there is more to say than the names of the runs},
     "runs": {name: {"metrics", "baselines", "intervals", "counts", "per_class", "units", "resampled", "notes", ...}},
     "comparison": {with ``--against`` or gates: "against", "notes", "differences", "gates"}}

A run is a set of predictions, or a space of retrieval. Metrics are flat names (``map@0.5``); those of several runs are
kept apart as ``<run>/map@0.5``. Files of version 1 are read by `results_file`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.evaluation.bootstrap import RESAMPLES, Interval, bootstrap_mean
from clipmill.schemas.arrays import Floats
from clipmill.schemas.fingerprint import fingerprint
from clipmill.schemas.segments import Segments

RESULTS = "results.json"
REPORT = "report.html"
RESULTS_VERSION = 2
DECIMALS = 10
"""Floats are rounded to this many decimals: beyond what any metric means, within what every machine agrees on."""
SCORE_RESAMPLES = 200
"""ours: random halves for scores that are no mean over units, each of which computes the whole score."""


@dataclass(frozen=True, slots=True)
class Units:
    """Values of the units that were sampled: what a paired test between two runs works on.

    Attributes:
        kind: ``query``, ``video`` or ``item``.
        ids: N ids, ascending.
        values: metric to ``float64[N]``; NaN where a unit does not count.
    """

    kind: str
    ids: tuple[str, ...]
    values: Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class RunScore:
    """What one run scored: one set of predictions, or one space of retrieval.

    Attributes:
        name: of the run.
        headline: the metric that says most, a key of `metrics`.
        shown: metrics of the text table, in its order.
        metrics: name to value, higher is better unless docs/metrics says otherwise.
        baselines: baseline (``chance``, ``blind``) to metric to value: what one scores without looking.
        intervals: metric to its interval: bootstrap over units, or `resampled_intervals`.
        counts: everything that was scored or left out, by name.
        line: the score line of the metric's own file, with its counts.
        per_class: class to metric to value.
        units: values per query, video or item, where the score is a mean over them.
        resampled: metric to ``float64[R]``: the score on each of R random halves of the videos, where it is no mean.
            Two runs on the same data with the same seed have the same halves.
        notes: what a reader has to know.
        details: what only this task has to say of a run, as plain data for ``results.json``.
    """

    name: str
    headline: str
    shown: tuple[str, ...]
    metrics: Mapping[str, float]
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    line: str = ""
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    units: Units | None = None
    resampled: Mapping[str, Floats] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskScore:
    """What a task found: one score for each run.

    Attributes:
        protocol: every switch that changes a number, resolved.
        data: ``fingerprint`` of the ground truth as scored, and its counts.
        bootstrap: ``seed``, ``resamples`` and ``confidence`` of the intervals.
        about: what was evaluated, such as fingerprints of recipes and of a model; plain data.
    """

    task: str
    protocol: Mapping[str, Any]
    data: Mapping[str, Any]
    runs: tuple[RunScore, ...]
    bootstrap: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def run(self, name: str | None = None) -> RunScore:
        """Returns the run called `name`, or the only one.

        Raises:
            KeyError: there is no such run, or there are several and `name` is None.
        """
        found = [run for run in self.runs if name is None or run.name == name]
        if len(found) != 1:
            raise KeyError(f"run {name}: expected one of {', '.join(run.name for run in self.runs)}")
        return found[0]


def task_results_json(score: TaskScore, comparison: Mapping[str, Any] | None = None) -> bytes:
    """Returns the score as UTF-8 JSON: sorted keys, floats of fixed precision, no times, no paths.

    Args:
        comparison: with another evaluation, and what gates say of it (`gates.Judgement`).
    """
    data = {
        "version": RESULTS_VERSION,
        "task": score.task,
        "protocol": score.protocol,
        "data": score.data,
        "bootstrap": score.bootstrap,
        "runs": {run.name: _run(run) for run in score.runs},
    }
    if score.about:
        data["about"] = score.about
    if comparison is not None:
        data["comparison"] = comparison
    text = json.dumps(fixed(data), sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1)
    return (text + "\n").encode()


def _run(run: RunScore) -> dict[str, Any]:
    data: dict[str, Any] = {
        "baselines": run.baselines,
        "counts": run.counts,
        "headline": run.headline,
        "intervals": {
            name: {"confidence": item.confidence, "low": item.low, "high": item.high}
            for name, item in run.intervals.items()
        },
        "metrics": run.metrics,
        "notes": run.notes,
        "per_class": run.per_class,
        "resampled": run.resampled,
        "shown": run.shown,
    }
    if run.details:
        data["details"] = run.details
    if run.units is not None:
        data["units"] = {"kind": run.units.kind, "ids": run.units.ids, "values": run.units.values}
    return data


def fixed(value: Any) -> Any:
    """Returns `value` with floats rounded; a number that JSON cannot hold (NaN, infinity) becomes null."""
    if isinstance(value, np.ndarray):
        return fixed(value.tolist())
    if isinstance(value, np.generic):
        return fixed(value.item())
    if isinstance(value, float):
        return round(value, DECIMALS) + 0.0 if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): fixed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [fixed(item) for item in value]
    return value


def mean_intervals(
    values: Mapping[str, Floats], seed: int, resamples: int | None, confidence: float
) -> dict[str, Interval]:
    """Returns the bootstrap interval of the mean of each column of unit values."""
    return {name: bootstrap_mean(column, seed, resamples or RESAMPLES, confidence) for name, column in values.items()}


def resampled_intervals(
    metrics: Mapping[str, float], resampled: Mapping[str, Floats], confidence: float
) -> dict[str, Interval]:
    """Returns intervals of scores that were computed anew on random halves of the videos.

    The spread of the values around their own mean is laid around the score: a score on half of the data is spread as
    the difference between the score on all of it and its true value is, but may be biased. Scores lie between 0 and 1,
    and so do their intervals. Choices without a value drop out.
    """
    tail = (1 - confidence) / 2
    found = {}
    for name, column in resampled.items():
        known = column[~np.isnan(column)]
        spread = known - known.mean() if len(known) else np.full(1, np.nan)
        low, high = np.clip(metrics[name] + np.quantile(spread, [tail, 1 - tail]), 0.0, 1.0).tolist()
        found[name] = Interval(metrics[name], low, high, confidence)
    return found


def half_samples(num_units: int, num_resamples: int, seed: int) -> npt.NDArray[np.bool_]:
    """Returns R random halves of N units, ``bool[R, N]``; the same seed gives the same bits.

    For scores that are no mean over units, such as mAP over one ranking of all videos. Drawing with replacement would
    put copies of a video side by side in the ranking, which raises its precision: on ActivityNet-like data the usual
    bootstrap interval does not even hold the score. Halves without replacement have no copies, and as many as are left
    out are kept, so that their spread needs no scaling.
    Source: P. McCarthy, Pseudo-replication: half samples, 1969; J. Shao and C. Wu, A general theory for jackknife
    variance estimation, 1989 (delete-d with d = n / 2).
    """
    rng = np.random.default_rng(seed)
    chosen = np.zeros((num_resamples, num_units), np.bool_)
    for row in chosen:
        row[rng.permutation(num_units)[: max(num_units // 2, 1)]] = True
    return chosen


def segments_fingerprint(*tables: Segments) -> str:
    """Returns the fingerprint of annotations: their videos and segments, whatever the order of the file."""
    parts = []
    for table in tables:
        names = [table.label_names[code] for code in table.label.tolist()]
        videos = [table.video_ids[code] for code in table.video.tolist()]
        rows = zip(videos, names, table.start_seconds.tolist(), table.stop_seconds.tolist(), strict=True)
        parts.append([sorted(table.video_ids), [list(row) for row in sorted(rows)]])
    return fingerprint(parts)


def threshold_name(metric: str, threshold: float) -> str:
    """Returns the name of a metric at a threshold, ``map@0.55``, whatever the last bit of the threshold."""
    return f"{metric}@{round(threshold, 6):g}"


def average(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean of each metric over several drawings of one baseline."""
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]} if rows else {}
