"""Passports: the provenance every committed video carries. Nothing here depends on when, where or on which try."""

import functools
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import pyarrow as pa

from clipmill import __version__
from clipmill.pipelines.features.extraction import RecipeExtraction
from clipmill.pipelines.features.prepare import PreparedVideo
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.rows import Rows
from clipmill.schemas.tables import COMMITS
from clipmill.schemas.task import row_clips_fingerprint
from clipmill.stores.verify import values_sha256


@functools.cache
def version(distribution: str) -> str:
    """Returns the installed version; its metadata is read once."""
    return metadata.version(distribution)


def passport(
    extraction: RecipeExtraction, device: str, num_threads: int, item: PreparedVideo, rows: Rows
) -> dict[str, Any]:
    """Returns the passport of one video's rows under one recipe (see `clipmill.schemas.tables.PASSPORT`)."""
    if item.summary is None or item.timeline is None:
        raise RuntimeError(f"video {item.video.id}: rows without a decoded video")
    recipe = extraction.recipe
    header = item.video.header
    groups = item.windows[recipe.fingerprint]
    fit = item.segment_fits[recipe.fingerprint]
    runtime = extraction.runtime_use
    return {
        "clipmill_version": __version__,
        "weights": recipe.weights.source,
        "weights_sha256": recipe.weights.sha256,
        "decoder": item.summary.decoder,
        "decoder_version": item.summary.decoder_version,
        "decoder_fallback_reason": item.summary.fallback_reason,
        "device": device_name(device),
        "precision": recipe.precision,
        "num_threads": num_threads,
        "batch_windows": extraction.batch_windows,
        "torch_version": version("torch"),
        "numpy_version": version("numpy"),
        "opencv_version": version("opencv-contrib-python-headless"),
        "duration_seconds": item.timeline.stop_seconds - float(item.timeline.pts_seconds[0]),
        "num_frames": len(item.timeline.pts_seconds),
        "num_frames_substituted": len(item.summary.substituted),
        "num_tail_windows_dropped": sum(group.num_tail_windows_dropped for group in groups),
        "num_tail_windows_padded": sum(group.num_tail_windows_padded for group in groups),
        "values_sha256": values_sha256(rows.values),
        "scaler_flags": item.summary.scaler_flags,
        "first_frame_seconds": float(item.timeline.pts_seconds[0]),
        "num_segments_clamped": fit.num_clamped,
        "num_segments_emptied": fit.num_emptied,
        "header_duration_seconds": header.duration_seconds if header is not None else None,
        "header_num_frames": header.num_frames if header is not None else None,
        "truncated": item.timeline.truncated,
        "num_joined_parts": item.timeline.num_parts,
        "num_repeated_times": item.timeline.num_repeated_times,
        "flow_files_digest": dict(item.video.file_digests).get(recipe.fingerprint),
        "runtime": runtime.name if runtime is not None else None,
        "runtime_version": runtime.version if runtime is not None else None,
        "runtime_error": runtime.error if runtime is not None else None,
    }


def device_name(device: str) -> str:
    """Returns the kind of device: ``cpu``, or a GPU by its model, since the model decides the last bits."""
    if not device.startswith("cuda"):
        return device
    import torch

    return str(torch.cuda.get_device_name(device))


def commit_table(
    recipe: Recipe,
    shard: str,
    items: Sequence[PreparedVideo],
    spans: Sequence[tuple[str, int, int]],
    passports: Sequence[dict[str, Any]],
) -> pa.Table:
    """Returns the commit of a shard: one row per video (`clipmill.schemas.tables.COMMITS`)."""
    rows = [
        {
            "video_id": item.video.id,
            "video_fingerprint": item.video.fingerprint,
            "clips_fingerprint": row_clips_fingerprint(item.video, recipe),
            "recipe_fingerprint": recipe.fingerprint,
            "shard": shard,
            "row_start": start,
            "row_stop": stop,
            "clips": [
                {"start_seconds": clip.start_seconds, "stop_seconds": clip.stop_seconds, "label": clip.label}
                for clip in item.clips[recipe.fingerprint]
            ],
            "passport": identity,
        }
        for item, (_, start, stop), identity in zip(items, spans, passports, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=COMMITS)
