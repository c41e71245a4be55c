"""Gates of ``clipmill evaluate``: comparing a run with another, and failing when a number got worse.

::

    --against RUN                          folder of an evaluation, or its results.json
    --fail-if "map@10 < -0.01"             fails when ours - theirs is below -0.01
    --fail-if "value(map@10) < 0.5"        fails when ours is below 0.5; needs no RUN
    --other-data                           compare although ground truth or protocol differ

An expression is a metric, one of ``<  <=  >  >=`` and a number. Metrics are those of ``results.json``: ``map@10``, or
``combined/map@10`` where there are several spaces (retrieval) or runs (other tasks); a metric without its space or run
stands for each that has it, and the gate fails if any of them does. A metric that is no number (null) fails.
"""

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clipmill.jobs.output import Outcome
from clipmill.pipelines.evaluation.metrics.significance import compare
from clipmill.pipelines.evaluation.tasks.evaluate import RESULTS
from clipmill.schemas.errors import EXIT_GATE, UsageError, describe, near
from clipmill.schemas.fingerprint import fingerprint, short

SIGNS = {"<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b, "<": lambda a, b: a < b, ">": lambda a, b: a > b}
_GATE = re.compile(
    r"\s*(?:value\(\s*(?P<own>[^()<>=]+?)\s*\)|(?P<gap>[^()<>=]+?))\s*(?P<sign><=|>=|<|>)\s*(?P<number>\S+)\s*"
)
_FREE = ("cutoffs", "protocols")
"""Settings that only say which metrics are there."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition that fails the command when it is true.

    Attributes:
        absolute: about our value; else about ours minus theirs.
    """

    text: str
    metric: str
    absolute: bool
    sign: str
    number: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate found for one metric. `value` is the number it judged; None: there is none."""

    gate: str
    metric: str
    ours: float | None
    theirs: float | None
    value: float | None
    failed: bool

    @property
    def line(self) -> str:
        """The verdict as one line."""
        if self.value is None:
            told = "there is no number to judge"
        elif self.theirs is None:
            told = f"{self.metric} is {self.value:.4f}"
        else:
            told = f"{self.metric} is {self.ours:.4f} against {self.theirs:.4f}, difference {self.value:+.4f}"
        return f"gate '{self.gate}': {'failed' if self.failed else 'passed'}, {told}"


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
            return f"{self.metric}: ours {_told(self.ours)}, theirs {_told(self.theirs)}"
        text = f"{self.metric}: {self.ours:.4f} against {self.theirs:.4f}, difference {self.difference:+.4f}"
        if self.low is not None and self.high is not None and self.p_value is not None:
            text += f" (95%: {self.low:+.4f} to {self.high:+.4f}, p = {self.p_value:.4f}; {self.how})"
        return text


@dataclass(frozen=True, slots=True)
class Gates:
    """What to hold a run against, read and checked before any work.

    Attributes:
        theirs: the other run's ``results.json``; None: absolute gates alone.
    """

    gates: tuple[Gate, ...]
    against: str | None
    theirs: Mapping[str, Any] | None
    other_data: bool


def read_gates(against: str | None, fail_if: Sequence[str], other_data: bool = False) -> Gates | None:
    """Returns the gates of the command line; None where there are none.

    Raises:
        UsageError: an expression cannot be read, or needs a run that was not given; `against` is no evaluation, or
            lacks a metric that is gated.
    """
    gates = tuple(parse_gate(text) for text in fail_if)
    if against is None:
        if other_data:
            raise UsageError("--other-data: expected --against RUN beside it, got none; leave it out")
        needing = [gate.text for gate in gates if not gate.absolute]
        if needing:
            remedy = "give --against RUN, or write value(METRIC) for our own value"
            raise UsageError(describe("--fail-if", repr(needing[0]), "--against RUN to compare with", "none", remedy))
        return Gates(gates, None, None, False) if gates else None
    theirs = _read(against)
    for gate in gates:
        if not gate.absolute:
            _resolve(gate.metric, metrics_of(theirs), f"{against}")
    return Gates(gates, against, theirs, other_data)


def parse_gate(text: str) -> Gate:
    """Returns the gate that `text` states.

    Raises:
        UsageError: it is no metric, comparison and number.
    """
    expected = "METRIC < NUMBER (or <=, >, >=), such as map@10 < -0.01, or value(map@10) < 0.5"
    match = _GATE.fullmatch(text)
    if match is None:
        raise UsageError(describe("--fail-if", repr(text), expected, "something else", "correct the expression"))
    try:
        number = float(match["number"])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(
            describe("--fail-if", repr(text), "a number at its end", match["number"], "correct the number")
        )
    return Gate(text.strip(), match["own"] or match["gap"], match["own"] is not None, match["sign"], number)


def judge(outcome: Outcome, gates: Gates) -> Outcome:
    """Returns `outcome` with the comparison and the verdicts; its exit code is 5 if a gate failed.

    Raises:
        UsageError: the two runs are of different tasks, data or protocols, or a metric is unknown.
    """
    ours = json.loads(Path(outcome.data["results"]).read_text(encoding="utf-8"))
    own = metrics_of(ours)
    pairs: dict[str, str] = {}
    lines, differences = [outcome.text], []
    if gates.theirs is not None:
        warnings = check_comparable(ours, gates.theirs, str(gates.against), gates.other_data)
        pairs = _pairs(ours, gates.theirs, str(gates.against))
        wanted = [name for gate in gates.gates for name in _resolve(gate.metric, own, "this evaluation")]
        differences = _differences(ours, gates.theirs, pairs, wanted)
        alone = ", ".join(name for name in _parts(ours) if name not in pairs)
        if alone:
            warnings = (*warnings, f"note: not compared, for the other run has none of this name: {alone}")
        lines += [f"against {gates.against}:", *(f"  {line}" for line in warnings)]
        lines += [f"  {item.line}" for item in differences]
    verdicts = _verdicts(gates, own, pairs)
    for verdict in verdicts:
        lines.append(verdict.line)
        if verdict.failed:
            print(f"clipmill: {verdict.line}", file=sys.stderr)
    data = outcome.data | {
        "against": gates.against,
        "comparison": [asdict(item) for item in differences],
        "gates": [asdict(verdict) for verdict in verdicts],
    }
    failed = any(verdict.failed for verdict in verdicts)
    return replace(outcome, data=data, text="\n".join(lines), exit_code=EXIT_GATE if failed else outcome.exit_code)


def metrics_of(results: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns ``<space or run>/<metric>`` to value."""
    return {
        f"{name}/{metric}": value for name, part in _parts(results).items() for metric, value in part["metrics"].items()
    }


def check_comparable(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], against: str, other_data: bool
) -> tuple[str, ...]:
    """Returns what differs although the two are compared (`other_data`).

    Raises:
        UsageError: the tasks differ; or, without `other_data`, ground truth or protocol do.
    """
    mine, other = _task(ours), _task(theirs)
    if mine != other:
        raise UsageError(
            describe("--against", against, f"an evaluation of task {mine}", f"task {other}", "name another run")
        )
    found = []
    prints = [_data_fingerprint(side) for side in (ours, theirs)]
    if prints[0] != prints[1]:
        found.append(("the same ground truth", f"other data ({short(prints[1])}, ours is {short(prints[0])})"))
    left, right = (dict(side.get("protocol", {})) for side in (ours, theirs))
    keys = [key for key in sorted({*left, *right}) if key not in _FREE and left.get(key) != right.get(key)]
    if keys:
        told = "; ".join(f"{key} {_short(right.get(key))}, ours {_short(left.get(key))}" for key in keys)
        found.append(("the same protocol", f"another ({told})"))
    if found and not other_data:
        expected, got = found[0]
        remedy = "evaluate both alike, or compare anyway with --other-data"
        raise UsageError(describe("--against", against, expected, got, remedy))
    return tuple(f"note: not {expected}: {got}" for expected, got in found)


def _read(against: str) -> dict[str, Any]:
    path = Path(against) / RESULTS if Path(against).is_dir() else Path(against)
    expected = f"the folder of an evaluation, or its {RESULTS}"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        got = getattr(error, "strerror", None) or "no JSON"
        raise UsageError(
            describe("--against", str(path), expected, got, "give the out of another evaluation")
        ) from None
    if not isinstance(data, dict) or not ("spaces" in data or "runs" in data):
        got = "JSON without 'spaces' or 'runs'"
        raise UsageError(describe("--against", str(path), expected, got, "give the out of another evaluation"))
    if not _is_complete(data):
        got = "one that was changed or cut"
        raise UsageError(describe("--against", str(path), expected, got, "give the out of another evaluation"))
    return data


def _is_complete(data: Mapping[str, Any]) -> bool:
    """Returns whether what is read of another run's results is there, and of the right kind."""
    parts = _parts(data)
    if not isinstance(parts, dict) or not parts or not all(isinstance(part, dict) for part in parts.values()):
        return False
    tables = [part.get("metrics") for part in parts.values()]
    if not all(isinstance(table, dict) for table in tables):
        return False
    if not all(value is None or isinstance(value, int | float) for table in tables for value in table.values()):
        return False
    if "spaces" in data:
        return {"queries", "num_gallery"} <= set(data) and all("per_label" in part for part in parts.values())
    return isinstance(data.get("data"), dict) and "fingerprint" in data["data"]


def _parts(results: Mapping[str, Any]) -> Mapping[str, Any]:
    parts: Mapping[str, Any] = results["spaces"] if "spaces" in results else results["runs"]
    return parts


def _task(results: Mapping[str, Any]) -> str:
    return str(results.get("task", "retrieval"))


def _data_fingerprint(results: Mapping[str, Any]) -> str:
    if "spaces" not in results:
        return str(results["data"]["fingerprint"])
    relevant = [part["per_label"] for part in results["spaces"].values()][:1]
    labels = {name: item["num_relevant"] for part in relevant for name, item in part.items()}
    return fingerprint([results["queries"], results["num_gallery"], sorted(labels.items())])


def _resolve(metric: str, metrics: Mapping[str, Any], where: str) -> list[str]:
    """Returns the full names that `metric` stands for; UsageError where there are none."""
    if metric in metrics:
        return [metric]
    found = [name for name in metrics if name.partition("/")[2] == metric]
    if not found:
        bare = {name.partition("/")[2] for name in metrics}
        known = bare if "/" not in metric else set(metrics)
        raise UsageError(describe("--fail-if", metric, f"a metric of {where}", "an unknown name", near(metric, known)))
    return found


def _pairs(ours: Mapping[str, Any], theirs: Mapping[str, Any], against: str) -> dict[str, str]:
    """Returns our space or run to theirs: by name; a run may be called anything where each side has one."""
    mine, other = list(_parts(ours)), list(_parts(theirs))
    if len(mine) == len(other) == 1 and "runs" in ours:
        return {mine[0]: other[0]}
    pairs = {name: name for name in mine if name in other}
    if not pairs:
        got, what = ", ".join(other), "spaces" if "spaces" in ours else "runs"
        expected = f"one of our {what} ({', '.join(mine)})"
        raise UsageError(describe("--against", against, expected, got, f"evaluate the same {what} by name"))
    return pairs


def _differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], pairs: Mapping[str, str], wanted: Sequence[str]
) -> list[Difference]:
    found = []
    for name, other in pairs.items():
        left, right = _parts(ours)[name], _parts(theirs)[other]
        shown = list(left.get("shown") or left["intervals"])
        extra = [metric.partition("/")[2] for metric in wanted if metric.partition("/")[0] == name]
        for metric in dict.fromkeys([*shown, *extra]):
            if metric in left["metrics"] and metric in right["metrics"]:
                found.append(_difference(ours, theirs, name, other, metric))
    return found


def _difference(ours: Mapping[str, Any], theirs: Mapping[str, Any], name: str, other: str, metric: str) -> Difference:
    left, right = _parts(ours)[name], _parts(theirs)[other]
    mine, his = left["metrics"][metric], right["metrics"][metric]
    gap = None if mine is None or his is None else round(mine - his, 10)
    plain = Difference(f"{name}/{metric}", mine, his, gap)
    units = _units(ours, name, metric), _units(theirs, other, metric)
    if units[0] and units[1]:
        paired = compare(units[0], units[1])
        interval = paired.difference
        told = f"{paired.num_units} paired units, {paired.num_better} better, {paired.num_worse} worse"
        return replace(
            plain,
            low=_known(interval.low),
            high=_known(interval.high),
            p_value=_known(paired.p_value),
            num_units=paired.num_units,
            how=told,
        )
    halves = left.get("resampled", {}).get(metric), right.get("resampled", {}).get(metric)
    same = ours.get("bootstrap") == theirs.get("bootstrap") and _data_fingerprint(ours) == _data_fingerprint(theirs)
    if halves[0] and halves[1] and same:
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


def _units(results: Mapping[str, Any], name: str, metric: str) -> dict[str, float]:
    part = _parts(results)[name]
    if "spaces" in results:
        ids = [query["id"] for query in results["queries"]]
        values = part.get("per_query", {}).get(metric)
    else:
        ids = part.get("units", {}).get("ids")
        values = part.get("units", {}).get("values", {}).get(metric)
    if not ids or not values:
        return {}
    return {key: math.nan if value is None else value for key, value in zip(ids, values, strict=True)}


def _verdicts(gates: Gates, own: Mapping[str, float | None], pairs: Mapping[str, str]) -> list[Verdict]:
    verdicts = []
    theirs = metrics_of(gates.theirs) if gates.theirs is not None else {}
    for gate in gates.gates:
        names = _resolve(gate.metric, own, "this evaluation")
        judged = 0
        for full in names:
            prefix, _, metric = full.partition("/")
            ours = own[full]
            if gate.absolute:
                verdicts.append(_verdict(gate, full, ours, None, ours))
                judged += 1
                continue
            key = f"{pairs.get(prefix)}/{metric}"
            if prefix not in pairs or key not in theirs:
                continue
            his = theirs[key]
            gap = None if ours is None or his is None else round(ours - his, 10)
            verdicts.append(_verdict(gate, full, ours, his, gap))
            judged += 1
        if not judged:
            expected = f"a metric of both runs, named alike ({', '.join(pairs.values())})"
            raise UsageError(describe("--fail-if", gate.text, expected, names[0], "give predictions the same names"))
    return verdicts


def _verdict(gate: Gate, name: str, ours: float | None, theirs: float | None, value: float | None) -> Verdict:
    # A number that is not there cannot be shown to be good: it fails.
    failed = value is None or bool(SIGNS[gate.sign](value, gate.number))
    return Verdict(gate.text, name, ours, theirs, value, failed)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _told(value: float | None) -> str:
    return "no number" if value is None else f"{value:.4f}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
