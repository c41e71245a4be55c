"""Models from outside the project, installed as pip would: trained, scored and searched by the ordinary verbs."""

import csv
import json
import re
import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from clipmill.stores import FeatureStore
from tests.command_line import invoke, invoked_result, refused, result
from tests.encoded_videos import encode_video

OUTSIDE = Path(__file__).parent / "outside"
MODELS = ("gru_retrieval", "pair_scorer", "ridge_retrieval")


def clipmill(place: Path, *arguments: str) -> dict[str, Any]:
    """Runs the command where the models are installed, and returns what ``--json`` prints."""
    with chdir(place):
        return invoked_result(*arguments, site=place / "site")


def written(place: Path, name: str, config: dict[str, Any]) -> str:
    (place / name).write_text(yaml.safe_dump(config))
    return name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed models, eight small videos of two labels, and a store of two features."""
    folder = tmp_path_factory.mktemp("outside")
    for name in MODELS:
        (folder / "site").mkdir(exist_ok=True)
        shutil.copy(OUTSIDE / f"{name}.py", folder / "site")
    metadata = folder / "site" / "outside_models-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-models\nVersion: 1.0\n")
    lines = "".join(f"{name} = {name}:REGISTRATION\n" for name in MODELS)
    (metadata / "entry_points.txt").write_text(f"[clipmill.models]\n{lines}")
    for number in range(8):
        path = folder / "videos" / f"label {number % 2}" / f"{number}.mp4"
        encode_video(path, 12 + number, fps=5, pattern="plain" if number % 2 else "gradient", width=64, height=48)
    squeezenet = {"extractor": "squeezenet", "weights": {"random": 0}}
    build = {
        "store": {"url": "store"},
        "videos": {"folder": "videos", "label": "parent_folder"},
        "features": {
            "frame": squeezenet | {"sampling": {"random_frames": 1}},
            "frames": squeezenet | {"sampling": {"fps": 5}},
        },
        "engine": {"device": "cpu", "threads": 1},
    }
    clipmill(folder, "build", "--config", written(folder, "build.yaml", build))
    return folder


def train_config(model: str, **data: Any) -> dict[str, Any]:
    split = {"test_fraction": 0.5}
    return {
        "data": {"store": "store", "image": "frame", "video": "frames", "split": split} | data,
        "model": {"name": model},
        "out": model,
    }


@pytest.mark.parametrize(("model", "space"), [("gru_retrieval", "shared"), ("ridge_retrieval", "regressed")])
def test_a_model_from_outside_is_trained_scored_and_searched(place: Path, model: str, space: str) -> None:
    config = train_config(model, store=str(place / "store")) | {"out": str(place / model)}
    # One of the two in a process of its own.
    trained = result if model == "gru_retrieval" else invoked_result
    path = place / written(place, f"{model}.yaml", config)
    report = trained("train", "--config", str(path), site=place / "site")
    assert (report["model"], report["num_train"], report["num_test"]) == (model, 4, 4)
    # The card's own loop stands where the job gives none.
    assert report["epoch"] == (3 if model == "gru_retrieval" else 1)
    evaluate = written(place, "evaluate.yaml", {"run": model, "out": f"{model}/evaluation"})
    clipmill(place, "evaluate", "--config", evaluate)
    results = json.loads((place / model / "evaluation" / "results.json").read_text())
    assert space in json.dumps(results)
    search = {"run": model, "queries": {"frames": [{"file": "videos/label 0/0.mp4", "seconds": [1.0]}]}}
    found = clipmill(place, "search", "--config", written(place, "search.yaml", search | {"out": f"{model}/search"}))
    assert len(found["queries"][0]["spaces"][space]) == 8
    assert (place / model / "evaluation" / "report.html").stat().st_size > 10_000


def test_the_closed_form_is_that_of_numpy(place: Path) -> None:
    """Ridge regression over the training clips, from the stored rows, by the normal equations."""
    clipmill(place, "train", "--config", written(place, "ridge.yaml", train_config("ridge_retrieval") | {"out": "r"}))
    evaluation = written(place, "evaluate.yaml", {"run": "r", "out": "r/evaluation", "spaces": ["regressed"]})
    clipmill(place, "evaluate", "--config", evaluation)
    store = FeatureStore(str(place / "store"))
    ids = store["frame"].video_ids
    image = np.stack([store["frame"][video].values[0] for video in ids]).astype(np.float64)
    video = np.stack([store["frames"][video].values.mean(axis=0) for video in ids]).astype(np.float64)
    checkpoint = torch.load(place / "r" / "checkpoints" / "epoch-0001.pt", weights_only=True)
    tested = set(checkpoint["origin"]["test_clip_ids"])
    test = np.array([f"{video_id}#0" in tested for video_id in ids])
    x, y = image[~test], video[~test]
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)
    asked = image[test] @ weights
    cosine = asked @ video[test].T / np.linalg.norm(asked, axis=1)[:, None] / np.linalg.norm(video[test], axis=1)
    labels = [video_id.split("/")[0] for video_id, kept in zip(ids, test, strict=True) if kept]
    precision = []
    for scores, label in zip(cosine, labels, strict=True):
        hits = np.array([labels[place] == label for place in np.argsort(-scores, kind="stable")])
        precision.append((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())
    written_results = (place / "r" / "evaluation" / "results.json").read_text()
    found = [float(value) for value in re.findall(r'"map@10":\s*([0-9.e-]+)', written_results)]
    # One of them is chance's.
    assert any(value == pytest.approx(np.mean(precision), abs=1e-6) for value in found)


def test_texts_and_bags_are_scored_by_the_models_own_score(place: Path) -> None:
    with (place / "texts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        for number in range(8):
            writer.writerow([f"label {number % 2}/{number}.mp4", f"A video of label{number % 2}, number {number}!"])
    config = train_config("pair_scorer", image=None, inputs={"text": {"file": "texts.csv"}})
    report = clipmill(place, "train", "--config", written(place, "pair.yaml", config))
    assert report["losses"][0].keys() == {"total", "distance"}
    evaluate = written(place, "evaluate.yaml", {"run": "pair_scorer", "out": "pair_scorer/evaluation"})
    clipmill(place, "evaluate", "--config", evaluate)
    assert "bilinear" in (place / "pair_scorer" / "evaluation" / "results.json").read_text()
    search = written(place, "s.yaml", {"run": str(place / "pair_scorer"), "queries": {"files": ["a"]}})
    done = invoke("search", "--config", str(place / search), site=place / "site")
    refused(done, "expected a model that is searched with single images, got inputs text, video of pair_scorer")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "gru_retreival"}}, "did you mean 'gru_retrieval'"),
        ({"model": {"name": "pair_scorer"}}, "expected what the model is given (text, video), got image, video"),
        ({"model": {"name": "ridge_retrieval"}, "loop": {"epochs": 7}}, "expected none for ridge_retrieval, which is"),
        ({"loop": {"select": "total"}}, "loop.select total: expected clips to validate on, got none"),
    ],
)
def test_what_a_model_cannot_use_is_refused_in_one_line(place: Path, changes: dict[str, Any], message: str) -> None:
    config = train_config("gru_retrieval") | {"out": "refused"} | changes
    with chdir(place):
        done = invoke("train", "--config", written(place, "refused.yaml", config), site=place / "site")
    refused(done, message)
    assert not (place / "refused" / "checkpoints").exists()
