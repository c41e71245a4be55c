"""What a reader of a file format is: how a file of it is known, and into which records it is read.

To add a format: a file with a `Reader`, and one line in `registry`; one from outside registers its `Reader` under the
entry point group ``clipmill.formats``.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from clipmill.stores.formats.sniff import is_pickle

HEAD_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A file to read, with the keys of the config that decide how.

    Attributes:
        path: of the file or folder.
        thing: key of the config that names it, for messages: ``ground_truth``, ``training``, ``predictions``.
        subset: part of the annotations; None: all of them.
        inverted: ``refuse``, ``drop`` or ``swap`` lines whose start is after their end.
        classes: names of the class numbers 1, 2, ..., or the path of a list of them; None: not given.
        truth_path: beside predictions: the file or folder of the ground truth.
        truth: beside predictions: the ground truth's record, for positions that are into its lists.
        window_weights: file of weights that scores are multiplied by (S-CNN); None: not given.
    """

    path: str
    thing: str = "file"
    subset: str | None = None
    inverted: Literal["refuse", "drop", "swap"] = "refuse"
    classes: str | tuple[str, ...] | None = None
    truth_path: str | None = None
    truth: Any = None
    window_weights: str | None = None


class Head:
    """What can be known of a file or folder without reading all of it; each part is read when it is first asked for."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of a folder's entries; none for a file."""
        return frozenset(file.name for file in self.path.iterdir()) if self.path.is_dir() else frozenset()

    @cached_property
    def data(self) -> bytes:
        """The first 64 KiB; nothing for a folder."""
        if self.path.is_dir():
            return b""
        with self.path.open("rb") as stream:
            return stream.read(HEAD_BYTES)

    @cached_property
    def text(self) -> str:
        """`data` as text without a byte-order mark; empty for Parquet, NumPy, MATLAB and pickled data."""
        binary = (b"PAR1", b"\x93NUMPY", b"MATLAB", b"\x80")
        return "" if self.data.startswith(binary) else self.data.decode("utf-8", "replace").lstrip("\ufeff")

    @cached_property
    def is_json(self) -> bool:
        """Whether the text begins with a JSON object."""
        return self.text.lstrip()[:1] == "{"

    @cached_property
    def first_json_object(self) -> Mapping[str, Any]:
        """The JSON object in the first line; empty where there is none."""
        if not self.is_json:
            return {}
        try:
            record = json.loads(self.text.lstrip().split("\n", 1)[0])
        except ValueError:
            return {}
        return record if isinstance(record, dict) else {}

    @cached_property
    def json_object(self) -> Mapping[str, Any]:
        """The whole file as one JSON object; empty where it is none."""
        if not self.is_json:
            return {}
        try:
            record = json.loads(self.path.read_text(encoding="utf-8-sig"))
        except (ValueError, UnicodeDecodeError):
            return {}
        return record if isinstance(record, dict) else {}

    @cached_property
    def first_line(self) -> str:
        """The first line of text that is neither blank nor a comment; empty for JSON."""
        if self.is_json:
            return ""
        lines = (line for line in self.text.splitlines() if line.strip() and not line.startswith("#"))
        return next(lines, "")

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The fields of `first_line` between spaces; none where it has commas."""
        return () if "," in self.first_line or "##" in self.first_line else tuple(self.first_line.split())

    @cached_property
    def columns(self) -> frozenset[str]:
        """Names of the columns of a Parquet table, or of a CSV's first line."""
        if self.data.startswith(b"PAR1"):
            import pyarrow.parquet as pq

            return frozenset(pq.read_schema(self.path).names)
        if "," not in self.first_line or "##" in self.first_line:
            return frozenset()
        return frozenset(name.strip().strip('"') for name in self.first_line.split(","))

    @cached_property
    def is_pickle(self) -> bool:
        """Whether it seems to be pickled data, of any protocol."""
        return is_pickle(self.data)

    @cached_property
    def is_parquet(self) -> bool:
        """Whether it is a Parquet file."""
        return self.data.startswith(b"PAR1")


@dataclass(frozen=True, slots=True)
class Reader:
    """How files of one format are known and read.

    Attributes:
        format: its name, the value of `format:` in a config.
        what: what such a file is, in a few words, for messages.
        looks_like: whether a file or folder is of this format, by its content.
        truth, predictions: kind of record (see `records`) to what reads a ground truth, or predictions, into it. What
            the format cannot carry is left out. Each raises FormatError for a file that is something else.
        takes: keys of the config that mean something for this format: ``subset``, ``inverted``, ``classes``,
            ``window_weights``.
        layout: how one writes such a file oneself, in a few words; empty where nobody does.
    """

    format: str
    what: str
    looks_like: Callable[[Head], bool]
    truth: Mapping[str, Callable[[ReadRequest], Any]] = field(default_factory=dict)
    predictions: Mapping[str, Callable[[ReadRequest], Any]] = field(default_factory=dict)
    takes: frozenset[str] = frozenset()
    layout: str = ""


def is_number(text: str) -> bool:
    """Returns whether `text` is a number as Python reads one."""
    try:
        float(text)
    except ValueError:
        return False
    return True
