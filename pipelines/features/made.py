"""What a run made, counted in the commits. Tries tell another number: one lost after its commit tells nothing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clipmill.pipelines.features.plan import video_key
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.task import ShardTask
from clipmill.stores.store import Store

_PER_VIDEO = ("num_frames_substituted", "num_segments_clamped", "num_segments_emptied")
"""Counts of a video, the same whichever recipe's passport tells them."""

_COLUMNS = ("video_id", "video_fingerprint", "clips_fingerprint", "row_start", "row_stop")

_PER_ROWS = ("num_tail_windows_dropped", "num_tail_windows_padded")


@dataclass(frozen=True, slots=True)
class Made:
    """Counts over the rows that tasks lacked when they were planned, and that are committed now.

    Attributes:
        num_rows: by recipe key.
    """

    num_rows: dict[str, int] = field(default_factory=dict)
    num_frames_substituted: int = 0
    num_segments_clamped: int = 0
    num_segments_emptied: int = 0
    num_tail_windows_dropped: int = 0
    num_tail_windows_padded: int = 0


def made(store: Store, recipes: Sequence[Recipe], tasks: Sequence[ShardTask]) -> Made:
    """Returns what is committed of what `tasks` were to make."""
    rows: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    videos: dict[tuple[str, str], dict[str, int]] = {}
    for recipe in recipes:
        wanted = {video_key(video, recipe) for task in tasks if recipe in task.recipes for video in task.videos}
        for row in _committed(store, recipe, sorted({video_id for video_id, _, _ in wanted})) if wanted else ():
            if (row["video_id"], row["video_fingerprint"], row["clips_fingerprint"]) not in wanted:
                continue
            wanted.discard((row["video_id"], row["video_fingerprint"], row["clips_fingerprint"]))
            rows[recipe.key] += row["row_stop"] - row["row_start"]
            passport = row["passport"]
            counts.update({name: passport[name] or 0 for name in _PER_ROWS})
            found = videos.setdefault((row["video_id"], row["video_fingerprint"]), dict.fromkeys(_PER_VIDEO, 0))
            found.update({name: max(found[name], passport[name] or 0) for name in _PER_VIDEO})
    for found in videos.values():
        counts.update(found)
    return Made(num_rows=dict(rows), **{name: counts[name] for name in (*_PER_VIDEO, *_PER_ROWS)})


def _committed(store: Store, recipe: Recipe, video_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the commit rows of these videos: a night's few, where a store has a million."""
    passport = [f"passport.{name}" for name in (*_PER_VIDEO, *_PER_ROWS)]
    table = store.commits(recipe.fingerprint, [*_COLUMNS, *passport])
    of_videos = pc.is_in(table.column("video_id"), value_set=pa.array(video_ids, pa.string()))
    found: list[dict[str, Any]] = table.filter(of_videos).to_pylist()
    return found
