"""Ground truth of revisited Oxford and Paris (ROxford5k, RParis6k): which images are easy, hard or junk for a query.

The published file is a pickle of one object::

    {"imlist": [...], "qimlist": [...], "gnd": [{"bbx", "easy", "hard", "junk"}, ...]}

The old ground truth goes about in the same form, with ``ok`` (good and ok images) in place of ``easy`` and ``hard``.

A pickle can run code when it is read; this reader builds plain containers and NumPy arrays alone and refuses anything
else by name. The converted form is the same object as JSON, and is all that is ever written.
Source: F. Radenovic et al., Revisiting Oxford and Paris, CVPR 2018.
"""

import codecs
import io
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clipmill.schemas.errors import FormatError, describe
from clipmill.stores.formats.reader import Head, Reader
from clipmill.stores.formats.records import LandmarkTruth
from clipmill.stores.formats.sniff import keys_of, wrong_format

_EXPECTED = "revisited Oxford/Paris ground truth: a pickle or JSON with the keys 'imlist', 'qimlist' and 'gnd'"
Protocol = Literal["easy", "medium", "hard", "good"]


@dataclass(frozen=True, slots=True)
class RevisitedQuery:
    """One query: positions in the list of images, ascending, and its box in pixels (left, top, right, bottom).

    In the old form `easy` are the good and the ok ones, and `hard` is empty.
    """

    easy: tuple[int, ...]
    hard: tuple[int, ...]
    junk: tuple[int, ...]
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class RevisitedOxford:
    """The ground truth; images and queries by name, without their ending.

    Attributes:
        revisited: False for the old ground truth in this form.
    """

    images: tuple[str, ...]
    query_images: tuple[str, ...]
    queries: tuple[RevisitedQuery, ...]
    revisited: bool = True

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """Easy, medium and hard; of the old ground truth ``good`` alone."""
        return ("easy", "medium", "hard") if self.revisited else ("good",)

    def protocol(self, name: Protocol) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Returns (positives, junk) of each query: junk is deleted from a ranking before it is scored.

        easy: hard is junk too; medium: easy and hard are positive; hard: easy is junk too; good: as the old ground
        truth has it. A query without positives is not scored.
        """
        if name == "good":
            return [(q.easy, q.junk) for q in self.queries]
        if name == "easy":
            return [(q.easy, tuple(sorted(q.junk + q.hard))) for q in self.queries]
        if name == "medium":
            return [(tuple(sorted(q.easy + q.hard)), q.junk) for q in self.queries]
        return [(q.hard, tuple(sorted(q.junk + q.easy))) for q in self.queries]


def read_revisited_oxford(path: str | Path) -> RevisitedOxford:
    """Returns the ground truth in `path`, a pickle as published or the converted JSON.

    Raises:
        FormatError: the file is something else, its parts do not fit together, or its pickle names anything but plain
            containers and NumPy arrays.
    """
    try:
        content = Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise wrong_format(path, _EXPECTED, "check the path") from None
    data = _json(content) if content.lstrip()[:1] == b"{" else _unpickled(path, content)
    keys = {"imlist", "qimlist", "gnd"}
    if not isinstance(data, dict) or not keys <= set(data):
        if isinstance(data, dict) and not content.lstrip().startswith(b"{"):
            got = f"a pickled object with the keys {keys_of(data)}"
            raise FormatError(describe("file", str(path), _EXPECTED, got, "check the kind of file"))
        raise wrong_format(path, _EXPECTED)
    return revisited_from_object(data, path)


def revisited_from_object(data: Mapping[str, Any], path: str | Path) -> RevisitedOxford:
    """Returns the ground truth in the published object, however it was read.

    Args:
        path: where it was read from, for messages.

    Raises:
        FormatError: its parts do not fit together.
    """
    images, names, queries = (list(data[key]) for key in ("imlist", "qimlist", "gnd"))
    if len(names) != len(queries):
        raise _bad(path, "gnd", f"one entry for each of {len(names)} queries", f"{len(queries)}")
    old = bool(queries) and all(isinstance(entry, dict) and "ok" in entry for entry in queries)
    return RevisitedOxford(
        tuple(str(name) for name in images),
        tuple(str(name) for name in names),
        tuple(_query(path, name, entry, len(images), old) for name, entry in zip(names, queries, strict=True)),
        revisited=not old,
    )


def write_revisited_oxford(path: str | Path, truth: RevisitedOxford) -> None:
    """Writes the converted form: JSON that `read_revisited_oxford` returns again."""
    gnd = [
        {"bbx": list(q.box), "junk": q.junk} | ({"easy": q.easy, "hard": q.hard} if truth.revisited else {"ok": q.easy})
        for q in truth.queries
    ]
    data = {"imlist": truth.images, "qimlist": truth.query_images, "gnd": gnd}
    Path(path).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def _query(path: str | Path, name: str, entry: Any, num_images: int, old: bool) -> RevisitedQuery:
    keys = ("ok", "junk", "bbx") if old else ("easy", "hard", "junk", "bbx")
    if not isinstance(entry, dict) or not set(keys) <= set(entry):
        raise _bad(path, f"query {name}", f"the keys {', '.join(keys)}", "others")
    try:
        lists = [tuple(sorted(int(image) for image in entry[key])) for key in keys[:-1]]
        box = tuple(float(value) for value in entry["bbx"])
    except (TypeError, ValueError):
        raise _bad(path, f"query {name}", "numbers", "something else") from None
    if any(not 0 <= image < num_images for images in lists for image in images):
        raise _bad(path, f"query {name}", f"positions in a list of {num_images} images", "one outside")
    if len(box) != 4:
        raise _bad(path, f"query {name}", "a box of 4 numbers", f"{len(box)}")
    hard = () if old else lists[1]
    return RevisitedQuery(lists[0], hard, lists[-1], (box[0], box[1], box[2], box[3]))


def _bad(path: str | Path, where: str, expected: str, got: str) -> FormatError:
    return FormatError(describe("file", f"{path} {where}", expected, got, "correct the file"))


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _unpickled(path: str | Path, content: bytes) -> Any:
    try:
        return _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except _ForbiddenError as error:
        remedy = "do not open it otherwise; ask for the JSON form"
        raise FormatError(describe("pickle", str(path), "plain containers and arrays", str(error), remedy)) from None
    except Exception:  # Anything can come out of broken pickle data; all of it means the same here.
        raise wrong_format(path, _EXPECTED) from None


class _ForbiddenError(pickle.UnpicklingError):
    """The pickle names something that could run code."""


def _latin1(text: str, encoding: str) -> bytes:
    # How NumPy's arrays carry their bytes in old pickles. Other codecs have no place there.
    if encoding not in ("latin1", "latin-1"):
        raise _ForbiddenError(f"the codec '{encoding}'")
    return codecs.encode(text, "latin1")


def _array_parts() -> dict[tuple[str, str], Callable[..., Any]]:
    reconstruct = np.zeros(1).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    parts: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1,
    }
    # The module has moved between NumPy 1 and 2; files name either.
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        parts[module, "_reconstruct"] = reconstruct  # type: ignore[assignment]
        parts[module, "scalar"] = scalar  # type: ignore[assignment]
    return parts


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = _array_parts()
        if (module, name) not in allowed:
            raise _ForbiddenError(f"'{module}.{name}'")
        return allowed[module, name]


_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"(d")


def _looks_like(head: Head) -> bool:
    return head.data.startswith(_PICKLES) or {"imlist", "qimlist", "gnd"} <= set(head.json_object)


def landmark_truth(truth: RevisitedOxford) -> LandmarkTruth:
    """Returns, for each protocol, the names of the images that are correct for a query and of those that are junk."""
    positives: dict[str, dict[str, frozenset[str]]] = {}
    junk: dict[str, dict[str, frozenset[str]]] = {}
    for protocol in truth.protocols:
        rows = list(zip(truth.query_images, truth.protocol(protocol), strict=True))
        positives[protocol] = {name: frozenset(truth.images[row] for row in part[0]) for name, part in rows}
        junk[protocol] = {name: frozenset(truth.images[row] for row in part[1]) for name, part in rows}
    return LandmarkTruth(truth.images, {name: name for name in truth.query_images}, positives, junk)


READER = Reader(
    "revisited",
    "revisited Oxford/Paris ground truth (pickle or JSON)",
    _looks_like,
    truth={"landmarks": lambda request: landmark_truth(read_revisited_oxford(request.path))},
)
