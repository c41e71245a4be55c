"""Names with a column of the manifest in braces: ``features/{id}.npy``."""

import re
from collections.abc import Collection, Iterable, Mapping
from string import Formatter

from clipmill.schemas.errors import UsageError, describe, near


def columns_in(thing: str, key: str, template: str) -> list[str]:
    """Returns the columns that `template` names, in order.

    Raises:
        UsageError: its braces do not pair, or hold more than a name.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise UsageError(describe(thing, key, "names with {column}", f"{template!r} ({error})", "correct it")) from None
    for _, name, form, conversion in parts:
        if name is not None and (not name or form or conversion):
            raise UsageError(describe(thing, key, "a column's name in braces", repr(template), "write such as {id}"))
    return [name for _, name, _, _ in parts if name is not None]


def check_columns(thing: str, key: str, template: str, known: Collection[str]) -> None:
    """Refuses a template that names a column the manifest has not.

    Raises:
        UsageError: it does.
    """
    for name in columns_in(thing, key, template):
        if name not in known:
            raise UsageError(
                describe(thing, key, "columns of the manifest in braces", f"{{{name}}}", near(name, known))
            )


def filled(template: str, cells: Mapping[str, str]) -> str | None:
    """Returns `template` with the cells of a line in place of its columns; None where one of those is empty."""
    # Not str.format: a column's name may be anything, such as video-name.
    parts = []
    for literal, name, _, _ in Formatter().parse(template):
        parts.append(literal)
        if name is not None:
            if name not in cells:
                return None
            parts.append(cells[name])
    return "".join(parts)


def found_by(template: str, names: Iterable[str]) -> dict[str, str] | None:
    """Returns of the `names` that fit `template` what stands for its column, to the name; None where it has not one."""
    parts = list(Formatter().parse(template))
    columns = [name for _, name, _, _ in parts if name is not None]
    if len(columns) != 1:
        return None
    pattern = "".join(re.escape(literal) + ("(.+)" if name is not None else "") for literal, name, _, _ in parts)
    matches = ((name, re.fullmatch(pattern, name)) for name in names)
    return {match[1]: name for name, match in matches if match is not None}
