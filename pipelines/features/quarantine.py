"""What a build does about videos in quarantine: which it leaves out, and which it puts back."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from clipmill.pipelines.features.machine_faults import held_back, is_passing
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Quarantined, Video
from clipmill.schemas.task import clips_fingerprint

Row = Mapping[str, Any]
"""A row in force of a QUARANTINE table."""

RunManifest = Callable[[str], Sequence[Video]]
"""Run id to the videos that run was given (`Store.run_manifest`)."""


def quarantined_of(row: Row, recipes: Collection[str]) -> Quarantined:
    """Returns the record behind `row`, for those of its recipes that are in `recipes`, by fingerprint."""
    concerned = tuple(recipe for recipe in row["recipes"] if recipe in recipes)
    values = [row[name] for name in ("stage", "reason", "message", "attempts")]
    return Quarantined(row["video_id"], row["video_fingerprint"], row["uri"], concerned, *values)


def left_out(history: pa.Table, released: Sequence[Quarantined], now: datetime) -> dict[str, set[tuple[str, str]]]:
    """Returns, by recipe fingerprint, the (video id, video fingerprint) that a build starting at `now` leaves out.

    Args:
        history: every quarantine row ever written (QUARANTINE schema).
        released: what it puts back.
    """
    held = held_back(history, now)
    for item in released:
        for recipe in item.recipes:
            held.get(recipe, set()).discard((item.video_id, item.video_fingerprint))
    return held


def reannotated(
    rows: Sequence[Row], videos: Sequence[Video], recipes: Sequence[Recipe], run_manifest: RunManifest
) -> Iterator[Quarantined]:
    """Yields what is in quarantine for annotations that have been corrected since: it deserves another try."""
    annotated = {recipe.fingerprint for recipe in recipes if recipe.clips.from_ == "annotations"}
    now = {video.id: clips_fingerprint(video) for video in videos}
    then: dict[str, dict[str, str]] = {}
    for row in rows:
        run_id, video_id = row["run_id"], row["video_id"]
        if row["stage"] != "segment" or video_id not in now or annotated.isdisjoint(row["recipes"]):
            continue
        if run_id not in then:
            then[run_id] = {video.id: clips_fingerprint(video) for video in run_manifest(run_id)}
        if then[run_id].get(video_id, "") != now[video_id]:
            yield quarantined_of(row, annotated)


def with_other_files(rows: Sequence[Row], videos: Sequence[Video], run_manifest: RunManifest) -> Iterator[Quarantined]:
    """Yields what is in quarantine for recipes whose files beside the video have changed since."""
    now = _digests(videos)
    then: dict[str, dict[tuple[str, str], str]] = {}
    for row in rows:
        run_id, video_id = row["run_id"], row["video_id"]
        having = [recipe for recipe in row["recipes"] if (video_id, recipe) in now]
        if not having:
            continue
        if run_id not in then:
            then[run_id] = _digests(run_manifest(run_id))
        changed = {recipe for recipe in having if now[video_id, recipe] != then[run_id].get((video_id, recipe))}
        if changed:
            yield quarantined_of(row, changed)


def _digests(videos: Sequence[Video]) -> dict[tuple[str, str], str]:
    return {(video.id, recipe): digest for video in videos for recipe, digest in video.file_digests}


def truncated_to_keep(rows: Sequence[Row], recipes: Sequence[Recipe]) -> Iterator[Quarantined]:
    """Yields what is in quarantine because it breaks off: what to put back where such videos are to be kept now."""
    wanted = {recipe.fingerprint for recipe in recipes}
    for row in rows:
        # Of one without an index (stage probe) there is nothing to keep.
        if row["stage"] == "scan" and row["reason"] == "truncated" and not wanted.isdisjoint(row["recipes"]):
            yield quarantined_of(row, wanted)


def passed(
    rows: Sequence[Row], read: Collection[str], complete: Collection[tuple[str, str, str]]
) -> Iterator[Quarantined]:
    """Yields what is in quarantine for a reason that has passed.

    Args:
        read: ids of the videos that could be read now.
        complete: (recipe fingerprint, video id, video fingerprint) that have rows now.
    """
    for row in rows:
        video_id, fingerprint = row["video_id"], row["video_fingerprint"]
        if video_id not in read or not is_passing(row["reason"]):
            continue
        # Without a fingerprint: it could not be read at all.
        done = {name for name in row["recipes"] if not fingerprint or (name, video_id, fingerprint) in complete}
        if done:
            yield quarantined_of(row, done)
