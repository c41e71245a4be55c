"""Lists of classes: which name a class number stands for.

::

    7 BaseballPitch                              number and name a line (THUMOS14's detclasslist.txt)
    abseiling                                    a name a line, for numbers 0, 1, ... (Kinetics' label map)
    ["Applying sunscreen", "Archery", ...]       JSON: for numbers 0, 1, ... (TSP's label mappings)
    {"Applying sunscreen": 0, ...}               JSON: name to number, or number to name
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipmill.schemas.errors import FormatError, describe
from clipmill.stores.formats.sniff import listed, read_text, wrong_format

_EXPECTED = "a list of classes: lines of <number> <name> or of names, or JSON of names and numbers"
_NUMBERED = re.compile(r"\s*(\d+)\s+(\S.*?)\s*")


def read_class_list(path: str | Path) -> dict[int, str]:
    """Returns class number to name.

    Raises:
        FormatError: the file is something else, or a number or a name stands twice.
    """
    text = read_text(path, _EXPECTED)
    if text.lstrip()[:1] in "[{":
        try:
            pairs = _pairs(json.loads(text))
        except ValueError:
            raise wrong_format(path, _EXPECTED) from None
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        matches = [_NUMBERED.fullmatch(line) for line in lines]
        numbered = [(int(match[1]), match[2]) for match in matches if match is not None]
        pairs = numbered if len(numbered) == len(lines) else list(enumerate(lines))
    if not pairs:
        raise wrong_format(path, _EXPECTED)
    for place in (0, 1):
        values = [pair[place] for pair in pairs]
        if len(set(values)) != len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise FormatError(describe("file", str(path), "each class once", f"{twice!r} twice", "correct the list"))
    return dict(pairs)


def names_of_numbers(numbers: Sequence[str], classes: dict[int, str], source: str) -> tuple[str, ...]:
    """Returns the names of class numbers that stand as text.

    Raises:
        FormatError: one is no number, or none of the list.
    """
    known = f"{min(classes)} to {max(classes)}"
    wrong = [number for number in numbers if not number.isdecimal() or int(number) not in classes]
    if wrong:
        expected = f"class numbers of the list ({known}), since it is given"
        remedy = "give the list that the numbers count by, or leave it out where the file has names"
        raise FormatError(describe("classes of", source, expected, listed(wrong, 3), remedy))
    return tuple(classes[int(number)] for number in numbers)


def _pairs(data: Any) -> list[tuple[int, str]]:
    if isinstance(data, list) and all(isinstance(name, str) for name in data):
        return list(enumerate(data))
    if isinstance(data, dict) and all(type(number) is int for number in data.values()):
        return [(number, name) for name, number in data.items()]
    if isinstance(data, dict) and all(key.isdecimal() and isinstance(name, str) for key, name in data.items()):
        return [(int(key), name) for key, name in data.items()]
    raise ValueError("no list of classes")
