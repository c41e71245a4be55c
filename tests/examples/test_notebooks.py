"""The notebooks of the examples, run from the first cell to the last in a kernel of their own."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.command_line import ROOT

NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


def printed(notebook: nbformat.NotebookNode) -> str:
    """Returns what the cells print and show."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def test_the_first_steps_run_and_say_what_they_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [path.name for path in NOTEBOOKS] == ["first_steps.ipynb"]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the outputs before they are committed"
    NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = printed(notebook)
    assert "annotated videos: 4, 3 of them with a file" in said
    assert "['squeezenet'] ['left', 'right', 'still']" in said
    assert "right (12, 512) float32 [0.  0.5 1. ]" in said
    assert "(26, 512)" in said
    assert "near ones: 'right'" in said
    assert "1 annotated and without features: 'gone'" in said
    assert (tmp_path / "first_steps" / "actionformer" / "annotations.json").is_file()
