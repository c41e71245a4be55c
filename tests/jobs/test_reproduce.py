"""``clipmill reproduce`` as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.reproduce import REPRODUCTIONS, cpnet_toy_text, run_reproduce
from clipmill.schemas.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["epochs=1", "num_train=100", "num_test=100", "seeds=[0]", "nets=[C2D]", "workers=1"]


def clipmill(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "clipmill", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=280,
        check=False,
    )


def test_a_small_toy_experiment_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "toy"
    settings = [word for setting in [*SMALL, f"out={out}"] for word in ("--set", setting)]
    done = clipmill("reproduce", "cpnet-toy", *settings, "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    saved = json.loads((out / "results.json").read_text())
    assert {key: value for key, value in result.items() if key not in ("out", "seconds")} == saved
    assert sorted(out.iterdir()) == [out / "reproduce.yaml", out / "results.json"]
    assert saved["variants"]["leak-free"]["nets"]["C2D"]["found"] == "chance"
    assert saved["config"]["num_train"] == 100
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [(event["done"], event["of"]) for event in events] == [(1, 2), (2, 2)]
    text = cpnet_toy_text(result)
    assert "source: CPNet poster" in text
    assert "C2D" in text
    assert "chance 25.0%; standard error of one run at chance 4.3% (100 test clips)" in text


def test_an_unknown_name_is_told_its_near_ones() -> None:
    done = clipmill("reproduce", "cpnet-tow")
    assert done.returncode == 2
    assert done.stderr == (
        "clipmill: reproduce cpnet-tow: expected a published result there is code for, got an unknown name; "
        "did you mean 'cpnet-toy'?\n"
    )
    with pytest.raises(UsageError, match="known: " + ", ".join(sorted(REPRODUCTIONS))):
        run_reproduce("???", None, [])


def test_a_setting_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="--set epoch: unknown key; did you mean 'epochs'"):
        run_reproduce("cpnet-toy", None, ["epoch=1"])


def test_an_out_folder_that_cannot_be_made_is_refused_before_any_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="reproduce out .*: expected a folder that can be made, got .*; give another"):
        run_reproduce("cpnet-toy", None, [f"out={tmp_path / 'file' / 'toy'}"])


def test_a_list_of_one_unknown_name_is_told_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"^--set nets\.0: Input should be [^\n]*; got 'C4D'$"):
        run_reproduce("cpnet-toy", None, ["nets=[C4D]"])
