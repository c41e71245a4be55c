"""Do the ids of two files mean the same things? The commonest reason for a score near zero."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from clipmill.schemas.errors import FormatError
from clipmill.stores.formats.sniff import listed


@dataclass(frozen=True, slots=True)
class IdMatch:
    """Which ids two sides share.

    Attributes:
        num_both: ids on both sides.
        only_left, only_right: the others, ascending.
        hint: a change of the ids under which more would match, or empty.
    """

    left: str
    right: str
    num_both: int
    only_left: tuple[str, ...]
    only_right: tuple[str, ...]
    hint: str = ""

    @property
    def complete(self) -> bool:
        """Whether both sides have the same ids."""
        return not self.only_left and not self.only_right

    def __str__(self) -> str:
        parts = [f"{self.num_both} ids in both"]
        for name, ids in ((self.left, self.only_left), (self.right, self.only_right)):
            parts.append(f"{len(ids)} only in {name}" + (f" ({listed(ids)})" if ids else ""))
        return "; ".join(parts) + (f"; {self.hint}" if self.hint else "")


def match_ids(left_ids: Iterable[str], right_ids: Iterable[str], left: str, right: str) -> IdMatch:
    """Returns which ids `left` and `right` share, with a hint where a prefix or an ending keeps them apart."""
    first, second = set(left_ids), set(right_ids)
    both = first & second
    only_left, only_right = tuple(sorted(first - second)), tuple(sorted(second - first))
    return IdMatch(left, right, len(both), only_left, only_right, _hint(only_left, only_right, left, right))


def require_ids(match: IdMatch, every: bool = False) -> None:
    """Refuses sides that share no id (with `every`: that differ in any id).

    Raises:
        FormatError: with the counts and examples of both sides.
    """
    if match.num_both == 0 and (match.only_left or match.only_right):
        raise FormatError(f"ids of {match.left} and {match.right}: expected ids in common, got {match}; {_REMEDY}")
    if every and not match.complete:
        raise FormatError(f"ids of {match.left} and {match.right}: expected the same ids, got {match}; {_REMEDY}")


_REMEDY = "check that both files belong to the same dataset and split"


def unchanged(name: str) -> str:
    """Returns `name` itself."""
    return name


def _bare(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
ID_CHANGES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("without the prefix 'v_'", lambda name: name.removeprefix("v_")),
    ("without their endings (such as .mp4)", lambda name: name.rsplit(".", 1)[0]),
    ("without their folders", lambda name: name.rsplit("/", 1)[-1]),
    ("without leading zeros", lambda name: _ZEROS.sub("", name)),
    ("in lower case", str.lower),
    ("without case, spaces and punctuation", _bare),
)
"""How two files call the same things differently: in words, and what makes both alike."""


def _hint(left_ids: tuple[str, ...], right_ids: tuple[str, ...], left: str, right: str) -> str:
    most, words = 0, ""
    for name, change in ID_CHANGES:
        num_more = len({change(item) for item in left_ids} & {change(item) for item in right_ids})
        if num_more > most:
            most, words = num_more, name
    return f"{most} more of {left} and {right} would match {words}" if most else ""
