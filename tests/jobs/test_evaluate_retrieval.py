"""``clipmill evaluate`` of retrieval: against brute force, in a process of its own, and from Python."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import clipmill
from clipmill.jobs.train import run_train
from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery, Queries
from clipmill.schemas.errors import ConfigError, UsageError
from clipmill.stores import FeatureStore
from tests.command_line import invoke
from tests.jobs.evaluation_command import Done, evaluate, refused
from tests.pipelines.reports.page_text import page_text

ROOT = Path(__file__).resolve().parents[2]


def plain(blobs: Path, folder: Path, *arguments: str, **keys: Any) -> Done:
    """Plain cosine of two features of one network."""
    data = {"store": str(blobs / "store"), "image": "query", "video": "frames", "split": {"test_fraction": 0.6}}
    return evaluate(folder, {"data": data, "cutoffs": [1, 2], "resamples": 20} | keys, *arguments)


def average_precision(labels: list[str], label: str) -> float:
    hits = [rank for rank, found in enumerate(labels, start=1) if found == label]
    return float(np.mean([(n + 1) / rank for n, rank in enumerate(hits)])) if hits else 0.0


# --- numbers --------------------------------------------------------------------------------------


def test_plain_cosine_is_what_brute_force_finds(blobs: Path, tmp_path: Path) -> None:
    done = plain(blobs, tmp_path)
    assert done.exit_code == 0, done.err
    run = done.run("cosine")
    store = FeatureStore(str(blobs / "store"))
    clips = {f"{clip.video_id}#{clip.clip}": clip for clip in store["frames"].clips()}
    tested = [clips[name] for name in run["units"]["ids"]]
    assert 2 <= len(tested) < len(clips)
    rows = store["frames"].clip_means(tested).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = []
    for clip in tested:
        query = store["query"][clip.video_id].values[0].astype(np.float64)
        order = np.argsort(-(rows @ query), kind="stable")
        labels = [str(tested[item].label) for item in order]
        expected.append([average_precision(labels[:k], str(clip.label)) for k in (1, 2)])
    assert np.allclose([run["units"]["values"][f"map@{k}"] for k in (1, 2)], np.transpose(expected))
    assert run["metrics"]["map@2"] == pytest.approx(np.mean([values[1] for values in expected]))
    assert set(run["baselines"]) == {"chance", "own_clip_first"}, "alone, plain cosine is no baseline of anything"
    assert done.results["about"]["image"] == store["query"].recipe.fingerprint
    assert "retrieval" in done.out.splitlines()[0]


def test_a_models_spaces_are_runs_and_plain_cosine_is_their_baseline(blobs: Path, tmp_path: Path) -> None:
    done = evaluate(tmp_path, {"run": str(blobs / "run"), "cutoffs": [1, 2], "report": True})
    assert done.exit_code == 0, done.err
    assert set(done.results["runs"]) == {"appearance", "video", "combined"}
    assert done.results["about"]["model"] == "map_ivr"
    alone = plain(blobs, tmp_path / "plain", data={"store": str(blobs / "store"), "image": "query", "video": "frames"})
    assert done.run("video")["baselines"]["cosine"]["map@2"] == alone.run("cosine")["metrics"]["map@2"]
    table = [line.split()[0] for line in done.out.splitlines()[2:8]]
    assert table == ["appearance", "video", "combined", "(chance)", "(own_clip_first)", "(cosine)"]
    without = evaluate(tmp_path, {"run": str(blobs / "run"), "baselines": False}, out="bare")
    assert all(run["baselines"] == {} for run in without.results["runs"].values())


def test_cosine_of_the_images_network_stands_beside_a_model_whose_videos_are_of_another(
    blobs: Path, tmp_path: Path
) -> None:
    small = {"appearance_dim": 8, "motion_dim": 8, "latent_dim": 4, "video_hidden": [8], "image_hidden": [8]}
    data = {"store": str(blobs / "store"), "image": "query", "video": "other", "split": {"test_fraction": 0.6}}
    config = {
        "data": data,
        "model": {"name": "map_ivr", "options": small | {"decoder_hidden": [8], "num_samples": 3}},
        "loop": {"epochs": 1, "batch": 2, "device": "cpu", "threads": 1},
        "out": str(tmp_path / "run"),
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    run_train(str(tmp_path / "train.yaml"), [])
    keys = {"run": str(tmp_path / "run"), "cutoffs": [1, 2], "resamples": 20}
    named = evaluate(tmp_path, keys | {"cosine_baseline": "frames", "report": True}, out="named")
    alone = plain(blobs, tmp_path / "plain").run("cosine")["metrics"]
    for run in named.results["runs"].values():
        assert run["baselines"]["cosine"] == {name: alone[name] for name in run["baselines"]["cosine"]}
    below = [name for name, run in named.results["runs"].items() if run["metrics"]["map@2"] < alone["map@2"]]
    assert below, "a model of one epoch finds less than stored vectors do"
    [note] = [line for line in named.out.splitlines() if "Below plain cosine" in line]
    assert all(f"{name} " in note for name in below)
    assert "Below plain cosine" in page_text((tmp_path / "named" / "report.html").read_text())
    refused(evaluate(tmp_path, keys | {"cosine_baseline": "other"}), "a feature of the network", "got other", "false")
    refused(evaluate(tmp_path, keys | {"cosine_baseline": "frame"}), "frame")


def test_a_querys_own_clip_can_be_left_out_and_the_table_says_what_counts(blobs: Path, tmp_path: Path) -> None:
    published = plain(blobs, tmp_path, report=True)
    assert published.results["protocol"]["exclude"] == "none"
    assert "A query's own clip is in the gallery and counts as a hit, as in the published protocol" in published.out
    assert published.run()["baselines"]["own_clip_first"]["map@1"] == 1.0
    assert "own clip is in the gallery and correct, as published" in page_text(
        (tmp_path / "out" / "report.html").read_text("utf-8")
    )
    store = FeatureStore(str(blobs / "store"))
    clips = {f"{clip.video_id}#{clip.clip}": clip for clip in store["frames"].clips()}
    tested = [clips[name] for name in published.run("cosine")["units"]["ids"]]
    rows = store["frames"].clip_means(tested).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = []
    for number, clip in enumerate(tested):
        scores = rows @ store["query"][clip.video_id].values[0].astype(np.float64)
        order = [item for item in np.argsort(-scores, kind="stable").tolist() if item != number]
        expected.append(average_precision([str(tested[item].label) for item in order[:2]], str(clip.label)))
    for exclude in ("own_clip", "own_video"):  # each of these videos is one clip
        done = plain(blobs, tmp_path / exclude, exclude=exclude, report=True)
        assert done.exit_code == 0, done.err
        run = done.run("cosine")
        assert np.allclose(run["units"]["values"]["map@2"], expected)
        assert set(run["baselines"]) == {"chance"}
        # Two of each label are tested: one relevant clip among the three others.
        assert run["baselines"]["chance"]["map@1"] == pytest.approx(1 / 3)
        assert f"(exclude: {exclude})" in done.out
        assert "of a query is not ranked" in page_text((tmp_path / exclude / "out" / "report.html").read_text("utf-8"))
    against = plain(blobs, tmp_path / "gate", "--against", str(tmp_path / "own_clip" / "out"))
    refused(against, "the same ground truth")


def test_exclusion_from_python_needs_ids_and_videos() -> None:
    rng = np.random.default_rng(0)
    sides = {name: {"vectors": rng.random((6, 3)), "labels": list("aabbab")} for name in ("queries", "gallery")}
    score = clipmill.evaluate("retrieval", cutoffs=[1], **sides)
    assert set(score.run().baselines) == {"chance"}, "without ids nobody knows which item is whose own"
    with pytest.raises(UsageError, match="ids that say which items are one clip"):
        clipmill.evaluate("retrieval", cutoffs=[1], exclude="own_clip", **sides)
    with pytest.raises(UsageError, match=r"queries videos: expected 6"):
        clipmill.evaluate("retrieval", cutoffs=[1], exclude="own_video", **sides)
    sides = {name: side | {"videos": list("uuvvww")} for name, side in sides.items()}
    score = clipmill.evaluate("retrieval", cutoffs=[1], exclude="own_video", **sides)
    assert score.protocol["exclude"] == "own_video"


def test_the_page_has_images_lineage_and_the_time_of_the_training(blobs: Path, tmp_path: Path) -> None:
    done = evaluate(tmp_path, {"run": str(blobs / "run"), "cutoffs": [1, 2], "report": True})
    html = (tmp_path / "out" / "report.html").read_text("utf-8")
    text = page_text(html)
    assert "data:image/webp;base64," in html
    assert "data:image/jpeg;base64," in html
    assert f"{done.run('combined')['metrics']['map@2']:.3f}" in text
    assert "train the last call, up to epoch 2" in text, "of the run's report.json; a checkpoint holds no times"
    assert "not_a_video 1" in text
    weights = FeatureStore(str(blobs / "store"))["query"].recipe.weights.sha256 or "none"
    assert weights[:12] in text
    assert "10 frames: 0, 1, 2" in text
    assert "baseline: cosine" in text
    assert f"clipmill verify {blobs / 'store'}" in text


def test_the_command_in_a_process_of_its_own_prints_json_alone(blobs: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "clipmill", "evaluate", "--config", "examples/demo/evaluate.yaml", "--json",
         "--set", f"run={blobs / 'run'}", "--set", f"out={tmp_path}", "--set", "cosine_baseline=true"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["version"] == 2
    assert set(data["runs"]) == {"appearance", "video", "combined"}
    assert "units" not in data["runs"]["video"]
    assert data["report_bytes"] == (tmp_path / "report.html").stat().st_size
    assert data["seconds"] > 0
    assert data["peak_memory_bytes"] > 1 << 20


def test_results_lie_beside_the_run_and_old_keys_are_read(blobs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(blobs / "run", run)
    score = clipmill.evaluate("retrieval", run=run, cutoffs=[1], examples=0)
    assert not (run / "evaluation").exists()
    path = tmp_path / "old.yaml"
    path.write_text(f"run: {run}\nat: [1]\nreport: false\n")
    done = invoke("evaluate", "--config", str(path))
    assert done.returncode == 0, done.stderr
    assert "'at' is now 'cutoffs'" in done.stderr
    results = json.loads((run / "evaluation" / "results.json").read_text())
    assert results["runs"]["video"]["metrics"]["map@1"] == round(score.run("video").metrics["map@1"], 10)


# --- what is refused ------------------------------------------------------------------------------


def test_wrong_use_is_one_line(blobs: Path, tmp_path: Path) -> None:
    refused(evaluate(tmp_path, {"task": "retrieval"}), "expected run", "or data")
    refused(plain(blobs, tmp_path, spaces=["video"]), "evaluation spaces: expected cosine, got video")
    refused(plain(blobs, tmp_path, published="kinetics"), "published", "activitynet")
    refused(plain(blobs, tmp_path, cutoffs=[0]), "cut-offs from 1 up")
    other = {"store": str(blobs / "store"), "image": "other", "video": "frames"}
    refused(evaluate(tmp_path, {"data": other}), "give run, or features of one network")
    refused(evaluate(tmp_path, {"run": str(blobs / "run"), "data": other}), "which it was trained on")
    split = other | {"image": "query", "split": {"test_fraction": 0.6}}
    refused(evaluate(tmp_path, {"run": str(blobs / "run"), "data": split}), "the split it was trained with")
    refused(evaluate(tmp_path, {"queries": "a", "gallery": "b"}), "data in memory, from Python alone")


# --- from Python ----------------------------------------------------------------------------------


def arrays(num: int = 24) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(0)
    codes = np.arange(num) % 3
    centres = 2 * rng.standard_normal((3, 8))
    sides = [{"vectors": centres[codes] + rng.standard_normal((num, 8)), "labels": codes.tolist()} for _ in range(2)]
    return sides[0], sides[1]


def test_arrays_are_scored_by_cosine(tmp_path: Path) -> None:
    queries, gallery = arrays()
    score = clipmill.evaluate("retrieval", queries=queries, gallery=gallery, cutoffs=[5], out=tmp_path, report=True)
    run = score.run()
    left, right = (side["vectors"] / np.linalg.norm(side["vectors"], axis=1)[:, None] for side in (queries, gallery))
    expected = []
    for row, label in zip(left, queries["labels"], strict=True):
        order = np.argsort(-(right @ row), kind="stable")[:5]
        expected.append(average_precision([str(gallery["labels"][item]) for item in order], str(label)))
    assert run.name == "cosine"
    assert run.metrics["map@5"] == pytest.approx(np.mean(expected))
    assert run.units is not None
    assert run.units.values["map@5"] == pytest.approx(expected)
    assert 0 < run.baselines["chance"]["map@5"] < run.metrics["map@5"]
    assert json.loads((tmp_path / "results.json").read_text())["runs"]["cosine"]["headline"] == "map@5"
    assert f"{run.metrics['map@5']:.3f}" in page_text((tmp_path / "report.html").read_text())


def test_named_arrays_are_one_space_each_and_records_are_taken(tmp_path: Path) -> None:
    queries, gallery = arrays()
    several = [side | {"vectors": {"a": side["vectors"], "b": -side["vectors"]}} for side in (queries, gallery)]
    score = clipmill.evaluate("retrieval", queries=several[0], gallery=several[1])
    assert [run.name for run in score.runs] == ["a", "b"]
    ids = [f"{n:02d}" for n in range(24)]
    labels = [str(label) for label in queries["labels"]]
    records = clipmill.evaluate(
        "retrieval",
        queries=Queries(ids, labels, {"a": queries["vectors"]}),
        gallery=Gallery(ids, labels, {"a": gallery["vectors"]}),
    )
    assert records.run().metrics == score.run("a").metrics
    only = clipmill.evaluate("retrieval", queries=several[0], gallery=several[1], spaces=["b"])
    assert only.run().metrics == score.run("b").metrics


def test_arrays_that_do_not_fit_are_one_line_errors() -> None:
    queries, gallery = arrays()
    with pytest.raises(
        UsageError, match="queries given: expected a mapping of vectors, labels, ids, videos, got ndarray"
    ):
        clipmill.evaluate("retrieval", queries=queries["vectors"], gallery=gallery)
    with pytest.raises(UsageError, match=r"gallery cosine: expected vectors \[n, D\], got \[8\]"):
        clipmill.evaluate("retrieval", queries=queries, gallery=gallery | {"vectors": np.zeros(8)})
    with pytest.raises(UsageError, match="expected a space that queries and gallery share, got cosine and b"):
        clipmill.evaluate("retrieval", queries=queries, gallery=gallery | {"vectors": {"b": gallery["vectors"]}})
    with pytest.raises(UsageError, match="queries '00': expected a label, got none"):
        clipmill.evaluate("retrieval", queries={"vectors": queries["vectors"]}, gallery=gallery)
    with pytest.raises(UsageError, match="gallery cosine: expected 23"):
        clipmill.evaluate("retrieval", queries=queries, gallery=gallery | {"labels": [0] * 23, "ids": list(range(23))})
    with pytest.raises(ConfigError, match="queries and gallery go together"):
        clipmill.evaluate("retrieval", queries=queries)
