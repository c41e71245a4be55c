"""``report.html`` of a build (beside its report.json in the store) and of a training (in its folder)."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from clipmill.pipelines.reports.page import write_page
from clipmill.pipelines.reports.runs import render_build, render_training
from clipmill.schemas.config import TrainConfig, dump_config
from clipmill.schemas.config_videos import VideoTrainConfig
from clipmill.schemas.recipe import Recipe
from clipmill.stores.store import Store

if TYPE_CHECKING:  # a build needs nothing of training, and torch takes seconds to load
    from clipmill.pipelines.features.build_report import BuildReport
    from clipmill.pipelines.training.train import TrainReport

REPORT = "report.html"


def write_build_report(report: "BuildReport") -> str:
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
    videos = {(video.id, video.fingerprint) for video in store.run_manifest(report.run_id)} if standing else set()
    quarantine = [row for row in standing if (row["video_id"], row["video_fingerprint"]) in videos]
    config = store.read_run_file(report.run_id, "config.yaml").decode()
    html = render_build(report.as_json(), [_recipe(recipe) for recipe in built], quarantine, config)
    return store.write_run_file(report.run_id, REPORT, html)


def _recipe(recipe: Recipe) -> dict[str, str]:
    digest = f" {recipe.weights.sha256[:12]}" if recipe.weights.sha256 else ""
    return {
        "name": recipe.name,
        "key": recipe.key,
        "network": f"{recipe.extractor} {recipe.layer}, {recipe.dim:,} values",
        "weights": f"{recipe.weights.layout or recipe.weights.source}{digest}",
        "fingerprint": recipe.fingerprint,
    }


def write_training_report(report: "TrainReport", config: TrainConfig | VideoTrainConfig) -> str:
    """Writes ``report.html`` into the run's folder and returns where it is.

    Raises:
        StorageUnavailableError: the folder cannot be written.
    """
    path = str(Path(report.out) / REPORT)
    write_page(path, render_training(report.to_plain(), dump_config(config)))
    return path
