"""What a file of features is to those who read it: arrays by name, whatever the format."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from clipmill.schemas.arrays import Array
from clipmill.schemas.errors import FormatError, describe, near


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """What an array is, before it is read."""

    shape: tuple[int, ...]
    dtype: "np.dtype[np.generic]"


class FeatureFile(Protocol):
    """One file, opened for reading. Used by one thread at a time."""

    def names(self) -> Sequence[str]:
        """Returns the names of all arrays, in the file's order; those of text included."""
        ...

    def info(self, name: str) -> ArrayInfo:
        """Returns the shape and dtype of an array, of which nothing is read where the format says them.

        Raises:
            KeyError: there is none of that name.
            FormatError: it is no array of numbers.
        """
        ...

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> Array:
        """Returns rows ``[start, stop)`` of an array of numbers, in the dtype it has.

        Raises:
            KeyError: there is none of that name.
            FormatError: it is no array of numbers, or damaged.
        """
        ...

    def texts(self, name: str) -> list[str]:
        """Returns an array of texts or whole numbers as texts: the ids of rows.

        Raises:
            KeyError: there is none of that name.
            FormatError: it is neither.
        """
        ...

    def close(self) -> None:
        """Gives the file back."""
        ...


@dataclass(frozen=True, slots=True)
class FeatureFormat:
    """A format of such files.

    Attributes:
        name: what ``format:`` says.
        what: one file of it, in words.
        suffixes: of its files, in lower case with the dot.
        open: returns the file at a local path. Raises FormatError where it is something else.
    """

    name: str
    what: str
    suffixes: tuple[str, ...]
    open: Callable[[str], FeatureFile]


def not_this_format(path: str, expected: str) -> FormatError:
    """Returns the error for a file of another kind."""
    from clipmill.stores.formats.sniff import looks_like

    return FormatError(describe("file", path, expected, looks_like(path), "check the path, or say format: NAME"))


def no_array(path: str, name: str, names: Sequence[str]) -> FormatError:
    """Returns the error for a name that the file does not have."""
    remedy = near(name, names) if names else "it holds none"
    return FormatError(describe("file", path, f"an array {name!r}", f"{len(names)} of other names", remedy))


def not_numbers(path: str, name: str, got: str) -> FormatError:
    """Returns the error for an array that holds something else."""
    return FormatError(describe("file", f"{path} {name}".strip(), "an array of numbers", got, "name another dataset"))


def number_info(path: str, name: str, shape: tuple[int, ...], dtype: Any) -> ArrayInfo:
    """Returns what an array of real numbers is.

    Raises:
        FormatError: `dtype` is none of a number.
    """
    kind = np.dtype(dtype)
    if kind.kind not in "fiub":
        raise not_numbers(path, name, str(kind))
    return ArrayInfo(tuple(int(side) for side in shape), kind)


def ids_of(path: str, name: str, values: Array) -> list[str]:
    """Returns the ids in an array of texts or whole numbers, however it is shaped.

    Raises:
        FormatError: it holds neither.
    """
    flat = np.asarray(values).reshape(-1)
    if flat.dtype.kind == "S":
        return [item.decode("utf-8").strip() for item in flat.tolist()]
    if flat.dtype.kind in "UO" and all(isinstance(item, str | bytes) for item in flat.tolist()):
        return [item.decode("utf-8") if isinstance(item, bytes) else item.strip() for item in flat.tolist()]
    if flat.dtype.kind in "iu" or (flat.dtype.kind == "f" and bool(np.all(flat == np.floor(flat)))):
        return [str(int(item)) for item in flat.tolist()]
    expected = "ids: texts or whole numbers"
    raise FormatError(describe("file", f"{path} {name}", expected, str(flat.dtype), "name another array under ids"))
