"""``task: scene_retrieval``: Stanford I2V's files from the command line, against numbers made by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from clipmill.pipelines.evaluation.tasks.base import Sources
from clipmill.pipelines.evaluation.tasks.evaluate import evaluate_task
from clipmill.pipelines.evaluation.tasks.registry import task
from clipmill.schemas.config_scene_retrieval import SceneRetrievalConfig
from tests.jobs.evaluation_command import Done, evaluate, refused
from tests.pipelines.reports.page_text import page_text

# Query 0 has three clips to find, one of them annotated twice; query 1 has one, and no list.
TRUTH = "0 a/01.mp4 0:10 0:12 b.mp4 0:30 0:30 a/01.mp4 0:20 0:20 c.mp4 0:05 0:06\n1 01.mp4 0:00 0:01\n"
RANKED = "Query 0\na/01.mp4\nx.mp4\nx.mp4\nb.mp4\ny.mp4\nc.mp4\nQuery 7\nz.mp4\n"


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def scenes(folder: Path, predictions: str = RANKED, **keys: Any) -> Done:
    config = {
        "task": "scene_retrieval",
        "ground_truth": written(folder / "truth.txt", TRUTH),
        "predictions": written(folder / "ranked.txt", predictions),
        "resamples": 20,
    }
    return evaluate(folder, config | keys)


def test_ranked_clips_score_as_published(tmp_path: Path) -> None:
    done = scenes(tmp_path)
    assert done.exit_code == 0, done.err
    run = done.run()
    # The repeated x.mp4 takes one place: a/01 at rank 1, b at 3, c at 5.
    query_0 = (1 + 2 / 3 + 3 / 5) / 3
    assert run["metrics"] == {"map@100": pytest.approx(query_0 / 2), "p@1": 0.5, "coverage": 0.5}
    assert run["units"] == {
        "kind": "query", "ids": ["0", "1"], "values": {"map@100": [pytest.approx(query_0), 0.0], "p@1": [1.0, 0.0]},
    }  # fmt: skip
    assert run["counts"] == {"num_queries": 2, "num_without_list": 1, "num_without_judgement": 1}
    assert done.results["data"] | {"fingerprint": ""} == {"fingerprint": "", "num_clips": 4, "num_queries": 2}
    assert "scene_retrieval (scenes)" in done.out
    assert f"{query_0 / 2:.4f}" in done.out
    short = scenes(tmp_path, cutoff=3).run()
    assert short["metrics"]["map@3"] == pytest.approx((1 + 2 / 3) / 3 / 2)
    assert short["baselines"] == {}


def test_of_ranked_frames_a_clip_has_the_place_of_its_best(tmp_path: Path) -> None:
    # Best scores of query 0: a/01 0.9, x 0.8, b 0.7, y 0.6, c 0.5; each clip has worse frames as well.
    best = {"a/01.mp4": 0.9, "x.mp4": 0.8, "b.mp4": 0.7, "y.mp4": 0.6, "c.mp4": 0.5}
    lines = [f"0 Q0 {clip}#{k} 0 {value - k / 4} tag" for clip, value in best.items() for k in range(3)]
    run = "".join(f"{line}\n" for line in reversed(lines))
    frames = scenes(tmp_path, run, scene_separator="#")
    clips = scenes(tmp_path)
    assert frames.run()["metrics"] == clips.run()["metrics"]
    assert frames.results["protocol"]["scene_separator"] == "#"
    assert scenes(tmp_path, run, scene_separator="#", cutoff=2).run()["metrics"]["map@2"] == pytest.approx(1 / 3 / 2)
    refused(scenes(tmp_path, scene_separator="#"), "names <clip>#<frame>", "'a/01.mp4'")


def test_a_release_is_checked_and_brings_its_number_of_clips(tmp_path: Path) -> None:
    refused(
        scenes(tmp_path, release="full"), "229 queries, 1,280 pairs and 1,188 clips", "2 queries, 4 pairs and 4 clips"
    )
    # As many queries, pairs and clips as the full release has: clips 0 to 1187 once, and 92 of them for a second query.
    pairs = [(n % 229, n) for n in range(1188)] + [((n + 1) % 229, n) for n in range(92)]
    rows: dict[int, list[str]] = {}
    for query, clip in pairs:
        rows.setdefault(query, []).append(f"{clip}.mp4 0:01 0:02")
    truth = written(tmp_path / "full.txt", "".join(f"{query} {' '.join(spans)}\n" for query, spans in rows.items()))
    lists = "".join(f"Query {query}\n{spans[0].split()[0]}\n" for query, spans in rows.items())
    for release, size in (("full", 84_443), ("600k", 3_401)):
        done = scenes(tmp_path, lists, ground_truth=truth, release=release)
        assert done.exit_code == 0, done.err
        assert (done.results["protocol"]["num_scenes"], done.results["protocol"]["release"]) == (size, release)
        chance = sum(len(spans) / size for spans in rows.values()) / 229
        assert done.run()["baselines"]["chance"]["p@1"] == pytest.approx(chance)
    refused(scenes(tmp_path, lists, ground_truth=truth, release="light"), "78 queries, 493 pairs and 454 clips")


def test_chance_is_exact_where_the_size_of_the_collection_is_known(tmp_path: Path) -> None:
    found = scenes(tmp_path, num_scenes=4, cutoff=4).run()["baselines"]["chance"]
    # Of 4 clips, 3 to find: the miss is at rank 1, 2, 3 or 4. Of 1 to find: (1 + 1/2 + 1/3 + 1/4) / 4.
    lists = ([0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0])
    three = sum(sum(sum(row[: r + 1]) / (r + 1) for r in range(4) if row[r]) / 3 for row in lists) / 4
    assert found["map@4"] == pytest.approx((three + 25 / 12 / 4) / 2)
    assert found["p@1"] == pytest.approx((3 / 4 + 1 / 4) / 2)
    refused(scenes(tmp_path, num_scenes=2), "num_scenes", "at least the 3 clips")


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        # a/01: 9 to 13 and 19 to 21 are annotated, with one second of tolerance; 12 and 13 of them, and 99, are said.
        ("Query 0\na/01.mp4,0:12 0:13,1:39 1:39\nz.mp4,0:01 0:02\n", 2 / 9 / 3),
        ("Query 0\na/01.mp4,16,17,103\n", 2 / 9 / 3),
        ("Query 0\nb.mp4,33,34,35\nc.mp4,8,9,10,11\n", 2 / 3),
    ],
)
def test_seconds_score_by_their_jaccard_index(tmp_path: Path, reported: str, expected: float) -> None:
    run = scenes(tmp_path, reported, protocol="seconds").run()
    assert run["metrics"] == {"jaccard": pytest.approx(expected / 2), "coverage": 0.5}
    assert run["counts"]["num_without_report"] == 1


def test_only_ranked_keyframes_are_cut(tmp_path: Path) -> None:
    frames, times = "Query 1\n01.mp4,99,4\n", "Query 1\n01.mp4,1:35 1:35,0:00 0:00\n"
    assert scenes(tmp_path, frames, protocol="seconds", max_seconds=1).run()["metrics"]["jaccard"] == 0
    assert scenes(tmp_path, times, protocol="seconds", max_seconds=1).run()["metrics"]["jaccard"] > 0


def test_the_page_shows_which_clips_are_correct_and_what_was_read(tmp_path: Path) -> None:
    done = scenes(tmp_path, report=True)
    html = (tmp_path / "out" / "report.html").read_text()
    text = page_text(html)
    assert f"{done.run()['metrics']['map@100']:.3f}" in text
    assert html.count('<li class="correct">') == 3
    assert html.count('<li class="incorrect">') == 2
    assert done.results["data"]["fingerprint"] in text
    seconds = scenes(tmp_path, "Query 0\nb.mp4,33\n", protocol="seconds", report=True)
    assert seconds.exit_code == 0, seconds.err
    assert "mean Jaccard index" in page_text((tmp_path / "out" / "report.html").read_text())


def test_other_clips_and_other_files_are_refused(tmp_path: Path) -> None:
    refused(scenes(tmp_path, "Query 0\nelsewhere.mp4\n"), "clips of the ground truth")
    refused(scenes(tmp_path, "Query 0\na/01.mp4\n", protocol="seconds"), "expected Stanford I2V seconds")
    refused(scenes(tmp_path, protocol="minutes"), "protocol")
    refused(scenes(tmp_path, protocol="frames"), "ground_truth file", "query_frames")


def test_data_in_memory_score_as_the_files_do(tmp_path: Path) -> None:
    arrays = {
        "truth": {"0": [("a/01.mp4", 10, 12), ("b.mp4", 30, 30), ("c.mp4", 5, 6)], "1": [("01.mp4", 0, 1)]},
        "ranked": {"0": ["a/01.mp4", "x.mp4", "b.mp4", "y.mp4", "c.mp4"]},
    }
    config = SceneRetrievalConfig(ground_truth="truth", predictions="ranked", resamples=20)
    score = evaluate_task(task("scene_retrieval"), config, Sources(arrays)).score
    assert score.runs[0].metrics["map@100"] == pytest.approx(scenes(tmp_path).run()["metrics"]["map@100"])
    assert json.loads((tmp_path / "out" / "results.json").read_text())["task"] == "scene_retrieval"
