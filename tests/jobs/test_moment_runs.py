"""A model of moments from a config to a score, as a user runs it: trained in a fresh process, scored and searched."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from clipmill.models.checkpoints import find_checkpoint, load
from clipmill.models.localising import localise
from clipmill.pipelines.evaluation.metrics.detection_nms import nms
from clipmill.pipelines.evaluation.tasks.base import Sources
from clipmill.pipelines.evaluation.tasks.moments.inputs import read_moment_truth
from clipmill.pipelines.evaluation.tasks.moments.trained import answers
from clipmill.schemas.config_evaluate import TruthConfig
from clipmill.schemas.inputs import InputRows
from tests.command_line import invoke, invoked_result, refused, result
from tests.pipelines.datasets.moment_stores import write_moment_store

WORDS = ("jump", "run", "sit", "wave", "fall")
DIM = 8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 30 videos, in each of which two of five things happen for 4 s each; 24 train, 6 are tested."""
    folder = tmp_path_factory.mktemp("moments")
    random = np.random.default_rng(0)
    directions = np.linalg.qr(random.normal(size=(DIM, DIM)))[0]
    values, lines = {}, {"train": list[str](), "test": list[str]()}
    for number in range(30):
        name, steps = f"video{number:02d}", 0.1 * random.normal(size=(12, DIM))
        begins = [int(random.integers(0, 3)), int(random.integers(6, 9))]
        for begin, code in zip(begins, random.permutation(len(WORDS))[:2], strict=True):
            steps[begin : begin + 4] += directions[code]
            part = "train" if number < 24 else "test"
            lines[part].append(f"{name} {begin}.0 {begin + 4}.0##a person starts to {WORDS[code]}.")
        values[name] = steps.astype(np.float32)
    write_moment_store(folder, values)
    for part, found in lines.items():
        (folder / f"{part}.txt").write_text("\n".join(found) + "\n", "utf-8")
    return folder


def train(folder: Path, out: Path, **changes: Any) -> str:
    config: dict[str, Any] = {
        "data": {
            "store": str(folder / "store"),
            "video": "steps",
            "queries": {"train": str(folder / "train.txt"), "validation_fraction": 0.1},
        },
        "model": {"name": "ci_mha", "options": {"dim": 16, "word_dim": 16, "max_words": 8, "dropout": 0.0}},
        "loop": {"epochs": 8, "batch": 16, "learning_rate": 0.005, "device": "cpu", "threads": 1},
        "out": str(out),
    }
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config | changes), "utf-8")
    return str(path)


def evaluation(folder: Path, run: Path, out: Path, **changes: Any) -> str:
    config: dict[str, Any] = {
        "task": "moments",
        "ground_truth": str(folder / "test.txt"),
        "predictions": {"run": str(run)},
        "baselines": False,
        "resamples": 20,
        "out": str(out),
    }
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config | changes), "utf-8")
    return str(path)


def test_a_run_is_trained_and_scored(made: Path, tmp_path: Path) -> None:
    report = result("train", "--config", train(made, tmp_path / "run"))
    assert report["num_train"] + report["num_validation"] == 48
    assert report["losses"][-1]["total"] < report["losses"][0]["total"]
    assert any("6 videos of steps have no query" in note for note in report["notes"])
    scored = invoked_result("evaluate", "--config", evaluation(made, tmp_path / "run", tmp_path / "scored"))
    run = scored["runs"]["run"]
    assert run["metrics"]["r1@0.3"] == pytest.approx(found_by_hand(made, tmp_path / "run", 0.3))
    assert run["counts"]["num_missing"] == 0
    assert run["counts"]["num_queries"] == 12
    assert not any("no test" in note for note in run["notes"])
    page = (tmp_path / "scored" / "report.html").read_text("utf-8")
    assert "a person starts to" in page
    # On its own training queries the score says so.
    seen = evaluation(made, tmp_path / "run", tmp_path / "seen", ground_truth=str(made / "train.txt"))
    notes = invoked_result("evaluate", "--config", seen)["runs"]["run"]["notes"]
    assert any("24 of 24 videos scored are among those it was trained" in note for note in notes)


def test_what_is_kept_apart_of_a_run_is_kept_of_all_its_spans(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    invoked_result("train", "--config", train(made, run, loop={"epochs": 1, "batch": 16, "device": "cpu"}))
    trained = load(find_checkpoint(run))
    truth = read_moment_truth(TruthConfig(file=str(made / "test.txt")), None, Sources()).truth
    # 12 steps have 78 spans.
    everything = answers(trained, str(run), truth, 78)
    assert len(everything) == 78 * 12
    kept = everything.take(nms(everything, 0.5))
    best = kept.take(np.concatenate([np.flatnonzero(kept.video == query)[:5] for query in range(12)]))
    found = answers(trained, str(run), truth, 5, nms=0.5)
    for name in ("video", "start_seconds", "stop_seconds", "score"):
        np.testing.assert_array_equal(getattr(found, name), getattr(best, name))


def found_by_hand(folder: Path, run: Path, least: float) -> float:
    """R@1 of the run, from its model and the features' files alone."""
    trained = load(find_checkpoint(run))
    position = {word: number for number, word in enumerate(trained.origin.vocabularies["query"], start=2)}
    found = []
    for line in (folder / "test.txt").read_text("utf-8").splitlines():
        head, _, sentence = line.partition("##")
        video, start, stop = head.split()
        words = [position.get(word, 1) for word in sentence.rstrip(".").split()]
        steps = np.load(folder / "npy" / f"{video}.npy")
        inputs = {
            "video": InputRows(steps, np.array([0, len(steps)])),
            "query": InputRows(np.array(words), np.array([0, len(words)])),
        }
        # A step lasts one second here.
        begin, end = localise(trained, inputs, 1)[0][0, 0]
        shared = min(end, float(stop)) - max(begin, float(start))
        found.append(shared / (max(end, float(stop)) - min(begin, float(start))) >= least)
    return float(np.mean(found))


def test_queries_that_cannot_be_answered_score_nothing_and_are_listed(made: Path, tmp_path: Path) -> None:
    invoked_result("train", "--config", train(made, tmp_path / "run", loop={"epochs": 1, "batch": 16, "device": "cpu"}))
    lines = (made / "test.txt").read_text("utf-8") + "elsewhere 0.0 1.0##a person runs\nvideo25 0.0 1.0##...\n"
    path = tmp_path / "more.txt"
    path.write_text(lines, "utf-8")
    found = invoked_result(
        "evaluate", "--config", evaluation(made, tmp_path / "run", tmp_path / "scored", ground_truth=str(path))
    )
    assert found["runs"]["run"]["counts"]["num_missing"] == 2
    assert found["runs"]["run"]["counts"]["num_queries"] == 14
    assert any("elsewhere#13" in note for note in found["runs"]["run"]["notes"])


@pytest.mark.slow
def test_two_workers_under_ray_train_end_as_one_does(made: Path, tmp_path: Path) -> None:
    loop = {"epochs": 3, "batch": 15, "device": "cpu", "threads": 1}
    one = invoked_result("train", "--config", train(made, tmp_path / "one", loop=loop))
    two = invoked_result(
        "train", "--config", train(made, tmp_path / "two", loop=loop, trainer={"name": "ray", "workers": 2})
    )
    assert two["num_workers"] == 2
    for left, right in zip(one["losses"], two["losses"], strict=True):
        assert left == pytest.approx(right, rel=1e-4)


def test_what_a_run_cannot_do_is_one_line(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    invoked_result("train", "--config", train(made, run, loop={"epochs": 1, "batch": 16, "device": "cpu"}))
    ranked = tmp_path / "ranked.yaml"
    ranked.write_text(yaml.safe_dump({"run": str(run), "out": str(tmp_path / "r")}), "utf-8")
    refused(invoke("evaluate", "--config", str(ranked)), "task: moments")
    bad = train(made, tmp_path / "bad", data={"store": str(made / "store"), "video": "steps"})
    refused(invoke("train", "--config", bad), "data queries")
    wrong = train(made, tmp_path / "wrong", model={"name": "sdml"})
    refused(invoke("train", "--config", wrong), "no model of moments")


def test_a_sentence_finds_its_moment_in_ones_own_videos_and_a_page_shows_it(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    invoked_result("train", "--config", train(made, run))
    config = {
        "run": str(run),
        "queries": {"texts": ["a person starts to jump", "xyzzy plugh", "someone will JUMP!"]},
        "k": 5,
        "out": str(tmp_path / "found"),
    }
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    found = invoked_result("search", "--config", str(path), code=3)
    (jump, also), (failed,) = found["queries"], found["failed"]
    assert failed["query"] == "xyzzy plugh"
    assert "xyzzy" in failed["message"]
    assert jump["unknown_words"] == []
    assert also["unknown_words"] == ["someone", "will"]
    assert [moment["rank"] for moment in jump["moments"]] == [1, 2, 3, 4, 5]
    scores = [moment["score"] for moment in jump["moments"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= moment["start_seconds"] < moment["stop_seconds"] <= 12 for moment in jump["moments"])
    page = (tmp_path / "found" / "report.html").read_text("utf-8")
    assert "a person starts to jump" in page
    assert "30 videos searched" in page
    assert page.count('<span class="when"') == 2 * 5, "each moment is marked where it lies in its video"
    one = {**config, "videos": ["video03"], "queries": {"texts": ["a person starts to run"]}}
    path.write_text(yaml.safe_dump(one), "utf-8")
    moments = invoked_result("search", "--config", str(path))["queries"][0]["moments"]
    assert {moment["video"] for moment in moments} == {"video03"}
    # Answers that overlap much with a better one are left out.
    spans = [(moment["start_seconds"], moment["stop_seconds"]) for moment in moments]
    for place, (start, stop) in enumerate(spans):
        for begin, end in spans[:place]:
            assert min(stop, end) - max(start, begin) <= 0.5 * (max(stop, end) - min(start, begin)) + 1e-6
    refused(invoke("search", "--config", str(path), "--set", "videos=[video99]"), "video99")
    image = tmp_path / "image.yaml"
    image.write_text(yaml.safe_dump({"run": str(run), "queries": {"files": ["image.png"]}}), "utf-8")
    refused(invoke("search", "--config", str(image)), "searched with single images")
    refused(invoke("search", "--config", str(path), "--set", "run=null", "--set", "data={store: x, video: y}"), "run")
