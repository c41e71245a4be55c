"""Searches, suppressed moments, selected epochs and sweeps as a user has them: each verb in a process of its own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from clipmill.models.checkpoints import find_checkpoint, load
from clipmill.pipelines.training.run_folder import RunFolder
from clipmill.schemas.config import dump_config
from tests.command_line import clipmill, refused, result
from tests.pipelines.sweeps.test_trials import moments_sweep, videos_sweep
from tests.pipelines.training.image_runs import CML, config_of, make_images

pytestmark = pytest.mark.slow


def run(verb: str, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    path = folder / f"{verb}.yaml"
    path.write_text(yaml.safe_dump(config))
    return result(verb, "--config", str(path))


def test_what_a_search_wrote_is_scored(blobs: Path, tmp_path: Path) -> None:
    videos = sorted(str(path) for path in (blobs / "videos").rglob("clip*.mp4"))[:4]
    queries = {"frames": [{"file": video, "seconds": [0.4]} for video in videos]}
    asked = {
        "run": str(blobs / "run"),
        "queries": queries,
        "spaces": ["appearance"],
        "k": 6,
        "out": str(tmp_path / "s"),
    }
    found = run("search", tmp_path, asked)["queries"]
    # Relevant are the clips of the query's folder, its label; average precision by hand, of rectangles.
    lines, expected = [], []
    for item, video in zip(found, videos, strict=True):
        clips = [hit["clip"] for hit in item["spaces"]["appearance"]]
        relevant = [clip for clip in clips if Path(clip).parent.name == Path(video).parent.name]
        lines += [f"{item['query']}\t0\t{clip}\t1" for clip in relevant]
        places = [clips.index(clip) + 1 for clip in relevant]
        expected.append(np.mean([number / place for number, place in enumerate(sorted(places), start=1)]))
    assert len(lines) == 12
    (tmp_path / "judged.qrels").write_text("\n".join(line.replace(" ", "_") for line in lines) + "\n")
    # TREC's files know no blanks in names; a search's do.
    text = json.loads((tmp_path / "s" / "results.json").read_text())
    written = json.dumps(text, ensure_ascii=False)
    for name in {item["query"] for item in found} | {
        hit["clip"] for item in found for hit in item["spaces"]["appearance"]
    }:
        written = written.replace(
            json.dumps(name, ensure_ascii=False), json.dumps(name.replace(" ", "_"), ensure_ascii=False)
        )
    (tmp_path / "results.json").write_text(written)
    config = {
        "task": "ranking",
        "ground_truth": {"file": str(tmp_path / "judged.qrels")},
        "predictions": {"file": str(tmp_path / "results.json")},
        "out": str(tmp_path / "scored"),
    }
    (scored,) = run("evaluate", tmp_path, config)["runs"].values()
    assert scored["metrics"]["map"] == pytest.approx(np.mean(expected))
    # Without a name all of the model's spaces are written.
    run("search", tmp_path, {key: value for key, value in asked.items() if key != "spaces"})
    (tmp_path / "evaluate.yaml").write_text(
        yaml.safe_dump(config | {"predictions": {"file": str(tmp_path / "s" / "results.json")}})
    )
    done = clipmill("evaluate", "--config", str(tmp_path / "evaluate.yaml"))
    refused(done, "expected clips ranked in one space", "search with spaces: [NAME]")


def suppressed(spans: list[tuple[float, float]], scores: list[float], most: float) -> list[tuple[float, float]]:
    """Returns what is left, as 2D-TAN reads it: by score, each span against the better ones that stayed."""
    order = np.argsort(-np.array(scores), kind="stable")
    left = [spans[place] for place in order]
    gone = [False] * len(left)
    for first in range(len(left)):
        if gone[first]:
            continue
        for second in range(first + 1, len(left)):
            if overlap(left[first], left[second]) > most:
                gone[second] = True
    return [span for span, is_gone in zip(left, gone, strict=True) if not is_gone]


def overlap(one: tuple[float, float], two: tuple[float, float]) -> float:
    inside = min(one[1], two[1]) - max(one[0], two[0])
    return max(0.0, inside) / (max(one[1], two[1]) - min(one[0], two[0]))


def test_suppressed_moments_are_those_of_a_second_reading(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    truth, rows, answers, wanted = [], ["video_id,start_seconds,stop_seconds,score"], {}, {}
    for number in range(40):
        start, stop = sorted(random.uniform(0, 60, 2).round(3).tolist())
        wanted[number] = (start, stop + 1)
        truth.append(f"v{number:02d} {start} {stop + 1}##a person does it {number}")
        # A few places, each answered many times: without suppression they fill the first five.
        centres = random.uniform(2, 58, 4)
        spans = [
            tuple(np.clip(centre + np.sort(random.uniform(-12, 12, 2)), 0, 61).round(4).tolist())
            for centre in random.choice(centres, 30)
        ]
        spans = [(a, b) for a, b in spans if b > a]
        scores = random.permutation(len(spans)) / 100
        answers[number] = (spans, scores.tolist())
        rows += [f"v{number:02d}#{number + 1},{a},{b},{score}" for (a, b), score in zip(spans, scores, strict=True)]
    (tmp_path / "truth.txt").write_text("\n".join(truth) + "\n")
    (tmp_path / "found.csv").write_text("\n".join(rows) + "\n")
    for most in (0.5, 0.37):
        config = {
            "task": "moments",
            "ground_truth": str(tmp_path / "truth.txt"),
            "predictions": str(tmp_path / "found.csv"),
            "iou_thresholds": [0.3, 0.5],
            "nms": most,
            "baselines": False,
            "out": str(tmp_path / "scored"),
        }
        (scored,) = run("evaluate", tmp_path, config)["runs"].values()
        left = {number: suppressed(*answers[number], most) for number in answers}
        assert scored["counts"]["num_predictions"] == sum(map(len, left.values()))
        for least in (0.3, 0.5):
            for first in (1, 5):
                hits = [any(overlap(span, wanted[n]) >= least for span in left[n][:first]) for n in left]
                assert scored["metrics"][f"r{first}@{least}"] == pytest.approx(np.mean(hits))
    # Suppression mattered.
    plain = [
        any(overlap(answers[n][0][p], wanted[n]) >= 0.5 for p in np.argsort(answers[n][1])[::-1][:5]) for n in answers
    ]
    assert np.mean(plain) != scored["metrics"]["r5@0.5"]


def test_the_epoch_of_the_least_median_rank_is_the_one_that_is_used(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")
    config = config_of(images, tmp_path / "trained", CML, network={"swap_patience": [9]}, keep_checkpoints=1)
    report = run("train", tmp_path, config.model_dump(mode="json", by_alias=True))
    lines = RunFolder(tmp_path / "trained").metrics()
    ranks = [line["validation"]["median_rank"] for line in lines]
    assert report["selected_epoch"] == int(np.argmin(ranks)) + 1
    selected = json.loads((tmp_path / "trained" / "checkpoints" / "selected.json").read_text())
    assert selected == {"epoch": report["selected_epoch"]}
    assert load(find_checkpoint(tmp_path / "trained")).epoch == report["selected_epoch"]


@pytest.mark.parametrize("sweep", [moments_sweep, videos_sweep], ids=["moments", "videos"])
def test_a_sweep_is_run_and_not_run_again(tmp_path: Path, sweep: Any) -> None:
    config = sweep(tmp_path)
    path = tmp_path / "sweep.yaml"
    path.write_text(dump_config(config))
    found = result("sweep", "--config", str(path))
    assert (found["num_failed"], len(found["points"])) == (0, 2)
    trials = {file: file.stat().st_mtime_ns for file in (tmp_path / "sweep" / "trials").glob("*/*.json")}
    assert trials
    metric = found["metric"]
    means = [point["metrics"][metric]["mean"] for point in found["points"]]
    assert found["best"]["mean"] == (min if found["goal"] == "min" else max)(means)
    assert result("sweep", "--config", str(path))["points"] == found["points"]
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "sweep" / "trials").glob("*/*.json")} == trials
