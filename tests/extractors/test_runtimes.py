"""`runtime: openvino | onnxruntime`: PyTorch's numbers within what is promised, and one line where they are not."""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from clipmill.extractors import compiled_network, registry, runtime
from clipmill.extractors.compiled_network import sample_frames
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.runtime import runtime_use_of
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.errors import UsageError
from clipmill.schemas.recipe import ClipRule, Recipe

RC3D = {"options": {"form": "pytorch-thumos14", "buffer_frames": 32}}
I3D = {"sampling": {"frames": 10}, "preprocess": {"crop": [64, 64], "size": [72]}}
BOTH_STREAMS = {"sampling": {"frames": 10}, "options": {"stream": "both", "crop": 64}, "preprocess": {"size": [72]}}


def recipe(name: str, **written: Any) -> Recipe:
    feature = FeatureConfig.model_validate({"weights": {"random": 0}} | written)
    return resolve_recipe(name, feature, ClipRule(), DecodeConfig())


def noise(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def relative_error(values: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    exact = expected.astype(np.float64)
    return float(np.linalg.norm(values - exact) / np.linalg.norm(exact))


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_recipe_that_names_no_runtime_keeps_its_fingerprint() -> None:
    silent = recipe("squeezenet")
    assert recipe("squeezenet", runtime="torch").fingerprint == silent.fingerprint
    # Of version 0.10.0's recipe, before there were runtimes.
    before = {key: value for key, value in silent.identity().items() if key != "runtime"}
    assert silent.model_validate(before | {"name": "x", "weights": silent.weights}).fingerprint == silent.fingerprint
    others = {recipe("squeezenet", runtime=name).fingerprint for name in ("openvino", "onnxruntime")}
    assert len(others | {silent.fingerprint}) == 3


@pytest.mark.parametrize(
    ("name", "name_of_runtime", "written", "shape"),
    [
        ("squeezenet", "openvino", {}, (2, 1, 227, 227, 3)),
        ("squeezenet", "onnxruntime", {"layer": "probabilities"}, (2, 1, 227, 227, 3)),
        pytest.param(
            *("resnet50", "onnxruntime", {"preprocess": {"crop": [64, 64], "size": [64]}}, (2, 1, 64, 64, 3)),
            marks=pytest.mark.slow,
        ),
        # Both streams of it below.
        pytest.param("i3d", "onnxruntime", I3D, (2, 10, 64, 64, 3), marks=pytest.mark.slow),
        pytest.param("i3d", "openvino", I3D, (2, 10, 64, 64, 3), marks=pytest.mark.slow),
        pytest.param("c3d", "openvino", {"layer": "pool5"}, (1, 16, 112, 112, 3), marks=pytest.mark.slow),
    ],
)
def test_rows_are_those_of_pytorch(
    name: str, name_of_runtime: str, written: Mapping[str, Any], shape: tuple[int, ...]
) -> None:
    frames = noise(shape)
    expected = registry.build(recipe(name, **written), "cpu").forward(frames)["values"]
    extractor = registry.build(recipe(name, runtime=name_of_runtime, **written), "cpu")
    assert relative_error(extractor.forward(frames)["values"], expected) < 1e-5
    use = runtime_use_of(extractor)
    assert use is not None
    assert (use.name, 0 <= use.error < 1e-5) == (name_of_runtime, True)


@pytest.mark.parametrize("name", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_both_streams_of_i3d_run_by_it(name: str) -> None:
    frames = noise((1, 11, 72, 96, 3))
    expected = registry.build(recipe("i3d", **BOTH_STREAMS), "cpu").forward(frames)["values"]
    values = registry.build(recipe("i3d", runtime=name, **BOTH_STREAMS), "cpu").forward(frames)["values"]
    assert values.shape == expected.shape
    assert relative_error(values, expected) < 1e-5


@pytest.mark.slow
def test_rc3d_finds_the_same_segments() -> None:
    frames = noise((1, 32, 112, 112, 3))
    expected = registry.build(recipe("rc3d", **RC3D), "cpu").forward(frames)
    extractor = registry.build(recipe("rc3d", runtime="openvino", **RC3D), "cpu")
    found = extractor.forward(frames)
    use = runtime_use_of(extractor)
    assert use is not None
    assert use.error < 1e-5
    count = int(expected["num_valid"][0])
    assert abs(int(found["num_valid"][0]) - count) <= 0.02 * count
    assert relative_error(np.sort(found["score"][0, :50]), np.sort(expected["score"][0, :50])) < 1e-4


def test_the_mean_over_crops_keeps_what_was_measured() -> None:
    extractor = registry.build(recipe("squeezenet", runtime="openvino", preprocess={"crops": "ten"}), "cpu")
    assert runtime_use_of(extractor) is not None


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_window_has_the_same_bits_whatever_is_beside_it(name: str) -> None:
    frames = noise((4, 1, 227, 227, 3))
    extractor = registry.build(recipe("squeezenet", runtime=name), "cpu")
    forth = extractor.forward(frames)["values"]
    back = extractor.forward(np.ascontiguousarray(frames[::-1]))["values"]
    np.testing.assert_array_equal(forth, back[::-1])
    again = registry.build(recipe("squeezenet", runtime=name), "cpu").forward(frames)["values"]
    np.testing.assert_array_equal(forth, again)


@pytest.mark.parametrize("name", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_every_size_of_frames_is_run(name: str) -> None:
    small = {"preprocess": {"size": [96]}}
    extractor = registry.build(recipe("rmac", runtime=name, **small), "cpu")
    eager = registry.build(recipe("rmac", **small), "cpu")
    for rows, columns in ((64, 96), (96, 64), (64, 96)):
        frames = noise((1, 1, rows, columns, 3))
        assert relative_error(extractor.forward(frames)["values"], eager.forward(frames)["values"]) < 1e-5


def test_the_sample_is_the_same_each_time_and_of_the_recipes_form() -> None:
    found = sample_frames(recipe("c3d"))
    assert (found.shape, found.dtype) == ((1, 16, 112, 112, 3), np.uint8)
    np.testing.assert_array_equal(found, sample_frames(recipe("c3d")))
    fractions = sample_frames(recipe("c3d", preprocess={"resize_precision": "float32"}))
    assert fractions.shape == (1, 16, 112, 112, 12)
    np.testing.assert_array_equal(np.ascontiguousarray(fractions).view(np.float32), found)


def test_one_that_is_too_far_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compiled_network.PROMISED_ERROR, "float32", 1e-12)
    with pytest.raises(UsageError, match=r"features.squeezenet runtime: expected an error of at most 1e-12, got openv"):
        registry.build(recipe("squeezenet", runtime="openvino"), "cpu")


def test_one_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = recipe("squeezenet", runtime="openvino")
    monkeypatch.setattr(runtime, "find_spec", lambda name: None)
    for refuse in (lambda: recipe("squeezenet", runtime="openvino"), lambda: registry.build(found, "cpu")):
        with pytest.raises(UsageError, match=r"the package openvino, got none installed.*clipmill\[openvino\]"):
            refuse()


@pytest.mark.parametrize(
    ("name", "written", "message"),
    [
        ("cpnet", {"runtime": "openvino"}, "features.cpnet runtime: expected torch for cpnet, got openvino"),
        ("i3d", {"runtime": "openvino", "options": {"steps": True}}, "runtime: expected torch for i3d"),
        ("c3d", {"runtime": "onnxruntime", "precision": "bfloat16"}, "precision: expected float32 under runtime"),
        ("c3d", {"runtime": "openvino", "precision": "float16"}, "precision: expected float32 or bfloat16 under"),
    ],
)
def test_what_a_runtime_is_not_for_is_refused(name: str, written: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe(name, **written)


def test_a_gpu_is_refused() -> None:
    with pytest.raises(UsageError, match="expected torch on cuda, got openvino; use runtime: torch, or engine.device"):
        registry.build(recipe("squeezenet", runtime="openvino"), "cuda")


DROPPED = """
import os, signal, threading

import numpy as np

from clipmill.extractors import registry
from tests.extractors.test_runtimes import recipe

held = [registry.build(recipe("squeezenet", runtime="openvino"), "cpu")]
held[0].forward(np.zeros((1, 1, 227, 227, 3), np.uint8))
dropping = threading.Thread(target=held.clear)
dropping.start()
dropping.join()
signal.signal(signal.SIGTERM, lambda *_: os.write(1, b"handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_is_handled_after_another_thread_dropped_the_last_network() -> None:
    # Seen on processors with AMX, for which OpenVINO gives a thread another stack for signals.
    done = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, timeout=240, check=False)
    assert (done.returncode, done.stdout) == (0, b"handled"), done.stderr.decode()
