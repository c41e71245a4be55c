"""Labels that are taken for one: a file that maps labels to others, such as THUMOS14's 20 to the published 18."""

import csv
import json
from collections.abc import Iterable, Mapping

from clipmill.schemas.errors import ManifestError, describe, near

_COLUMNS = ("label", "merged")


def read_label_map(path: str) -> dict[str, str]:
    """Returns the mapping in the file at `path`: a .json object of label to label, or a .csv of `label`, `merged`.

    Raises:
        ManifestError: it cannot be read, maps a label twice, or maps one to a label that is itself mapped elsewhere.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            pairs = _json_pairs(file.read()) if path.endswith(".json") else _csv_pairs(file)
    except (OSError, ValueError, csv.Error) as error:
        got = getattr(error, "strerror", None) or str(error)
        raise _problem(path, "a .json object of labels, or a .csv with the columns label and merged", got) from None
    found: dict[str, str] = {}
    for label, merged in pairs:
        if found.setdefault(label, merged) != merged:
            raise _problem(path, f"{label!r} once", f"{found[label]!r} and {merged!r}")
    for label, merged in found.items():
        if found.get(merged, merged) != merged:
            raise _problem(path, f"a label that stays for {label!r}", f"{merged!r}, which becomes {found[merged]!r}")
    return found


def merged_labels(labels: Iterable[str | None], label_map: Mapping[str, str], path: str) -> list[str | None]:
    """Returns `labels` as `label_map` has them; those it does not name stay.

    Raises:
        ManifestError: none of them is named, so the file is of another dataset.
    """
    given = list(labels)
    known = {label for label in given if label is not None}
    if label_map and known and not known & label_map.keys():
        first = min(label_map)
        raise _problem(path, f"some of the {len(known)} labels of the clips", f"{first!r}; {near(first, known)}")
    return [None if label is None else label_map.get(label, label) for label in given]


def _json_pairs(text: str) -> list[tuple[str, str]]:
    data = json.loads(text, object_pairs_hook=list)
    is_object = isinstance(data, list) and all(isinstance(pair, tuple) for pair in data)
    if not is_object or not all(isinstance(value, str) for pair in data for value in pair):
        raise ValueError("JSON that is no object of texts")
    return [(str(label), str(merged)) for label, merged in data]


def _csv_pairs(lines: Iterable[str]) -> list[tuple[str, str]]:
    reader = csv.DictReader(lines)
    if not set(_COLUMNS) <= set(reader.fieldnames or ()):
        raise ValueError(f"the columns {', '.join(reader.fieldnames or ()) or 'of an empty file'}")
    rows = [(row["label"], row["merged"]) for row in reader]
    if any(not label or not merged for label, merged in rows):
        raise ValueError("a line with an empty cell")
    return rows


def _problem(path: str, expected: str, got: str) -> ManifestError:
    return ManifestError(describe("label_map", path, expected, got, "see data.label_map in docs/training.md"))
