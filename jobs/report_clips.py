"""What a page shows of stored clips: stills, moving thumbnails, and the lineage of the rows they were compared by.

This module is a `clipmill.pipelines.evaluation.tasks.clip_views.ClipViews`.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from clipmill.pipelines.decode.inspection import idle_children
from clipmill.pipelines.decode.thumbnails import thumbnails
from clipmill.pipelines.features.engines.cores import num_cores
from clipmill.pipelines.features.pooling import KEEPS_ROWS
from clipmill.pipelines.features.prepare import PreparedVideo, prepare
from clipmill.pipelines.features.sources import local_copy
from clipmill.pipelines.reports.lineage import ClipLineage, ClipPlace, FeatureLineage, frames_text
from clipmill.pipelines.reports.thumbnails import FRAME_WIDTH, Thumbnail, frame_seconds, moving_thumbnails
from clipmill.schemas.errors import VideoError
from clipmill.schemas.recipe import IMPORTED, UNKNOWN_MAKE, Recipe
from clipmill.schemas.records import Video
from clipmill.stores import Feature, FeatureStore


def stills(
    store: FeatureStore, clips: Iterable[ClipPlace], seconds: Mapping[str, Sequence[float]], width: int
) -> dict[str, list[bytes]]:
    """Returns JPEGs of each clip at its `seconds`, decoding each video once; a clip whose video is gone has none."""
    videos = store.videos()

    def drawn(video: Video, of_video: Sequence[ClipPlace]) -> list[tuple[str, bytes]]:
        moments = [(clip.clip_id, time) for clip in of_video for time in seconds[clip.clip_id]]
        try:
            with local_copy(video.uri) as path:
                pictures = thumbnails(path, [time for _, time in moments], width, video.stream)
        except VideoError:
            return []
        return [(clip_id, picture) for (clip_id, _), picture in zip(moments, pictures, strict=True)]

    images: dict[str, list[bytes]] = {}
    grouped = _by_video(clips)
    with ThreadPoolExecutor(num_cores(), thread_name_prefix="stills") as pool, idle_children(num_cores()):
        for found in pool.map(drawn, [videos[video_id] for video_id in grouped], grouped.values()):
            for clip_id, picture in found:
                images.setdefault(clip_id, []).append(picture)
    return images


def moving(store: FeatureStore, clips: Sequence[ClipPlace]) -> dict[str, Thumbnail]:
    """Returns the moving thumbnail of each clip whose video can be read, all of them within the page's budget."""
    seconds = {clip.clip_id: frame_seconds(clip.start_seconds, clip.stop_seconds) for clip in clips}
    return moving_thumbnails(stills(store, clips, seconds, FRAME_WIDTH))


def lineage(
    store: FeatureStore, clips: Sequence[ClipPlace], roles: Sequence[tuple[str, str]]
) -> dict[str, ClipLineage]:
    """Returns what each clip's rows were made of, in the order of `clips`.

    Which frames were used is computed anew from the packets of each video (nothing is decoded), after its bytes have
    been compared with those the rows were made from.

    Args:
        roles: (role, feature name) pairs.
    """
    videos = store.videos()
    features = [_Used(role, name, store[name]) for role, name in roles]
    recipes = list({used.recipe.fingerprint: used.recipe for used in features if not used.recipe.is_imported}.values())
    lineages: dict[str, ClipLineage] = {}
    for video_id, of_video in _by_video(clips).items():
        video = videos[video_id]
        # Of imported rows there is no frame to find again.
        item, state = _prepared(video, recipes) if recipes else (None, "")
        for clip in of_video:
            lineages[clip.clip_id] = ClipLineage(
                clip_id=clip.clip_id,
                video_id=video_id,
                uri=video.uri,
                fingerprint=video.fingerprint,
                num_bytes=video.num_bytes,
                start_seconds=clip.start_seconds,
                stop_seconds=clip.stop_seconds,
                state=state,
                features=tuple(used.lineage(clip, item, state) for used in features if video_id in used.feature),
            )
    return {clip.clip_id: lineages[clip.clip_id] for clip in clips}


class _Used:
    """A feature in a role, with the provenance records of its videos."""

    def __init__(self, role: str, name: str, feature: Feature) -> None:
        self.role, self.name, self.feature, self.recipe = role, name, feature, feature.recipe
        rows = feature.index().select(["video_id", "passport"]).to_pylist()
        self._passports: dict[str, Mapping[str, Any]] = {row["video_id"]: row["passport"] for row in rows}

    def lineage(self, clip: ClipPlace, item: PreparedVideo | None, state: str) -> FeatureLineage:
        """Returns what the clip's rows were made of."""
        recipe, passport = self.recipe, self._passports[clip.video_id]
        rows = self.feature.clip_rows(clip.video_id, clip.clip)
        num_kept = int(np.count_nonzero(rows.mask))
        role = "the first is the query" if self.role == "query" else f"the mean of {num_kept} is what it is found by"
        return FeatureLineage(
            feature=self.name,
            role=self.role,
            recipe=recipe.key,
            fingerprint=recipe.fingerprint,
            rows=f"{len(rows)} of this clip; {role}",
            frames=_frames(item, recipe, clip, self.role, state),
            weights=_weights(recipe, passport),
            facts=_facts(passport),
        )


def _by_video(clips: Iterable[ClipPlace]) -> dict[str, list[ClipPlace]]:
    grouped: dict[str, list[ClipPlace]] = {}
    for clip in clips:
        grouped.setdefault(clip.video_id, []).append(clip)
    return grouped


def _prepared(video: Video, recipes: list[Recipe]) -> tuple[PreparedVideo | None, str]:
    """Returns the video with its windows, or None, and the state of its file in words."""
    try:
        with local_copy(video.uri) as path:
            item = prepare(replace(video, uri=path), recipes)
            item.release()
    except VideoError as error:
        return None, _state(error)
    if item.timeline is None:
        return None, _state(item.failures[0][1])
    return item, "same bytes"


def _state(error: VideoError) -> str:
    return {"missing_file": "no file there any more", "changed_file": "other bytes than the rows were made from"}.get(
        error.reason, error.reason.replace("_", " ")
    )


def _frames(item: PreparedVideo | None, recipe: Recipe, clip: ClipPlace, role: str, state: str) -> str:
    if recipe.is_imported:
        return "not known: the rows were imported"
    if item is None or item.timeline is None or recipe.fingerprint not in item.windows:
        return f"not known: {state}" if item is None else "not known: no window"
    windows = item.windows[recipe.fingerprint][clip.clip].windows
    if role == "query" and recipe.pooling in KEEPS_ROWS:
        windows = windows[:1]
    frames = sorted({frame for window in windows for frame in window.frames})
    text = frames_text(frames, item.timeline.pts_seconds)
    noun = "window" if len(windows) == 1 else "windows"
    total = len(item.timeline.pts_seconds)
    return f"{text}, of {total} in the video; {len(windows)} {noun} of {recipe.sampling.frames or 1}"


def _weights(recipe: Recipe, passport: Mapping[str, Any]) -> str:
    if recipe.is_imported:
        return (
            f"not known; rows {recipe.layer}" if recipe.layer == UNKNOWN_MAKE else f"not known; made by {recipe.layer}"
        )
    named = recipe.weights.layout or recipe.weights.source
    digest = passport["weights_sha256"]
    return f"{named}, SHA-256 {digest}" if digest else str(passport["weights"])


def _facts(passport: Mapping[str, Any]) -> dict[str, str]:
    values = f"SHA-256 {passport['values_sha256']} of the video’s rows, which clipmill verify checks"
    if passport["decoder"] == IMPORTED:
        return {
            "imported from": str(passport["decoder_version"]),
            "versions": f"clipmill {passport['clipmill_version']}",
            "values": values,
        }
    flags = f", scaled by {passport['scaler_flags']}" if passport["scaler_flags"] else ""
    why = f" ({passport['decoder_fallback_reason']})" if passport["decoder_fallback_reason"] else ""
    substituted = passport["num_frames_substituted"]
    broken = passport["truncated"]
    runtime = f", by {passport['runtime']} {passport['runtime_version']}" if passport["runtime"] else ""
    return {
        "decoded by": f"{passport['decoder']} {passport['decoder_version']}{why}{flags}"
        + (f"; {substituted} frames substituted" if substituted else "")
        + (f"; the video breaks off: {broken}" if broken else ""),
        "computed on": f"{passport['device']}{runtime}, {passport['precision']}, {passport['num_threads']} threads, "
        f"batches of {passport['batch_windows']} windows",
        "versions": f"clipmill {passport['clipmill_version']}, torch {passport['torch_version']}, "
        f"numpy {passport['numpy_version']}, opencv {passport['opencv_version']}",
        "values": values,
    }
