"""Gates: comparing an evaluation with another, and failing when a number got worse.

``clipmill evaluate`` compares what it has just scored, ``clipmill compare`` two evaluations that lie there::

    --against RUN                          folder of an evaluation, or its results.json
    --fail-if "map@10 < -0.01"             fails when ours - theirs is below -0.01
    --fail-if "value(map@10) < 0.5"        fails when ours is below 0.5; needs no RUN
    --other-data                           compare although ground truth or protocol differ

An expression is a metric, one of ``<  <=  >  >=`` and a number. Metrics are those of ``results.json``: ``map@10``, or
``combined/map@10`` where there are several runs (spaces, for retrieval); a metric without its run stands for each that
has it, and the gate fails if any of them does. A metric that is no number (null) fails.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clipmill.pipelines.evaluation.comparison import (
    Difference,
    Results,
    check_comparable,
    differences,
    metrics_of,
    paired_runs,
    results_fingerprint,
    shown_metrics,
)
from clipmill.pipelines.evaluation.results_file import read_results, upgraded
from clipmill.schemas.errors import UsageError, describe, near

SIGNS = {"<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b, "<": lambda a, b: a < b, ">": lambda a, b: a > b}
_GATE = re.compile(
    r"\s*(?:value\(\s*(?P<own>[^()<>=]+?)\s*\)|(?P<gap>[^()<>=]+?))\s*(?P<sign><=|>=|<|>)\s*(?P<number>\S+)\s*"
)


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
    """How a gate judged one metric. `value` is the number it judged; None: there is none."""

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
            text = "there is no number to judge"
        elif self.theirs is None:
            text = f"{self.metric} is {self.value:.4f}"
        else:
            text = f"{self.metric} is {self.ours:.4f} against {self.theirs:.4f}, difference {self.value:+.4f}"
        return f"gate '{self.gate}': {'failed' if self.failed else 'passed'}, {text}"


@dataclass(frozen=True, slots=True)
class Gates:
    """What to compare an evaluation with, read and checked before any work.

    Attributes:
        theirs: the other evaluation's results; None: absolute gates alone.
        thing: what names the other evaluation on the command line, for messages.
    """

    gates: tuple[Gate, ...]
    against: str | None
    theirs: Results | None
    other_data: bool
    thing: str = "--against"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the gates say of an evaluation.

    Attributes:
        notes: what a reader has to know of the comparison.
        fingerprint: of the other evaluation's results.
    """

    against: str | None
    notes: tuple[str, ...]
    differences: tuple[Difference, ...]
    verdicts: tuple[Verdict, ...]
    fingerprint: str | None = None

    @property
    def failed(self) -> tuple[Verdict, ...]:
        """The verdicts that fail the command."""
        return tuple(verdict for verdict in self.verdicts if verdict.failed)

    @property
    def lines(self) -> list[str]:
        """The comparison and the verdicts as lines."""
        head = [] if self.against is None else [f"against {self.against}:"]
        indented = [*self.notes, *(item.line for item in self.differences)]
        return [*head, *(f"  {line}" for line in indented), *(verdict.line for verdict in self.verdicts)]

    def to_plain(self) -> dict[str, Any]:
        """Returns the judgement as plain data, for ``--json``."""
        return {
            "against": self.against,
            "comparison": [asdict(item) for item in self.differences],
            "gates": [asdict(verdict) for verdict in self.verdicts],
        }

    def to_results(self) -> dict[str, Any]:
        """Returns the judgement for ``results.json``, which holds no paths: the other results are their fingerprint."""
        return {
            "against": self.fingerprint,
            "notes": self.notes,
            "differences": [asdict(item) for item in self.differences],
            "gates": [asdict(verdict) for verdict in self.verdicts],
        }


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
    return gates_against(read_results(against), against, fail_if, other_data)


def gates_against(
    theirs: Results, against: str, fail_if: Sequence[str], other_data: bool = False, thing: str = "--against"
) -> Gates:
    """Returns the comparison with `theirs`, which was read from `against`, and the gates.

    Args:
        thing: what names the other evaluation on the command line.

    Raises:
        UsageError: an expression cannot be read, or `theirs` lacks a metric that is gated.
    """
    gates = tuple(parse_gate(text) for text in fail_if)
    for gate in gates:
        if not gate.absolute:
            _resolve(gate.metric, metrics_of(theirs), against)
    return Gates(gates, against, theirs, other_data, thing)


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


def judge(results: Mapping[str, Any], gates: Gates) -> Judgement:
    """Returns the comparison of `results` with the other evaluation, and the verdicts.

    Args:
        results: content of our ``results.json``.

    Raises:
        UsageError: the two are of different tasks, data or protocols, or a metric is unknown.
    """
    ours = upgraded(results)
    own = metrics_of(ours)
    pairs: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    rows: list[Difference] = []
    if gates.theirs is not None:
        notes = check_comparable(ours, gates.theirs, str(gates.against), gates.other_data, gates.thing)
        pairs = paired_runs(ours, gates.theirs, str(gates.against), gates.thing)
        wanted = [name for gate in gates.gates for name in _resolve(gate.metric, own, "this evaluation")]
        rows = differences(ours, gates.theirs, pairs, wanted)
        alone = ", ".join(name for name in ours["runs"] if name not in pairs)
        if alone:
            notes = (*notes, f"note: not compared, for the other run has none of this name: {alone}")
        notes = (*notes, *_missing_notes(ours, gates.theirs, pairs))
    fingerprint = None if gates.theirs is None else results_fingerprint(gates.theirs)
    return Judgement(gates.against, notes, tuple(rows), tuple(_verdicts(gates, own, pairs)), fingerprint)


def _missing_notes(ours: Results, theirs: Results, pairs: Mapping[str, str]) -> tuple[str, ...]:
    """Returns a note for the metrics that one side shows and the other does not have."""
    lines = []
    for name, other in pairs.items():
        sides = (ours["runs"][name], theirs["runs"][other])
        for shown, lacking, where in ((*sides, "the other run"), (*reversed(sides), "this run")):
            missing = [metric for metric in shown_metrics(shown) if metric not in lacking["metrics"]]
            if missing:
                lines.append(f"note: not compared, for {where} has no such metric: {', '.join(missing)}")
    return tuple(dict.fromkeys(lines))


def _resolve(metric: str, metrics: Mapping[str, Any], where: str) -> list[str]:
    """Returns the full names that `metric` stands for; UsageError where there are none."""
    if metric in metrics:
        return [metric]
    full = [name for name in metrics if name.partition("/")[2] == metric]
    if not full:
        bare = {name.partition("/")[2] for name in metrics}
        known = bare if "/" not in metric else set(metrics)
        raise UsageError(describe("--fail-if", metric, f"a metric of {where}", "an unknown name", near(metric, known)))
    return full


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
            other = theirs[key]
            gap = None if ours is None or other is None else round(ours - other, 10)
            verdicts.append(_verdict(gate, full, ours, other, gap))
            judged += 1
        if not judged:
            expected = f"a metric of both runs, named alike ({', '.join(pairs.values())})"
            raise UsageError(describe("--fail-if", gate.text, expected, names[0], "give predictions the same names"))
    return verdicts


def _verdict(gate: Gate, name: str, ours: float | None, theirs: float | None, value: float | None) -> Verdict:
    # A number that is not there cannot be shown to be good: it fails.
    failed = value is None or bool(SIGNS[gate.sign](value, gate.number))
    return Verdict(gate.text, name, ours, theirs, value, failed)
