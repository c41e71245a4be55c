"""Two evaluations side by side: whether they may be compared, and what differs with which certainty.

Results are those of `results_file.read_results`, whatever the version of the file.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clipmill.pipelines.evaluation.metrics.significance import compare
from clipmill.pipelines.evaluation.results_file import RETRIEVAL
from clipmill.pipelines.evaluation.tasks.result import RESULTS_VERSION
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.fingerprint import fingerprint, short

Results = Mapping[str, Any]
_FREE = ("cutoffs", "protocols")
"""Settings that only say which metrics are there."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of two runs; interval and p-value where both have values per unit or scores on the same halves."""

    metric: str
    ours: float | None
    theirs: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    num_units: int | None = None
    how: str = ""

    @property
    def line(self) -> str:
        """The difference as one line."""
        if self.ours is None or self.theirs is None or self.difference is None:
            return f"{self.metric}: ours {_value_text(self.ours)}, theirs {_value_text(self.theirs)}"
        text = f"{self.metric}: {self.ours:.4f} against {self.theirs:.4f}, difference {self.difference:+.4f}"
        if self.low is not None and self.high is not None and self.p_value is not None:
            text += f" (95%: {self.low:+.4f} to {self.high:+.4f}, p = {self.p_value:.4f}; {self.how})"
        return text


def metrics_of(results: Results) -> dict[str, float | None]:
    """Returns ``<run>/<metric>`` to value."""
    return {
        f"{name}/{metric}": value for name, run in results["runs"].items() for metric, value in run["metrics"].items()
    }


def results_fingerprint(results: Results) -> str:
    """Returns the fingerprint of what an evaluation found: of its results without what they were compared with."""
    return fingerprint({key: value for key, value in results.items() if key not in ("comparison", "version")})


def shown_metrics(run: Mapping[str, Any]) -> list[str]:
    """Returns the metrics that a run of results prints."""
    return list(run.get("shown") or run["intervals"])


def check_comparable(
    ours: Results, theirs: Results, against: str, other_data: bool, thing: str = "--against"
) -> tuple[str, ...]:
    """Returns what differs although the two are compared (`other_data`).

    Args:
        thing: what names the other evaluation, for messages.

    Raises:
        UsageError: the tasks differ; or, without `other_data`, ground truth or protocol do.
    """
    if ours["task"] != theirs["task"]:
        expected = f"an evaluation of task {ours['task']}"
        raise UsageError(describe(thing, against, expected, f"task {theirs['task']}", "name another run"))
    differing = []
    prints = [side["data"]["fingerprint"] for side in (ours, theirs)]
    if prints[0] != prints[1]:
        differing.append(("the same ground truth", f"other data ({short(prints[1])}, ours is {short(prints[0])})"))
    left, right = (dict(side.get("protocol", {})) for side in (ours, theirs))
    of_old_file = any(side.get("version", 1) < RESULTS_VERSION for side in (ours, theirs))
    # A file of version 1 does not state what has become a setting since.
    stated = {*left} & {*right} if of_old_file else {*left, *right}
    keys = [key for key in sorted(stated) if key not in _FREE and left.get(key) != right.get(key)]
    if keys:
        text = "; ".join(f"{key} {_short(right.get(key))}, ours {_short(left.get(key))}" for key in keys)
        differing.append(("the same protocol", f"another ({text})"))
    if differing and not other_data:
        expected, got = differing[0]
        remedy = "evaluate both alike, or compare anyway with --other-data"
        raise UsageError(describe(thing, against, expected, got, remedy))
    return tuple(f"note: not {expected}: {got}" for expected, got in differing)


def paired_runs(ours: Results, theirs: Results, against: str, thing: str = "--against") -> dict[str, str]:
    """Returns the name of our run to that of theirs: by name; where each side has one, it may be called anything.

    Spaces of retrieval are compared by name alone: two spaces of one model are two different things.

    Raises:
        UsageError: no run of ours has one of theirs to be compared with.
    """
    own, other = list(ours["runs"]), list(theirs["runs"])
    is_retrieval = ours["task"] == RETRIEVAL
    if len(own) == len(other) == 1 and not is_retrieval:
        return {own[0]: other[0]}
    pairs = {name: name for name in own if name in other}
    if not pairs:
        got, what = ", ".join(other), "spaces" if is_retrieval else "runs"
        expected = f"one of our {what} ({', '.join(own)})"
        raise UsageError(describe(thing, against, expected, got, f"evaluate the same {what} by name"))
    return pairs


def differences(
    ours: Results, theirs: Results, pairs: Mapping[str, str], wanted: Sequence[str] = ()
) -> list[Difference]:
    """Returns the difference of each metric that one of the runs shows and both have, and of those that are `wanted`.

    Args:
        pairs: of `paired_runs`.
        wanted: full names, ``<run>/<metric>``.
    """
    rows = []
    for name, other in pairs.items():
        left, right = ours["runs"][name], theirs["runs"][other]
        shown = [*shown_metrics(left), *shown_metrics(right)]
        extra = [metric.partition("/")[2] for metric in wanted if metric.partition("/")[0] == name]
        for metric in dict.fromkeys([*shown, *extra]):
            if metric in left["metrics"] and metric in right["metrics"]:
                rows.append(_difference(ours, theirs, name, other, metric))
    return rows


def _difference(ours: Results, theirs: Results, name: str, other: str, metric: str) -> Difference:
    left, right = ours["runs"][name], theirs["runs"][other]
    own_value, other_value = left["metrics"][metric], right["metrics"][metric]
    gap = None if own_value is None or other_value is None else round(own_value - other_value, 10)
    plain = Difference(f"{name}/{metric}", own_value, other_value, gap)
    units = _units(left, metric), _units(right, metric)
    if units[0] and units[1]:
        paired = compare(units[0], units[1])
        interval = paired.difference
        return replace(
            plain,
            low=_known(interval.low),
            high=_known(interval.high),
            p_value=_known(paired.p_value),
            num_units=paired.num_units,
            how=f"{paired.num_units} paired units, {paired.num_better} better, {paired.num_worse} worse",
        )
    halves = left.get("resampled", {}).get(metric), right.get("resampled", {}).get(metric)
    same_data = ours["data"]["fingerprint"] == theirs["data"]["fingerprint"]
    if halves[0] and halves[1] and same_data and ours.get("bootstrap") == theirs.get("bootstrap"):
        return _paired_halves(plain, halves[0], halves[1])
    return plain


def _paired_halves(plain: Difference, ours: list[float | None], theirs: list[float | None]) -> Difference:
    """Returns the difference with the spread it has on shared random halves of the videos, and its p-value.

    Two-sided: how often the difference strays from its own mean as far as the observed one is from zero.
    """
    gaps = np.array([a - b for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None])
    if not len(gaps) or plain.difference is None:
        return plain
    spread = gaps - gaps.mean()
    low, high = plain.difference + np.quantile(spread, [0.025, 0.975])
    reaching = int((np.abs(spread) >= abs(plain.difference)).sum())
    p_value = (1 + reaching) / (1 + len(gaps))
    return replace(
        plain, low=float(low), high=float(high), p_value=p_value, how=f"{len(gaps)} shared random halves of the videos"
    )


def _units(run: Mapping[str, Any], metric: str) -> dict[str, float]:
    units = run.get("units", {})
    ids, values = units.get("ids"), units.get("values", {}).get(metric)
    if not ids or not values:
        return {}
    return {key: math.nan if value is None else value for key, value in zip(ids, values, strict=True)}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _value_text(value: float | None) -> str:
    return "no number" if value is None else f"{value:.4f}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
