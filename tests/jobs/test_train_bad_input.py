"""What cannot be trained on or evaluated is one line before anything is computed, exit code 2."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from clipmill.extractors.resolve import resolve_recipe
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.recipe import ClipRule, Recipe, Sampling
from clipmill.schemas.rows import Rows
from clipmill.schemas.tables import COMMITS
from clipmill.stores import Store
from clipmill.stores.verify import values_sha256
from tests.command_line import Done, clipmill, invoke, invoked_result, refused
from tests.jobs.stored_rows import write_store

LABELS: dict[str, str | None] = {f"v{number}": ("jump", "run")[number % 2] for number in range(8)}
Change = Callable[[str, Rows], Rows]


def recipe_of(name: str, sampling: Sampling) -> Recipe:
    feature = FeatureConfig(extractor="squeezenet", sampling=sampling, weights=WeightsConfig(random=0))
    return resolve_recipe(name, feature, ClipRule(), DecodeConfig())


QUERY, CLIP = recipe_of("query", Sampling(random_frames=1)), recipe_of("clip", Sampling(fps=1))


def rows(video: str, num_rows: int, dim: int) -> Rows:
    rng = np.random.default_rng(int(video[1:]) + 100 * num_rows)
    values = rng.random((num_rows, dim)).astype(np.float32) + (LABELS[video] == "run")
    starts = np.arange(num_rows, dtype=np.float64)
    return Rows(values, np.zeros(num_rows, np.int32), starts, starts + 1, np.ones(num_rows, np.bool_))


def made(
    folder: Path, labels: Mapping[str, str | None] = LABELS, num_rows: int = 3, change: Change | None = None
) -> str:
    """A store of two features over eight videos of two labels."""
    features = []
    for recipe, num in ((QUERY, 1), (CLIP, num_rows)):
        by_video = {video: rows(video, num, recipe.dim) for video in labels}
        if change is not None and recipe is CLIP:
            by_video = {video: change(video, found) for video, found in by_video.items()}
        features.append((recipe, by_video))
    return write_store(folder, features, labels)


def config(folder: Path, url: str, model: str = "dscmr", **changes: Any) -> str:
    data = {"store": url, "image": "query", "video": "clip", "split": {"test_fraction": 0.25}}
    plain: dict[str, Any] = {
        "data": data | changes.pop("data", {}),
        "model": {"name": model},
        "out": str(folder / "run"),
    }
    if not changes.pop("closed_form", False):
        plain["loop"] = {"epochs": 1, "batch": 4, "threads": 1, "device": "cpu"}
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(plain | changes))
    return str(path)


def refused_training(folder: Path, path: str, *words: str, run: Callable[..., Done] = invoke) -> None:
    refused(run("train", "--config", path), *words)
    assert not (folder / "run" / "checkpoints").exists(), "refused before a run was begun"


# --- what a system needs --------------------------------------------------------------------------


def test_a_system_that_needs_labels_and_gets_none(tmp_path: Path) -> None:
    url = made(tmp_path, dict.fromkeys(LABELS))
    refused_training(
        tmp_path, config(tmp_path, url), "labels of the clips", "none for 8 of 8, such as 'v0#0'", run=clipmill
    )


def test_a_system_that_needs_bags_and_gets_single_vectors(tmp_path: Path) -> None:
    path = config(tmp_path, made(tmp_path, num_rows=1), "apivr")
    refused_training(tmp_path, path, "feature clip: expected several rows a clip", "got one row for each of 8 clips")


def test_a_system_to_which_one_row_is_a_bag_trains_on_single_vectors(tmp_path: Path) -> None:
    path = config(tmp_path, made(tmp_path, num_rows=1), "bpbc", closed_form=True)
    done = invoke("train", "--config", path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints").exists()


def test_a_system_that_needs_two_views_and_gets_one(tmp_path: Path) -> None:
    path = Path(config(tmp_path, made(tmp_path)))
    plain = yaml.safe_load(path.read_text())
    del plain["data"]["image"]
    path.write_text(yaml.safe_dump(plain))
    refused_training(tmp_path, str(path), "data inputs: expected what the model is given (image, video), got video")


def test_one_class(tmp_path: Path) -> None:
    url = made(tmp_path, dict.fromkeys(LABELS, "jump"))
    refused_training(tmp_path, config(tmp_path, url), "labels of the clips: expected at least two, got only 'jump'")


def test_one_class_among_those_that_train(tmp_path: Path) -> None:
    url = made(tmp_path)
    store = Store.open(url)
    videos = [replace(video, split="train" if video.label == "run" else "test") for video in store.manifest().values()]
    store.write_manifest("r2", videos)
    path = config(tmp_path, url, data={"split": {"from": "manifest"}})
    refused_training(tmp_path, path, "labels of the training clips: expected at least two, got only 'run'")


def test_an_empty_validation_split(tmp_path: Path) -> None:
    split = {"test_fraction": 0.25, "validation_fraction": 0.1}
    path = config(tmp_path, made(tmp_path), data={"split": split})
    refused_training(tmp_path, path, "data.split validation_fraction: expected a share that makes", "none of 8 videos")
    path = config(tmp_path, made(tmp_path / "other"), loop={"select": "total", "epochs": 1})
    refused_training(tmp_path, path, "clips to validate on, got none")


# --- what is in the store -------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "wrong"), [("dscmr", np.nan), ("apivr", np.inf)])
def test_rows_that_are_not_finite_name_their_videos(model: str, wrong: float, tmp_path: Path) -> None:
    def change(video: str, found: Rows) -> Rows:
        values = found.values.copy()
        if video in ("v3", "v6"):
            values[1, 5] = wrong
        return replace(found, values=values)

    path = config(tmp_path, made(tmp_path, change=change), model)
    got = "NaN or infinity in 2 clips of 2 of 8 videos ('v3', 'v6')"
    refused_training(tmp_path, path, "feature clip: expected numbers in every row", got)


def test_a_row_that_is_not_finite_but_does_not_count_is_no_matter(tmp_path: Path) -> None:
    def change(video: str, found: Rows) -> Rows:
        values, mask = found.values.copy(), found.mask.copy()
        values[2], mask[2] = np.nan, False
        return replace(found, values=values, mask=mask)

    assert invoked_result("train", "--config", config(tmp_path, made(tmp_path, change=change)))["num_train"] == 6


def test_features_cut_into_different_clips(tmp_path: Path) -> None:
    other = resolve_recipe(
        "clip",
        FeatureConfig(extractor="squeezenet", sampling=Sampling(fps=1), weights=WeightsConfig(random=0)),
        ClipRule.model_validate({"from": "windows", "length_seconds": 5.0}),
        DecodeConfig(),
    )
    features = [(recipe, {video: rows(video, 2, recipe.dim) for video in LABELS}) for recipe in (QUERY, other)]
    path = config(tmp_path, write_store(tmp_path, features, LABELS))
    refused_training(tmp_path, path, "features query and clip: expected the same clips, got whole and windows")


# --- what has changed since -----------------------------------------------------------------------


def rewritten(url: str, recipe: Recipe, video: str, **passport: str) -> None:
    """Makes the rows of one video others, as if an import had been done anew: a new shard, and its commit changed."""
    store = Store.open(url)
    path = next(path for path in store.commit_paths() if f"/{recipe.key}/" in path)
    table = store.read_table(path).to_pylist()
    found = rows(video, 3 if recipe is CLIP else 1, recipe.dim)
    found = replace(found, values=found.values + np.float32(0.5))
    shard = store.write_shard(recipe, "again", found, [(video, 0, len(found))])
    kept = [row for row in table if row["video_id"] != video]
    (changed,) = [row for row in table if row["video_id"] == video]
    new = {"values_sha256": values_sha256(found.values), **passport}
    changed |= {"shard": shard, "row_start": 0, "row_stop": len(found), "passport": changed["passport"] | new}
    key = path.rpartition("/")[2].removesuffix(".parquet")
    store.write_commit(recipe, key, pa.Table.from_pylist([*kept, changed], schema=COMMITS))


def test_a_store_that_changed_since_the_checkpoint_is_named_by_its_passport(tmp_path: Path) -> None:
    url = made(tmp_path)
    path = config(tmp_path, url)
    invoked_result("train", "--config", path)
    evaluation = tmp_path / "evaluate.yaml"
    evaluation.write_text(yaml.safe_dump({"run": str(tmp_path / "run"), "cutoffs": [1], "report": False}))
    assert "metrics" in invoked_result("evaluate", "--config", str(evaluation))["runs"]["common"]
    rewritten(url, CLIP, "v5", decoder_version="9.1", weights="random(0)")
    words = ("video feature clip: other rows for 1 of 8 videos, such as 'v5' (decoder_version 9.1, then 0)",)
    refused(invoke("evaluate", "--config", str(evaluation)), "the rows it was trained on", *words)
    refused(invoke("train", "--config", path, "--set", "loop.epochs=2"), "features of its checkpoint", *words)
    assert (tmp_path / "run" / "checkpoints" / "epoch-0001.pt").exists(), "what was learned stands"
    rewritten(url, QUERY, "v2")
    refused(
        invoke("evaluate", "--config", str(evaluation)),
        "image feature query: other rows for 1 of 8 videos, such as 'v2' (nothing else in their passports); video",
    )


def test_a_checkpoint_of_another_system(tmp_path: Path) -> None:
    url = made(tmp_path)
    invoked_result("train", "--config", config(tmp_path, url))
    before = (tmp_path / "run" / "report.json").read_text()
    path = config(tmp_path, url, "sdml")
    refused(invoke("train", "--config", path), "another", "model.name (dscmr there, sdml now)", "give another out")
    path = config(tmp_path, url, "cca", closed_form=True)
    refused(invoke("train", "--config", path), "model.name (dscmr there, cca now)")
    assert (tmp_path / "run" / "report.json").read_text() == before
    assert json.loads(before)["model"] == "dscmr"
