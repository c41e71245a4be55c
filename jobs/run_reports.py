"""``report.html`` of a build, beside its report.json in the store."""

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipmill.jobs.report_clips import moving
from clipmill.pipelines.decode.inspection import InspectionLimits
from clipmill.pipelines.decode.thumbnails import thumbnails
from clipmill.pipelines.evaluation.tasks.histograms import histograms
from clipmill.pipelines.features.build_report import BuildReport
from clipmill.pipelines.reports.blocks import Block, Charts
from clipmill.pipelines.reports.blocks_images import ContactSheet, Hit
from clipmill.pipelines.reports.lineage import ClipPlace
from clipmill.pipelines.reports.page import duration_text
from clipmill.pipelines.reports.runs import QUARANTINE_SHOWN, render_build
from clipmill.pipelines.reports.thumbnails import FRAME_WIDTH, Thumbnail, moving_thumbnail
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video
from clipmill.stores import FeatureStore
from clipmill.stores.store import Store

REPORT = "report.html"
SHEET_VIDEOS = 12
"""ours: videos of the contact sheet, each of which is decoded once more."""
QUARANTINE_PICTURES = 12
"""ours: videos in quarantine that are shown with a frame."""
PICTURE_SECONDS = 20.0
"""ours: longest wait for one of these frames, beyond the time it takes to read the file; after it no further one is
tried."""
PICTURE_AT_SECONDS = 1.0
"""ours: where the frame is taken, or the last one before: the first is often black, and what is broken lies behind."""
MOST_DESCRIBED = 100_000
"""ours: the manifest of more videos is not read for the page's histograms alone."""


def write_build_report(report: BuildReport) -> str:
    """Writes ``runs/<run-id>/report.html`` into the build's store and returns where it is.

    Raises:
        StorageUnavailableError: the store cannot be written.
    """
    store = Store.open(report.store)
    features = json.loads(store.read_run_file(report.run_id, "build.json"))["features"]
    recipes = {(recipe.name, recipe.fingerprint): recipe for recipe in store.recipes()}
    built = [recipes[name, fingerprint] for name, fingerprint in sorted(features.items())]
    wanted = {recipe.fingerprint for recipe in built}
    standing = [row for row in store.quarantine().to_pylist() if wanted.intersection(row["recipes"])]
    # Of a million videos the manifest is read only where some of them are to be found in it.
    is_read = bool(standing) or report.num_videos <= MOST_DESCRIBED
    videos = list(store.run_manifest(report.run_id)) if is_read else []
    found = {(video.id, video.fingerprint) for video in videos}
    quarantine = [row for row in standing if (row["video_id"], row["video_fingerprint"]) in found]
    config = store.read_run_file(report.run_id, "config.yaml").decode()
    recipes_shown = [_recipe(recipe) for recipe in built]
    described, pictures = _described(report, videos), _pictures(quarantine, videos)
    html = render_build(report.as_json(), recipes_shown, quarantine, config, described, pictures)
    return store.write_run_file(report.run_id, REPORT, html)


def _described(report: BuildReport, videos: Sequence[Video]) -> list[Block]:
    """Returns a contact sheet, where videos were worked on, and histograms of what containers state of all."""
    described: list[Block] = []
    usable = [video for video in videos if video.header is not None and video.header.duration_seconds]
    if report.num_tasks_executed and (sheet := _contact_sheet(report.store, usable)):
        described.append(sheet)
    headers = [video.header for video in videos if video.header is not None]
    columns: dict[str, tuple[str, list[float | None]]] = {
        "Length": ("seconds", [header.duration_seconds for header in headers]),
        "Size": ("pixels of the shorter side", [float(min(header.width, header.height)) for header in headers]),
        "Rate": ("frames per second", [header.average_fps for header in headers]),
    }
    charts = []
    for title, (unit, values) in columns.items():
        known = np.array([value for value in values if value is not None], np.float64)
        if len(known):
            charts.append(histograms(title, unit, {"videos": known}, "share of the videos", "As their containers say."))
    return [*described, Charts(tuple(charts))] if charts else described


def _contact_sheet(url: str, videos: Sequence[Video]) -> ContactSheet | None:
    """Returns images of some videos on this machine, spread over all; None where there are none."""
    local = [video for video in videos if "://" not in video.uri]
    chosen = local[:: -(-len(local) // SHEET_VIDEOS)] if local else []
    lengths = {video.id: video.header.duration_seconds or 0.0 for video in chosen if video.header is not None}
    images: dict[str, Thumbnail] = {}
    places = [ClipPlace(name, name, 0, 0.0, seconds) for name, seconds in lengths.items()]
    # A fault of the machine costs the page its images, and not the build its end.
    with contextlib.suppress(ClipmillError):
        images = moving(FeatureStore(url), places)
    hits = tuple(
        Hit(
            name=video.id,
            lines=(video.id, duration_text(lengths[video.id])),
            spoken=f"{video.id}, {duration_text(lengths[video.id])}",
            text=f"{video.id}, {duration_text(lengths[video.id])}.",
            detail=video.uri,
            thumbnail=images[video.id],
        )
        for video in chosen
        if video.id in images
    )
    return ContactSheet(f"{len(hits)} of {len(videos):,} videos", hits) if hits else None


def _pictures(quarantine: Sequence[Mapping[str, Any]], videos: Sequence[Video]) -> dict[str, Thumbnail]:
    """Returns a frame of videos in quarantine that lie on this machine, of those from which one can be had."""
    by_id = {video.id: video for video in videos}
    pictures: dict[str, Thumbnail] = {}
    stop = time.monotonic() + PICTURE_SECONDS
    for name in dict.fromkeys(row["video_id"] for row in quarantine[:QUARANTINE_SHOWN]):
        if len(pictures) == QUARANTINE_PICTURES or time.monotonic() >= stop:
            break
        video = by_id[name]
        if "://" in video.uri:
            continue
        # Such files hang decoders and kill them, and a build that is done must not end by one.
        with contextlib.suppress(ClipmillError):
            limits = InspectionLimits(PICTURE_SECONDS, max_attempts=1)
            drawn = thumbnails(video.uri, [PICTURE_AT_SECONDS], FRAME_WIDTH, video.stream, limits)
            pictures[name] = moving_thumbnail(drawn)
    return pictures


def _recipe(recipe: Recipe) -> dict[str, str]:
    digest = f" {recipe.weights.sha256[:12]}" if recipe.weights.sha256 else ""
    return {
        "name": recipe.name,
        "key": recipe.key,
        "network": f"{recipe.extractor} {recipe.layer}, {recipe.dim:,} values",
        "weights": f"{recipe.weights.layout or recipe.weights.source}{digest}",
        "fingerprint": recipe.fingerprint,
    }
