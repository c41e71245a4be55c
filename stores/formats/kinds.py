"""Which of the known formats a file is, from its content.

Names are those of `format:` in an evaluation's config. What a file is for (ground truth or predictions) decides between
formats that look alike only where the content cannot.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clipmill.schemas.errors import FormatError, describe
from clipmill.stores.formats.sniff import looks_like

KINDS: dict[str, str] = {
    "activitynet": "ActivityNet JSON with 'database' or 'results'",
    "thumos14": "a folder of THUMOS14 interval files, or THUMOS14 detections",
    "parquet": "a Parquet table of segments",
    "csv": "a CSV of segments",
    "charades_sta": "Charades-STA lines",
    "activitynet_captions": "ActivityNet Captions JSON",
    "qvhighlights": "QVHighlights JSON lines",
    "labels": "a CSV with the columns id and label",
    "scores": "a CSV or Parquet table of class scores with the column id",
    "trec": "TREC qrels or a run",
    "revisited": "revisited Oxford/Paris ground truth (pickle or JSON)",
    "oxford": "a folder of Oxford/Paris *_query.txt, *_good.txt, *_ok.txt, *_junk.txt",
    "ranks": "rankings: JSON of query to image names, or ranks int[N, Q] as .npy",
}
"""Format to what it is, for messages."""

_HEAD = 1 << 16


def kind_of(path: str | Path, expected: Iterable[str] = KINDS) -> str:
    """Returns the format of `path`, one of `KINDS`.

    Args:
        expected: formats that the message about an unknown file lists.

    Raises:
        FormatError: there is nothing at `path`, or it is none of them; the message says what it looks like.
    """
    file = Path(path)
    if not file.exists():
        raise FormatError(describe("file", str(path), "a file or folder", "nothing there", "check the path"))
    found = _folder(file) if file.is_dir() else _file(file)
    if found is None:
        known = ", ".join(expected)
        raise FormatError(
            describe(
                "file", str(path), f"a known format ({known})", looks_like(path), "check the path and the kind of file"
            )
        )
    return found


def _folder(folder: Path) -> str | None:
    names = {file.name for file in folder.iterdir()}
    if any(name.endswith("_query.txt") for name in names):
        return "oxford"
    if any(name.endswith(("_test.txt", "_val.txt")) for name in names):
        return "thumos14"
    return None


def _file(file: Path) -> str | None:
    with file.open("rb") as stream:
        head = stream.read(_HEAD)
    if head.startswith(b"PAR1"):
        return _parquet(file)
    if head.startswith(b"\x93NUMPY"):
        return "ranks"
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") or head.startswith(b"(d"):
        return "revisited"
    text = head.decode("utf-8", "replace").lstrip("\ufeff")
    if text.lstrip()[:1] == "{":
        return _json(file, text)
    return _lines([line for line in text.splitlines() if line.strip() and not line.startswith("#")])


def _parquet(file: Path) -> str | None:
    import pyarrow.parquet as pq

    names = set(pq.read_schema(file).names)
    if {"video_id", "start_seconds", "stop_seconds"} <= names:
        return "parquet"
    if {"id", "label"} <= names and "score" not in names:
        return "labels"
    return "scores" if "id" in names else None


def _json(file: Path, head: str) -> str | None:
    first = head.lstrip().split("\n", 1)[0]
    try:
        record = json.loads(first)
        if isinstance(record, dict) and "qid" in record:
            return "qvhighlights"
    except ValueError:
        pass
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, UnicodeDecodeError):
        return None
    if "database" in data or "results" in data:
        return "activitynet"
    if {"imlist", "qimlist", "gnd"} <= set(data):
        return "revisited"
    values = list(data.values())
    if values and isinstance(values[0], dict) and {"timestamps", "sentences"} <= set(values[0]):
        return "activitynet_captions"
    if values and all(isinstance(value, list) and all(isinstance(name, str) for name in value) for value in values):
        return "ranks"
    return None


def _lines(lines: list[str]) -> str | None:
    if not lines:
        return None
    first = lines[0]
    if "##" in first:
        return "charades_sta"
    if "," in first:
        return _csv({name.strip().strip('"') for name in first.split(",")})
    fields = first.split()
    if len(fields) >= 6 and fields[1].upper() == "Q0":
        return "trec"
    if len(fields) == 4 and fields[3].lstrip("+-").isdigit():
        return "trec"
    if len(fields) == 5 and _numbers(fields[1:]):
        return "thumos14"
    return "trec" if len(fields) == 6 and _numbers(fields[3:5]) else None


def _csv(columns: set[str]) -> str | None:
    if {"video_id", "start_seconds", "stop_seconds"} <= columns or {"video-name", "t-start", "t-end"} <= columns:
        return "csv"
    if "id" in columns and "label" in columns and "score" not in columns:
        return "labels"
    return "scores" if "id" in columns else None


def _numbers(fields: list[str]) -> bool:
    try:
        return all(float(field) is not None for field in fields)
    except ValueError:
        return False
