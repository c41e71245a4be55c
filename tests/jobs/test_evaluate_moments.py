"""Moments and highlights through ``clipmill evaluate``: Moment-DETR's official numbers, baselines, refusals."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill.pipelines.evaluation.metrics.moments_baselines import moment_baselines
from clipmill.schemas.segments import segments_from_columns
from clipmill.stores.formats.segments_csv import write_segments_csv
from tests.jobs.evaluation_command import evaluate, refused

FAST = {"resamples": 20}


@pytest.fixture(scope="module")
def official(shared_data: Path) -> Path:
    return shared_data / "evaluation" / "moment-detr-qvhighlights"


def moment_detr(folder: Path, task: str) -> dict[str, Any]:
    return FAST | {
        "task": task,
        "ground_truth": str(folder / "highlight_val_release.jsonl"),
        "predictions": str(folder / "sample_val_preds.jsonl"),
        "published": "qvhighlights",
    }


def test_reproduces_every_moment_number_of_moment_detr(official: Path, tmp_path: Path) -> None:
    done = evaluate(tmp_path, moment_detr(official, "moments"))
    assert done.exit_code == 0, done.err
    expected = json.loads((official / "sample_val_preds_metrics_raw.json").read_text())
    metrics = {name: round(100 * value, 2) for name, value in done.run()["metrics"].items() if value is not None}
    assert (metrics["r1@0.5"], metrics["r1@0.7"]) == (53.94, 34.84)
    for prefix, key in (("", "full"), ("short:", "short"), ("middle:", "middle"), ("long:", "long")):
        for threshold, value in expected[key]["MR-R1"].items():
            assert metrics[f"{prefix}r1@{float(threshold):g}"] == pytest.approx(value, abs=0.006)
        for threshold, value in expected[key]["MR-mAP"].items():
            name = "map" if threshold == "average" else f"map@{float(threshold):g}"
            assert metrics[prefix + name] == pytest.approx(value, abs=0.006)
    assert "Moment-DETR, validation" in done.out
    assert "jayleicn/moment_detr" in done.out
    baselines = done.run()["baselines"]
    assert baselines["chance"]["r1@0.5"] < baselines["span"]["r1@0.5"] < 0.25
    assert len(done.run()["units"]["ids"]) == 1550


def test_reproduces_every_highlight_number_of_moment_detr(official: Path, tmp_path: Path) -> None:
    done = evaluate(tmp_path, moment_detr(official, "highlights"))
    expected = json.loads((official / "sample_val_preds_metrics_raw.json").read_text())
    for level in ("Fair", "Good", "VeryGood"):
        values = expected[f"HL-min-{level}"]
        assert round(100 * done.run()["metrics"][f"map@{level}"], 2) == values["HL-mAP"]
        assert round(100 * done.run()["metrics"][f"hit1@{level}"], 2) == values["HL-Hit1"]
        for baseline in ("chance", "constant"):
            assert done.run()["baselines"][baseline][f"map@{level}"] < done.run()["metrics"][f"map@{level}"]


def test_recall_and_precision_may_have_other_thresholds_in_one_run(official: Path, tmp_path: Path) -> None:
    precise = [round(0.5 + 0.05 * n, 2) for n in range(10)]
    asked = {"iou_thresholds": [0.3, 0.5, 0.7], "map_iou_thresholds": precise}
    done = evaluate(tmp_path, moment_detr(official, "moments") | {"published": None} | asked)
    expected = json.loads((official / "sample_val_preds_metrics_raw.json").read_text())["full"]
    metrics = {name: round(100 * value, 2) for name, value in done.run()["metrics"].items() if value is not None}
    assert (metrics["r1@0.5"], metrics["r1@0.7"]) == (expected["MR-R1"]["0.5"], expected["MR-R1"]["0.7"])
    for threshold, value in expected["MR-mAP"].items():
        assert metrics["map" if threshold == "average" else f"map@{float(threshold):g}"] == value
    # Recall at 0.3 is in no official file: counted here.
    answers = [json.loads(line) for line in (official / "sample_val_preds.jsonl").read_text().splitlines()]
    truth = {
        record["qid"]: record["relevant_windows"]
        for record in map(json.loads, (official / "highlight_val_release.jsonl").read_text().splitlines())
    }
    found = sum(
        max(iou(answer["pred_relevant_windows"][0], window) for window in truth[answer["qid"]]) >= 0.3
        for answer in answers
    )
    assert metrics["r1@0.3"] == round(100 * found / len(truth), 2)
    assert "map@0.3" not in metrics
    # What was asked for is printed, all of it.
    heads = " ".join(line for line in done.out.splitlines() if line.startswith("  run "))
    for name in ("r1@0.3", "r1@0.5", "r1@0.7", *(f"map@{value:g}" for value in precise), "map"):
        assert f" {name} " in f"{heads} "
    assert done.results["protocol"]["map_iou_thresholds"] == precise


def iou(answer: list[float], window: list[float]) -> float:
    inside = min(answer[1], window[1]) - max(answer[0], window[0])
    return max(inside, 0.0) / (max(answer[1], window[1]) - min(answer[0], window[0]))


def charades(folder: Path) -> dict[str, Any]:
    (folder / "test.txt").write_text("AAAAA 0.0 10.0##one.\nAAAAA 5.0 20.0##two.\nBBBBB 0.0 4.0##three.\n")
    (folder / "durations.json").write_text('{"AAAAA": 20.0, "BBBBB": 10.0}')
    answers = [("AAAAA#1", 0, 5, "", 0.2), ("AAAAA#1", 0, 10, "", 0.9), ("AAAAA#2", 5, 20, "", 0.5)]
    write_segments_csv(folder / "answers.csv", segments_from_columns(*zip(*answers, strict=True)))
    truth = {"file": str(folder / "test.txt"), "durations": str(folder / "durations.json")}
    return FAST | {"task": "moments", "ground_truth": truth, "predictions": str(folder / "answers.csv")}


def test_charades_counts_missing_queries_as_wrong_and_every_switch_matters(tmp_path: Path) -> None:
    config = charades(tmp_path)
    done = evaluate(tmp_path, config)
    metrics = done.run()["metrics"]
    assert metrics["r1@0.7"] == pytest.approx(2 / 3)
    assert metrics["miou"] == pytest.approx(2 / 3)
    assert done.results["protocol"]["protocol"] == "charades"
    assert "3 queries (1 without predictions)" in done.out
    assert "1 only in the ground truth ('BBBBB#3')" in done.out
    assert "(chance)" in done.out
    assert "(span)" in done.out
    listed = evaluate(tmp_path, config | {"order": "file_order"}).run()["metrics"]
    assert (listed["r1@0.5"], listed["r1@0.7"], listed["r5@0.7"]) == pytest.approx((2 / 3, 1 / 3, 2 / 3))
    strict = evaluate(tmp_path, config | {"order": "file_order", "overlap": ">"}).run()["metrics"]
    assert (strict["r1@0.5"], strict["r1@0.3"]) == pytest.approx((1 / 3, 2 / 3))
    one = evaluate(tmp_path, config | {"order": "file_order", "max_windows": 1, "iou_thresholds": [0.9]}).run()[
        "metrics"
    ]
    assert one["map"] == pytest.approx(1 / 3)
    assert "r1@0.9" in one


def test_suppression_leaves_room_among_the_first_five(tmp_path: Path) -> None:
    (tmp_path / "truth.txt").write_text("v 6.0 10.0##a person sits\nv 0.0 4.0##a person stands\n")
    (tmp_path / "seconds.json").write_text('{"v": 10.0}')
    # Five of one place and the right one last; 0 to 2 overlaps with the best one by exactly a half, and stays.
    stops = [4.0, 4.2, 3.8, 4.1, 3.9]
    rows = [f"v#1,0.0,{stop},{0.9 - 0.1 * rank:.1f}" for rank, stop in enumerate(stops)] + ["v#1,6.0,10.0,0.3"]
    rows += ["v#2,6.0,10.0,0.9", "v#2,6.0,9.9,0.8", "v#2,0.0,2.0,0.4", "v#2,0.0,4.0,0.5"]
    (tmp_path / "found.csv").write_text("\n".join(["video_id,start_seconds,stop_seconds,score", *rows]) + "\n")
    truth = {"file": str(tmp_path / "truth.txt"), "durations": str(tmp_path / "seconds.json")}
    config = FAST | {"task": "moments", "ground_truth": truth, "predictions": str(tmp_path / "found.csv")}
    plain, apart = evaluate(tmp_path, config), evaluate(tmp_path, config | {"nms": 0.5}, out="apart")
    assert plain.run()["metrics"]["r5@0.5"] == 0.5
    assert apart.run()["metrics"]["r5@0.5"] == 1.0
    assert apart.run()["metrics"]["r1@0.5"] == plain.run()["metrics"]["r1@0.5"] == 0.0
    # 2 of six are left of the first query, 3 of four of the second.
    assert (plain.run()["counts"]["num_predictions"], apart.run()["counts"]["num_predictions"]) == (10, 5)
    assert apart.results["protocol"]["nms"] == 0.5
    assert "nms" not in plain.results["protocol"]
    refused(evaluate(tmp_path, config | {"nms": 0.5, "order": "file_order"}), "nms", "order: score", "file_order")


def test_results_are_the_same_bytes_for_any_order_of_lines(official: Path, tmp_path: Path) -> None:
    contents = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        for name in ("highlight_val_release.jsonl", "sample_val_preds.jsonl"):
            lines = (official / name).read_text().splitlines(keepends=True)[:100]
            random.Random(seed).shuffle(lines)
            (folder / name).write_text("".join(lines))
        contents.append(
            [evaluate(folder, moment_detr(folder, task)).results_bytes for task in ("moments", "highlights")]
        )
    assert contents[0] == contents[1]
    assert all(contents[0])


def test_real_charades_baselines_are_those_of_the_metric(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "annotations" / "charades_sta"
    answers = [("3MSZA#1", 0.0, 10.0, "", 1.0)]
    write_segments_csv(tmp_path / "answers.csv", segments_from_columns(*zip(*answers, strict=True)))
    config = FAST | {
        "task": "moments",
        "ground_truth": {"file": str(folder / "charades_sta_test.txt"), "durations": str(folder / "charades.json")},
        "predictions": str(tmp_path / "answers.csv"),
        "published": "charades_sta",
        "min_coverage": 0,
    }
    done = evaluate(tmp_path, config)
    assert done.run()["baselines"]["span"]["r1@0.5"] == pytest.approx(0.307, abs=0.003)
    assert done.run()["baselines"]["chance"]["r1@0.5"] == pytest.approx(0.110, abs=0.002)
    assert done.run()["counts"]["num_queries"] == 3720


def test_of_several_windows_of_a_query_the_baselines_take_the_best() -> None:
    query, start, stop = ["q", "q", "r"], [0.0, 50.0, 0.0], [50.0, 100.0, 50.0]
    windows = segments_from_columns(query, start, stop)
    baselines = moment_baselines(windows, np.array([100.0, 100.0]), thresholds=(0.9,), num_steps=10)
    # Always answering the first half is right for both queries, though not for one window of three.
    assert baselines.fixed.tolist() == [1.0]
    single = moment_baselines(windows.take(np.array([1])), np.array([100.0, 100.0]), thresholds=(0.5,), num_steps=10)
    several = moment_baselines(windows, np.array([100.0, 100.0]), thresholds=(0.5,), num_steps=10)
    assert several.chance[0] > single.chance[0]


def test_a_file_without_durations_says_that_there_are_no_baselines(tmp_path: Path) -> None:
    config = charades(tmp_path)
    done = evaluate(tmp_path, config | {"ground_truth": str(tmp_path / "test.txt")})
    assert done.run()["baselines"] == {}
    assert "no baselines: no video has a duration (give ground_truth.durations)" in done.out


def test_equal_scores_are_pointed_out(tmp_path: Path) -> None:
    config = charades(tmp_path)
    (tmp_path / "answers.csv").write_text(
        "video_id,start_seconds,stop_seconds\nAAAAA#1,0,5\nAAAAA#1,0,10\nAAAAA#2,5,20\n"
    )
    assert "all scores are equal" in evaluate(tmp_path, config).out
    assert "all scores are equal" not in evaluate(tmp_path, config | {"order": "file_order"}).out


def test_durations_of_other_videos_are_refused(tmp_path: Path) -> None:
    config = charades(tmp_path)
    (tmp_path / "durations.json").write_text('{"CCCCC": 20.0}')
    refused(evaluate(tmp_path, config), "videos of ground_truth and durations", "2 only in")


def test_inverted_lines_are_refused_unless_told(tmp_path: Path) -> None:
    config = charades(tmp_path)
    (tmp_path / "test.txt").write_text("AAAAA 10.0 0.0##one.\nAAAAA 5.0 20.0##two.\n")
    refused(evaluate(tmp_path, config), "test.txt line 1", "start <= end")
    swapped = config["ground_truth"] | {"inverted": "swap"}
    assert evaluate(tmp_path, config | {"ground_truth": swapped}).run()["metrics"]["r1@0.7"] == 1.0


def test_query_ids_without_any_in_common_are_listed(tmp_path: Path) -> None:
    config = charades(tmp_path)
    text = (tmp_path / "answers.csv").read_text()
    (tmp_path / "answers.csv").write_text(text.replace("AAAAA#", "query"))
    refused(evaluate(tmp_path, config), "3 only in the ground truth ('AAAAA#1'", "2 only in the predictions")


def test_windows_alone_are_no_highlights(tmp_path: Path) -> None:
    line = {"qid": 1, "query": "x", "vid": "v", "duration": 10, "relevant_windows": [[0, 4]]}
    (tmp_path / "truth.jsonl").write_text(json.dumps(line) + "\n")
    config = {"task": "highlights", "ground_truth": str(tmp_path / "truth.jsonl"), "predictions": "none.jsonl"}
    refused(evaluate(tmp_path, config), "saliency scores", "task: moments")


def test_clip_scores_alone_are_no_moments(official: Path, tmp_path: Path) -> None:
    (tmp_path / "scores.jsonl").write_text('{"qid": 2579, "pred_saliency_scores": [0.5, 0.25]}\n')
    config = moment_detr(official, "moments") | {"predictions": str(tmp_path / "scores.jsonl")}
    refused(evaluate(tmp_path, config), "predicted windows", "saliency scores alone", "task: highlights")


def test_a_wrong_kind_of_file_is_told(tmp_path: Path) -> None:
    config = charades(tmp_path)
    (tmp_path / "run.txt").write_text("301 Q0 D1 1 2.5 tag\n")
    refused(
        evaluate(tmp_path, config | {"predictions": str(tmp_path / "run.txt")}), "QVHighlights JSON lines", "TREC qrels"
    )
    refused(evaluate(tmp_path, config | {"predictions": {"store": "s", "feature": "f"}}), "a file for this task")


def test_windows_that_end_before_they_start_are_counted_and_told(tmp_path: Path) -> None:
    config = charades(tmp_path)
    (tmp_path / "answers.csv").write_text("video_id,start_seconds,stop_seconds\nAAAAA#1,5,0\nAAAAA#2,5,20\n")
    notes = evaluate(tmp_path, config).run()["notes"]
    note = "predictions: 1 end before they start, such as one of query AAAAA#1; they overlap nothing"
    assert note in notes
