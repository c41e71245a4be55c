"""What a verb loads: `status` nothing that decodes or computes, `evaluate` of a file its own task and no store."""

import json
from pathlib import Path

import numpy as np
import pytest

from clipmill.schemas.recipe import ClipRule, Preprocess, Recipe, Sampling, Weights
from clipmill.schemas.rows import Rows
from tests.command_line import python
from tests.jobs.stored_rows import write_store

_LOADED = """
import sys
from clipmill.jobs.cli import main
sys.argv = ["clipmill", *sys.argv[1:]]
try:
    main()
finally:
    print("\\n".join(sorted(sys.modules)), file=sys.stderr)
"""

HEAVY = frozenset("torch ray apache_beam dask zarr h5py decord av cv2 scipy sklearn faiss pandas safetensors".split())


def loaded(*arguments: str) -> frozenset[str]:
    """Returns the modules a verb has imported when it ends."""
    done = python("-c", _LOADED, *arguments)
    assert done.returncode == 0, done.stderr
    return frozenset(done.stderr.split())


def below(modules: frozenset[str], *packages: str) -> list[str]:
    """Returns which of `modules` are one of `packages` or lie in it."""
    return sorted(name for name in modules if any(name == top or name.startswith(f"{top}.") for top in packages))


def test_status_loads_nothing_that_decodes_or_computes(tmp_path: Path) -> None:
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
    ones = np.ones(3)
    rows = Rows(np.ones((3, 2), np.float32), np.zeros(3, np.int32), ones, ones + 1, np.ones(3, np.bool_))
    url = write_store(tmp_path, [(recipe, {"a": rows})], {"a": "run"})
    modules = loaded("status", url)
    assert "clipmill.stores.catalog" in modules
    assert not below(modules, *HEAVY, "PIL", "jinja2", "yaml")
    assert not below(modules, "clipmill.extractors.registry", "clipmill.models", "clipmill.pipelines.evaluation")
    assert not below(modules, "clipmill.schemas.config")


@pytest.mark.parametrize("report", ["false", "true"])
def test_evaluating_a_file_loads_its_task_and_no_store(tmp_path: Path, report: str) -> None:
    truth = {"video": {"subset": "val", "duration": 30, "annotations": [{"segment": [1, 9], "label": "run"}]}}
    (tmp_path / "truth.json").write_text(json.dumps({"database": truth}))
    found = {"video": [{"segment": [1, 8], "label": "run", "score": 0.9}]}
    (tmp_path / "found.json").write_text(json.dumps({"results": found}))
    (tmp_path / "evaluate.yaml").write_text(
        f"task: detection\nground_truth: {tmp_path}/truth.json\npredictions: {tmp_path}/found.json\n"
        f"out: {tmp_path}/out\nreport: {report}\n"
    )
    modules = loaded("evaluate", str(tmp_path / "evaluate.yaml"))
    tasks = {
        name.split(".")[4] for name in below(modules, "clipmill.pipelines.evaluation.tasks") if name.count(".") > 4
    }
    assert tasks == {"detection"}
    assert not below(modules, *HEAVY, "fsspec", "clipmill.stores.store")
    assert not below(modules, "clipmill.extractors.registry", "clipmill.models")
