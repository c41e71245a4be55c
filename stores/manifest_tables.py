"""Tables of a manifest: the columns and rows of CSV and Parquet files, and what the cells of a row say.

Errors name `thing`, the key of the config that led to the file, or the row.
"""

import csv
import errno
import io
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from clipmill.schemas.errors import ManifestError, describe
from clipmill.schemas.extras import driver_of
from clipmill.schemas.records import Segment
from clipmill.stores.file_names import is_text
from clipmill.stores.objects import storage_error
from clipmill.stores.storage_faults import RetriedCalls, Retries, fault_of

TIMES = ("start_seconds", "stop_seconds")

T = TypeVar("T")

Row = dict[str, Any]
"""The cells of a line by column; None where there is nothing."""


def read_table(
    thing: str,
    path: str,
    known: Sequence[str],
    of_folder: str = "name a file in it",
    raw: Collection[str] = (),
    retries: Retries = Retries(),  # noqa: B008 (a frozen record)
) -> tuple[list[str], list[Row]]:
    """Returns the columns and rows of the .csv or .parquet file at `path`, a path or URL.

    Args:
        known: names of columns that mean something; a near miss of one is refused.
        of_folder: what to do where `path` is a folder.
        raw: columns of a CSV whose cells may hold bytes that are no UTF-8, as surrogates: names of files.
        retries: of the calls to storage.

    Raises:
        ManifestError: there is no such file, or it cannot be read as a table.
        StorageUnavailableError: its server refuses or does not answer.
    """
    fs, full = file_system(path, thing)
    kind = kind_of(fs, full, thing, path, retries)
    if kind != "file":
        got = "nothing there" if kind is None else "a folder"
        remedy = "check the path" if kind is None else of_folder
        raise problem(thing, path, "a .csv or .parquet file", got, remedy)
    suffix = PurePosixPath(full).suffix.lower()
    if suffix not in (".csv", ".parquet"):
        got = suffix or "a file without suffix"
        raise problem(thing, path, "a .csv or .parquet file", got, "save it as CSV with commas, or Parquet")
    data = called(lambda: fs.cat_file(full), thing, path, retries)
    columns, rows = _csv_rows(thing, path, data, raw) if suffix == ".csv" else _parquet_rows(thing, path, data)
    check_columns(thing, path, columns, known)
    return columns, rows


def _csv_rows(thing: str, path: str, data: bytes, raw: Collection[str]) -> tuple[list[str], list[Row]]:
    text = data.decode("utf-8-sig", "surrogateescape")
    header = text.partition("\n")[0]
    for name, separator in (("semicolons", ";"), ("tabs", "\t")):
        if separator in header and "," not in header:
            got = f"columns separated by {name}"
            raise problem(thing, path, "columns separated by commas", got, "save it as CSV with commas")
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        table = [line for line in reader if line]
    except csv.Error as error:
        raise problem(thing, path, "CSV", f"{error} (line {reader.line_num})", "correct the line") from None
    if not table:
        raise problem(thing, path, "a header and rows", "an empty file", "add them")
    columns = [name.strip() for name in table[0]]
    _check_text(thing, path, data, columns, [False] * len(columns))
    rows = []
    for number, line in enumerate(table[1:], start=1):
        if len(line) != len(columns):
            got = f"{len(line)} fields"
            raise problem(thing, f"{path} row {number}", f"{len(columns)} fields", got, "quote fields with commas")
        _check_text(thing, path, data, line, [name in raw for name in columns])
        rows.append({name: value if value.strip() else None for name, value in zip(columns, line, strict=True)})
    return columns, rows


def _check_text(thing: str, path: str, data: bytes, line: Sequence[str], is_raw: Sequence[bool]) -> None:
    """Refuses a line with bytes that are no UTF-8 elsewhere than where file names stand."""
    if not all(raw or is_text(value) for raw, value in zip(is_raw, line, strict=True)):
        try:
            data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            at = data[: error.start].count(b"\n") + 1
            raise problem(thing, f"{path} line {at}", "UTF-8", "other bytes", "save it as CSV UTF-8") from None


def _parquet_rows(thing: str, path: str, data: bytes) -> tuple[list[str], list[Row]]:
    try:
        # By this thread, as in `clipmill.stores.tables.from_parquet`.
        table = pq.ParquetFile(io.BytesIO(data), pre_buffer=False).read(use_threads=False)
    except (pa.ArrowException, OSError):
        raise problem(thing, path, "a Parquet file", "other bytes", "write it again with pandas or pyarrow") from None
    return table.column_names, table.to_pylist()


def check_columns(thing: str, path: str, columns: Sequence[str], known: Sequence[str]) -> None:
    """Refuses a column that is there twice, or whose name is nearly one of `known`.

    Raises:
        ManifestError: there is one.
    """
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise problem(thing, path, "each column once", f"{twice[0]!r} twice", "remove one")
    # A misspelt optional column would otherwise be ignored in silence, and with it every label or segment.
    for name in columns:
        close = [item for item in known if item != name and name.strip().lower().replace(" ", "_") == item]
        if close and close[0] not in columns:
            raise problem(thing, path, f"a column {close[0]}", f"{name!r}", "rename the column")


def segment_of(place: str, row: Mapping[str, Any]) -> Segment | None:
    """Returns the segment of a row; None where it has neither end.

    Raises:
        ManifestError: it is no segment.
    """
    start, stop = (seconds_of(place, name, row.get(name)) for name in TIMES)
    label = text_of(place, "segment_label", row.get("segment_label"))
    if start is None and stop is None:
        if label is not None:
            raise problem(place, "start_seconds", "the start of the segment", "nothing", "fill it in")
        return None
    if start is None or stop is None:
        missing = "start_seconds" if start is None else "stop_seconds"
        raise problem(place, missing, "a number of seconds", "nothing", "give both ends of a segment")
    if start < 0 or stop <= start:
        raise problem(place, "stop_seconds", f"0 <= start < stop (start is {start})", str(stop), "correct the segment")
    return Segment(start, stop, label)


def seconds_of(place: str, column: str, value: Any) -> float | None:
    """Returns the number in a cell; None where it is empty.

    Raises:
        ManifestError: it is no finite number.
    """
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not abs(number) < float("inf"):
        raise problem(place, column, "a number of seconds", repr(value), "write such as 12.5")
    return number


def text_of(place: str, column: str, value: Any) -> str | None:
    """Returns the text (or whole number) in a cell; None where it is empty.

    Raises:
        ManifestError: it is neither.
    """
    if value is None or (isinstance(value, float) and value != value):
        return None
    if not isinstance(value, str | int) or isinstance(value, bool):
        got = f"{type(value).__name__} {value!r}"
        raise problem(place, column, "text", got, "store the column as strings")
    if "\0" in str(value):
        raise problem(place, column, "text", "a zero byte", "remove it")
    return str(value) or None


def problem(thing: str, key: str, expected: str, got: str, remedy: str) -> ManifestError:
    """Returns the one-line error of a manifest."""
    return ManifestError(describe(thing, key, expected, got, remedy))


def file_system(url: str, thing: str = "videos") -> tuple[Any, str]:
    """Returns the file system of a path or URL, and the path within it.

    Raises:
        ManifestError: the protocol is unknown, or its driver is not installed.
    """
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise problem(
            thing, url, "a path or a URL fsspec opens", str(error), f"correct it, or {driver_of(url)}"
        ) from None
    return fs, path.rstrip("/") or "/"


def kind_of(fs: Any, path: str, thing: str, shown: str, retries: Retries = Retries()) -> str | None:  # noqa: B008
    """Returns ``file``, ``directory`` or None for what lies at `path`.

    Raises:
        ManifestError: it cannot be known.
        StorageUnavailableError: its server refuses or does not answer.
    """
    try:
        return str(called(lambda: fs.info(path), thing, shown, retries)["type"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        reason = error.strerror or str(error)
        raise problem(thing, shown, "something readable", reason, "check access") from None


def called(call: Callable[[], T], thing: str, shown: str, retries: Retries) -> T:
    """Returns what `call` of a file system returns, tried again while its fault may pass.

    Raises:
        FileNotFoundError: nothing is there.
        StorageUnavailableError: a server refuses or does not answer.
        StoreError: there are no credentials for it.
    """
    try:
        return RetriedCalls(retries)(call)
    except Exception as error:
        fault = fault_of(error)
        if fault == "absent":
            raise FileNotFoundError(errno.ENOENT, "no such object", shown) from None
        if fault is None or (isinstance(error, OSError) and "://" not in shown):
            raise
        raise storage_error(shown, "cannot read it", error, thing) from None
