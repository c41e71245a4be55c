"""Detections and proposals through ``clipmill evaluate``: the authors' numbers, every switch, every refusal."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill.extractors.resolve import resolve_recipe
from clipmill.pipelines.evaluation.metrics.detection import DetectionMap
from clipmill.pipelines.evaluation.metrics.proposals import ProposalRecall
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.recipe import ClipRule
from clipmill.schemas.rows import Rows
from clipmill.schemas.segments import segments_from_columns
from clipmill.stores.formats.parquet import write_segments_parquet
from clipmill.stores.formats.segments_csv import read_segments_csv, write_segments_csv
from clipmill.stores.formats.thumos14 import read_thumos14_classes, write_thumos14_detections
from tests.jobs.evaluation_command import Done, evaluate, refused
from tests.jobs.stored_rows import write_store

Row = tuple[str, float, float, str, float]
TRUTH: list[Row] = [
    ("one", 0, 10, "run", 1),
    ("one", 20, 30, "jump", 1),
    ("two", 5, 25, "run", 1),
    ("three", 0, 8, "jump", 1),
    ("three", 10, 18, "run", 1),
]
ANSWERS: list[Row] = [
    ("one", 1, 10, "run", 0.9),
    ("one", 22, 33, "jump", 0.8),
    ("two", 0, 12, "run", 0.7),
    ("two", 5, 24, "run", 0.6),
    ("three", 30, 38, "jump", 0.95),
    ("three", 10, 17, "run", 0.5),
]


def segments(rows: Sequence[Row], **more: Any) -> Any:
    return segments_from_columns(*zip(*rows, strict=True), **more)


def files(folder: Path, truth: Sequence[Row] = TRUTH, answers: Sequence[Row] = ANSWERS) -> dict[str, Any]:
    write_segments_csv(folder / "truth.csv", segments(truth))
    write_segments_csv(folder / "answers.csv", segments(answers))
    paths = {"ground_truth": str(folder / "truth.csv"), "predictions": str(folder / "answers.csv")}
    return {"task": "detection", "resamples": 20, **paths}


def activitynet(folder: Path, rows: Sequence[Row], key: str) -> str:
    videos: dict[str, Any] = {}
    for video, start, stop, label, score in rows:
        item = {"label": label, "segment": [start, stop], "score": score}
        if key == "results":
            videos.setdefault(video, []).append(item)
        else:
            entry = videos.setdefault(video, {"subset": "validation", "duration": 60.0, "annotations": []})
            entry["annotations"].append({"label": label, "segment": [start, stop]})
    path = folder / f"{key}.json"
    path.write_text(json.dumps({"version": "1", key: videos}))
    return str(path)


@pytest.fixture(scope="module")
def scnn(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """S-CNN's windows, scores weighted by window length, as a THUMOS14 detections file."""
    from scipy.io import loadmat

    folder = shared_data / "evaluation" / "scnn-thumos14"
    classes = read_thumos14_classes(shared_data / "annotations" / "thumos14" / "annotation_test" / "detclasslist.txt")
    rows = loadmat(folder / "res_seg_swin.mat")["seg_swin"]
    rows = rows[rows[:, 10] != 0]
    weights = loadmat(folder / "window_weight" / "weight.mat")["weight"]
    number = rows[:, 10].astype(int) - 1
    score = rows[:, 8] * weights[np.log2(rows[:, 1] / 16).astype(int), number]
    names = list(classes.values())
    videos = [f"video_test_{int(value):07d}" for value in rows[:, 0]]
    path = tmp_path_factory.mktemp("scnn") / "scnn.txt"
    table = segments_from_columns(videos, rows[:, 4], rows[:, 5], [names[code] for code in number], score)
    write_thumos14_detections(path, table, classes)
    return path


def test_reproduces_the_map_of_scnn_on_thumos14_to_four_digits(shared_data: Path, scnn: Path, tmp_path: Path) -> None:
    config = {
        "task": "detection",
        "protocol": "thumos14",
        "ground_truth": str(shared_data / "annotations" / "thumos14" / "annotation_test"),
        "predictions": str(scnn),
        "nms": {"below": 0.1, "ties": "last"},
        "time_decimals": 1,
        "score_digits": 5,
        "published": "thumos14",
        "resamples": 20,
    }
    done = evaluate(tmp_path, config)
    assert done.exit_code == 0, done.err
    got = [round(done.run()["metrics"][f"map@{t}"], 4) for t in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert got == [0.4772, 0.4353, 0.3628, 0.2870, 0.1897]
    assert done.run()["counts"]["num_ground_truths"] == 3358
    assert "S-CNN (NMS at tIoU - 0.1)" in done.out
    assert "zhengshou/scnn" in done.out
    assert max(done.run()["baselines"][name]["map@0.1"] for name in ("chance", "blind")) < 0.05


def test_thumos14_from_tiou_3_to_7_is_matched_as_activitynet(tmp_path: Path) -> None:
    config = files(tmp_path)
    preset = evaluate(tmp_path, config | {"protocol": "thumos14_0.3_to_0.7", "published": "thumos14_0.3_to_0.7"})
    assert preset.results["protocol"]["tiou_thresholds"] == [0.3, 0.4, 0.5, 0.6, 0.7]
    assert "TriDet (I3D)" in preset.out
    assert "0.6927" in preset.out
    written_out = evaluate(tmp_path, config | {"tiou_thresholds": [0.3, 0.4, 0.5, 0.6, 0.7]})
    assert preset.run()["metrics"] == written_out.run()["metrics"]
    # The official kit's matching, and its area below all points, give other numbers.
    kit = evaluate(tmp_path, config | {"protocol": "thumos14", "tiou_thresholds": [0.3, 0.4, 0.5, 0.6, 0.7]})
    assert kit.run()["metrics"] != preset.run()["metrics"]
    refused(evaluate(tmp_path, config | {"protocol": "thumos14_0.3_to_0.7", "ties": "file_order"}), "file_order")


def test_every_threshold_that_is_asked_for_is_printed(tmp_path: Path) -> None:
    thresholds = [round(0.3 + 0.05 * n, 2) for n in range(14)]
    done = evaluate(tmp_path, files(tmp_path) | {"tiou_thresholds": thresholds})
    heads = " ".join(line for line in done.out.splitlines() if line.startswith("  run "))
    assert [name for name in heads.split() if name.startswith("map@")] == [f"map@{value:g}" for value in thresholds]


def test_activitynet_detections_score_as_the_metric_does_and_show_baselines_and_interval(tmp_path: Path) -> None:
    config = files(tmp_path)
    done = evaluate(tmp_path, config)
    expected = DetectionMap().update(segments(TRUTH), segments(ANSWERS)).result()
    assert done.run()["metrics"]["average"] == pytest.approx(expected.average, abs=1e-10)
    assert done.run()["metrics"]["map@0.5"] == pytest.approx(float(expected.mean_average_precision[0]), abs=1e-10)
    assert set(done.run()["baselines"]) == {"chance", "blind"}
    assert "(chance)" in done.out
    interval = done.run()["intervals"]["average"]
    assert interval["low"] <= done.run()["metrics"]["average"] <= interval["high"]
    assert done.run()["per_class"]["run"]["num_ground_truths"] == 3


def test_every_format_gives_the_same_numbers(tmp_path: Path) -> None:
    config = files(tmp_path)
    write_segments_parquet(tmp_path / "answers.parquet", segments(ANSWERS))
    others = [activitynet(tmp_path, ANSWERS, "results"), str(tmp_path / "answers.parquet")]
    several = [config["predictions"], *others]
    named = [{"file": path, "name": f"run{number}"} for number, path in enumerate(several)]
    database = activitynet(tmp_path, TRUTH, "database")
    done = evaluate(tmp_path, config | {"predictions": named, "ground_truth": {"file": database}})
    metrics = [done.run(f"run{number}")["metrics"] for number in range(3)]
    assert metrics[0] == metrics[1] == metrics[2]
    assert metrics[0]["average"] > 0
    assert done.out.count("(chance)") == 1


def test_results_are_the_same_bytes_for_any_order_of_lines_and_any_place(tmp_path: Path) -> None:
    contents = []
    for seed in (0, 1, 2):
        shuffled = [list(TRUTH), [*ANSWERS, ("one", 1, 10, "jump", 0.8), ("two", 22, 33, "jump", 0.8)]]
        for rows in shuffled:
            random.Random(seed).shuffle(rows)
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        for protocol in ({}, {"protocol": "thumos14", "ties": "time"}):
            contents.append(evaluate(folder, files(folder, *shuffled) | protocol).results_bytes)
    assert contents[0]
    assert contents[0::2] == [contents[0]] * 3
    assert contents[1::2] == [contents[1]] * 3
    assert contents[0] != contents[1]
    assert str(tmp_path).encode() not in contents[0]


def average(folder: Path, config: dict[str, Any], **changes: Any) -> float:
    done = evaluate(folder, config | {"baselines": False} | changes)
    assert done.exit_code == 0, done.err
    value: float = done.run()["metrics"]["average"]
    return value


def test_every_switch_changes_the_number_as_it_should(tmp_path: Path) -> None:
    truth: list[Row] = [("one", 0, 10, "run", 1), ("one", 20, 30, "run", 1), ("two", 0, 10, "run", 1)]
    answers: list[Row] = [
        ("one", 50, 60, "run", 0.9),
        ("one", 0, 5, "run", 0.8),
        ("one", 0, 4.9, "run", 0.75),
        ("one", 20, 30, "run", 0.7),
    ]
    config = files(tmp_path, truth, answers) | {"tiou_thresholds": 0.5}
    # Ranks 2 and 4 of 4 are hits (precision 1/2 and 2/4), of three ground truths.
    assert average(tmp_path, config) == pytest.approx(1 / 3)
    assert average(tmp_path, config, overlap=">") == pytest.approx(1 / 4 / 3)
    assert average(tmp_path, config, nms=0.4) == pytest.approx((2 / 3 + 2 / 3) / 3)
    assert average(tmp_path, config, nms={"tiou": 0.4}, interpolated=False) == pytest.approx((1 / 2 + 2 / 3) / 3)
    assert average(tmp_path, config, blocked=["two"]) == pytest.approx(1 / 2)
    assert average(tmp_path, config, max_per_video=2) == pytest.approx((1 / 2) / 3)
    assert average(tmp_path, config, tiou_thresholds=[0.5, 0.9]) == pytest.approx((1 / 3 + 1 / 4 / 3) / 2)
    assert average(tmp_path, config, score_digits=1, tiou_thresholds=[0.9]) == pytest.approx(1 / 4 / 3)
    assert average(tmp_path, config, protocol="thumos14") == pytest.approx(1 / 4 / 3)
    assert average(tmp_path, config, protocol="thumos14", overlap=">=") == pytest.approx((1 / 2 + 2 / 4) / 3)
    soft = {"kind": "gaussian", "sigma": 0.5}
    assert average(tmp_path, config, nms=soft) == pytest.approx((2 / 3 + 2 / 3) / 3)
    twice = files(tmp_path, [*truth, truth[2]], answers) | {"tiou_thresholds": [0.5]}
    assert average(tmp_path, twice) == pytest.approx(1 / 4)
    assert average(tmp_path, twice, drop_duplicates=True) == pytest.approx(1 / 3)


def test_blocked_videos_duplicates_and_missing_videos_stand_in_the_score_line(tmp_path: Path) -> None:
    config = files(tmp_path, [*TRUTH, TRUTH[0], ("four", 0, 5, "run", 1)], [*ANSWERS, ("five", 0, 5, "run", 0.1)])
    (tmp_path / "blocked.json").write_text('["two", "elsewhere"]')
    done = evaluate(tmp_path, config | {"blocked": str(tmp_path / "blocked.json")})
    counts = done.run()["counts"]
    assert counts["num_blocked_videos"] == 1
    assert counts["num_duplicates"] == 1
    assert (counts["num_videos"], counts["num_missing_videos"], counts["num_unknown_videos"]) == (3, 1, 1)
    for words in ("1 without predictions", "1 blocked", "1 duplicates", "1 predicted videos not in the ground truth"):
        assert words in done.out
    assert "1 only in the ground truth ('four'); 1 only in the predictions ('five')" in done.out
    assert done.results["protocol"]["blocked"] == ["elsewhere", "two"]


def test_proposals_score_as_the_metric_does(tmp_path: Path) -> None:
    config = files(tmp_path) | {
        "task": "proposals",
        "max_avg_num_proposals": 2,
        "cutoffs": [1, 2],
        "tiou_thresholds": [0.5, 0.7],
    }
    done = evaluate(tmp_path, config)
    expected = ProposalRecall((0.5, 0.7), 2.0).update(segments(TRUTH), segments(ANSWERS)).result()
    assert done.run()["metrics"]["area"] == pytest.approx(expected.area, abs=1e-10)
    assert done.run()["metrics"]["ar@2"] == pytest.approx(float(expected.average_recall[-1]), abs=1e-10)
    assert set(done.run()["baselines"]) == {"chance", "blind"}
    assert done.run()["intervals"]["area"]["low"] <= expected.area
    unbounded = evaluate(tmp_path, config | {"max_avg_num_proposals": "all"})
    assert unbounded.run()["metrics"]["ar@2"] == pytest.approx(expected.at(2), abs=0.3)


def test_real_activitynet_annotations_as_their_own_predictions_score_one(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "annotations" / "activitynet1.3"
    table = read_segments_csv(folder / "activitynet_v1-3_valid_tsp_groundtruth.csv").segments
    some = table.of_videos(table.video_ids[:200])
    write_segments_csv(tmp_path / "truth.csv", some)
    write_segments_csv(tmp_path / "perfect.csv", some)
    config = {"task": "detection", "ground_truth": str(tmp_path / "truth.csv"), "resamples": 20}
    done = evaluate(tmp_path, config | {"predictions": str(tmp_path / "perfect.csv"), "drop_duplicates": True})
    assert done.run()["metrics"]["average"] == 1.0
    assert done.run()["baselines"]["chance"]["average"] < 0.1


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store with the feature rc3d: detections of one video, one row of which only fills up."""
    options = {"form": "pytorch-thumos14", "buffer_frames": 32}
    feature = FeatureConfig(layer="detections", options=options, weights=WeightsConfig(random=0))
    recipe = resolve_recipe("rc3d", feature, ClipRule(), DecodeConfig())
    rows = Rows(
        values=np.zeros((3, recipe.dim), np.float32),
        clip=np.zeros(3, np.int32),
        start_seconds=np.array([0.0, 5.0, 0.0]),
        stop_seconds=np.array([4.0, 9.0, 1.0]),
        mask=np.array([True, True, False]),
        extras={
            "score": np.array([0.9, 0.8, 1.0], np.float32),
            "class_index": np.array([1, 8, 1], np.int32),
            "class_score": np.array([0.9, 0.8, 1.0], np.float32),
        },
    )
    return write_store(tmp_path, [(recipe, {"a.mp4": rows})], {"a.mp4": None})


def test_detections_of_a_store_are_scored_straight_from_it(tmp_path: Path, store: str) -> None:
    # Class 1 of the THUMOS14 form is BaseballPitch, class 8 Diving; row 3 is masked.
    config = files(tmp_path, [("a", 0, 4, "BaseballPitch", 1), ("a", 5, 9, "Diving", 1)])
    predictions = {"store": store, "feature": "rc3d", "drop_ending": True}
    done = evaluate(tmp_path, config | {"predictions": predictions})
    assert done.exit_code == 0, done.err
    assert done.run("rc3d")["metrics"]["average"] == 1.0
    assert done.run("rc3d")["counts"]["num_predictions"] == 2
    swapped = [f"class{code}" for code in range(1, 9)]
    refused(evaluate(tmp_path, config | {"predictions": predictions | {"classes": swapped}}), "classes of the ground")
    refused(evaluate(tmp_path, config | {"predictions": predictions | {"classes": ["x"]}}), "at most 1 classes", "8")
    refused(evaluate(tmp_path, config | {"predictions": predictions | {"feature": "rc4d"}}), "rc4d", "rc3d")
    proposals = evaluate(tmp_path, config | {"task": "proposals", "predictions": predictions, "tiou_thresholds": [0.9]})
    assert proposals.run()["metrics"]["recall@0.9"] == 1.0


def evaluated(folder: Path, **changes: Any) -> Done:
    return evaluate(folder, files(folder) | changes)


def test_a_wrong_file_says_what_it_looks_like_and_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "moments.txt").write_text("AO8RW 0.0 6.9##a person is putting a book on a shelf.\n")
    done = evaluated(tmp_path, ground_truth=str(tmp_path / "moments.txt"))
    refused(done, "ground_truth file", "moments.txt", "ActivityNet JSON", "Charades-STA lines")


def test_swapped_annotations_and_predictions_are_told_apart(tmp_path: Path) -> None:
    database, results = activitynet(tmp_path, TRUTH, "database"), activitynet(tmp_path, ANSWERS, "results")
    refused(evaluated(tmp_path, ground_truth=results, predictions=database), "results.json", "may have been swapped")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    refused(evaluated(tmp_path, predictions=str(tmp_path / "gone.json")), "gone.json", "nothing there")


def test_ids_without_any_in_common_are_listed_with_counts_and_a_remedy(tmp_path: Path) -> None:
    other = [(f"v_{video}", *rest) for video, *rest in ANSWERS]
    done = evaluate(tmp_path, files(tmp_path, TRUTH, other))  # type: ignore[arg-type]
    refused(done, "3 only in the ground truth", "3 only in the predictions ('v_one'", "write drop_prefix: v_")
    path = {"file": str(tmp_path / "answers.csv"), "drop_prefix": "v_"}
    done = evaluate(tmp_path, files(tmp_path, TRUTH, other) | {"predictions": path})  # type: ignore[arg-type]
    assert done.run()["metrics"]["average"] > 0


def test_classes_without_any_in_common_are_listed(tmp_path: Path) -> None:
    other: list[Row] = [(video, start, stop, label.upper(), score) for video, start, stop, label, score in ANSWERS]
    done = evaluate(tmp_path, files(tmp_path, TRUTH, other))
    refused(done, "classes of the ground truth", "'jump', 'run'", "'JUMP', 'RUN'", "in lower case")


def test_two_predictions_of_one_name_are_refused(tmp_path: Path) -> None:
    path = files(tmp_path)["predictions"]
    refused(evaluated(tmp_path, predictions=[path, path]), "predictions", "'answers' twice", "give each a name")


def test_an_unknown_key_task_and_format_name_the_near_ones(tmp_path: Path) -> None:
    refused(evaluated(tmp_path, tiou=[0.5]), "tiou: unknown key", "'tiou_thresholds'")
    refused(evaluated(tmp_path, task="detecton"), "task", "'detection'")
    refused(evaluated(tmp_path, predictions={"fil": "x"}), "predictions.0.fil", "'file'")
    refused(evaluated(tmp_path, ground_truth={"file": "x", "format": "trec"}), "format", "one of activitynet, thumos14")
    refused(evaluated(tmp_path, published="thumos15"), "published", "'thumos14'")
    refused(evaluated(tmp_path, task=["detection"]), "task", "expected one of retrieval, detection")


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    refused(evaluated(tmp_path, ties="file_order"), "ties: file_order belongs to protocol thumos14")
    refused(evaluated(tmp_path, nms={"tiou": 0.5, "below": 0.1}), "exactly one of tiou and below")
    refused(evaluated(tmp_path, nms={"kind": "gaussian"}), "sigma")
    refused(evaluated(tmp_path, protocol="thumos14", drop_duplicates=True), "drop_duplicates belongs to")
    refused(evaluated(tmp_path, tiou_thresholds=50), "tiou_thresholds", "between 0 and 1")
    refused(evaluated(tmp_path, predictions=5), "predictions", "expected a file")
    refused(evaluated(tmp_path, predictions=[]), "predictions", "at least one file")
    refused(evaluated(tmp_path, predictions={"file": "x", "name": "a/b"}), "predictions.0.name", "a/b")
    path = files(tmp_path)["ground_truth"]
    refused(evaluated(tmp_path, ground_truth={"file": path, "subset": "test"}), "ground_truth subset", "csv")
    path = files(tmp_path)["predictions"]
    refused(
        evaluated(tmp_path, predictions={"file": path, "classes": ["x"]}),
        "classes of",
        "give the list that the numbers count by",
    )
    refused(
        evaluated(tmp_path, predictions={"file": "a", "store": "b", "feature": "c"}),
        "exactly one of file, store and run",
    )


def test_class_numbers_without_names_ask_for_a_list(tmp_path: Path) -> None:
    (tmp_path / "detections.txt").write_text("one 1 10 1 0.9\none 22 33 2 0.8\n")
    path = str(tmp_path / "detections.txt")
    refused(evaluated(tmp_path, predictions=path), "predictions classes", "detclasslist.txt")
    done = evaluated(tmp_path, predictions={"file": path, "classes": ["run", "jump"]}, min_coverage=0)
    assert done.run()["counts"]["num_unknown_label"] == 0


def test_a_score_that_is_not_finite_is_refused_by_video(tmp_path: Path) -> None:
    table = segments(ANSWERS)
    write_segments_parquet(tmp_path / "nan.parquet", replace(table, score=np.where(table.video == 1, np.nan, 1.0)))
    refused(evaluated(tmp_path, predictions=str(tmp_path / "nan.parquet")), "video two", "finite scores", "nan")


def test_a_malformed_list_of_blocked_videos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blocked.json").write_text('{"one": 1}')
    refused(evaluated(tmp_path, blocked=str(tmp_path / "blocked.json")), "blocked videos", "JSON object")
    refused(evaluated(tmp_path, blocked=["one", "two", "three"]), "ground_truth", "none after 3 blocked")


def test_thumos14_annotations_of_two_subsets_ask_which(shared_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "annotations"
    folder.mkdir()
    for name in ("Run_test.txt", "Run_val.txt"):
        (folder / name).write_text("one  0.0 10.0\n")
    refused(evaluated(tmp_path, ground_truth=str(folder)), "ground_truth subset", "test or val")
    done = evaluated(
        tmp_path, ground_truth={"file": str(folder), "subset": "val"}, predictions=files(tmp_path)["predictions"]
    )
    refused(done, "classes of the ground truth")


def test_an_unwritable_out_is_retryable(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    done = evaluated(tmp_path, out=str(tmp_path / "taken"))
    assert done.exit_code == 4
    assert "a folder that can be written" in done.error


def test_segments_that_end_before_they_start_are_counted_and_told(tmp_path: Path) -> None:
    config = files(tmp_path, answers=[*ANSWERS, ("two", 25, 5, "run", 0.99)])
    found = evaluate(tmp_path, {**config, "tiou_thresholds": [0.5]})
    note = "predictions: 1 end before they start, such as one of video two; "
    assert f"{note}they overlap nothing" in found.run()["notes"]
    swapped = evaluate(tmp_path, {**config, "tiou_thresholds": [0.5], "protocol": "thumos14"}, out="thumos")
    assert f"{note}their times are swapped, as by the official kit" in swapped.run()["notes"]
    assert swapped.run()["metrics"]["average"] > found.run()["metrics"]["average"]
    proposals = evaluate(tmp_path, {**config, "task": "proposals"}, out="proposals")
    assert f"{note}they overlap nothing" in proposals.run()["notes"]


@pytest.mark.parametrize("task", ["detection", "proposals"])
def test_a_file_without_a_single_prediction_is_told(tmp_path: Path, task: str) -> None:
    config = files(tmp_path) | {"task": task}
    (tmp_path / "empty.json").write_text('{"version": "1", "results": {}}')
    done = evaluate(tmp_path, config | {"predictions": str(tmp_path / "empty.json")})
    refused(done, "empty.json: expected at least one prediction, got none; check the command that wrote it")


def test_training_without_durations_is_refused_where_it_would_make_the_baseline_zero(tmp_path: Path) -> None:
    config = files(tmp_path)
    refused(
        evaluate(tmp_path, config | {"training": config["ground_truth"]}),
        "training durations: expected those of its videos, for the blind baseline, got none of 3 videos",
    )
    durations = tmp_path / "durations.json"
    durations.write_text(json.dumps({"one": 60.0, "two": 60.0}))
    training = {"file": config["ground_truth"], "durations": str(durations)}
    found = evaluate(tmp_path, config | {"training": training})
    assert any("blind is tuned without 1 of 3 training videos" in note for note in found.run()["notes"])
