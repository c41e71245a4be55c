"""What a file looks like, for the message when it is not what was expected."""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from clipmill.schemas.errors import FormatError, describe

_MAGIC = (
    (b"\x1f\x8b", "gzip data, to be unpacked first"),
    (b"\xff\xfe", "UTF-16 text, to be saved as UTF-8"),
    (b"\xfe\xff", "UTF-16 text, to be saved as UTF-8"),
    (b"PK\x03\x04", "a zip archive (.zip, .npz, .xlsx or a torch file)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"PAR1", "a Parquet file"),
    (b"\x93NUMPY", "a NumPy .npy file"),
    (b"MATLAB 5.0", "a MATLAB .mat file"),
    (b"MATLAB 7.3", "a MATLAB 7.3 .mat file, to be saved again with -v7"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF", "a PDF"),
)


_PICKLE = re.compile(rb"\x80[\x02-\x05]|\([dlt]p\d+\n|c[\w.]+\n[\w.]+\n")


def is_pickle(head: bytes) -> bool:
    """Returns whether data begins as a Python pickle of any protocol does."""
    return _PICKLE.match(head) is not None


def looks_like(path: str | Path) -> str:
    """Returns in a few words what the file `path` seems to hold; never raises for odd content."""
    file = Path(path)
    if file.is_dir():
        return f"a folder of {sum(1 for _ in file.iterdir())} entries"
    try:
        with file.open("rb") as stream:
            head = stream.read(1 << 16)
    except OSError as error:
        return f"an unreadable file ({error.strerror})"
    if not head.strip():
        return "an empty file"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if is_pickle(head):
        return "a Python pickle"
    if b"\0" in head[:1024]:
        return "binary data"
    try:
        # Not to its end: the head may stop within a character.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError as error:
        return f"text that is not UTF-8 (byte {error.start})"
    if text.lstrip("\ufeff \t\r\n")[:1] == "{" and (broken := _broken_json(file)):
        return broken
    return _text(text)


def _broken_json(file: Path) -> str:
    """Returns what is wrong with a JSON file beginning with an object; nothing where it, or its first line, is one."""
    text = file.read_text(encoding="utf-8-sig", errors="replace").strip()
    try:
        json.JSONDecoder().raw_decode(text)
    except ValueError as error:
        place = getattr(error, "pos", 0)
        keys = _first_keys(text)
        begins = f", beginning with the key {keys}" if keys else ""
        return (
            f"JSON that {'breaks off' if place >= len(text) - 1 else 'is malformed'} at character {place + 1}{begins}"
        )
    return ""


def _text(text: str) -> str:
    stripped = text.lstrip("\ufeff \t\r\n")
    lines = [line for line in stripped.splitlines() if line.strip()]
    first = lines[0].strip()
    if stripped[:1] == "<":
        return "an HTML or XML page"
    if first.startswith("version https://git-lfs"):
        return "a Git LFS pointer, not the file itself"
    if stripped[:1] in "{[":
        return _json(stripped, lines)
    for separator, name in (("\t", "tabs"), (",", "commas")):
        if separator in first:
            return f"text in {first.count(separator) + 1} columns separated by {name}, first line {_short(first)}"
    return f"text in {len(first.split())} columns separated by spaces, first line {_short(first)}"


def _json(text: str, lines: list[str]) -> str:
    try:
        record, stop = json.JSONDecoder().raw_decode(text)
    except ValueError:
        # Longer than what was read, or broken: the first keys still tell one format from another.
        keys = _first_keys(text)
        return f"JSON beginning with the keys {keys}" if keys else f"text beginning {_short(lines[0])}"
    more = bool(text[stop:].strip())
    if isinstance(record, dict):
        kind = "JSON lines, objects" if more else "a JSON object"
        return f"{kind} with the keys {keys_of(record)}"
    return f"a JSON {type(record).__name__} of {len(record) if isinstance(record, list) else 1} items"


def _first_keys(text: str) -> str:
    parts = text.split('"', 3)
    return repr(parts[1]) if len(parts) > 2 and parts[0].strip() == "{" else ""


def _short(text: str, most: int = 60) -> str:
    return repr(text if len(text) <= most else text[: most - 3] + "...")


def keys_of(record: dict[str, Any], most: int = 6) -> str:
    """Returns the first keys of `record`, quoted."""
    names = [repr(key) for key in list(record)[:most]]
    return ", ".join(names) + (f" and {len(record) - most} more" if len(record) > most else "") if names else "(none)"


def wrong_format(path: str | Path, expected: str, remedy: str = "check the path and the kind of file") -> FormatError:
    """Returns the error for a file that as a whole is not what was expected."""
    return FormatError(describe("file", str(path), expected, looks_like(path), remedy))


def wrong_line(
    path: str | Path, number: int, line: str, expected: str, remedy: str = "correct the line"
) -> FormatError:
    """Returns the error for line `number` (1-based) of a text file."""
    return FormatError(describe("file", f"{path} line {number}", expected, _short(line.rstrip("\r\n")), remedy))


def read_text(path: str | Path, expected: str) -> str:
    """Returns the text of `path`.

    Raises:
        FormatError: there is no such file, or it is no UTF-8 text.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FormatError(describe("file", str(path), expected, "no such file", "check the path")) from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise wrong_format(path, expected) from None
    if "\0" in text or not text.strip():
        raise wrong_format(path, expected)
    return text


def read_lines(path: str | Path, expected: str) -> Iterator[tuple[int, str]]:
    """Yields (1-based number, line) of the lines of `path` that are not blank.

    Raises:
        FormatError: as `read_text`.
    """
    # Not str.splitlines: a sentence may hold one of the rarer separators that it also splits at.
    for number, line in enumerate(read_text(path, expected).split("\n"), 1):
        if line.strip():
            yield number, line.rstrip("\r")


def read_json_object(path: str | Path, expected: str) -> dict[str, Any]:
    """Returns the JSON object in `path`.

    Raises:
        FormatError: there is no such file, or it holds something else.
    """
    try:
        record = json.loads(read_text(path, expected))
    except ValueError:
        raise wrong_format(path, expected) from None
    if not isinstance(record, dict):
        raise wrong_format(path, expected)
    return record


def read_json_lines(path: str | Path, expected: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (1-based line number, object) of a JSON-lines file.

    Raises:
        FormatError: a line is not a JSON object.
    """
    for number, line in read_lines(path, expected):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise wrong_format(path, expected) if number == 1 else wrong_line(path, number, line, "a JSON object")
        yield number, record


def seconds(value: Any) -> float | None:
    """Returns `value` as finite seconds, or None where it is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if abs(number) != float("inf") and number == number else None


def listed(names: Iterable[str], most: int = 5) -> str:
    """Returns the first of `names`, quoted and comma-separated, with how many more there are."""
    everything = list(names)
    more = f" and {len(everything) - most} more" if len(everything) > most else ""
    return ", ".join(repr(name) for name in everything[:most]) + more
