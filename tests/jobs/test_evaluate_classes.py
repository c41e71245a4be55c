"""Classification through ``clipmill evaluate``: items against scikit-learn, untrimmed videos against the metric."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from clipmill.pipelines.evaluation.metrics.classification_videos import VideoClassification
from clipmill.stores.formats.activitynet import read_activitynet_database, read_activitynet_results
from tests.jobs.evaluation_command import evaluate, refused

FAST = {"resamples": 20}
CLASSES = ["archery", "bowling", "curling", "diving"]


def items(folder: Path, num_items: int = 60, seed: int = 0) -> tuple[dict[str, Any], Any, Any]:
    rng = np.random.default_rng(0)
    scores = rng.random((num_items, 4)).round(3)
    labels = rng.integers(0, 4, num_items)
    scores[np.arange(num_items), labels] += 0.3
    order = list(range(num_items))
    random.Random(seed).shuffle(order)
    columns = list(range(4))
    random.Random(seed).shuffle(columns)
    lines = [f"v{row}," + ",".join(str(scores[row, c]) for c in columns) for row in order]
    (folder / "scores.csv").write_text("\n".join(["id," + ",".join(CLASSES[c] for c in columns), *lines]) + "\n")
    truth = [f"v{row},{CLASSES[labels[row]]}" for row in order]
    (folder / "labels.csv").write_text("\n".join(["id,label", *truth]) + "\n")
    paths = {"ground_truth": str(folder / "labels.csv"), "predictions": str(folder / "scores.csv")}
    return FAST | {"task": "classification", "cutoffs": [1, 2], **paths}, scores, labels


def test_accuracies_agree_with_scikit_learn_and_the_bytes_do_not_depend_on_the_order(tmp_path: Path) -> None:
    contents = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        config, scores, labels = items(tmp_path / str(seed), seed=seed)
        contents.append(evaluate(tmp_path / str(seed), config))
    assert contents[0].results_bytes == contents[1].results_bytes
    metrics = contents[0].run()["metrics"]
    assert metrics["top1"] == pytest.approx(top_k_accuracy_score(labels, scores, k=1))
    assert metrics["top2"] == pytest.approx(top_k_accuracy_score(labels, scores, k=2))
    assert metrics["mean_class_accuracy"] == pytest.approx(balanced_accuracy_score(labels, scores.argmax(axis=1)))
    assert contents[0].run()["baselines"]["chance"] == {"top1": 0.25, "top2": 0.5}
    most = np.bincount(labels).max() / len(labels)
    assert contents[0].run()["baselines"]["most_frequent"]["top1"] == pytest.approx(most)


def test_items_without_predictions_are_wrong_and_unknown_ones_left_out(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("id,label\na,run\nb,jump\nc,run\nd,swim\n")
    (tmp_path / "scores.csv").write_text("id,label,score\na,run,0.9\na,jump,0.1\nb,run,0.9\nx,run,1\nd,run,0.2\n")
    config = FAST | {
        "task": "classification",
        "ground_truth": str(tmp_path / "labels.csv"),
        "predictions": str(tmp_path / "scores.csv"),
        "cutoffs": [1, 3],
    }
    done = evaluate(tmp_path, config)
    accuracy = pytest.approx(1 / 6)
    assert done.run()["metrics"] == {"mean_class_accuracy": accuracy, "top1": 0.25, "top3": 0.75, "coverage": 0.75}
    counts = done.run()["counts"]
    assert (counts["num_items"], counts["num_missing"], counts["num_unknown"]) == (4, 1, 1)
    assert "4 items (1 without predictions)" in done.out
    assert "1 true classes that the predictions do not have" in done.out
    assert evaluate(tmp_path, config | {"blocked": ["c", "d"]}).run()["metrics"]["top1"] == 0.5


def videos(folder: Path) -> dict[str, Any]:
    database = {
        "a": {"subset": "validation", "annotations": [{"label": "run", "segment": [0, 1]}] * 2},
        "b": {"subset": "validation", "annotations": [{"label": "jump", "segment": [0, 1]}]},
        "c": {
            "subset": "validation",
            "annotations": [{"label": label, "segment": [0, 1]} for label in ("run", "jump")],
        },
        "t": {"subset": "training", "annotations": [{"label": "swim", "segment": [0, 1]}]},
    }
    results = {
        "a": [{"label": "run", "score": 0.9}, {"label": "jump", "score": 0.5}],
        "b": [{"label": "run", "score": 0.7}, {"label": "jump", "score": 0.6}],
    }
    (folder / "truth.json").write_text(json.dumps({"database": database}))
    (folder / "results.json").write_text(json.dumps({"version": "1", "results": results}))
    truth = {"file": str(folder / "truth.json"), "subset": "validation"}
    return FAST | {"task": "classification", "ground_truth": truth, "predictions": str(folder / "results.json")}


def test_untrimmed_videos_score_as_the_activitynet_metric_does(tmp_path: Path) -> None:
    config = videos(tmp_path)
    done = evaluate(tmp_path, config)
    truth = read_activitynet_database(tmp_path / "truth.json", "validation").segments
    answers = read_activitynet_results(tmp_path / "results.json", whole_videos=True).segments
    expected = VideoClassification().update(truth, answers).result()
    metrics = done.run()["metrics"]
    assert metrics["map"] == pytest.approx(expected.mean_average_precision, abs=1e-10)
    assert metrics["hit@1"] == pytest.approx(1 / 3)
    assert metrics["hit@3"] == pytest.approx(2 / 3)
    assert set(done.run()["baselines"]) == {"chance", "most_frequent"}
    assert "3 videos (1 without predictions)" in done.out
    assert done.results["protocol"]["protocol"] == "activitynet"
    assert evaluate(tmp_path, config | {"blocked": ["c"]}).run()["metrics"]["hit@3"] == 1.0


def test_errors_are_told(tmp_path: Path) -> None:
    config, _, _ = items(tmp_path)
    scores = (tmp_path / "scores.csv").read_text()
    (tmp_path / "scores.csv").write_text(scores.replace("v1,", "v0,", 1))
    refused(evaluate(tmp_path, config), "scores.csv line", "each id once", "v0")
    (tmp_path / "scores.csv").write_text(scores.replace("v1,", "v1,x", 1))
    refused(evaluate(tmp_path, config), "scores.csv line", "a number for each class")
    (tmp_path / "scores.csv").write_text("id,swim,run\nv1,0.1,0.2\n")
    refused(evaluate(tmp_path, config | {"min_coverage": 0}), "classes", "'archery'", "'run', 'swim'")
    (tmp_path / "scores.csv").write_text("id,archery,run\nclip1,0.1,0.2\n")
    refused(evaluate(tmp_path, config), "60 only in the ground truth", "'clip1'")
    refused(evaluate(tmp_path, config | {"protocol": "activitynet"}), "protocol", "labels", "leave it out")
    refused(evaluate(tmp_path, config | {"cutoffs": [0]}), "cutoffs", "cut-offs from 1 up")
    (tmp_path / "labels.csv").write_text("id,label\nv1,archery\nv1,run\n")
    refused(evaluate(tmp_path, config), "labels.csv line 3", "each id once")
