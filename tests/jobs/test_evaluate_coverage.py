"""Predictions that answer little of what was asked are refused, with the ids they seem to use: every task."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipmill.stores.formats.activitynet_captions import read_activitynet_captions
from clipmill.stores.formats.charades_sta import read_charades_sta
from clipmill.stores.formats.moments import MomentQueries
from tests.jobs.evaluation_command import Done, evaluate, refused
from tests.jobs.retrieval_store import retrieval_config

FAST = {"resamples": 20, "baselines": False}
HEAD = "video_id,start_seconds,stop_seconds,score"


def answered(folder: Path, queries: MomentQueries, ids: list[str]) -> Path:
    """A CSV with the right window for every query, under other ids."""
    windows = queries.windows
    rows = zip(windows.video.tolist(), windows.start_seconds.tolist(), windows.stop_seconds.tolist(), strict=True)
    lines = [f"{ids[code]},{start},{max(stop, start)},1" for code, start, stop in rows]
    path = folder / "answers.csv"
    path.write_text("\n".join([HEAD, *dict.fromkeys(lines)]) + "\n")
    return path


def within_videos(queries: MomentQueries, first: int, form: str) -> list[str]:
    seen: dict[str, int] = {}
    ids = []
    for video in queries.video_ids:
        ids.append(form.format(video=video, n=seen.get(video, 0) + first))
        seen[video] = seen.get(video, 0) + 1
    return ids


SCHEMES: dict[str, tuple[Callable[[MomentQueries], list[str]], str]] = {
    "sentence of the video": (lambda q: within_videos(q, 0, "{video}#{n}"), "<video>#<sentence of the video, from 0>"),
    "underscore": (lambda q: within_videos(q, 1, "{video}_{n}"), "<video>_<sentence of the video, from 1>"),
    "line from 0": (
        lambda q: [f"{video}#{n}" for n, video in enumerate(q.video_ids)],
        "<video>#<line of the file, from 0>",
    ),
    "position": (lambda q: [str(n) for n in range(len(q))], "positions in the ground truth, from 0,"),
    "video": (lambda q: list(q.video_ids), "ids of videos"),
    "prefix": (lambda q: [f"v_{name}" for name in q.query_ids], "the same ids without the prefix 'v_'"),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_moments_under_other_ids_are_refused_with_the_scheme_they_follow(
    scheme: str, shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "annotations" / "charades_sta"
    truth = str(folder / "charades_sta_test.txt")
    queries = read_charades_sta(truth)
    ids, told = SCHEMES[scheme]
    config = FAST | {"task": "moments", "ground_truth": truth}
    done = evaluate(tmp_path, config | {"predictions": str(answered(tmp_path, queries, ids(queries)))})
    refused(done, f"read as {told}", "3,720 would be answered", "'00607#")
    assert done.results_bytes == b""


def test_the_ids_of_activitynet_captions_are_known_too(shared_data: Path, tmp_path: Path) -> None:
    truth = str(shared_data / "annotations" / "activitynet_captions" / "val_1.json")
    queries = read_activitynet_captions(truth)
    path = answered(tmp_path, queries, within_videos(queries, 1, "{video}#{n}"))
    config = FAST | {"task": "moments", "ground_truth": truth, "predictions": str(path)}
    # Shifted by one most ids are there all the same, and answer other sentences.
    refused(evaluate(tmp_path, config), "<video>#<sentence of the video, from 1>", "17,505 would be answered")
    shifted = evaluate(tmp_path, config | {"min_coverage": 0})
    assert shifted.exit_code == 0
    assert 0.5 < shifted.run()["metrics"]["coverage"] < 0.8


def test_a_partial_file_is_taken_knowingly_and_its_coverage_is_a_number_to_gate(
    shared_data: Path, tmp_path: Path
) -> None:
    truth = str(shared_data / "annotations" / "charades_sta" / "charades_sta_test.txt")
    (tmp_path / "answers.csv").write_text(f"{HEAD}\n3MSZA#1,24.3,30.4,1\n3MSZA#2,24.3,30.4,1\n")
    config = FAST | {"task": "moments", "ground_truth": truth, "predictions": str(tmp_path / "answers.csv")}
    words = "at least 50 % of the 3,720 queries, got 2 (0.0538 %)"
    refused(evaluate(tmp_path, config), words, "min_coverage: 0")
    path = tmp_path / "evaluate.yaml"
    path.write_text(yaml.safe_dump(config | {"min_coverage": 0, "out": str(tmp_path / "out"), "report": False}))
    command = [sys.executable, "-m", "clipmill", "evaluate", "--config", str(path)]
    gate = ["--fail-if", "value(coverage) < 0.9", "--json"]
    done = subprocess.run([*command, *gate], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 5, done.stderr
    assert "gate 'value(coverage) < 0.9': failed, answers/coverage is 0.0005" in done.stderr
    found = json.loads(done.stdout)
    assert found["runs"]["answers"]["metrics"]["coverage"] == pytest.approx(2 / 3720)


def test_exactly_half_passes_and_one_less_does_not(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("id,label\na,x\nb,y\nc,x\nd,y\n")
    config = FAST | {"task": "classification", "ground_truth": str(tmp_path / "labels.csv")}
    scores = tmp_path / "scores.csv"
    scores.write_text("id,x,y\na,1,0\nb,1,0\n")
    assert evaluate(tmp_path, config | {"predictions": str(scores)}).run()["metrics"]["coverage"] == 0.5
    scores.write_text("id,x,y\na,1,0\nB,1,0\nC,1,0\nD,0,1\n")
    refused(evaluate(tmp_path, config | {"predictions": str(scores)}), "in lower case, 4 would be answered")


def detection(folder: Path, answers: str, task: str) -> Done:
    folder.mkdir(exist_ok=True)
    truth = "".join(f"v{n},1,9,{'jump' if n % 2 else 'run'}\n" for n in range(10))
    (folder / "truth.csv").write_text(f"video_id,start_seconds,stop_seconds,label\n{truth}")
    (folder / "answers.csv").write_text(f"video_id,start_seconds,stop_seconds,label,score\n{answers}")
    paths = {"ground_truth": str(folder / "truth.csv"), "predictions": str(folder / "answers.csv")}
    return evaluate(folder, FAST | {"task": task, **paths})


@pytest.mark.parametrize("task", ["detection", "proposals"])
def test_segments_of_few_of_the_annotated_videos_are_refused(task: str, tmp_path: Path) -> None:
    few = "".join(f"v{n},1,9,run,0.5\n" for n in range(4))
    done = detection(tmp_path, few + "".join(f"clips/v{n}.mp4,1,9,run,0.5\n" for n in range(4, 10)), task)
    refused(done, "50 % of the 10 annotated videos, got 4 (40 %); 6 others", "'clips/v4.mp4'")
    assert detection(tmp_path, few + "v4,1,9,run,0.5\n", task).run()["metrics"]["coverage"] == 0.5


def test_a_video_that_is_listed_without_a_detection_is_not_answered(tmp_path: Path) -> None:
    database = {f"v{n}": {"annotations": [{"label": "run", "segment": [0, 5]}]} for n in range(4)}
    found = {f"v{n}": [] for n in range(1, 4)} | {"v0": [{"label": "run", "segment": [0, 5], "score": 1}]}
    (tmp_path / "truth.json").write_text(json.dumps({"database": database}))
    (tmp_path / "found.json").write_text(json.dumps({"results": found}))
    paths = {"ground_truth": str(tmp_path / "truth.json"), "predictions": str(tmp_path / "found.json")}
    done = evaluate(tmp_path, FAST | {"task": "detection", **paths})
    refused(done, "got 1 (25 %), and 3 that are listed without a prediction")


def test_classes_that_are_spelt_otherwise_are_refused(tmp_path: Path) -> None:
    truth = "".join(f"v{n},1,9,{label}\n" for n, label in enumerate(["High Jump", "Long Jump", "Pole Vault", "Diving"]))
    found = "".join(f"v{n},1,9,{label},1\n" for n, label in enumerate(["HighJump", "LongJump", "PoleVault", "Diving"]))
    (tmp_path / "truth.csv").write_text(f"video_id,start_seconds,stop_seconds,label\n{truth}")
    (tmp_path / "found.csv").write_text(f"video_id,start_seconds,stop_seconds,label,score\n{found}")
    paths = {"ground_truth": str(tmp_path / "truth.csv"), "predictions": str(tmp_path / "found.csv")}
    config: dict[str, Any] = FAST | {"task": "detection", **paths}
    refused(evaluate(tmp_path, config), "at least 50 % of the 4 in common", "without case, spaces and punctuation")
    assert evaluate(tmp_path, config | {"min_coverage": 0}).run()["metrics"]["map@0.5"] == 0.25


def test_ranked_lists_of_few_queries_are_refused(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "evaluation" / "trec_eval"
    lines = (folder / "results.test").read_text().splitlines(keepends=True)
    first = lines[0].split()[0]
    (tmp_path / "few.run").write_text("".join(line for line in lines if line.split()[0] == first))
    config = FAST | {"task": "ranking", "ground_truth": str(folder / "qrels.test")}
    refused(evaluate(tmp_path, config | {"predictions": str(tmp_path / "few.run")}), "3 judged queries, got 1 (33.3 %)")
    (tmp_path / "zeros.run").write_text("".join(f"000{line}" for line in lines))
    refused(evaluate(tmp_path, config | {"predictions": str(tmp_path / "zeros.run")}), "without leading zeros")
    whole = evaluate(tmp_path, config | {"predictions": str(folder / "results.test")})
    assert (whole.run()["metrics"]["coverage"], round(whole.run()["metrics"]["map"], 4)) == (1.0, 0.1785)


def test_highlights_by_position_are_refused(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "evaluation" / "moment-detr-qvhighlights"
    records = [json.loads(line) for line in (folder / "sample_val_preds.jsonl").read_text().splitlines()]
    for n, record in enumerate(records):
        record["qid"] = n
    (tmp_path / "numbered.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    paths = {
        "ground_truth": str(folder / "highlight_val_release.jsonl"),
        "predictions": str(tmp_path / "numbered.jsonl"),
    }
    for task in ("highlights", "moments"):
        refused(evaluate(tmp_path, FAST | {"task": task, **paths}), "positions in the ground truth, from 0", "1,550")


def subsets(folder: Path, **names: str) -> dict[str, Any]:
    def entry(subset: str) -> dict[str, Any]:
        return {"subset": subset, "duration": 20.0, "annotations": [{"label": "run", "segment": [0, 10]}]}

    (folder / "truth.json").write_text(json.dumps({"database": {name: entry(part) for name, part in names.items()}}))
    return FAST | {"task": "detection", "ground_truth": str(folder / "truth.json")}


def results(folder: Path, *videos: str) -> str:
    rows = {name: [{"label": "run", "segment": [0, 10], "score": 1}] for name in videos}
    (folder / "found.json").write_text(json.dumps({"results": rows}))
    return str(folder / "found.json")


def test_activitynet_without_a_subset_is_scored_on_validation_and_says_so(tmp_path: Path) -> None:
    config = subsets(tmp_path, a="training", b="training", c="validation", d="testing")
    done = evaluate(tmp_path, config | {"predictions": results(tmp_path, "c")})
    note = "ground truth: subset validation, of testing 1, training 2, validation 1 videos"
    assert note in done.out
    assert (done.results["data"]["subset"], done.results["data"]["num_videos"]) == ("validation", 1)
    assert done.run()["metrics"]["average"] == 1.0
    whole = {"file": config["ground_truth"], "subset": "all"}
    every = evaluate(tmp_path, config | {"ground_truth": whole, "predictions": results(tmp_path, *"abcd")})
    assert (every.results["data"]["num_videos"], "subset" in every.results["data"]) == (4, False)
    asked = evaluate(
        tmp_path, config | {"ground_truth": whole | {"subset": "training"}, "predictions": results(tmp_path, *"ab")}
    )
    assert asked.results["data"]["subset"] == "training"
    assert "give ground_truth.subset" not in asked.out


def test_predictions_on_another_subset_are_refused_with_its_name(tmp_path: Path) -> None:
    config = subsets(tmp_path, a="Validation", b="Test", c="Test")
    refused(evaluate(tmp_path, config | {"predictions": results(tmp_path, "b", "c")}), "subset 'Test'", "subset: Test")


def test_the_blind_baseline_is_tuned_on_the_training_subset(tmp_path: Path) -> None:
    config = subsets(tmp_path, a="training", b="validation") | {"baselines": True}
    done = evaluate(tmp_path, config | {"training": config["ground_truth"], "predictions": results(tmp_path, "b")})
    assert "training: subset training" in done.out
    assert "an upper bound" not in done.out


def test_items_that_are_numbered_from_0_and_not_from_1_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("id,label\n" + "".join(f"{n},{'xy'[n % 2]}\n" for n in range(1, 21)))
    (tmp_path / "scores.csv").write_text("id,x,y\n" + "".join(f"{n},1,0\n" for n in range(20)))
    paths = {"ground_truth": str(tmp_path / "labels.csv"), "predictions": str(tmp_path / "scores.csv")}
    done = evaluate(tmp_path, FAST | {"task": "classification"} | paths)
    refused(done, "got 19 of them and 1 others", "positions in the ground truth, from 0")
    # One more item than was asked for is no other numbering.
    (tmp_path / "scores.csv").write_text("id,x,y\n" + "".join(f"{n},1,0\n" for n in range(1, 22)))
    assert evaluate(tmp_path, FAST | {"task": "classification"} | paths).run()["metrics"]["coverage"] == 1.0


def test_a_store_of_which_most_clips_lack_a_feature_is_refused(tmp_path: Path) -> None:
    whole = retrieval_config(tmp_path / "whole") | {"task": "retrieval"}
    assert evaluate(tmp_path, whole).run()["metrics"]["coverage"] == 1.0
    some = evaluate(tmp_path, retrieval_config(tmp_path / "some", num_lacking=4) | {"task": "retrieval"})
    assert some.run()["metrics"]["coverage"] == 0.6
    assert "4 of 10 clips lack a feature" in some.out
    few = retrieval_config(tmp_path / "few", num_lacking=6) | {"task": "retrieval"}
    refused(evaluate(tmp_path, few), "at least 50 % of the 10 clips", "got 4 (40 %", "min_coverage: 0")
    assert evaluate(tmp_path, few | {"min_coverage": 0}).run()["metrics"]["coverage"] == 0.4
