"""Reduced precision on a CPU without its instructions is measured and warned of."""

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from clipmill.extractors import precision, registry
from clipmill.extractors.precision import SlowPrecisionWarning, slowdown, warn_if_slow
from clipmill.extractors.resolve import resolve_recipe
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.recipe import ClipRule
from tests.encoded_videos import encode_video

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_the_factor_is_that_of_a_convolution_timed_by_hand_and_takes_little_time(name: str) -> None:
    slowdown.cache_clear()
    started = time.process_time()
    factor = slowdown(name)
    assert time.process_time() - started < 5
    taken = {}
    with torch.inference_mode():
        for dtype in (torch.float32, getattr(torch, name)):
            layer = torch.nn.Conv2d(64, 64, 3, padding=1).to(dtype)
            images = torch.ones(1, 64, 28, 28).to(dtype)
            layer(images)
            repeated = []
            for _ in range(5):
                started = time.perf_counter()
                layer(images)
                repeated.append(time.perf_counter() - started)
            taken[dtype] = min(repeated)
    by_hand = taken[getattr(torch, name)] / taken[torch.float32]
    # Other work on the machine moves both by a few times; a missing instruction costs tens of times.
    assert by_hand / 8 < factor < by_hand * 8


def test_only_what_is_slower_here_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "slowdown", lambda name: {"bfloat16": 70.4, "float16": 0.6}[name])
    message = (
        r"features.vgg16.precision: bfloat16 is 70 times slower than float32 on this CPU.*; use precision: float32"
    )
    with pytest.warns(SlowPrecisionWarning, match=message):
        warn_if_slow("vgg16", "bfloat16", "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_slow("vgg16", "float16", "cpu")
        warn_if_slow("vgg16", "float32", "cpu")
        warn_if_slow("vgg16", "bfloat16", "cuda:0")


def test_a_network_is_measured_when_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "slowdown", lambda name: 12.0)
    feature = FeatureConfig.model_validate({"weights": {"random": 0}, "precision": "bfloat16"})
    recipe = resolve_recipe("squeezenet", feature, ClipRule(), DecodeConfig())
    with pytest.warns(SlowPrecisionWarning, match="features.squeezenet.precision: bfloat16 is 12 times slower"):
        registry.build(recipe, "cpu")


def test_a_build_says_so_once_in_one_line(tmp_path: Path) -> None:
    if slowdown("bfloat16") < precision.SLOWER_BY:
        pytest.skip("this CPU has the instructions")
    (tmp_path / "videos").mkdir()
    encode_video(tmp_path / "videos" / "a.mp4", num_frames=2)
    config = tmp_path / "build.yaml"
    config.write_text(
        f"store: {{url: {tmp_path / 'store'}}}\nvideos: {{folder: {tmp_path / 'videos'}}}\n"
        "features: {squeezenet: {weights: {random: 0}, precision: bfloat16, "
        "preprocess: {resize: exact, size: [32, 32], crop: null}}}\nengine: {device: cpu}\n"
    )
    command = [sys.executable, "-m", "clipmill", "build", "--config", str(config)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "times slower" in line]
    assert len(lines) == 1
    assert lines[0].startswith("warning: features.squeezenet.precision: bfloat16 is ")
