"""Oxford Buildings and Paris ground truth: text files per query, and rankings of image names.

::

    all_souls_1_query.txt     oxc1_all_souls_000013 136.5 34.1 648.5 955.7     query image (with Oxford's prefix), box
    all_souls_1_good.txt      all_souls_000026                                 one image a line; so ok and junk

Good and ok images are correct, junk is deleted from a ranking before it is scored. The query's own image is in the
collection and among the good ones.
Source: J. Philbin et al., Object retrieval with large vocabularies and fast spatial matching, CVPR 2007.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipmill.schemas.errors import FormatError, describe
from clipmill.stores.formats.reader import Head, Reader, ReadRequest
from clipmill.stores.formats.records import LandmarkTruth, Rankings
from clipmill.stores.formats.sniff import listed, looks_like, read_lines, read_text, wrong_format, wrong_line

_FOLDER = "a folder of Oxford/Paris ground truth such as all_souls_1_query.txt, _good.txt, _ok.txt and _junk.txt"
_RANKS = "rankings: a JSON object of query to image names, best first, or ranks int[images, queries] as .npy"


@dataclass(frozen=True, slots=True)
class OxfordQuery:
    """One query: its image, its box in pixels (left, top, right, bottom), and the images that are correct or junk."""

    image: str
    box: tuple[float, float, float, float]
    good: tuple[str, ...]
    ok: tuple[str, ...]
    junk: tuple[str, ...]


def read_oxford_buildings(folder: str | Path) -> dict[str, OxfordQuery]:
    """Returns query name to its ground truth, by name.

    Raises:
        FormatError: the folder holds something else, or a query lacks one of its files.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FormatError(describe("folder", str(folder), _FOLDER, looks_like(folder), "check the path"))
    names = sorted(file.name.removesuffix("_query.txt") for file in root.glob("*_query.txt"))
    if not names:
        found = listed(sorted(file.name for file in root.iterdir())) or "nothing"
        raise FormatError(describe("folder", str(folder), _FOLDER, found, "check the path"))
    queries = {}
    for name in names:
        missing = [end for end in ("good", "ok", "junk") if not (root / f"{name}_{end}.txt").is_file()]
        if missing:
            got = f"no {listed(f'{name}_{end}.txt' for end in missing)}"
            raise FormatError(describe("folder", str(folder), f"all four files of query {name}", got, "complete it"))
        queries[name] = _query(root, name)
    return queries


def _query(root: Path, name: str) -> OxfordQuery:
    path = root / f"{name}_query.txt"
    number, line = next(iter(read_lines(path, _FOLDER)))
    fields = line.split()
    try:
        left, top, right, bottom = (float(value) for value in fields[1:])
    except ValueError:
        raise wrong_line(path, number, line, "<image> <left> <top> <right> <bottom>") from None
    good, ok, junk = (_names(root / f"{name}_{end}.txt") for end in ("good", "ok", "junk"))
    return OxfordQuery(fields[0].removeprefix("oxc1_"), (left, top, right, bottom), good, ok, junk)


def _names(path: Path) -> tuple[str, ...]:
    # A query without junk has an empty file.
    if not path.read_bytes().strip():
        return ()
    return tuple(line.strip() for _, line in read_lines(path, _FOLDER))


def read_rankings(
    path: str | Path, images: tuple[str, ...] = (), queries: tuple[str, ...] = ()
) -> dict[str, list[str]]:
    """Returns query to image names, best first.

    Args:
        images, queries: names that the positions in an .npy stand for, as in the revisited ground truth.

    Raises:
        FormatError: the file is something else, or an .npy does not fit the ground truth.
    """
    if Path(path).suffix == ".npy":
        return _ranks(path, images, queries)
    try:
        data = json.loads(read_text(path, _RANKS))
    except ValueError:
        raise wrong_format(path, _RANKS) from None
    if not isinstance(data, dict):
        raise wrong_format(path, _RANKS)
    for query, names in data.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            got = json.dumps(names)[:60]
            raise FormatError(describe("file", f"{path} query {query}", "a list of names", got, "correct the entry"))
    return data


def _ranks(path: str | Path, images: tuple[str, ...], queries: tuple[str, ...]) -> dict[str, list[str]]:
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        raise wrong_format(path, _RANKS) from None
    if not images:
        raise FormatError(
            describe("file", str(path), "names of images", "positions", "give rankings as JSON: this truth lists none")
        )
    if table.ndim != 2 or table.shape[1] != len(queries) or not np.issubdtype(table.dtype, np.integer):
        expected = f"integers [images, {len(queries)}], a column per query"
        raise FormatError(describe("file", str(path), expected, f"{table.dtype}{list(table.shape)}", "transpose it?"))
    if table.size and not 0 <= int(table.min()) <= int(table.max()) < len(images):
        got = f"{table.min()} to {table.max()}"
        raise FormatError(describe("file", str(path), f"positions below {len(images)}", got, "check the image list"))
    return {query: [images[row] for row in table[:, column]] for column, query in enumerate(queries)}


def _landmarks(request: ReadRequest) -> LandmarkTruth:
    queries = read_oxford_buildings(request.path)
    good = {name: frozenset((*query.good, *query.ok)) for name, query in queries.items()}
    junk = {name: frozenset(query.junk) for name, query in queries.items()}
    return LandmarkTruth((), {name: query.image for name, query in queries.items()}, {"good": good}, {"good": junk})


def _are_ranks(head: Head) -> bool:
    if head.data.startswith(b"\x93NUMPY"):
        return True
    lists = list(head.json_object.values())
    return bool(lists) and all(isinstance(item, list) and all(isinstance(name, str) for name in item) for item in lists)


def _rankings(request: ReadRequest) -> Rankings:
    truth = request.truth
    images, queries = (truth.images, tuple(truth.query_images)) if isinstance(truth, LandmarkTruth) else ((), ())
    return Rankings(order=read_rankings(request.path, images, queries))


READER = Reader(
    "oxford",
    "a folder of Oxford/Paris *_query.txt, *_good.txt, *_ok.txt, *_junk.txt",
    lambda head: any(name.endswith("_query.txt") for name in head.names),
    truth={"landmarks": _landmarks},
)
RANKS_READER = Reader(
    "ranks",
    "rankings: JSON of query to image names, or ranks int[N, Q] as .npy",
    _are_ranks,
    predictions={"rankings": _rankings},
)
