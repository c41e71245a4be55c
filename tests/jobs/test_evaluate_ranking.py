"""Ranked lists and landmarks through ``clipmill evaluate``: trec_eval's own outputs, the benchmarks' protocols."""

import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytrec_eval

from clipmill.stores.formats.revisited_oxford import read_revisited_oxford
from tests.jobs.evaluation_command import evaluate, refused

FAST = {"resamples": 20}


@pytest.fixture(scope="module")
def official(shared_data: Path) -> Path:
    return shared_data / "evaluation" / "trec_eval"


def trec(folder: Path) -> dict[str, Any]:
    return FAST | {
        "task": "ranking",
        "ground_truth": str(folder / "qrels.test"),
        "predictions": str(folder / "results.test"),
    }


def printed(path: Path) -> dict[str, dict[str, str]]:
    """Measure to query (or ``all``) to value, of trec_eval's output."""
    values: dict[str, dict[str, str]] = {}
    for line in path.read_text().splitlines():
        name, query, value = line.split()
        values.setdefault(name, {})[query] = value
    return values


def test_every_measure_that_is_asked_for_is_printed(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "evaluation" / "trec_eval"
    config = {
        "task": "ranking",
        "ground_truth": str(folder / "qrels.test"),
        "predictions": str(folder / "results.test"),
        "measures": ["official", "ndcg_cut_7", "success"],
        "resamples": 20,
    }
    done = evaluate(tmp_path, config)
    printed = {name for line in done.out.splitlines() if line.startswith("  run ") for name in line.split()}
    official = {line.split()[0] for line in (folder / "out.test").read_text().splitlines()} - {"runid"}
    assert official | {"ndcg_cut_7", "success_1", "success_5", "success_10"} <= printed


def test_reproduces_trec_evals_own_output_without_options(official: Path, tmp_path: Path) -> None:
    done = evaluate(tmp_path, trec(official))
    metrics = done.run()["metrics"]
    for name, values in printed(official / "out.test").items():
        if name != "runid":
            assert f"{metrics[name]:.4f}" == f"{float(values['all']):.4f}", name
    assert f"{metrics['map']:.4f}" == "0.1785"
    assert "map 0.1785" in done.out


def test_reproduces_all_measures_of_trec_eval_per_query(official: Path, tmp_path: Path) -> None:
    done = evaluate(tmp_path, trec(official) | {"measures": ["all"]})
    metrics, units = done.run()["metrics"], done.run()["units"]
    compared = 0
    for name, values in printed(official / "out.test.aq").items():
        if name not in metrics or name == "num_q":
            continue
        assert f"{metrics[name]:.4f}" == f"{float(values['all']):.4f}", name
        for query, value in values.items():
            if query != "all" and name in units["values"]:
                got = units["values"][name][units["ids"].index(query)]
                assert f"{got:.4f}" == f"{float(value):.4f}", (name, query)
                compared += 1
    assert compared > 200


def test_the_baseline_is_the_same_documents_in_random_order(official: Path, tmp_path: Path) -> None:
    run = evaluate(tmp_path, trec(official)).run()
    assert run["baselines"]["shuffled"]["num_rel_ret"] == run["metrics"]["num_rel_ret"]
    assert run["baselines"]["shuffled"]["map"] < run["metrics"]["map"] / 2


def small(folder: Path, qrels: str, run: str) -> dict[str, Any]:
    (folder / "qrels.txt").write_text(qrels)
    (folder / "run.txt").write_text(run)
    return FAST | {
        "task": "ranking",
        "ground_truth": str(folder / "qrels.txt"),
        "predictions": str(folder / "run.txt"),
        "measures": ["map", "P_1"],
    }


def test_every_option_of_trec_eval_changes_the_number_as_it_should(tmp_path: Path) -> None:
    config = small(
        tmp_path,
        "1 0 a 1\n1 0 b 2\n1 0 z 0\n2 0 a 1\n",
        "1 Q0 a 1 0.5 t\n1 Q0 c 2 0.9 t\n1 Q0 b 3 0.5 t\n9 Q0 a 1 1 t\n",
    )
    # Ranked c, b, a: equal scores rank by id, descending.
    done = evaluate(tmp_path, config)
    assert done.run()["metrics"]["map"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert done.run()["counts"] == {"num_queries": 1, "num_without_judgements": 1, "num_without_results": 1}
    assert "1 only in the qrels ('2'); 1 only in the run ('9')" in done.out

    def got(**changes: Any) -> float:
        value: float = evaluate(tmp_path, config | {"baselines": False} | changes).run()["metrics"]["map"]
        return value

    assert got(complete=True) == pytest.approx((1 / 2 + 2 / 3) / 4)
    assert got(relevance_level=2) == pytest.approx(1 / 2)
    assert got(relevance_level=2, ties="ascending") == pytest.approx(1 / 3)
    assert got(max_documents=2) == pytest.approx(1 / 4)
    assert got(judged_only=True) == 1.0


def test_single_precision_ties_as_in_the_c_code_of_older_versions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = 0.7 + rng.integers(0, 40, (3, 60)) * 1e-8
    qrels = {f"q{q}": {f"d{d}": int(rng.integers(0, 2)) for d in range(60)} for q in range(3)}
    run = {f"q{q}": {f"d{d}": float(scores[q, d]) for d in range(60)} for q in range(3)}
    lines = [f"{q} 0 {d} {value}" for q, items in qrels.items() for d, value in items.items()]
    ranked = [f"{q} Q0 {d} 1 {value!r} x" for q, items in run.items() for d, value in items.items()]
    config = small(tmp_path, "\n".join(lines) + "\n", "\n".join(ranked) + "\n") | {"measures": ["map"]}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"map"}).evaluate(run)
    single = evaluate(tmp_path, config | {"precision": "single"}).run()["units"]
    for query, value in zip(single["ids"], single["values"]["map"], strict=True):
        assert value == pytest.approx(theirs[query]["map"], abs=1e-9)
    double = evaluate(tmp_path, config, out="double").run()["units"]
    assert double["values"]["map"] != single["values"]["map"]


def test_results_are_the_same_bytes_for_any_order_of_lines(official: Path, tmp_path: Path) -> None:
    contents = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        for name in ("qrels.test", "results.test"):
            lines = (official / name).read_text().splitlines(keepends=True)
            random.Random(seed).shuffle(lines)
            (folder / name).write_text("".join(lines))
        contents.append(evaluate(folder, trec(folder)).results_bytes)
    assert contents[0] == contents[1]
    assert contents[0]


def test_an_unknown_measure_names_the_near_ones(official: Path, tmp_path: Path) -> None:
    refused(evaluate(tmp_path, trec(official) | {"measures": ["ndgc"]}), "ndgc", "'ndcg'")


def test_queries_or_documents_without_any_in_common_are_listed(tmp_path: Path) -> None:
    refused(evaluate(tmp_path, small(tmp_path, "1 0 a 1\n", "2 Q0 a 1 1 t\n")), "1 only in the qrels ('1')")
    refused(evaluate(tmp_path, small(tmp_path, "1 0 a 1\n", "1 Q0 b 1 1 t\n")), "documents of the qrels", "'b'")


def test_swapped_qrels_and_run_are_told(official: Path, tmp_path: Path) -> None:
    config = trec(official)
    swapped = config | {"ground_truth": config["predictions"], "predictions": config["ground_truth"]}
    refused(evaluate(tmp_path, swapped), "TREC qrels: lines of", "6 columns")


# Checked against the revisited benchmark's own code: list J1 P1 N1 P2 J2 N2 N3 P3 N4 with positives P1 to P4.
IMAGES = ["J1", "P1", "N1", "P2", "J2", "N2", "N3", "P3", "N4", "P4", "H1"]
RANKED = ["J1", "P1", "N1", "P2", "J2", "N2", "N3", "P3", "N4"]


def revisited(folder: Path) -> dict[str, Any]:
    place = {name: position for position, name in enumerate(IMAGES)}
    first = {"easy": ["P1", "P2", "P3", "P4"], "hard": ["H1"], "junk": ["J1", "J2"]}
    gnd = [{"bbx": [0, 0, 1, 1], **{key: [place[name] for name in names] for key, names in first.items()}}]
    gnd.append({"bbx": [0, 0, 1, 1], "easy": [], "hard": [place["P1"]], "junk": []})
    (folder / "gnd.json").write_text(json.dumps({"imlist": IMAGES, "qimlist": ["q1", "q2"], "gnd": gnd}))
    (folder / "ranks.json").write_text(json.dumps({"q1": RANKED, "q2": ["N1", "P1"]}))
    return FAST | {
        "task": "landmarks",
        "ground_truth": str(folder / "gnd.json"),
        "predictions": str(folder / "ranks.json"),
    }


def test_revisited_protocols_leave_out_junk_and_queries_without_positives(tmp_path: Path) -> None:
    done = evaluate(tmp_path, revisited(tmp_path))
    metrics = done.run()["metrics"]
    assert metrics["easy:map"] == pytest.approx(0.508333, abs=1e-6)
    assert (metrics["easy:mp@1"], metrics["easy:mp@5"], metrics["easy:mp@10"]) == pytest.approx((1, 0.4, 0.5))
    # Medium: H1 is a fifth positive, never found; q2 has P1 at rank 1 of 2: trapezoid 1/4.
    assert metrics["medium:map"] == pytest.approx((0.508333 * 4 / 5 + 0.25) / 2, abs=1e-6)
    assert metrics["hard:map"] == pytest.approx((0 + 0.25) / 2)
    assert done.run()["counts"]["easy:num_scored"] == 1
    rectangle = evaluate(tmp_path, revisited(tmp_path) | {"ap": "rectangle", "protocols": ["easy"]}).run()["metrics"]
    assert rectangle == {"easy:map": pytest.approx(0.541667, abs=1e-6)} | {
        name: rectangle[name] for name in ("easy:mp@1", "easy:mp@5", "easy:mp@10", "coverage")
    }
    assert 0 < done.run()["baselines"]["chance"]["medium:map"] < 1


def test_ranks_as_npy_and_ground_truth_as_published_give_the_same(tmp_path: Path) -> None:
    config = revisited(tmp_path)
    expected = evaluate(tmp_path, config).run()["metrics"]
    truth = read_revisited_oxford(tmp_path / "gnd.json")
    gnd = [
        {"bbx": list(q.box), "easy": list(q.easy), "hard": list(q.hard), "junk": list(q.junk)} for q in truth.queries
    ]
    published = pickle.dumps(
        {"imlist": list(truth.images), "qimlist": list(truth.query_images), "gnd": gnd}, protocol=2
    )
    (tmp_path / "gnd_roxford5k.pkl").write_bytes(published)
    place = {name: position for position, name in enumerate(IMAGES)}
    rest = [["P4", "H1"], ["J1", "P2", "J2", "N2", "N3", "P3", "N4", "P4", "H1"]]
    full = [[*RANKED, *rest[0]], ["N1", "P1", *rest[1]]]
    np.save(tmp_path / "ranks.npy", np.array([[place[name] for name in row] for row in full]).T)
    (tmp_path / "full.json").write_text(json.dumps({"q1": full[0], "q2": full[1]}))
    files = {"ground_truth": str(tmp_path / "gnd_roxford5k.pkl"), "predictions": str(tmp_path / "ranks.npy")}
    from_npy = evaluate(tmp_path, config | files).run()["metrics"]
    from_json = evaluate(tmp_path, config | {"predictions": str(tmp_path / "full.json")}).run()["metrics"]
    assert from_npy == from_json
    assert from_npy["easy:map"] > expected["easy:map"]


def test_the_old_ground_truth_as_a_pickle_has_one_protocol(tmp_path: Path) -> None:
    config = revisited(tmp_path)
    place = {name: position for position, name in enumerate(IMAGES)}
    lists = {"ok": ["P1", "P2", "P3", "P4"], "junk": ["J1", "J2"]}
    gnd = [{"bbx": [0, 0, 1, 1], **{key: [place[name] for name in names] for key, names in lists.items()}}]
    published = pickle.dumps({"imlist": IMAGES, "qimlist": ["q1"], "gnd": gnd}, protocol=2)
    (tmp_path / "gnd_oxford5k.pkl").write_bytes(published)
    metrics = evaluate(tmp_path, config | {"ground_truth": str(tmp_path / "gnd_oxford5k.pkl")}).run()["metrics"]
    assert metrics["good:map"] == pytest.approx(0.508333, abs=1e-6)


def oxford(folder: Path) -> dict[str, Any]:
    root = folder / "gt"
    root.mkdir(exist_ok=True)
    (root / "tower_1_query.txt").write_text("oxc1_tower_000001 136.5 34.1 648.5 955.7\n")
    (root / "tower_1_good.txt").write_text("tower_000001\nP1\n")
    (root / "tower_1_ok.txt").write_text("P2\n")
    (root / "tower_1_junk.txt").write_text("")
    (folder / "run.txt").write_text(
        "".join(
            f"tower_1 Q0 {name} 1 {score} t\n"
            for name, score in (("tower_000001", 9), ("N1", 8), ("P1", 7), ("P2", 7), ("N2", 6))
        )
    )
    return FAST | {"task": "landmarks", "ground_truth": str(root), "predictions": str(folder / "run.txt")}


def test_old_oxford_counts_good_and_ok_and_the_query_image_as_told(tmp_path: Path) -> None:
    config = oxford(tmp_path) | {"ap": "rectangle"}
    official = evaluate(tmp_path, config).run()["metrics"]["good:map"]
    assert official == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    junk = evaluate(tmp_path, config | {"query_image": "junk"}).run()["metrics"]["good:map"]
    assert junk == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_landmark_errors_are_told(tmp_path: Path) -> None:
    config = revisited(tmp_path)
    refused(evaluate(tmp_path, config | {"protocols": ["good"]}), "protocols", "easy, medium, hard")
    (tmp_path / "ranks.json").write_text(json.dumps({"q1": ["P1", "P1"]}))
    refused(evaluate(tmp_path, config), "query q1", "each image once")
    (tmp_path / "ranks.json").write_text(json.dumps({"q1": ["x.jpg"]}))
    refused(evaluate(tmp_path, config), "images of the ground truth", "'x.jpg'")
    np.save(tmp_path / "ranks.npy", np.zeros((2, 11), np.int64))
    refused(evaluate(tmp_path, config | {"predictions": str(tmp_path / "ranks.npy")}), "a column per query", "[2, 11]")
    other = oxford(tmp_path)
    (tmp_path / "gt" / "tower_1_junk.txt").unlink()
    refused(evaluate(tmp_path, other), "all four files of query tower_1", "tower_1_junk.txt")
