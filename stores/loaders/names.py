"""What a loader calls each video: ``--ids stem | id | map.csv``."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clipmill.schemas.errors import UsageError, describe
from clipmill.stores.formats.sniff import listed, read_text
from clipmill.stores.manifests import MEDIA_SUFFIXES

_COLUMNS = ("video_id", "name")


@dataclass(frozen=True, slots=True)
class Names:
    """Names of videos.

    Attributes:
        names: video id to name; names are distinct.
        unnamed: ids that a table does not list.
        unknown: ids that a table lists, and that have no rows.
    """

    names: Mapping[str, str]
    unnamed: Sequence[str] = ()
    unknown: Sequence[str] = ()


def stem(video_id: str) -> str:
    """Returns an id without its folders and without the suffix of a video file; other dots stay."""
    name = video_id.rsplit("/", 1)[-1]
    bare, suffix = os.path.splitext(name)
    return bare if bare and suffix.lower() in MEDIA_SUFFIXES else name


def names_of(video_ids: Sequence[str], rule: str) -> Names:
    """Returns what each video is called.

    Args:
        rule: ``stem``, ``id``, or the path of a CSV of the columns `video_id` and `name`.

    Raises:
        UsageError: two videos would have one name, or the table is none.
    """
    if rule == "id":
        return Names({video_id: video_id for video_id in video_ids})
    if rule == "stem":
        names = {video_id: stem(video_id) for video_id in video_ids}
        _check_distinct(names, "ids stem", "export with --ids id, or a table (--ids map.csv)")
        return Names(names)
    if not rule.endswith(".csv"):
        raise UsageError(describe("export", "ids", "stem, id or the path of a .csv", repr(rule), "correct --ids"))
    table = _read_table(rule)
    known = set(video_ids)
    names = {video_id: table[video_id] for video_id in video_ids if video_id in table}
    _check_distinct(names, f"ids {rule}", "give each video a name of its own")
    unnamed = [video_id for video_id in video_ids if video_id not in table]
    return Names(names, unnamed, [video_id for video_id in table if video_id not in known])


def _check_distinct(names: Mapping[str, str], key: str, remedy: str) -> None:
    owners: dict[str, list[str]] = {}
    for video_id, name in names.items():
        owners.setdefault(name, []).append(video_id)
    shared = {name: ids for name, ids in owners.items() if len(ids) > 1}
    if shared:
        name, ids = next(iter(shared.items()))
        others = f", and {len(shared) - 1:,} more such names" if len(shared) > 1 else ""
        got = f"{name!r} for {listed(ids, 2)}{others}"
        raise UsageError(describe("export", key, "a name of its own for each video", got, remedy))


def _read_table(path: str) -> dict[str, str]:
    expected = "a CSV with the columns video_id and name"
    reader = csv.DictReader(read_text(path, expected).splitlines())
    if reader.fieldnames is None or not set(_COLUMNS) <= set(reader.fieldnames):
        got = f"columns {', '.join(reader.fieldnames or ())}"
        raise UsageError(describe("export", f"ids {path}", expected, got, "name its columns in the first line"))
    table: dict[str, str] = {}
    for row in reader:
        video_id, name = row["video_id"], row["name"]
        if not video_id or not name:
            got = f"{video_id!r} and {name!r} in line {reader.line_num}"
            raise UsageError(describe("export", f"ids {path}", "both cells of a row", got, "fill them in"))
        if video_id in table:
            got = f"{video_id!r} again in line {reader.line_num}"
            raise UsageError(describe("export", f"ids {path}", "each video once", got, "delete one of the rows"))
        table[video_id] = name
    return table
