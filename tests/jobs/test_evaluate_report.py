"""``report.html`` beside ``results.json``: every task leaves one, with the same numbers and what it was read from."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill.extractors.resolve import resolve_recipe
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.recipe import ClipRule
from clipmill.schemas.rows import Rows
from clipmill.schemas.segments import segments_from_columns
from clipmill.stores.formats.segments_csv import write_segments_csv
from tests.jobs.evaluation_command import evaluate, refused
from tests.jobs.stored_rows import write_store
from tests.pipelines.reports.page_text import page_text


def detection_files(folder: Path) -> dict[str, Any]:
    """Predictions that overlap each other, so that NMS at different thresholds keeps different ones."""
    random = np.random.default_rng(0)
    start = random.uniform(0, 80, 60)
    stop = start + random.uniform(2, 15, 60)
    video = [f"v{n % 10}" for n in range(60)]
    label = [("run", "jump")[n // 10 % 2] for n in range(60)]
    write_segments_csv(folder / "truth.csv", segments_from_columns(video, start, stop, label))
    shift = random.normal(0, 1.5, (8, 60))
    answers = segments_from_columns(
        video * 8, (start + shift).ravel(), (stop + shift).ravel(), label * 8, random.random(480)
    )
    write_segments_csv(folder / "answers.csv", answers)
    return {"ground_truth": str(folder / "truth.csv"), "predictions": str(folder / "answers.csv"), "resamples": 20}


def lines(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def moment_files(folder: Path) -> dict[str, Any]:
    asked = [
        {
            "qid": n,
            "query": f"A dog runs <{n}>",
            "vid": f"v{n}",
            "duration": 20,
            "relevant_windows": [[0, 10]],
            "relevant_clip_ids": [0, 1, 2],
            "saliency_scores": [[4, 4, 3], [2, 1, 0], [3, 4, 4]],
        }
        for n in range(4)
    ]
    answered = [
        {"qid": n, "pred_relevant_windows": [[n, 10 + n, 0.9]], "pred_saliency_scores": list(range(n, n + 10))}
        for n in range(3)
    ]
    return {
        "ground_truth": lines(folder / "truth.jsonl", *asked),
        "predictions": lines(folder / "answers.jsonl", *answered),
        "resamples": 20,
    }


def config_of(task: str, folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    if task in ("moments", "highlights"):
        return {"task": task, **moment_files(folder)}
    if task == "classification":
        truth = written(folder / "labels.csv", "id,label\na,run\nb,jump\nc,run\n")
        return {
            "task": task,
            "ground_truth": truth,
            "predictions": written(folder / "s.csv", "id,run,jump\na,1,0\nb,2,1\n"),
        }
    if task == "ranking":
        truth = written(folder / "qrels.txt", "1 0 d1 1\n1 0 d2 0\n2 0 d1 1\n")
        run = written(folder / "run.txt", "1 Q0 d2 1 0.9 x\n1 Q0 d1 2 0.5 x\n1 Q0 d3 3 0.4 x\n2 Q0 d1 1 0.4 x\n")
        return {"task": task, "ground_truth": truth, "predictions": run}
    return {"task": task, **detection_files(folder)}


@pytest.mark.parametrize("task", ["detection", "proposals", "moments", "highlights", "classification", "ranking"])
def test_every_task_leaves_a_page_with_its_numbers_and_what_it_was_read_from(task: str, tmp_path: Path) -> None:
    config = config_of(task, tmp_path) | {"report": True, "resamples": 20}
    done = evaluate(tmp_path, config)
    assert done.exit_code == 0, done.err
    page = tmp_path / "out" / "report.html"
    assert f"report: {page}" in done.out
    text = page_text(page.read_text())
    run = done.run()
    assert f"{run['metrics'][run['headline']]:.3f}" in text
    for key in ("ground_truth", "predictions"):
        assert hashlib.sha256(Path(config[key]).read_bytes()).hexdigest()[:16] in text
    assert done.results["data"]["fingerprint"] in text
    assert f"task: {task}" in text
    again = evaluate(tmp_path, config)
    assert (again.results_bytes, page_text(page.read_text())) == (done.results_bytes, text)


def test_nms_that_follows_the_threshold_is_drawn_as_it_is_scored(tmp_path: Path) -> None:
    config = detection_files(tmp_path) | {
        "task": "detection",
        "nms": {"below": 0.1},
        "tiou_thresholds": [0.3, 0.5, 0.8],
    }
    done = evaluate(tmp_path, config | {"report": True})
    text = page_text((tmp_path / "out" / "report.html").read_text())
    values = [done.run()["metrics"][f"map@{tiou}"] for tiou in (0.3, 0.5, 0.8)]
    legend = " ".join(f"tIoU {tiou}: mAP {value:.3f}" for tiou, value in zip((0.3, 0.5, 0.8), values, strict=True))
    assert legend in text
    assert "NMS follows the threshold, at tIoU - 0.1" in text
    # Otherwise this test would hold whichever predictions were drawn.
    fixed = evaluate(tmp_path, config | {"nms": {"tiou": 0.2}}, out="fixed")
    assert abs(fixed.run()["metrics"]["map@0.8"] - values[2]) > 0.01


def test_two_runs_share_one_page_and_highlights_tell_what_was_asked(tmp_path: Path) -> None:
    config = detection_files(tmp_path)
    worse = written(tmp_path / "worse.csv", "video_id,start_seconds,stop_seconds,label,score\nv1,0,5,run,0.5\n")
    both = [{"file": config["predictions"], "name": "ours"}, {"file": worse, "name": "theirs"}]
    evaluate(
        tmp_path,
        config | {"task": "detection", "predictions": both, "min_coverage": 0, "published": "thumos14", "report": True},
    )
    text = page_text((tmp_path / "out" / "report.html").read_text())
    assert "Temporal detection: ours, theirs" in text
    assert "Published, thumos14" in text
    assert "Scored and left out: theirs" in text
    evaluate(tmp_path, {"task": "highlights", **moment_files(tmp_path), "report": True}, out="asked")
    assert "A dog runs <2>" in page_text((tmp_path / "asked" / "report.html").read_text())


def test_report_false_leaves_no_page_and_a_page_in_the_way_is_one_clear_line(tmp_path: Path) -> None:
    config = config_of("ranking", tmp_path)
    assert evaluate(tmp_path, config | {"report": False}).exit_code == 0
    assert not (tmp_path / "out" / "report.html").exists()
    (tmp_path / "out" / "report.html").mkdir()
    done = evaluate(tmp_path, config | {"report": True})
    assert done.exit_code == 4
    assert "expected a file that can be written" in done.error
    assert "report.html" in done.error
    refused(evaluate(tmp_path, config | {"report": "perhaps"}), "report")


def test_detections_of_a_store_say_which_weights_they_come_from_and_warn_of_random_ones(tmp_path: Path) -> None:
    options = {"form": "pytorch-thumos14", "buffer_frames": 32}
    feature = FeatureConfig(layer="detections", options=options, weights=WeightsConfig(random=0))
    recipe = resolve_recipe("rc3d", feature, ClipRule(), DecodeConfig())
    one = np.ones(1, np.float32)
    rows = Rows(
        values=np.zeros((1, recipe.dim), np.float32),
        clip=np.zeros(1, np.int32),
        start_seconds=np.zeros(1),
        stop_seconds=np.full(1, 4.0),
        mask=np.ones(1, np.bool_),
        extras={"score": one, "class_index": np.ones(1, np.int32), "class_score": one},
    )
    url = write_store(tmp_path, [(recipe, {"a": rows})], {"a": None})
    truth = written(tmp_path / "truth.csv", "video_id,start_seconds,stop_seconds,label\na,0,4,BaseballPitch\n")
    config = {"task": "detection", "ground_truth": truth, "predictions": {"store": url, "feature": "rc3d"}}
    done = evaluate(tmp_path, config | {"report": True, "resamples": 20})
    assert done.exit_code == 0, done.err
    text = page_text((tmp_path / "out" / "report.html").read_text())
    assert f"Random weights: rc3d in {url} (random(0)). These numbers show that the pipeline works" in text
    assert f"recipe of rc3d in {url} {recipe.fingerprint}" in text
    assert f"extractor of rc3d in {url} rc3d, layer detections" in text
