"""``clipmill.evaluate``: for every task what the command writes, from paths and from data in memory, without jobs."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import clipmill
from clipmill.pipelines.evaluation.tasks.registry import BUILT_IN
from clipmill.pipelines.evaluation.tasks.result import TaskScore, task_results_json
from clipmill.schemas.errors import ConfigError, FormatError, UsageError
from clipmill.schemas.segments import segments_from_columns
from clipmill.stores.formats.segments_csv import write_segments_csv
from tests.jobs.evaluation_command import evaluate
from tests.jobs.retrieval_store import retrieval_config
from tests.jobs.test_evaluate_report import lines, written

ROOT = Path(__file__).resolve().parents[2]
Given = tuple[dict[str, Any], Any, Any]
"""A config for the command, and its ground truth and predictions as data in memory."""


def detection(folder: Path) -> Given:
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 80, 40).round(3)
    truth = {
        "video_id": [f"v{n % 8}" for n in range(40)],
        "start_seconds": start,
        "stop_seconds": (start + rng.uniform(2, 15, 40)).round(3),
        "label": [("run", "jump")[n % 2] for n in range(40)],
    }
    moved = {name: np.abs(truth[name] + rng.normal(0, 2, 40)).round(3) for name in ("start_seconds", "stop_seconds")}
    answers = truth | moved | {"score": rng.random(40).round(4)}
    for name, table in (("truth", truth), ("answers", answers)):
        columns = (table["video_id"], table["start_seconds"], table["stop_seconds"], table["label"])
        write_segments_csv(folder / f"{name}.csv", segments_from_columns(*columns, table.get("score")))
    config = {"ground_truth": str(folder / "truth.csv"), "predictions": str(folder / "answers.csv")}
    columns = (answers[name] for name in ("video_id", "start_seconds", "stop_seconds", "label", "score"))
    # One side as columns, the other as the record of segments.
    return config | {"tiou_thresholds": [0.3, 0.5]}, pa.table(truth), segments_from_columns(*columns)


def moments(folder: Path) -> Given:
    asked = [
        {"qid": n, "query": f"runs {n}", "vid": f"v{n}", "duration": 20, "relevant_windows": [[0, 10]]}
        for n in range(4)
    ]
    answered = [{"qid": n, "pred_relevant_windows": [[n, 10 + n, 0.9], [0, 3, 0.5]]} for n in range(3)]
    config = {
        "ground_truth": lines(folder / "truth.jsonl", *asked),
        "predictions": lines(folder / "answers.jsonl", *answered),
        # Whose annotations they are is known of files alone.
        "protocol": "qvhighlights",
    }
    truth = {
        "query_id": [0, 1, 2, 3],
        "video_id": ["v0", "v1", "v2", "v3"],
        "sentence": [f"runs {n}" for n in range(4)],
        "duration_seconds": [20.0] * 4,
        "start_seconds": [0.0] * 4,
        "stop_seconds": [10.0] * 4,
    }
    answers = {
        "query_id": [n for n in range(3) for _ in range(2)],
        "start_seconds": [value for n in range(3) for value in (n, 0)],
        "stop_seconds": [value for n in range(3) for value in (10 + n, 3)],
        "score": [0.9, 0.5] * 3,
    }
    return config, truth, answers


def highlights(folder: Path) -> Given:
    scores = {str(n): np.array([[4, 4, 3], [2, 1, n], [0, 0, 0]], float) for n in range(4)}
    asked = [
        {
            "qid": int(name),
            "query": "a",
            "vid": "v",
            "duration": 6,
            "relevant_clip_ids": [0, 1],
            "saliency_scores": table[:2].tolist(),
        }
        for name, table in scores.items()
    ]
    predicted = {str(n): [0.1 * n, 0.5, 0.2] for n in range(3)}
    answered = [{"qid": int(name), "pred_saliency_scores": values} for name, values in predicted.items()]
    config = {
        "ground_truth": lines(folder / "truth.jsonl", *asked),
        "predictions": lines(folder / "answers.jsonl", *answered),
    }
    return config, scores, predicted


def items(folder: Path) -> Given:
    labels = {"a": "run", "b": "jump", "c": "run"}
    truth = written(folder / "labels.csv", "id,label\na,run\nb,jump\nc,run\n")
    scores = written(folder / "answers.csv", "id,run,jump\na,1,0\nb,2,1\n")
    table = {"id": ["a", "b"], "run": [1.0, 2.0], "jump": [0.0, 1.0]}
    return {"ground_truth": truth, "predictions": scores, "cutoffs": [1]}, labels, table


def video_classes(folder: Path) -> Given:
    truth = written(
        folder / "truth.csv", "video_id,start_seconds,stop_seconds,label\na,0,1,run\nb,0,1,jump\nb,2,3,run\n"
    )
    scores = written(folder / "answers.csv", "id,label,score\na,run,0.9\na,jump,0.1\nb,jump,0.4\n")
    annotated = {
        "video_id": ["a", "b", "b"],
        "start_seconds": [0, 0, 2],
        "stop_seconds": [1, 1, 3],
        "label": ["run", "jump", "run"],
    }
    table = {"video_id": ["a", "a", "b"], "label": ["run", "jump", "jump"], "score": [0.9, 0.1, 0.4]}
    return {"ground_truth": truth, "predictions": scores}, annotated, table


def ranking(folder: Path) -> Given:
    truth = written(folder / "qrels.txt", "1 0 d1 1\n1 0 d2 0\n2 0 d1 1\n")
    run = written(folder / "answers.txt", "1 Q0 d2 1 0.9 x\n1 Q0 d1 2 0.5 x\n1 Q0 d3 3 0.4 x\n2 Q0 d1 1 0.4 x\n")
    judged = {"1": {"d1": 1, "d2": 0}, "2": {"d1": 1}}
    ranked = {"1": {"d2": 0.9, "d1": 0.5, "d3": 0.4}, "2": {"d1": 0.4}}
    return {"ground_truth": truth, "predictions": run}, judged, ranked


def landmarks(folder: Path) -> Given:
    gnd = [{"bbx": [0, 0, 1, 1], "easy": [0, 1], "hard": [2], "junk": [3]}]
    truth = {"imlist": ["a", "b", "c", "d", "e"], "qimlist": ["q"], "gnd": gnd}
    ranks = {"q": ["d", "e", "a", "c", "b"]}
    config = {
        "ground_truth": written(folder / "gnd.json", json.dumps(truth)),
        "predictions": written(folder / "answers.json", json.dumps(ranks)),
    }
    return config, truth, ranks


def scenes(folder: Path) -> Given:
    truth = written(folder / "truth.txt", "0 a.mp4 0:10 0:20 b.mp4 1:00 1:05\n1 b.mp4 0:00 0:03\n")
    ranked = written(folder / "answers.txt", "Query 0\nc.mp4\na.mp4\nQuery 1\nb.mp4\n")
    shown = {"0": [("a.mp4", 10, 20), ("b.mp4", 60, 65)], "1": [("b.mp4", 0, 3)]}
    config = {"ground_truth": truth, "predictions": ranked, "num_scenes": 20}
    return config, shown, {"0": ["c.mp4", "a.mp4"], "1": ["b.mp4"]}


CASES: dict[str, tuple[str, Callable[[Path], Given]]] = {
    "detection": ("detection", detection),
    "proposals": ("proposals", detection),
    "moments": ("moments", moments),
    "highlights": ("highlights", highlights),
    "items": ("classification", items),
    "video classes": ("classification", video_classes),
    "ranking": ("ranking", ranking),
    "landmarks": ("landmarks", landmarks),
    "scenes": ("scene_retrieval", scenes),
}


def test_every_task_but_retrieval_is_here() -> None:
    assert {task for task, _ in CASES.values()} == set(BUILT_IN) - {"retrieval"}


@pytest.mark.parametrize("case", list(CASES))
def test_paths_and_data_in_memory_give_what_the_command_writes(case: str, tmp_path: Path) -> None:
    task, make = CASES[case]
    config, truth, answers = make(tmp_path)
    settings = {"resamples": 20} | {key: config[key] for key in config if key not in ("ground_truth", "predictions")}
    done = evaluate(tmp_path, {"task": task, **config, **settings})
    assert done.exit_code == 0, done.err

    paths = {key: Path(config[key]) for key in ("ground_truth", "predictions")}
    from_paths = clipmill.evaluate(task, **paths, **settings)
    assert isinstance(from_paths, clipmill.TaskScore)
    assert task_results_json(from_paths) == done.results_bytes
    assert from_paths.run().metrics.keys() == done.run()["metrics"].keys()

    named = {"arrays": answers, "name": from_paths.run().name}
    from_memory = clipmill.evaluate(task, ground_truth=truth, predictions=named, **settings)
    assert task_results_json(from_memory) == done.results_bytes


def test_retrieval_from_a_store_gives_what_the_command_writes(tmp_path: Path) -> None:
    config = retrieval_config(tmp_path) | {"resamples": 20}
    done = evaluate(tmp_path, config)
    assert done.exit_code == 0, done.err
    assert task_results_json(clipmill.evaluate("retrieval", **config)) == done.results_bytes


def test_retrieval_of_vectors_in_memory_ranks_them() -> None:
    vectors = np.eye(4, dtype=np.float32)
    labels = ["a", "a", "b", "b"]
    gallery = {"vectors": vectors[[0, 1, 2, 2]], "labels": labels}
    score = clipmill.evaluate("retrieval", queries={"vectors": vectors, "labels": labels}, gallery=gallery, cutoffs=[1])
    # The first query ranks its own item first; the last one has none like it, and equal scores go by id.
    assert score.run().metrics["map@1"] == pytest.approx(3 / 4)
    as_lists = {"vectors": vectors.tolist(), "labels": labels}
    again = clipmill.evaluate("retrieval", queries=as_lists, gallery=gallery, cutoffs=[1])
    assert task_results_json(again) == task_results_json(score)


def test_segments_are_classes_of_videos_where_items_have_no_labels(tmp_path: Path) -> None:
    _, annotated, table = video_classes(tmp_path)
    columns = (annotated[name] for name in ("video_id", "start_seconds", "stop_seconds", "label"))
    as_records = clipmill.evaluate("classification", ground_truth=segments_from_columns(*columns), predictions=table)
    as_columns = clipmill.evaluate("classification", ground_truth=annotated, predictions=table)
    assert task_results_json(as_records) == task_results_json(as_columns)
    assert as_records.protocol["protocol"] == "activitynet"


def test_several_predictions_are_rows_of_one_table_and_files_are_written_where_asked(tmp_path: Path) -> None:
    config, truth, answers = detection(tmp_path)
    several = [answers, {"arrays": answers, "name": "again"}, config["predictions"]]
    settings = {"ground_truth": truth, "predictions": several, "resamples": 20, "metrics": ["recall"]}
    score = clipmill.evaluate("detection", out=tmp_path / "out", report=True, **settings)
    assert [run.name for run in score.runs] == ["predictions 1", "again", "answers"]
    assert score.run("again").metrics == score.run("answers").metrics
    assert score.run("again").intervals["average"] == score.run("answers").intervals["average"]
    assert (tmp_path / "out" / "results.json").read_bytes() == task_results_json(score)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "predictions 1" in page
    assert "recall@0.5" in page


def test_training_and_durations_may_be_in_memory_too(tmp_path: Path) -> None:
    _, truth, answers = detection(tmp_path)
    durations = {f"v{n}": 100.0 for n in range(8)}
    known = {"arrays": truth, "durations": durations}
    score = clipmill.evaluate("detection", ground_truth=known, training=known, predictions=answers, resamples=20)
    assert not [note for note in score.run().notes if note.startswith("baselines")]
    assert 0 < score.run().baselines["blind"]["average"] < score.run().metrics["average"]


def score_of(**given: Any) -> TaskScore:
    return clipmill.evaluate(given.pop("task", "detection"), **given)


SEGMENTS = segments_from_columns(["v"], [0], [1], ["run"], [1.0])
REFUSED: list[tuple[dict[str, Any], type[UsageError], str]] = [
    ({"task": "detektion"}, UsageError, "task detektion: expected one of .*; did you mean 'detection'"),
    ({"ground_truth": SEGMENTS}, ConfigError, "clipmill.evaluate predictions: expected a value, got none"),
    ({"ground_truth": [1], "predictions": SEGMENTS}, FormatError, "data <ground_truth>: .* got list"),
    (
        {"ground_truth": {"video_id": ["v"], "start_seconds": [0]}, "predictions": SEGMENTS},
        FormatError,
        "got dict with the keys 'video_id', 'start_seconds' .stop_seconds.",
    ),
    (
        {"ground_truth": SEGMENTS, "predictions": {"video_id": ["v"], "start_seconds": [0, 1], "stop_seconds": [1]}},
        FormatError,
        "data <predictions>: .* .columns of different lengths",
    ),
    ({"ground_truth": SEGMENTS, "predictions": SEGMENTS, "tiou": 1}, ConfigError, "tiou: unknown key; did you mean"),
    ({"ground_truth": SEGMENTS, "predictions": SEGMENTS, "report": True}, UsageError, "out beside it"),
    ({"ground_truth": "gone.csv", "predictions": SEGMENTS}, FormatError, "file gone.csv: .* nothing there"),
    (
        {"ground_truth": SEGMENTS, "predictions": segments_from_columns(["w"], [0], [1], ["run"], [1.0])},
        FormatError,
        "1 only in the ground truth",
    ),
    ({"ground_truth": SEGMENTS, "predictions": {"run": "out/x"}}, UsageError, "predictions run: .* got out/x"),
    (
        {"task": "ranking", "ground_truth": SEGMENTS, "predictions": {}},
        FormatError,
        "a mapping of query .* got Segments",
    ),
    ({"task": "classification", "ground_truth": {"a": "x"}, "predictions": {"id": ["a"]}}, FormatError, "no column of"),
]


def test_an_order_of_documents_is_scored_as_it_stands() -> None:
    judged = {"q": {"d": 1, "f": 1}, "r": {"d": 1}}
    found = score_of(task="ranking", ground_truth=judged, predictions={"q": ["e", "d", "f"], "r": ["d", "e"]})
    assert found.run().metrics["map"] == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2)


@pytest.mark.parametrize(("given", "kind", "message"), REFUSED, ids=[message for _, _, message in REFUSED])
def test_what_cannot_be_used_is_refused_in_one_line(
    given: dict[str, Any], kind: type[UsageError], message: str
) -> None:
    with pytest.raises(kind, match=message) as error:
        score_of(**given)
    assert "\n" not in str(error.value)


def test_a_call_imports_neither_jobs_nor_what_it_does_not_need() -> None:
    code = (
        "import sys, clipmill\n"
        "from clipmill import Segments\n"
        "table = {'video_id': ['v'], 'start_seconds': [0.0], 'stop_seconds': [1.0], 'label': ['run']}\n"
        "found = clipmill.evaluate('detection', ground_truth=table, predictions=table, resamples=10)\n"
        "print(found.run().metrics['average'])\n"
        "print('\\n'.join(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    value, *modules = done.stdout.splitlines()
    assert value == "1.0"
    loaded = set(modules)
    assert not {name for name in loaded if name.startswith("clipmill.jobs")}
    tasks = "clipmill.pipelines.evaluation.tasks."
    others = {name for name in loaded if name.startswith(tasks) and name.endswith(".task")}
    assert others == {f"{tasks}detection.task"}
    assert not {"torch", "dask", "ray", "zarr", "h5py", "av", "decord", "cv2", "jinja2"} & loaded
