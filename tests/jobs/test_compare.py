"""``clipmill compare A B``, and what ``--against`` leaves in results and page: official files."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import permutation_test

from tests.command_line import clipmill, invoke
from tests.jobs.evaluation_command import Done, evaluate

FAST = {"resamples": 50, "baselines": False}


@pytest.fixture(scope="module")
def two(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done, Done]:
    """Moment-DETR's answers, and the same with a third of the queries answered by their second window."""
    folder = tmp_path_factory.mktemp("compare")
    official = shared_data / "evaluation" / "moment-detr-qvhighlights"
    worse = []
    for line in (official / "sample_val_preds.jsonl").read_text().splitlines():
        record = json.loads(line)
        if random.Random(record["qid"]).random() < 1 / 3:
            windows = record["pred_relevant_windows"]
            record["pred_relevant_windows"] = [windows[1], windows[0], *windows[2:]]
        worse.append(json.dumps(record))
    (folder / "worse.jsonl").write_text("\n".join(worse))
    config = FAST | {"task": "moments", "ground_truth": str(official / "highlight_val_release.jsonl")}
    first = evaluate(folder, config | {"predictions": str(official / "sample_val_preds.jsonl")}, out="a")
    second = evaluate(folder, config | {"predictions": str(folder / "worse.jsonl")}, out="b")
    return folder, first, second


def test_each_metric_has_its_difference_with_interval_and_p_value_on_one_line(two: tuple[Path, Done, Done]) -> None:
    folder, first, second = two
    done = clipmill("compare", str(folder / "a"), str(folder / "b" / "results.json"))
    assert done.returncode == 0, done.stderr
    lines = {line.split(": ")[0].strip().partition("/")[2]: line for line in done.stdout.splitlines()[1:]}
    for metric in first.run()["shown"]:
        gap = first.run()["metrics"][metric] - second.run()["metrics"][metric]
        assert f"difference {gap:+.4f} (95%: " in lines[metric]
        assert "1550 paired units" in lines[metric]


def test_the_p_value_is_that_of_a_paired_randomisation_test(two: tuple[Path, Done, Done]) -> None:
    folder, first, second = two
    done = invoke("compare", str(folder / "a"), str(folder / "b"), "--json")
    found = {row["metric"].partition("/")[2]: row for row in json.loads(done.stdout)["comparison"]}
    sides = [np.array(side.run()["units"]["values"]["miou"]) for side in (first, second)]
    truth = permutation_test(
        sides, lambda a, b, axis: np.mean(a - b, axis=axis), permutation_type="samples", n_resamples=2000, rng=1
    )
    assert found["miou"]["difference"] == pytest.approx(float(np.mean(sides[0] - sides[1])), abs=1e-9)
    assert math.isclose(found["miou"]["p_value"], truth.pvalue, abs_tol=0.03)


def test_gates_end_with_5_and_stand_on_the_page(two: tuple[Path, Done, Done]) -> None:
    folder, _, _ = two
    page = folder / "compare.html"
    gates = ["--fail-if", "r1@0.5 < -0.001", "--fail-if", "value(map) < 0.01"]
    done = invoke("compare", str(folder / "b"), str(folder / "a"), *gates, "--page", str(page), "--json")
    assert done.returncode == 5
    assert done.stderr.startswith("clipmill: gate 'r1@0.5 < -0.001': failed, worse/r1@0.5 is 0.")
    assert len(done.stderr.splitlines()) == 1
    data = json.loads(done.stdout)
    assert [gate["failed"] for gate in data["gates"]] == [True, False]
    text = page.read_text()
    assert data["page_bytes"] == len(text.encode())
    for word in ("✗ failed", "✓ passed", "r1@0.5 &lt; -0.001", "Where they differ", "Second ahead"):
        assert word in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_what_cannot_be_compared_is_one_line(two: tuple[Path, Done, Done], shared_data: Path, tmp_path: Path) -> None:
    folder, _, _ = two
    done = invoke("compare", str(folder / "a"), str(folder / "none"))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "compare" in done.stderr
    official = shared_data / "evaluation" / "moment-detr-qvhighlights"
    other: dict[str, Any] = FAST | {
        "task": "highlights",
        "ground_truth": str(official / "highlight_val_release.jsonl"),
        "predictions": str(official / "sample_val_preds.jsonl"),
    }
    evaluate(tmp_path, other)
    done = invoke("compare", str(folder / "a"), str(tmp_path / "out"))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "expected an evaluation of task moments, got task highlights" in done.stderr


def test_another_protocol_is_told_and_what_one_side_lacks_is_named(
    two: tuple[Path, Done, Done], shared_data: Path, tmp_path: Path
) -> None:
    folder, _, _ = two
    official = shared_data / "evaluation" / "moment-detr-qvhighlights"
    config = FAST | {
        "task": "moments",
        "ground_truth": str(official / "highlight_val_release.jsonl"),
        "predictions": str(official / "sample_val_preds.jsonl"),
        "iou_thresholds": [0.3, 0.5],
    }
    evaluate(tmp_path, config)
    refused = invoke("compare", str(folder / "a"), str(tmp_path / "out"))
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "expected the same protocol" in refused.stderr
    done = invoke("compare", str(folder / "a"), str(tmp_path / "out"), "--other-data")
    assert done.returncode == 0
    assert "note: not the same protocol" in done.stdout
    assert "note: not compared, for the other run has no such metric: r1@0.7" in done.stdout
    assert "note: not compared, for this run has no such metric: r1@0.3" in done.stdout


def test_against_and_gates_stand_in_results_and_page(two: tuple[Path, Done, Done], shared_data: Path) -> None:
    folder, _, second = two
    official = shared_data / "evaluation" / "moment-detr-qvhighlights"
    config = FAST | {
        "task": "moments",
        "ground_truth": str(official / "highlight_val_release.jsonl"),
        "predictions": str(folder / "worse.jsonl"),
        "out": str(folder / "c"),
    }
    path = folder / "again.yaml"
    path.write_text(yaml.safe_dump(config))
    gates = ["--fail-if", "r1@0.5 < -0.001", "--fail-if", "value(coverage) < 0.99"]
    done = invoke("evaluate", "--config", str(path), "--against", str(folder / "a"), *gates)
    assert done.returncode == 5
    results = json.loads((folder / "c" / "results.json").read_text())
    assert results["runs"] == second.results["runs"]
    comparison = results["comparison"]
    assert str(folder) not in json.dumps(results)
    rows = {row["metric"]: row for row in comparison["differences"]}
    assert rows["worse/r1@0.5"]["difference"] < 0
    assert rows["worse/r1@0.5"]["p_value"] < 0.05
    assert [(gate["metric"], gate["failed"]) for gate in comparison["gates"]] == [
        ("worse/r1@0.5", True),
        ("worse/coverage", False),
    ]
    text = (folder / "c" / "report.html").read_text()
    assert 'id="comparison"' in text
    assert "✗ failed" in text
    assert f"{rows['worse/r1@0.5']['difference']:+.4f}" in text
    # Compared with something else the results of this evaluation are the same for whoever compares with it.
    again = invoke("compare", str(folder / "c"), str(folder / "b"), "--json")
    assert {row["difference"] for row in json.loads(again.stdout)["comparison"]} == {0.0}
