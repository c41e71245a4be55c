"""Late fusion of score files: the weighted sum, what the results say of it, and what is refused."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.special import softmax

import clipmill
from tests.jobs.evaluation_command import evaluate, refused

FAST = {"resamples": 10, "baselines": False}
CLASSES = ("archery", "bowling", "curling", "diving")
HEAD = "video_id,start_seconds,stop_seconds,label,score\n"


Array = np.ndarray[Any, Any]


def streams(folder: Path, num_items: int = 200) -> tuple[dict[str, Any], list[Array], Array]:
    """Labels and the logits of two weak streams, the second with its classes and items in another order."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, len(CLASSES), num_items)
    logits = []
    for scale in (1.0, 30.0):
        values = scale * (rng.normal(size=(num_items, len(CLASSES))) + 0.9 * np.eye(len(CLASSES))[label])
        logits.append(values)
    (folder / "labels.csv").write_text("id,label\n" + "".join(f"v{n},{CLASSES[c]}\n" for n, c in enumerate(label)))
    for name, values, columns, rows in (
        ("rgb", logits[0], [0, 1, 2, 3], range(num_items)),
        ("flow", logits[1], [2, 0, 3, 1], reversed(range(num_items))),
    ):
        lines = [",".join([f"v{n}", *(repr(float(values[n, c])) for c in columns)]) for n in rows]
        (folder / f"{name}.csv").write_text(",".join(["id", *(CLASSES[c] for c in columns)]) + "\n" + "\n".join(lines))
    return FAST | {"task": "classification", "ground_truth": str(folder / "labels.csv")}, logits, label


def fuse(folder: Path, *weights: float, names: tuple[str, ...] = ("rgb", "flow"), **more: Any) -> dict[str, Any]:
    parts = [{"file": str(folder / f"{name}.csv"), "weight": w} for name, w in zip(names, weights, strict=True)]
    return {"predictions": {"fuse": parts, **more}}


@pytest.mark.parametrize(("weights", "scale"), [((1.0, 1.0), "none"), ((1.0, 1.5), "softmax"), ((2.0, 0.1), "none")])
def test_class_scores_are_added_with_their_weights(weights: tuple[float, float], scale: str, tmp_path: Path) -> None:
    config, logits, label = streams(tmp_path)
    done = evaluate(tmp_path, config | fuse(tmp_path, *weights, scale=scale))
    sides = [softmax(values, axis=1) if scale == "softmax" else values for values in logits]
    expected = (weights[0] * sides[0] + weights[1] * sides[1]).argmax(axis=1) == label
    assert done.run()["metrics"]["top1"] == pytest.approx(expected.mean(), abs=1e-9)
    assert list(done.results["runs"]) == ["rgb + flow"]
    parts = [{"name": "rgb", "weight": weights[0]}, {"name": "flow", "weight": weights[1]}]
    assert done.run()["details"]["fused"] == {"parts": parts, "scale": scale, "missing": "refuse"}
    assert f"fused scores: {weights[0]:g} x rgb + {weights[1]:g} x flow" in done.out


def test_fused_and_single_files_stand_side_by_side_in_a_fresh_process(tmp_path: Path) -> None:
    config, logits, label = streams(tmp_path)
    both = fuse(tmp_path, 1, 1, scale="softmax", name="two-stream")["predictions"]
    predictions = [str(tmp_path / "rgb.csv"), str(tmp_path / "flow.csv"), both]
    path = tmp_path / "evaluate.yaml"
    path.write_text(yaml.safe_dump(config | {"predictions": predictions, "out": str(tmp_path / "out")}))
    command = [sys.executable, "-m", "clipmill", "evaluate", "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    starts = ("  rgb ", "  flow ", "  two-stream ")
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(starts)]
    score = {row[0]: float(row[1]) for row in rows}
    sides = [softmax(values, axis=1) for values in logits]
    for name, values in (("rgb", sides[0]), ("flow", sides[1]), ("two-stream", sides[0] + sides[1])):
        assert score[name] == pytest.approx((values.argmax(axis=1) == label).mean(), abs=5e-5)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "fused scores: 1 x rgb + 1 x flow after softmax" in page
    # Every file that went in, with its digest.
    assert page.count("rgb.csv") >= 2


def test_what_differs_is_refused_or_scores_zero(tmp_path: Path) -> None:
    config, logits, label = streams(tmp_path)
    text = (tmp_path / "flow.csv").read_text().splitlines()
    (tmp_path / "short.csv").write_text("\n".join(text[:-20]))
    names = ("rgb", "short")
    refused(evaluate(tmp_path, config | fuse(tmp_path, 1, 1, names=names)), "the same items", "20 only in rgb")
    zero = evaluate(tmp_path, config | fuse(tmp_path, 1, 1, names=names, missing="zero"))
    # The second file is in descending order, so that it lacks the first twenty.
    expected = logits[0] + np.concatenate([np.zeros((20, 4)), logits[1][20:]])
    assert zero.run()["metrics"]["top1"] == pytest.approx((expected.argmax(axis=1) == label).mean(), abs=1e-9)
    renamed = [text[0].replace("diving", "Diving"), *text[1:]]
    (tmp_path / "renamed.csv").write_text("\n".join(renamed))
    other = fuse(tmp_path, 1, 1, names=("rgb", "renamed"))
    refused(evaluate(tmp_path, config | other), "the same classes", "in lower case")
    (tmp_path / "long.csv").write_text("id,label,score\nv0,archery,1\nv1,bowling,1\nv1,curling,2\nv1,diving,2\n")
    both = fuse(tmp_path, 1, 1, names=("long", "long"))
    refused(evaluate(tmp_path, config | both), "a score of every item for every class", "scale: softmax")


def test_a_fusion_that_is_none_is_refused(tmp_path: Path) -> None:
    config, _, _ = streams(tmp_path)
    refused(evaluate(tmp_path, config | fuse(tmp_path, 1, names=("rgb",))), "fuse")
    for weight in (0, -1, float("nan"), float("inf")):
        refused(evaluate(tmp_path, config | fuse(tmp_path, 1, weight)), "weight")
    alone = {"predictions": {"file": str(tmp_path / "rgb.csv"), "scale": "softmax"}}
    refused(evaluate(tmp_path, config | alone), "scale and missing belong to fuse")
    two = fuse(tmp_path, 1, 1, file=str(tmp_path / "rgb.csv"))
    refused(evaluate(tmp_path, config | two), "exactly one of file, store and run, or fuse")


def segments(folder: Path, **scores: list[float]) -> dict[str, Any]:
    truth = "".join(f"v{n},{10 * n},{10 * n + 5},run,1\n" for n in range(4))
    (folder / "truth.csv").write_text(HEAD + truth)
    for name, values in scores.items():
        rows = "".join(
            f"v{n},{10 * n + shift},{10 * n + 5 + shift},run,{values[2 * n + k]}\n"
            for n in range(4)
            for k, shift in enumerate((0, 4))
        )
        (folder / f"{name}.csv").write_text(HEAD + rows)
    return FAST | {"task": "detection", "ground_truth": str(folder / "truth.csv"), "tiou_thresholds": [0.5]}


def test_scores_of_the_same_segments_are_added(tmp_path: Path) -> None:
    # Each stream ranks false segments of two videos above the true ones; their sum ranks all true ones first.
    config = segments(tmp_path, rgb=[5, 0, 5, 0, 1, 2, 1, 2], flow=[1, 2, 1, 2, 5, 0, 5, 0])
    rgb = evaluate(tmp_path, config | {"predictions": str(tmp_path / "rgb.csv")}).run()["metrics"]["map@0.5"]
    both = evaluate(tmp_path, config | fuse(tmp_path, 1, 1))
    assert rgb < 1.0
    assert both.run()["metrics"]["map@0.5"] == 1.0
    assert both.run()["details"]["fused"]["parts"][1] == {"name": "flow", "weight": 1.0}
    # A weight that lets one stream decide gives that stream's result.
    assert evaluate(tmp_path, config | fuse(tmp_path, 1, 1e-9)).run()["metrics"]["map@0.5"] == pytest.approx(rgb)
    (tmp_path / "moved.csv").write_text((tmp_path / "flow.csv").read_text().replace("v0,0,", "v0,0.01,"))
    moved = fuse(tmp_path, 1, 1, names=("rgb", "moved"))
    refused(evaluate(tmp_path, config | moved), "the same segments", "7 in both, 1 in rgb alone, 1 in moved alone")
    refused(evaluate(tmp_path, config | fuse(tmp_path, 1, 1, scale="softmax")), "scale", "leave scale out")


def test_python_takes_the_same_and_other_tasks_refuse_it(shared_data: Path, tmp_path: Path) -> None:
    config, _, _ = streams(tmp_path)
    given = fuse(tmp_path, 1, 2)["predictions"]
    score = clipmill.evaluate("classification", ground_truth=config["ground_truth"], predictions=given, resamples=10)
    done = evaluate(tmp_path, config | {"predictions": given})
    assert score.run().metrics["top1"] == pytest.approx(done.run()["metrics"]["top1"])
    folder = shared_data / "evaluation" / "trec_eval"
    ranking = FAST | {"task": "ranking", "ground_truth": str(folder / "qrels.test")}
    parts = [{"file": str(folder / "results.test")}, {"file": str(folder / "results.test")}]
    done = evaluate(tmp_path, ranking | {"predictions": {"fuse": parts}})
    refused(done, "class scores, classes of videos or detections")
