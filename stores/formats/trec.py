"""TREC run and qrels text.

::

    run:    <query> Q0 <document> <rank> <score> <run name>
    qrels:  <query> 0 <document> <judgement>

Fields are separated by any spaces or tabs; lines beginning with # are comments; what follows a run name is ignored. The
rank of a run is written but not read: trec_eval ranks by score, equal scores by document id descending.
Source: NIST trec_eval.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clipmill.schemas.errors import FormatError
from clipmill.stores.formats.reader import Head, Reader, is_number
from clipmill.stores.formats.records import Judgements, Rankings
from clipmill.stores.formats.sniff import read_lines, seconds, wrong_format, wrong_line

_RUN = "a TREC run: lines of <query> Q0 <document> <rank> <score> <run name>"
_QRELS = "TREC qrels: lines of <query> 0 <document> <judgement>"


@dataclass(frozen=True, slots=True)
class TrecRun:
    """A run: query to document to score, in the order of the file."""

    name: str
    scores: Mapping[str, Mapping[str, float]]


def read_trec_run(path: str | Path) -> TrecRun:
    """Returns the run in `path`.

    Raises:
        FormatError: the file is something else, a line is malformed, or a document stands twice for a query.
    """
    scores: dict[str, dict[str, float]] = {}
    name = ""
    for number, line in read_lines(path, _RUN):
        if line.startswith("#"):
            continue
        fields = line.split()
        score = seconds(fields[4]) if len(fields) >= 6 else None
        if score is None:
            raise _wrong(path, number, line, _RUN, not scores)
        query, document, name = fields[0], fields[2], fields[5]
        documents = scores.setdefault(query, {})
        if document in documents:
            raise wrong_line(path, number, line, f"each document once for query {query}")
        documents[document] = score
    return TrecRun(name, scores)


def read_trec_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """Returns query to document to judgement; negative judgements mean: in the pool, but unjudged.

    Raises:
        FormatError: the file is something else, a line is malformed, or a document stands twice for a query.
    """
    judgements: dict[str, dict[str, int]] = {}
    for number, line in read_lines(path, _QRELS):
        if line.startswith("#"):
            continue
        fields = line.split()
        if len(fields) != 4 or not fields[3].lstrip("+-").isdigit():
            raise _wrong(path, number, line, _QRELS, not judgements)
        documents = judgements.setdefault(fields[0], {})
        if fields[2] in documents:
            raise wrong_line(path, number, line, f"each document once for query {fields[0]}")
        documents[fields[2]] = int(fields[3])
    return judgements


def write_trec_run(path: str | Path, run: TrecRun) -> None:
    """Writes `run`, ranked as trec_eval ranks it, scores exactly."""
    lines = []
    for query, documents in run.scores.items():
        ranked = sorted(sorted(documents, reverse=True), key=lambda name: -documents[name])
        for position, name in enumerate(ranked, 1):
            lines.append(f"{query} Q0 {name} {position} {documents[name]!r} {run.name}\n")
    Path(path).write_text("".join(lines), encoding="utf-8")


def write_trec_qrels(path: str | Path, judgements: Mapping[str, Mapping[str, int]]) -> None:
    """Writes `judgements` in their order."""
    lines = [f"{query} 0 {name} {value}\n" for query, items in judgements.items() for name, value in items.items()]
    Path(path).write_text("".join(lines), encoding="utf-8")


def _wrong(path: str | Path, number: int, line: str, expected: str, is_first: bool) -> FormatError:
    return wrong_format(path, expected) if is_first else wrong_line(path, number, line, expected)


def _looks_like(head: Head) -> bool:
    fields = head.fields
    if len(fields) >= 6 and fields[1].upper() == "Q0":
        return True
    if len(fields) == 4:
        return fields[3].lstrip("+-").isdigit()
    return len(fields) == 6 and all(is_number(field) for field in fields[3:5])


READER = Reader(
    "trec",
    "TREC qrels or a run",
    _looks_like,
    truth={"judgements": lambda request: Judgements(read_trec_qrels(request.path))},
    predictions={"rankings": lambda request: Rankings(read_trec_run(request.path).scores)},
    layout="query Q0 document rank score run",
)
