"""A task, a file format and a metric from outside the project, installed and run as a user would; nothing else touched.

The packages are those of ``examples/extending_evaluation``, laid out as pip would.
"""

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.command_line import invoke, python

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "extending_evaluation"


def entry_points() -> str:
    """Returns the example's entry points as an installed package states them."""
    groups = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"]
    return "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in found.items())
        for group, found in groups.items()
    )


def install(site: Path, points: str, **modules: str) -> Path:
    """Lays out what pip would install: modules, and the metadata that names the entry points."""
    site.mkdir(parents=True, exist_ok=True)
    for name, text in modules.items():
        (site / f"{name}.py").write_text(text)
    metadata = site / "clipmill_counting-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: clipmill-counting\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(points)
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, installed."""
    folder = install(tmp_path_factory.mktemp("site"), entry_points())
    for name in ("counting", "audacity_labels.py", "best_overlap.py"):
        source = EXAMPLE / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    return folder


def evaluate(site: Path, folder: Path, config: dict[str, Any], *arguments: str, out: str = "out") -> Any:
    path = folder / "evaluate.yaml"
    path.write_text(yaml.safe_dump({"resamples": 50, "out": str(folder / out), **config}))
    return invoke("evaluate", "--config", str(path), *arguments, site=site)


def results(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())


def counting(folder: Path) -> dict[str, Any]:
    (folder / "truth.csv").write_text("id,count\na,4\nb,10\nc,2\nd,0\n")
    (folder / "good.csv").write_text("id,count\na,4\nb,9\nc,5\n")
    (folder / "bad.csv").write_text("id,count\na,8\nb,1\n")
    return {"task": "counting", "ground_truth": str(folder / "truth.csv"), "predictions": str(folder / "good.csv")}


def test_a_task_from_outside_is_scored_has_a_page_and_a_gate(site: Path, tmp_path: Path) -> None:
    config = counting(tmp_path)
    done = evaluate(site, tmp_path, config)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "out")
    assert (found["version"], found["task"], found["protocol"]) == (2, "counting", {"least": 1})
    assert found["data"]["num_videos"] == 3
    good = found["runs"]["good"]
    # Off by 0, 1 and 3 of 4, 10 and 2.
    assert good["metrics"] == {"obo": pytest.approx(2 / 3), "mae": pytest.approx((0 + 1 / 10 + 3 / 2) / 3)}
    assert good["baselines"]["median"]["obo"] == pytest.approx(1 / 3)
    assert good["intervals"]["mae"]["low"] < good["metrics"]["mae"] < good["intervals"]["mae"]["high"]
    assert "  good      0.6667  0.5333" in done.stdout
    assert "(median)" in done.stdout
    assert "least: 1" in (tmp_path / "out" / "evaluate.yaml").read_text()  # its own key, in the resolved config
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Counting: good" in page
    assert "Predicted minus counted" in page
    assert "truth.csv" in page  # lineage

    against = ("--against", str(tmp_path / "out"), "--fail-if", "obo < -0.1")
    worse = evaluate(site, tmp_path, config | {"predictions": str(tmp_path / "bad.csv")}, *against, out="worse")
    assert worse.returncode == 5, worse.stderr
    assert "gate 'obo < -0.1': failed, bad/obo is 0.0000 against 0.6667" in worse.stderr
    assert "3 paired units" in worse.stdout
    other = evaluate(site, tmp_path, config | {"least": 3}, *against, out="other")
    assert (other.returncode, "the same ground truth" in other.stderr) == (2, True)

    unknown = evaluate(site, tmp_path, config | {"leats": 3})
    assert (unknown.returncode, "leats: unknown key; did you mean 'least'" in unknown.stderr) == (2, True)


def test_a_task_from_outside_is_called_from_python(site: Path, tmp_path: Path) -> None:
    config = counting(tmp_path)
    assert evaluate(site, tmp_path, config).returncode == 0
    code = (
        "import clipmill\n"
        "from clipmill.pipelines.evaluation.tasks.result import task_results_json\n"
        "truth, good = {'a': 4, 'b': 10, 'c': 2, 'd': 0}, {'arrays': {'a': 4, 'b': 9, 'c': 5}, 'name': 'good'}\n"
        "found = clipmill.evaluate('counting', ground_truth=truth, predictions=good, resamples=50)\n"
        "print(task_results_json(found).decode(), end='')\n"
    )
    done = python("-c", code, site=site)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tmp_path / "out" / "results.json").read_text()


def test_a_trained_run_is_scored_by_a_task_that_can(site: Path, tmp_path: Path) -> None:
    config = counting(tmp_path)
    assert evaluate(site, tmp_path, config).returncode == 0
    (tmp_path / "trained").mkdir()
    (tmp_path / "good.csv").rename(tmp_path / "trained" / "counts.csv")
    of_run = config | {"predictions": {"run": str(tmp_path / "trained")}}
    done = evaluate(site, tmp_path, of_run, out="run")
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "run")["runs"]["trained"] == results(tmp_path / "out")["runs"]["good"]
    refused = evaluate(site, tmp_path, of_run | {"task": "detection"})
    assert refused.returncode == 2
    assert "predictions run: expected a file or store, since task detection scores no trained runs" in refused.stderr


def detections(folder: Path) -> dict[str, Any]:
    tracks = folder / "tracks"
    tracks.mkdir()
    (tracks / "one.labels.txt").write_text("0.0\t10.0\trun\n20.0\t30.0\tjump\n")
    (tracks / "two.labels.txt").write_text("5.0\t25.0\trun\n")
    csv = "video_id,start_seconds,stop_seconds,label,score\none,0,5,run,0.9\none,20,30,jump,0.8\ntwo,5,25,run,0.7\n"
    (folder / "answers.csv").write_text(csv)
    (folder / "worse.csv").write_text(csv.replace("5,25,run", "5,10,run"))
    return {"task": "detection", "ground_truth": str(tracks), "predictions": str(folder / "answers.csv")}


def test_a_format_from_outside_is_known_by_its_content_and_read_for_a_task_of_ours(site: Path, tmp_path: Path) -> None:
    config = detections(tmp_path) | {"report": False}
    done = evaluate(site, tmp_path, config)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "out")
    assert found["data"]["num_ground_truths"] == 3
    rows = "video_id,start_seconds,stop_seconds,label\none,0,10,run\none,20,30,jump\ntwo,5,25,run\n"
    (tmp_path / "truth.csv").write_text(rows)
    assert evaluate(site, tmp_path, config | {"ground_truth": str(tmp_path / "truth.csv")}, out="csv").returncode == 0
    assert results(tmp_path / "csv") == found
    named = config | {"ground_truth": {"file": str(tmp_path / "tracks"), "format": "audacity_labels"}}
    assert evaluate(site, tmp_path, named, out="named").returncode == 0
    assert results(tmp_path / "named") == found
    # And it is one of those that a message about a wrong file lists.
    (tmp_path / "tracks" / "two.labels.txt").write_text("5.0 25.0 run\n")
    wrong = evaluate(site, tmp_path, config)
    assert (wrong.returncode, "two.labels.txt line 1: expected start, stop" in wrong.stderr) == (2, True)
    other = evaluate(site, tmp_path, config | {"ground_truth": str(tmp_path)})
    assert (other.returncode, "parquet, audacity_labels" in other.stderr) == (2, True)


def test_a_metric_from_outside_stands_in_table_results_page_and_before_gates(site: Path, tmp_path: Path) -> None:
    config = detections(tmp_path) | {"metrics": ["best_overlap", "recall"]}
    done = evaluate(site, tmp_path, config)
    assert done.returncode == 0, done.stderr
    run = results(tmp_path / "out")["runs"]["answers"]
    assert run["metrics"]["best_overlap"] == pytest.approx(((0.5 + 1) / 2 + 1) / 2)
    assert run["metrics"]["recall@0.5"] == 1.0
    assert "best_overlap" in run["shown"]
    assert run["units"] == {"kind": "video", "ids": ["one", "two"], "values": {"best_overlap": [0.75, 1.0]}}
    assert run["intervals"]["best_overlap"]["low"] == 0.75
    assert "best_overlap" in done.stdout
    assert "best tIoU" in (tmp_path / "out" / "report.html").read_text()
    gates = ("--against", str(tmp_path / "out"), "--fail-if", "best_overlap < 0")
    worse = evaluate(site, tmp_path, config | {"predictions": str(tmp_path / "worse.csv")}, *gates, out="worse")
    assert worse.returncode == 5, worse.stderr
    assert "worse/best_overlap is 0.5000 against 0.8750" in worse.stderr
    assert "2 paired units, 0 better, 1 worse" in worse.stdout
    # Where nobody asks for it, nothing of it is there.
    assert evaluate(site, tmp_path, config | {"metrics": []}, out="without").returncode == 0
    assert "best_overlap" not in (tmp_path / "without" / "results.json").read_text()
    unknown = evaluate(site, tmp_path, config | {"metrics": ["best_overlp"]})
    assert (unknown.returncode, "did you mean 'best_overlap'" in unknown.stderr) == (2, True)


BROKEN = [
    ("[clipmill.tasks]\nbroken = broken:TASK\n", {"task": "broken"}, "task broken"),
    (
        "[clipmill.formats]\nbroken = broken:READER\n",
        {"task": "detection", "ground_truth": {"file": "pyproject.toml", "format": "broken"}},
        "format broken",
    ),
    (
        "[clipmill.metrics]\ndetection.broken = broken:M\n",
        {"task": "detection", "metrics": ["broken"]},
        "metric detection.broken",
    ),
]


@pytest.mark.parametrize(("points", "config", "thing"), BROKEN, ids=[thing for _, _, thing in BROKEN])
@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("import a_library_that_is_not_there\n", "No module named 'a_library_that_is_not_there'; fix or remove it"),
        ("TASK = READER = M = 'a string'\n", "got str; see docs/extending.md"),
    ],
    ids=["import", "type"],
)
def test_a_broken_package_is_named(
    points: str, config: dict[str, Any], thing: str, module: str, message: str, tmp_path: Path
) -> None:
    site = install(tmp_path / "site", points, broken=module)
    done = evaluate(site, tmp_path, {"ground_truth": "pyproject.toml", "predictions": "pyproject.toml"} | config)
    assert done.returncode == 2, done.stderr
    error = [line for line in done.stderr.splitlines() if line.startswith("clipmill: ")]
    assert len(error) == 1
    assert error[0].startswith(f"clipmill: {thing}: expected")
    assert message in error[0]


def test_a_built_in_name_cannot_be_taken_from_outside(tmp_path: Path) -> None:
    points = (
        "[clipmill.tasks]\ndetection = thief:X\n[clipmill.formats]\ncsv = thief:X\n"
        "[clipmill.metrics]\ndetection.recall = thief:X\n"
    )
    site = install(tmp_path / "site", points, thief="X = None\n")
    config = detections(tmp_path) | {"metrics": ["recall"], "report": False}
    (tmp_path / "truth.csv").write_text("video_id,start_seconds,stop_seconds,label\none,0,10,run\ntwo,5,25,run\n")
    done = evaluate(site, tmp_path, config | {"ground_truth": str(tmp_path / "truth.csv")})
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "out")["runs"]["answers"]["metrics"]["recall@0.5"] == 1.0
