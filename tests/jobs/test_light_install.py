"""What works with the base install alone, and what a verb says that needs more: which extra, by which command.

The packages of all extras are refused in a fresh process, as they are where they are not installed.
"""

import ast
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

from clipmill.pipelines.evaluation.tasks.registry import BUILT_IN
from clipmill.schemas.extras import EXTRAS, driver_of, missing_extra
from clipmill.schemas.recipe import ClipRule, Preprocess, Recipe, Sampling, Weights
from clipmill.schemas.rows import Rows
from tests.command_line import python
from tests.encoded_videos import encode_video
from tests.jobs.retrieval_store import retrieval_config
from tests.jobs.stored_rows import write_store
from tests.jobs.test_evaluate_in_python import CASES

ROOT = Path(__file__).resolve().parents[2]

_RUN = """
import contextlib, io, json, sys
refused, commands = json.loads(sys.argv[1])

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refused())
from clipmill.jobs.cli import main
for command in commands:
    sys.argv = ["clipmill", *command]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""

Ended = tuple[int, str, str]
"""Exit code, standard output, standard error."""


def without(refused: Sequence[str], commands: Sequence[Sequence[str]]) -> list[Ended]:
    """Runs verbs one after the other in a process in which the packages `refused` cannot be imported."""
    done = python("-c", _RUN, json.dumps([list(refused), [list(command) for command in commands]]))
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


ALL = sorted({library for libraries in EXTRAS.values() for library in libraries})


def small_store(folder: Path) -> str:
    """Returns the URL of a store of one video."""
    recipe = Recipe(
        name="c3d",
        extractor="c3d",
        extractor_version=1,
        layer="fc6",
        dim=2,
        weights=Weights(source="random(0)", seed=0, card="sports1m"),
        sampling=Sampling(frames=16),
        preprocess=Preprocess(),
        clips=ClipRule(),
    )
    rows = Rows(
        np.ones((3, 2), np.float32), np.zeros(3, np.int32), np.arange(3.0), np.arange(3.0) + 1, np.ones(3, bool)
    )
    return write_store(folder, [(recipe, {"a": rows})], {"a": "run"})


def test_stores_are_read_checked_exported_and_kept_without_any_extra(tmp_path: Path) -> None:
    url = small_store(tmp_path)
    commands = [
        ["--version"],
        ["doctor"],
        ["status", url],
        ["runs", url],
        ["verify", url, "--sample", "0"],
        ["diff", url, url],
        ["requeue", url],
        ["clean", url, "--dry-run"],
        ["remove", url, "--ids", "a", "--dry-run"],
        ["presets"],
        ["weights", "list"],
        *(
            ["export", url, "--feature", "c3d", "--format", name, "--out", str(tmp_path / f"x.{name}")]
            for name in ("hdf5", "npy", "parquet", "zarr")
        ),
    ]
    for command, (code, out, err) in zip(commands, without(ALL, commands), strict=True):
        assert code == 0, (command, err)
        assert out, command
        if command == ["doctor"]:
            assert "extras not installed: extract, train" in out


def test_every_task_is_evaluated_and_two_are_compared_without_any_extra(tmp_path: Path) -> None:
    commands, tasks = [], set()
    for name, (task, make) in CASES.items():
        folder = tmp_path / name
        folder.mkdir()
        config = {"task": task, "out": str(folder / "out"), "resamples": 20, **make(folder)[0]}
        (folder / "evaluate.yaml").write_text(yaml.safe_dump(config))
        commands.append(["evaluate", str(folder / "evaluate.yaml")])
        tasks.add(task)
    retrieval = {"task": "retrieval", "out": str(tmp_path / "retrieval"), "resamples": 20, **retrieval_config(tmp_path)}
    (tmp_path / "retrieval.yaml").write_text(yaml.safe_dump(retrieval | {"examples": 1}))
    assert tasks | {"retrieval"} == set(BUILT_IN)
    out = str(tmp_path / "detection" / "out")
    commands.append(["compare", out, out])
    for command, (code, _, err) in zip(commands, without(ALL, commands), strict=True):
        assert code == 0, (command, err)
    # The page of clips in a store has no images where nothing can be decoded, and says so.
    ((code, _, err),) = without(ALL, [["evaluate", str(tmp_path / "retrieval.yaml")]])
    assert code == 0, err
    assert "the page has no images of clips: package" in err
    assert (tmp_path / "retrieval" / "report.html").is_file()


def test_what_needs_an_extra_names_it_in_one_line(tmp_path: Path) -> None:
    url = small_store(tmp_path)
    (tmp_path / "videos").mkdir()
    encode_video(tmp_path / "videos" / "a.mp4", num_frames=20)
    (tmp_path / "build.yaml").write_text(
        f"store: {{url: {tmp_path / 'built'}}}\nvideos: {{folder: {tmp_path / 'videos'}}}\n"
        "features: {one: {extractor: squeezenet, weights: {random: 0}}}\n"
    )
    (tmp_path / "any.yaml").write_text("{}\n")
    build, any_file = str(tmp_path / "build.yaml"), str(tmp_path / "any.yaml")
    wanted = {
        ("build", build): "pip install 'clipmill[extract]'",
        ("plan", build): "pip install 'clipmill[extract]'",
        ("verify", url): "pip install 'clipmill[extract]'",
        ("search", any_file): "pip install 'clipmill[extract]'",
        ("train", any_file): "pip install 'clipmill[train]'",
        ("sweep", any_file): "pip install 'clipmill[train]'",
        ("reproduce", "cpnet-toy"): "pip install 'clipmill[train]'",
    }
    for (command, remedy), (code, out, err) in zip(wanted.items(), without(ALL, list(wanted)), strict=True):
        assert (code, out, err.count("\n")) == (2, "", 1), (command, err)
        assert err.startswith("clipmill: package ")
        assert remedy in err, command
    (as_json,) = without(ALL, [["train", any_file, "--json"]])
    assert json.loads(as_json[1])["error"]["exit_code"] == 2


def test_a_build_needs_extract_alone_and_an_engine_its_own_extra(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    encode_video(tmp_path / "videos" / "a.mp4", num_frames=20)
    (tmp_path / "build.yaml").write_text(
        f"store: {{url: {tmp_path / 'built'}}}\nvideos: {{folder: {tmp_path / 'videos'}}}\n"
        "features: {one: {extractor: squeezenet, weights: {random: 0}}}\n"
    )
    others = [library for library in ALL if library not in EXTRAS["extract"]]
    build = ["build", str(tmp_path / "build.yaml")]
    ray, beam, local = without(others, [[*build, "--engine", "ray"], [*build, "--engine", "beam"], build])
    assert local[0] == 0, local[2]
    for code, _, err, name in ((*ray, "ray"), (*beam, "beam")):
        assert code == 2
        assert f"pip install 'clipmill[{name}]'" in err.splitlines()[-1]


def test_every_extra_is_one_of_the_package_and_its_packages_are_told() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text("utf-8"))
    (found,) = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXTRAS"]
    assert set(ast.literal_eval(found.value)) == set(EXTRAS)
    for name, libraries in EXTRAS.items():
        for library in libraries:
            problem = missing_extra(ModuleNotFoundError("none", name=f"{library}.part"))
            assert problem is not None
            assert f"package {library}: expected it to be installed" in str(problem)
            assert f"pip install 'clipmill[{name}]'" in str(problem)


@pytest.mark.parametrize("error", [ModuleNotFoundError("none", name="a_package"), ImportError("broken", name="torch")])
def test_what_no_extra_brings_is_no_missing_extra(error: ImportError) -> None:
    assert missing_extra(error) is None


def test_a_url_without_a_driver_names_the_extra() -> None:
    assert driver_of("s3://bucket/store") == "pip install 'clipmill[s3]'"
    assert driver_of("gs://bucket/store") == "pip install 'clipmill[gcs]'"
    assert driver_of("abfs://bucket/store") == "pip install 'clipmill[azure]'"
    assert driver_of("hdfs://node/store") == "install its driver"
