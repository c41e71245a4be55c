"""``clipmill evaluate --against RUN --fail-if ...``: what passes, what fails with exit code 5, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from clipmill.pipelines.evaluation.bootstrap import bootstrap_mean
from clipmill.pipelines.evaluation.gates import parse_gate
from clipmill.pipelines.evaluation.metrics.significance import compare
from clipmill.pipelines.evaluation.tasks.result import half_samples, resampled_intervals
from clipmill.schemas.errors import UsageError
from clipmill.schemas.segments import segments_from_columns
from clipmill.stores.formats.segments_csv import write_segments_csv
from tests.jobs.evaluation_command import Done, evaluate, refused
from tests.jobs.retrieval_store import retrieval_config

LABELS = ("jump", "run")


def detections(folder: Path, seed: int, noise: float, num_videos: int = 30) -> dict[str, Any]:
    """A detection config whose predictions are annotations with `noise` seconds of error."""
    rng = np.random.default_rng(0)
    truth = [(f"v{n}", s := rng.uniform(0, 50), s + 10, LABELS[n % 2]) for n in range(num_videos)]
    errors = np.random.default_rng(seed)
    answers = [
        (video, start + errors.normal(0, noise), stop + errors.normal(0, noise), label, errors.random())
        for video, start, stop, label in truth
        for _ in range(3)
    ]
    folder.mkdir(exist_ok=True)
    write_segments_csv(folder / "truth.csv", segments_from_columns(*zip(*truth, strict=True)))
    write_segments_csv(folder / "answers.csv", segments_from_columns(*zip(*answers, strict=True)))
    return {
        "task": "detection",
        "ground_truth": str(folder / "truth.csv"),
        "predictions": str(folder / "answers.csv"),
        "baselines": False,
        "resamples": 50,
    }


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """A folder, a good and a bad configuration; the good one is evaluated into ``good``."""
    good, bad = detections(tmp_path / "a", 1, 0.5), detections(tmp_path / "b", 2, 4.0)
    assert evaluate(tmp_path, good, out="good").exit_code == 0
    return tmp_path, good, bad


def against(folder: Path, config: dict[str, Any], *gates: str, out: str = "out") -> Done:
    arguments = [part for gate in gates for part in ("--fail-if", gate)]
    return evaluate(folder, config, "--against", str(folder / "good"), *arguments, out=out)


def test_an_equal_run_passes_and_a_worse_one_fails_with_5_and_one_line_per_gate(runs: Any) -> None:
    folder, good, bad = runs
    same = against(folder, good, "average < -0.01", "map@0.5 < 0")
    assert same.exit_code == 0, same.err
    assert "difference +0.0000" in same.out
    worse = against(folder, bad, "average < -0.01", "map@0.5 < -0.5", "value(average) < 0.0001")
    assert worse.exit_code == 5
    lines = [line for line in worse.err.splitlines() if line.startswith("clipmill: ")]
    assert len(lines) == 1
    assert lines[0].startswith("clipmill: gate 'average < -0.01': failed, answers/average is 0.")
    assert "gate 'value(average) < 0.0001': passed" in worse.out
    # A gate never keeps the results from being written.
    assert worse.results["task"] == "detection"


def test_equality_and_each_comparison_mean_what_they_say(runs: Any) -> None:
    folder, good, _ = runs
    for gate, code in (("average < 0", 0), ("average <= 0", 5), ("average > 0", 0), ("average >= -0.0", 5)):
        assert against(folder, good, gate).exit_code == code, gate


def test_better_is_no_failure(runs: Any) -> None:
    folder, good, bad = runs
    evaluate(folder, bad, out="bad")
    done = evaluate(folder, good, "--against", str(folder / "bad" / "results.json"), "--fail-if", "average < -0.01")
    assert done.exit_code == 0
    assert "passed, answers/average" in done.out


def test_json_holds_comparison_and_verdicts_and_the_exit_code_stays(runs: Any) -> None:
    folder, _, bad = runs
    done = evaluate(folder, bad, "--against", str(folder / "good"), "--fail-if", "average < -0.01", "--json")
    assert done.exit_code == 5
    data = json.loads(done.out)
    (verdict,) = data["gates"]
    assert verdict["failed"]
    assert verdict["value"] == pytest.approx(verdict["ours"] - verdict["theirs"])
    found = {item["metric"]: item for item in data["comparison"]}["answers/average"]
    assert found["low"] < found["difference"] < found["high"] < 0
    assert found["p_value"] == pytest.approx(1 / 51)


def test_the_folder_compared_with_may_be_the_one_written_to(runs: Any) -> None:
    folder, _, bad = runs
    assert against(folder, bad, "average < -0.01", out="good").exit_code == 5
    assert against(folder, bad, "average < -0.01", out="good").exit_code == 0


def test_absolute_gates_need_no_other_run(runs: Any) -> None:
    folder, good, _ = runs
    assert evaluate(folder, good, "--fail-if", "value(average) < 0.99").exit_code == 5
    assert evaluate(folder, good, "--fail-if", "value(answers/average) < 0.01").exit_code == 0


def test_a_metric_without_its_run_stands_for_each(runs: Any) -> None:
    folder, good, bad = runs
    both = good | {"predictions": [good["predictions"], {"file": bad["predictions"], "name": "bad"}]}
    done = evaluate(folder, both, "--fail-if", "value(average) < 0.3")
    assert done.exit_code == 5
    assert "gate 'value(average) < 0.3': passed, answers/average" in done.out
    assert "gate 'value(average) < 0.3': failed, bad/average" in done.out
    assert evaluate(folder, both, "--fail-if", "value(answers/average) < 0.3").exit_code == 0


def test_per_query_values_give_the_paired_test(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, shift in (("one", 0.0), ("two", 0.6)):
        qrels, run = [], []
        for query in range(12):
            for document in range(20):
                relevant = document % 4 == 0
                qrels.append(f"{query} 0 d{document} {int(relevant)}\n")
                run.append(f"{query} Q0 d{document} 1 {rng.random() + shift * relevant} t\n")
        (tmp_path / "qrels").write_text("".join(qrels))
        (tmp_path / f"{name}.run").write_text("".join(run))
    config = {"task": "ranking", "ground_truth": str(tmp_path / "qrels"), "measures": ["map"]}
    first = evaluate(tmp_path, config | {"predictions": str(tmp_path / "one.run")}, out="one")
    other = evaluate(
        tmp_path, config | {"predictions": str(tmp_path / "two.run")}, "--against", str(tmp_path / "one"), "--json"
    )
    (found,) = json.loads(other.out)["comparison"]
    units = [
        dict(zip(done.run()["units"]["ids"], done.run()["units"]["values"]["map"], strict=True))
        for done in (other, first)
    ]
    expected = compare(units[0], units[1])
    assert found["p_value"] == expected.p_value < 0.05
    assert (found["low"], found["high"]) == (expected.difference.low, expected.difference.high)
    assert found["num_units"] == 12


def test_other_ground_truth_is_refused_unless_told(runs: Any) -> None:
    folder, _, _ = runs
    other = detections(folder / "c", 1, 0.5, num_videos=20)
    refused(against(folder, other, "average < -0.01"), "--against", "the same ground truth", "--other-data")
    done = evaluate(folder, other, "--against", str(folder / "good"), "--other-data", "--fail-if", "average < -0.9")
    assert done.exit_code == 0
    assert "note: not the same ground truth" in done.out


def test_another_protocol_is_refused_unless_told(runs: Any) -> None:
    folder, good, _ = runs
    done = against(folder, good | {"overlap": ">"}, "average < -0.01")
    refused(done, "the same protocol", 'overlap ">=", ours ">"')


def test_another_task_is_refused_always(runs: Any) -> None:
    folder, good, _ = runs
    done = evaluate(folder, good | {"task": "proposals"}, "--against", str(folder / "good"), "--other-data")
    refused(done, "task proposals", "task detection")


def test_an_unknown_metric_lists_near_ones_before_any_work(runs: Any) -> None:
    folder, good, _ = runs
    refused(against(folder, good | {"predictions": "gone"}, "map@0.51 < 0"), "map@0.51", "'map@0.5'")
    refused(evaluate(folder, good, "--fail-if", "value(averge) < 0"), "averge", "'average'")
    refused(against(folder, good, "answer/average < 0"), "answer/average", "'answers/average'")


def test_a_gate_that_cannot_be_read_or_has_nothing_to_compare_with_is_refused(runs: Any) -> None:
    folder, good, _ = runs
    for gate in ("average", "average < low", "average = 0", "< 0", "average < nan", "value(average < 0", "a < 0 < 1"):
        refused(against(folder, good, gate), "--fail-if", "expected")
    refused(evaluate(folder, good, "--fail-if", "average < 0"), "--against RUN", "value(METRIC)")
    refused(evaluate(folder, good, "--other-data"), "--other-data", "--against RUN")


def test_a_run_that_is_none_is_refused(runs: Any) -> None:
    folder, good, _ = runs
    refused(evaluate(folder, good, "--against", str(folder / "gone")), "gone", "No such file")
    (folder / "other.json").write_text('{"a": 1}')
    refused(evaluate(folder, good, "--against", str(folder / "other.json")), "without 'spaces' or 'runs'")
    (folder / "other.json").write_text("no json")
    refused(evaluate(folder, good, "--against", str(folder / "other.json")), "no JSON")


def test_a_metric_that_is_no_number_fails(runs: Any) -> None:
    folder, good, _ = runs
    path = folder / "good" / "results.json"
    data = json.loads(path.read_text())
    data["runs"]["answers"]["metrics"]["average"] = None
    path.write_text(json.dumps(data))
    done = against(folder, good, "average < -0.01")
    assert done.exit_code == 5
    assert "there is no number to judge" in done.err


def test_expressions_are_read_whatever_their_spaces() -> None:
    gate = parse_gate("  value( my run/map@0.5 )<=1e-3 ")
    assert (gate.metric, gate.absolute, gate.sign, gate.number) == ("my run/map@0.5", True, "<=", 0.001)
    gate = parse_gate("combined/map@10>-.5")
    assert (gate.metric, gate.absolute, gate.sign, gate.number) == ("combined/map@10", False, ">", -0.5)
    with pytest.raises(UsageError):
        parse_gate("value() < 1")


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A retrieval config over a small store."""
    return retrieval_config(tmp_path_factory.mktemp("retrieval"))


def evaluate_retrieval(folder: Path, config: dict[str, Any], *arguments: str, out: str = "out") -> Done:
    """As `evaluate`; retrieval always writes its page."""
    path = folder / "retrieval.yaml"
    path.write_text(yaml.safe_dump(config))
    return evaluate(folder, {}, "--config", str(path), "--set", f"out={folder / out}", *arguments, out=out)


def test_gates_hold_for_retrieval_by_space(tmp_path: Path, retrieval: dict[str, Any]) -> None:
    first = evaluate_retrieval(tmp_path, retrieval, out="first")
    assert first.exit_code == 0, first.err
    arguments = ("--against", str(tmp_path / "first"), "--fail-if", "cosine/map@2 < -0.01", "--fail-if", "map@1 < 0")
    again = evaluate_retrieval(tmp_path, retrieval | {"task": "retrieval"}, *arguments)
    assert again.exit_code == 0, again.err
    assert "cosine/map@2" in again.out
    assert "paired units" in again.out
    assert again.results["comparison"]["against"] is not None
    assert {**again.results, "comparison": None} == {**first.results, "comparison": None}
    failing = evaluate_retrieval(tmp_path, retrieval, "--fail-if", "value(map@2) <= 1")
    assert failing.exit_code == 5
    unknown = evaluate_retrieval(tmp_path, retrieval, *arguments[:2], "--fail-if", "combined/map@2 < 0")
    refused(unknown, "combined/map@2", "cosine/map@2")
    results = json.loads((tmp_path / "first" / "results.json").read_text())
    results["runs"]["video"] = results["runs"]["appearance"] = results["runs"].pop("cosine")
    (tmp_path / "video.json").write_text(json.dumps(results))
    other = evaluate_retrieval(tmp_path, retrieval, "--against", str(tmp_path / "video.json"))
    refused(other, "(cosine)", "got video, appearance")
    fewer = retrieval | {"data": retrieval["data"] | {"split": {"test_fraction": 0.4}}}
    refused(evaluate_retrieval(tmp_path, fewer, *arguments), "the same ground truth")


# Written by the code before version 2, from `detections(..., 1, 0.5)` and from the store of `retrieval`.
OLD = Path(__file__).parent / "results_version_1"
OLD_SETTINGS = {
    "detection": {"protocol": "thumos14", "baselines": True, "resamples": 10},
    "proposals": {
        "task": "proposals",
        "tiou_thresholds": [0.5, 0.7],
        "max_avg_num_proposals": 2,
        "cutoffs": [1, 2],
        "resamples": 10,
    },
}


@pytest.mark.parametrize("name", list(OLD_SETTINGS))
def test_results_of_version_1_are_compared_with_to_the_same_numbers(name: str, tmp_path: Path) -> None:
    config = detections(tmp_path / "a", 1, 0.5) | OLD_SETTINGS[name]
    arguments = ("--against", str(OLD / f"{name}.json"), "--json")
    done = evaluate(tmp_path, config, *arguments)
    assert done.exit_code == 0, done.err
    comparison = json.loads(done.out)["comparison"]
    assert len(comparison) >= 3
    assert {item["difference"] for item in comparison} == {0.0}
    # The same halves of the videos: only then is there a p-value.
    assert {item["p_value"] for item in comparison} == {1.0}
    old = json.loads((OLD / f"{name}.json").read_text())
    assert old["version"] == 1
    assert done.results["version"] == 2
    assert done.run()["metrics"] == {**old["runs"]["answers"]["metrics"], "coverage": 1.0}
    assert done.run()["baselines"] == old["runs"]["answers"]["floors"]
    change = {"overlap": ">="} if name == "detection" else {"tiou_thresholds": [0.5, 0.9]}
    refused(evaluate(tmp_path, config | change, *arguments[:2]), "the same protocol", next(iter(change)))


def test_retrieval_results_of_version_1_are_compared_with_to_the_same_numbers(
    tmp_path: Path, retrieval: dict[str, Any]
) -> None:
    against = ("--against", str(OLD / "retrieval.json"))
    done = evaluate_retrieval(tmp_path, retrieval, *against, "--json")
    assert done.exit_code == 0, done.err
    comparison = {item["metric"]: item for item in json.loads(done.out)["comparison"]}
    assert set(comparison) == {"cosine/map@1", "cosine/map@2"}
    assert {item["difference"] for item in comparison.values()} == {0.0}
    assert {item["num_units"] for item in comparison.values()} == {6}
    fewer = retrieval | {"data": retrieval["data"] | {"split": {"test_fraction": 0.4}}}
    refused(evaluate_retrieval(tmp_path, fewer, *against), "the same ground truth")


def test_results_of_a_newer_version_are_refused(runs: Any) -> None:
    folder, good, _ = runs
    path = folder / "good" / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 3}))
    refused(against(folder, good), "version 3", "update clipmill")


def test_half_samples_are_halves_and_spread_as_the_bootstrap_of_a_mean_does() -> None:
    chosen = half_samples(401, 400, seed=0)
    assert set(chosen.sum(axis=1).tolist()) == {200}
    assert (half_samples(401, 400, seed=0) == chosen).all()
    values = np.random.default_rng(1).random(401)
    halves = np.array([values[row].mean() for row in chosen])
    found = resampled_intervals({"mean": float(values.mean())}, {"mean": halves}, 0.95)["mean"]
    expected = bootstrap_mean(values, seed=0)
    assert found.high - found.low == pytest.approx(expected.high - expected.low, rel=0.12)
    assert found.low < values.mean() < found.high
    # A score near its bound: its interval ends there.
    near = resampled_intervals({"map": 0.01}, {"map": np.array([0.0, 0.5, 1.0])}, 0.95)["map"]
    assert (near.low, round(near.high, 3)) == (0.0, 0.485)


@pytest.mark.parametrize(
    "content",
    [
        {"runs": {}},
        {"runs": {"a": 1}},
        {"runs": {"a": {"metrics": {"average": "0.5"}}}, "data": {"fingerprint": "x"}},
        {"runs": {"a": {"metrics": {"average": 0.5}}}},
        {"spaces": {"a": {"metrics": {"map@10": 0.5}}}},
    ],
)
def test_results_that_were_changed_by_hand_are_refused(runs: Any, content: dict[str, Any]) -> None:
    folder, good, _ = runs
    (folder / "good" / "results.json").write_text(json.dumps(content))
    refused(against(folder, good), "--against", "one that was changed or cut", "give the out of another evaluation")


def test_predictions_that_the_other_run_lacks_are_named(runs: Any) -> None:
    folder, good, bad = runs
    both = [good["predictions"], {"file": bad["predictions"], "name": "new"}]
    done = against(folder, {**good, "predictions": both}, "average < 0")
    assert done.exit_code == 0
    assert "note: not compared, for the other run has none of this name: new" in done.out
