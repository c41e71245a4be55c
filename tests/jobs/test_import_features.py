"""``clipmill import`` on real files, and every other verb on what it leaves."""

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import loadmat

from clipmill.jobs.build import run_build
from clipmill.jobs.search import run_search
from clipmill.jobs.train import run_train
from clipmill.schemas.errors import UsageError
from clipmill.stores import FeatureStore
from tests.command_line import invoke, invoked_result, result
from tests.encoded_videos import encode_video

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "import"
SMALL = {"appearance_dim": 8, "motion_dim": 8, "latent_dim": 4, "video_hidden": [8], "image_hidden": [8]}


# THUMOS14 by TSP: an HDF5 file with a vector for each video.


@pytest.fixture(scope="module")
def thumos(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """A folder with the store of the TSP vectors, as examples/import makes it."""
    folder = tmp_path_factory.mktemp("thumos14")
    annotations = shared_data / "annotations" / "thumos14"
    made = [sys.executable, str(EXAMPLES / "thumos14_tsp" / "manifest.py"), str(annotations), str(folder / "m.csv")]
    subprocess.run(made, check=True, timeout=280, capture_output=True)
    (folder / "import.json").write_text(json.dumps(result("import", *import_arguments(folder))))
    return folder


def import_arguments(folder: Path) -> list[str]:
    config = str(EXAMPLES / "thumos14_tsp" / "import.yaml")
    return ["--config", config, "--set", f"store.url={folder / 'store'}", "--set", f"manifest={folder / 'm.csv'}"]


@pytest.fixture(scope="module")
def vectors(shared_data: Path) -> tuple[list[str], np.ndarray, list[str]]:
    """Ids, vectors and labels, read a second way."""
    shown: dict[str, list[str]] = {}
    for part in ("valid", "test"):
        path = shared_data / "annotations" / "thumos14" / f"thumos14_{part}_tsp_groundtruth.csv"
        for row in csv.DictReader(path.open(encoding="utf-8", newline="")):
            if row["temporal-region-label"] == "Action":
                shown.setdefault(row["video-name"], []).append(row["action-label"])
    with h5py.File(shared_data / "features" / "thumos14_tsp_r2plus1d34_max_gvf.h5") as file:
        ids = sorted(name for name in file if name in shown)
        values = np.stack([file[name][()] for name in ids])
    return ids, values, [Counter(shown[name]).most_common(1)[0][0] for name in ids]


def test_the_vectors_of_tsp_become_a_store(thumos: Path, vectors: tuple[list[str], np.ndarray, list[str]]) -> None:
    ids, values, labels = vectors
    report = json.loads((thumos / "import.json").read_text())
    assert (report["num_items"], report["num_labels"]) == (412, 20)
    assert report["features"][0]["num_imported"] == 412
    assert report["features"][0]["surplus"] == ["video_test_0001292"]  # all its actions are ambiguous
    feature = FeatureStore(str(thumos / "store"))["tsp"]
    assert feature.video_ids == ids
    np.testing.assert_array_equal(np.concatenate([feature[name].values for name in ids]), values)
    assert [clip.label for clip in feature.clips()] == labels
    again = invoked_result("import", *import_arguments(thumos))
    assert (again["features"][0]["num_imported"], again["features"][0]["num_before"]) == (0, 412)


def test_plain_cosine_of_every_video_is_the_known_score(
    thumos: Path, vectors: tuple[list[str], np.ndarray, list[str]], tmp_path: Path
) -> None:
    """The known 0.511 leaves a query's own video out; the published protocol, and so ours, counts it as found."""
    ids, values, labels = vectors
    unit = values.astype(np.float64) / np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
    scores, relevant = unit @ unit.T, np.array(labels)[:, np.newaxis] == np.array(labels)
    precisions: dict[bool, list[float]] = {True: [], False: []}
    for query in range(len(ids)):
        order = np.argsort(-scores[query], kind="stable")
        for with_own, found in precisions.items():
            hits = relevant[query][order if with_own else order[order != query]]
            found.append(float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean()))
    assert round(float(np.mean(precisions[False])), 3) == 0.511

    config = str(EXAMPLES / "thumos14_tsp" / "evaluate.yaml")
    settings = ["--set", f"data.store={thumos / 'store'}", "--set", f"out={tmp_path}"]
    data = invoked_result("evaluate", "--config", config, *settings)
    metrics = data["runs"]["cosine"]["metrics"]
    assert metrics["map@412"] == pytest.approx(np.mean(precisions[True]), abs=1e-9)
    assert round(metrics["map@412"], 4) == 0.5487
    page = (tmp_path / "report.html").read_text("utf-8")
    text = re.sub(r"<[^>]+>", " ", page)
    assert "thumos14_tsp_r2plus1d34_max_gvf.h5 video_test_0000" in text
    assert "Of imported rows they are not known." in text
    assert "not read: the rows were imported" in text


def test_status_verify_diff_and_export_work_on_imported_features(
    thumos: Path, vectors: tuple[list[str], np.ndarray, list[str]], tmp_path: Path
) -> None:
    store = str(thumos / "store")
    (feature,) = invoked_result("status", store)["features"]
    assert (feature["num_complete"], feature["num_missing"], feature["weights"]) == (412, 0, "imported")
    verified = invoked_result("verify", store)
    assert (verified["imported"], verified["recomputed"], verified["problems"]) == (["tsp"], [], [])
    assert verified["num_commit_rows"] == 412
    assert "imported, so nothing can compute them again: tsp" in invoke("verify", store).stdout
    assert invoked_result("diff", store, store)["same"]
    invoked_result("export", store, "--feature", "tsp", "--format", "hdf5", "--out", str(tmp_path / "tsp.h5"))
    ids, values, _ = vectors
    with h5py.File(tmp_path / "tsp.h5") as file:
        np.testing.assert_array_equal(np.concatenate([file[name]["values"][()] for name in ids]), values)


def test_verify_sees_a_damaged_shard_of_imported_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.eye(2, dtype=np.float32))
    (tmp_path / "m.csv").write_text("id\na\nb\n")
    store = {"url": str(tmp_path / "store"), "format": "parquet"}
    invoked_result("import", "--config", small_config(tmp_path, store=store))
    (shard,) = (tmp_path / "store" / "shards").rglob("*.parquet")
    data = bytearray(shard.read_bytes())
    # Values are the last column before the footer, whose length stands before the last four bytes.
    data[-8 - int.from_bytes(data[-8:-4], "little") - 4] ^= 0xFF
    shard.write_bytes(bytes(data))
    assert invoke("verify", str(tmp_path / "store")).returncode == 1


def test_a_model_trains_and_is_evaluated_on_imported_features(thumos: Path, tmp_path: Path) -> None:
    settings = [f"data.store={thumos / 'store'}", f"out={tmp_path / 'run'}", f"model.options={json.dumps(SMALL)}"]
    settings += ["loop.epochs=1", "loop.device=cpu", "loop.threads=1"]
    report = run_train(str(EXAMPLES / "thumos14_tsp" / "train.yaml"), settings).data
    assert (report["num_train"], report["num_test"]) == (200, 212)
    config = tmp_path / "evaluate.yaml"
    config.write_text(
        yaml.safe_dump({"run": str(tmp_path / "run"), "out": str(tmp_path / "e"), "report": False, "resamples": 50})
    )
    runs = invoked_result("evaluate", "--config", str(config))["runs"]
    assert set(runs) == {"appearance", "video", "combined"}
    assert "cosine" in runs["combined"]["baselines"]


def test_a_query_image_is_refused_for_imported_features(thumos: Path, tmp_path: Path) -> None:
    data = {"store": str(thumos / "store"), "image": "tsp", "video": "tsp"}
    config = tmp_path / "search.yaml"
    config.write_text(yaml.safe_dump({"data": data, "queries": {"files": ["x.png"]}, "out": str(tmp_path / "out")}))
    done = invoke("search", "--config", str(config))
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("clipmill: ")]
    assert "search feature tsp: expected a feature that clipmill computes" in line


# The Wikipedia set: matrices of a .mat in the order of two lists.


@pytest.fixture(scope="module")
def wikipedia(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """The folder of its store, as examples/import makes it."""
    folder = tmp_path_factory.mktemp("wikipedia")
    report = invoked_result(
        "import", "--config", str(EXAMPLES / "wikipedia" / "import.yaml"), "--set", f"store.url={folder}/store"
    )
    assert [feature["num_imported"] for feature in report["features"]] == [2866, 2866]
    return folder


def test_the_wikipedia_set_becomes_pairs(wikipedia: Path, shared_data: Path) -> None:
    folder = shared_data / "features" / "wikipedia"
    matrices = loadmat(folder / "raw_features.mat")
    store = FeatureStore(str(wikipedia / "store"))
    images, texts = store["image"], store["text"]
    assert (images.dim, texts.dim) == (128, 10)
    assert Counter(video.split for video in store.videos().values()) == {"train": 2173, "test": 693}
    for part, short in (("train", "tr"), ("test", "te")):
        lines = [line.split("\t") for line in (folder / f"{part}set_txt_img_cat.list").read_text().splitlines()]
        for row in (0, 17, len(lines) - 1):
            _, name, label = lines[row]
            np.testing.assert_array_equal(images[name].values[0], matrices[f"I_{short}"][row].astype(np.float32))
            np.testing.assert_array_equal(texts[name].values[0], matrices[f"T_{short}"][row].astype(np.float32))
            assert (store.videos()[name].label, store.videos()[name].split) == (label, part)


def test_images_of_the_wikipedia_set_are_ranked_by_plain_cosine(
    wikipedia: Path, shared_data: Path, tmp_path: Path
) -> None:
    config = str(EXAMPLES / "wikipedia" / "evaluate.yaml")
    settings = [
        "--set",
        f"data.store={wikipedia}/store",
        "--set",
        f"out={tmp_path}",
        "--set",
        "report=false",
        "--set",
        "resamples=50",
    ]
    data = invoked_result("evaluate", "--config", config, *settings)
    folder = shared_data / "features" / "wikipedia"
    rows = loadmat(folder / "raw_features.mat")["I_te"].astype(np.float32).astype(np.float64)
    lines = [line.split("\t") for line in (folder / "testset_txt_img_cat.list").read_text().splitlines()]
    # Equal scores go by id.
    by_id = np.argsort([line[1] for line in lines])
    rows, labels = rows[by_id], np.array([line[2] for line in lines])[by_id]
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    values = []
    for query in range(len(rows)):
        hits = (labels == labels[query])[np.argsort(-np.round(unit @ unit[query], 7), kind="stable")]
        values.append(float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean()))
    assert data["runs"]["cosine"]["metrics"]["map@693"] == pytest.approx(np.mean(values), abs=1e-4)
    refused = invoke("evaluate", "--config", config, *settings, "--set", "data.video=text")
    assert refused.returncode == 2
    assert "give run, or features of one network" in refused.stderr


@pytest.mark.slow
def test_a_model_trains_on_images_and_texts(wikipedia: Path, tmp_path: Path) -> None:
    settings = [f"data.store={wikipedia}/store", f"out={tmp_path / 'run'}", f"model.options={json.dumps(SMALL)}"]
    settings += ["loop.epochs=1", "loop.batch=500", "loop.device=cpu", "loop.threads=1"]
    report = run_train(str(EXAMPLES / "wikipedia" / "train.yaml"), settings).data
    assert (report["num_train"], report["num_test"], report["num_labels"]) == (2173, 693, 10)


# Beside features that were built from videos.


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four videos, their built feature `query`, and an imported one `clip` in the same store."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "videos").mkdir()
    for number in range(4):
        encode_video(folder / "videos" / f"{number}.mp4", num_frames=4 + number)
    squeezenet = {"extractor": "squeezenet", "weights": {"random": 0}, "sampling": {"random_frames": 1}}
    build = {
        "store": {"url": str(folder / "store"), "dataset": "mixed"},
        "videos": {"folder": str(folder / "videos")},
        "features": {"query": squeezenet},
        "engine": {"device": "cpu", "threads": 1},
    }
    (folder / "build.yaml").write_text(yaml.safe_dump(build))
    run_build(str(folder / "build.yaml"), [])
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32))
    lines = [f"{number}.mp4,{'ab'[number % 2]}" for number in range(4)]
    (folder / "m.csv").write_text("\n".join(["id,label", *lines]))
    report = invoked_result("import", "--config", small_config(folder, store=build["store"], name="clip"))
    assert report["features"][0]["num_imported"] == 4
    return folder


def test_imported_clips_are_found_by_images_through_a_trained_run(mixed: Path, tmp_path: Path) -> None:
    train = {
        "data": {"store": str(mixed / "store"), "image": "query", "video": "clip"},
        "model": {"name": "map_ivr", "options": SMALL | {"decoder_hidden": [8], "num_samples": 3}},
        "loop": {"epochs": 1, "batch": 2, "device": "cpu", "threads": 1},
        "out": str(tmp_path / "run"),
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(train))
    run_train(str(tmp_path / "train.yaml"), [])
    Image.new("RGB", (80, 60), (200, 30, 30)).save(tmp_path / "red.png")
    search = {"run": str(tmp_path / "run"), "queries": {"files": [str(tmp_path / "red.png")]}, "k": 4}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(search | {"out": str(tmp_path / "out")}))
    outcome = run_search(str(tmp_path / "search.yaml"), [])
    found = outcome.data["queries"][0]["spaces"]["combined"]
    assert sorted(clip["video"] for clip in found) == [f"{number}.mp4" for number in range(4)]
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "x.npy row " in page
    # Thumbnails come of the videos that the build knew.
    assert page.count("data:image/webp") >= 1
    data = {"store": str(mixed / "store"), "image": "query", "video": "clip"}
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump({"data": data, "queries": search["queries"]}))
    with pytest.raises(UsageError, match="outputs of one network"):
        run_search(str(tmp_path / "plain.yaml"), [])


def test_verify_computes_what_was_built_and_names_what_was_imported(mixed: Path) -> None:
    verified = invoked_result("verify", str(mixed / "store"), "--sample", "0.25")
    assert [item["feature"] for item in verified["recomputed"]] == ["query"]
    assert verified["imported"] == ["clip"]
    assert verified["problems"] == []


# What a user gets wrong.


def small_config(folder: Path, name: str = "x", **keys: Any) -> str:
    """Writes an import of ``x.npy`` by ``m.csv`` and returns its path."""
    data = {"store": {"url": str(folder / "store")}, "manifest": str(folder / "m.csv")}
    data |= {"features": {name: {"file": str(folder / "x.npy")}}} | keys
    path = folder / "import.yaml"
    path.write_text(yaml.safe_dump(data))
    return str(path)


@pytest.mark.parametrize(
    ("lines", "keys", "words"),
    [
        ("name\na\n", {}, "expected a column id, got columns name"),
        ("id\na\nb\nc\n", {}, "expected a row for each of 3 items of the manifest that share it, got 2 rows"),
        ("id\na\nb\n", {"missing": "ignore"}, "missing: Input should be 'refuse' or 'skip'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(lines: str, keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.eye(2, dtype=np.float32))
    (tmp_path / "m.csv").write_text(lines)
    done = invoke("import", "--config", small_config(tmp_path, **keys))
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("clipmill: ")]
    assert words in line
    assert not (tmp_path / "store").exists()
