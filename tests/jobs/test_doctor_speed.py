"""``clipmill doctor --speed``: the ceilings of the machine, its decoder's measured on a video it makes."""

from pathlib import Path

import pytest

from clipmill.jobs.doctor import NETWORKS, run_speed
from clipmill.pipelines.features import bare_model
from clipmill.schemas.recipe import Recipe


def test_ceilings_are_printed_one_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(recipe: Recipe, *_: object) -> float | None:
        return None if recipe.extractor == "vgg16" else 2.5

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(bare_model, "measure", measured)
    outcome = run_speed()
    assert outcome.exit_code == 0
    assert outcome.data["raw_decoder_frames_per_second"] > 0
    assert outcome.data["bare_model_windows_per_second"] == {
        name: None if name == "vgg16" else 2.5 for name in NETWORKS
    }
    lines = outcome.text.splitlines()
    assert "  bare c3d: 2.50 windows/s" in lines
    assert "frames/s (H.264, 640x360, moving noise)" in lines[1]
    assert any(line.startswith("  bare vgg16: not measured") for line in lines)
