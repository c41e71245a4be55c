"""ONNX files: rows are those of the network in PyTorch, and what cannot be run is one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from clipmill.extractors import registry
from clipmill.extractors.onnx_program.model import onnx_digest
from clipmill.schemas.errors import UsageError, WeightsError
from tests.extractors.exported_programs import NETWORKS, onnx_file, save_onnx
from tests.extractors.test_torch_program import TOLERANCE, by_hand, frames_of, off, resolve, rows

CASES: list[tuple[str, str, dict[str, Any], Callable[[Any], torch.Tensor]]] = [
    ("resnet", "features", {}, lambda out: out["features"]),
    ("resnet", "maps", {"pool": "mean"}, lambda out: out["maps"].mean((2, 3))),
    ("vit", "pooler_output", {}, lambda out: out["pooler_output"]),
    ("vit", "last_hidden_state", {"pool": "cls"}, lambda out: out["last_hidden_state"][:, 0]),
    ("video", "last_hidden_state", {"pool": "mean"}, lambda out: out["last_hidden_state"].mean(1)),
    ("c3d", "output", {}, lambda out: out),
]


@pytest.mark.parametrize(("name", "layer", "options", "expected"), CASES)
def test_rows_are_the_networks_own(
    name: str, layer: str, options: dict[str, Any], expected: Callable[[Any], torch.Tensor]
) -> None:
    shape = NETWORKS[name][1]
    recipe = resolve(onnx_file(name), shape[-1], "onnx", layer=layer, options=options)
    frames = frames_of(shape)
    wanted = expected(by_hand(name, frames))
    assert off(rows(recipe, frames), wanted) < TOLERANCE
    assert off(rows(recipe, frames[:1]), wanted[:1]) < TOLERANCE
    assert recipe.dim == wanted.shape[1]


def test_what_a_window_costs_is_counted() -> None:
    found = registry.card_of(resolve(onnx_file("c3d"), 24, "onnx"))
    expected = (6 * 24 * 24 * 8 * 3 * 27 + 3 * 12 * 12 * 12 * 8 * 27) / 1e9
    assert found.gmac_per_window == pytest.approx(expected)


def test_weights_in_files_of_their_own_are_part_of_the_digest(tmp_path: Path) -> None:
    model = onnx.load(onnx_file("resnet"))
    path = tmp_path / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="model.data", size_threshold=0)
    recipe = resolve(path, name="onnx")
    frames = frames_of(NETWORKS["resnet"][1])
    assert off(rows(recipe, frames), by_hand("resnet", frames)["features"]) < TOLERANCE
    before = onnx_digest(str(path))
    assert recipe.weights.sha256 == before
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "other.onnx").write_bytes(path.read_bytes())
    (moved / "model.data").write_bytes((tmp_path / "model.data").read_bytes())
    assert resolve(moved / "other.onnx", name="onnx").fingerprint == recipe.fingerprint
    data = tmp_path / "model.data"
    data.write_bytes(data.read_bytes()[:-1] + b"\1")
    assert onnx_digest(str(path)) != before
    with pytest.raises(WeightsError, match="expected SHA-256"):
        registry.build(recipe, "cpu")
    data.unlink()
    with pytest.raises(WeightsError, match=r"expected its weights in model.data, in its folder, got no such file"):
        resolve(path, name="onnx")


@pytest.mark.parametrize("location", ["../secret.data", "/etc/hostname", "a\\b", ""])
def test_weights_outside_the_models_folder_are_not_read(location: str, tmp_path: Path) -> None:
    model = onnx.load(onnx_file("resnet"))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret.data").write_bytes(bytes(1 << 16))
    (tmp_path / "folder" / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match="expected weights in files of its folder, got"):
        resolve(tmp_path / "folder" / "model.onnx", name="onnx")


def test_weights_behind_a_link_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(onnx.load(onnx_file("vit")), path, save_as_external_data=True, location="d", size_threshold=0)
    (tmp_path / "d").rename(tmp_path / "elsewhere")
    (tmp_path / "d").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match="expected weights in files of its folder"):
        resolve(path, 32, "onnx", layer="pooler_output")


def made(
    nodes: list[onnx.NodeProto],
    shape: tuple[Any, ...] = ("N", 3, 8, 8),
    inputs: int = 1,
    opset: int = 17,
    **changes: Any,
) -> onnx.ModelProto:
    """Returns a model of a few nodes, from ``x`` to ``y``."""
    given = [helper.make_tensor_value_info("xz"[index], TensorProto.FLOAT, shape) for index in range(inputs)]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", given, [result])
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, **changes)


FLATTEN = helper.make_node("Flatten", ["x"], ["y"])


def write(path: Path, model: onnx.ModelProto) -> None:
    path.write_bytes(model.SerializeToString())


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "program": (lambda path: torch.save({}, path), r"got a zip file, as PyTorch writes \(extractor: torch takes"),
    "empty": (lambda path: path.write_bytes(b""), "got an empty file"),
    "text": (lambda path: path.write_text("hello, this is text"), "expected an ONNX model, got "),
    "missing": (lambda path: None, "expected a readable file, got No such file or directory"),
    "folder": (lambda path: path.mkdir(), "expected a readable file, got Is a directory"),
    "cut": (lambda path: path.write_bytes(onnx_file("vit").read_bytes()[:3000]), "expected an ONNX model, got damaged"),
    "custom operator": (
        lambda path: write(path, made([helper.make_node("Wonder", ["x"], ["y"], domain="com.example")])),
        r"expected operators of ONNX, got com.example::Wonder \(not run\); export the network without custom operators",
    ),
    "random": (
        lambda path: write(path, made([helper.make_node("RandomNormalLike", ["x"], ["r"]), FLATTEN])),
        "got random numbers by RandomNormalLike; export it after model.eval",
    ),
    "opset": (
        lambda path: write(path, made([FLATTEN], opset=99)),
        r"expected a model onnxruntime \S+ takes, got opset 99: .*; export it with a lower opset_version",
    ),
    "unknown operator": (
        lambda path: write(path, made([helper.make_node("Wonder", ["x"], ["y"])])),
        "expected a model onnxruntime .* takes, got opset 17: .*Wonder",
    ),
    "two inputs": (lambda path: write(path, made([FLATTEN], inputs=2)), r"expected one input.*, got 2 \(x, z\)"),
    "fixed batch": (
        lambda path: write(path, made([FLATTEN], shape=(1, 3, 8, 8))),
        r"expected a batch axis of open length, got a batch of 1",
    ),
    "batch in a reshape": (
        lambda path: save_onnx(Fixed(), path, torch.zeros(1, 3, 8, 8), "x", ["y"]),
        "(expected two windows of 1 x 8 x 8 to run through it|expected one entry per window)",
    ),
    "vectors": (lambda path: write(path, made([FLATTEN], shape=("N", 3))), r"expected an input \[N, C, H, W\]"),
}


class Fixed(nn.Module):
    """Its batch is a number inside it, as PyTorch's first exporter writes it without a word."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(int(x.shape[0]), 192)


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_file_that_cannot_be_used_is_one_line(kind: str, tmp_path: Path) -> None:
    make, words = BAD[kind]
    make(tmp_path / "model.onnx")
    with pytest.raises(UsageError, match=words) as caught:
        resolve(tmp_path / "model.onnx", 8, "onnx")
    assert "\n" not in str(caught.value)


def test_functions_that_the_file_itself_defines_are_run(tmp_path: Path) -> None:
    body = helper.make_function(
        "com.example",
        "Twice",
        ["x"],
        ["y"],
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [helper.make_opsetid("", 17)],
    )
    nodes = [helper.make_node("Twice", ["x"], ["t"], domain="com.example"), helper.make_node("Flatten", ["t"], ["y"])]
    write(tmp_path / "model.onnx", made(nodes, functions=[body]))
    recipe = resolve(tmp_path / "model.onnx", 8, "onnx", preprocess={"resize": "exact", "size": [8, 8], "scale": 0.5})
    frames = frames_of((3, 8, 8))
    expected = frames[:, 0].transpose(0, 3, 1, 2).reshape(3, -1).astype(np.float32)
    np.testing.assert_allclose(rows(recipe, frames), expected)


def test_a_file_in_half_precision_runs_in_it(tmp_path: Path) -> None:
    half = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval().half()
    save_onnx(half, tmp_path / "half.onnx", torch.zeros(2, 3, 8, 8).half(), "x", ["y"])
    recipe = resolve(tmp_path / "half.onnx", 8, "onnx")
    frames = frames_of((3, 8, 8))
    scaled = ((torch.from_numpy(frames.astype(np.float32)) / 255 - 0.5) / 0.5).permute(0, 1, 4, 2, 3)[:, 0]
    with torch.inference_mode():
        assert off(rows(recipe, frames), half(scaled.half()).float()) < 2e-3
    with pytest.raises(
        UsageError, match="precision: expected float32: an ONNX file has its own precision, got float16"
    ):
        resolve(tmp_path / "half.onnx", 8, "onnx", precision="float16")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_package_that_is_missing_is_named_with_what_installs_it(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_file("resnet").read_bytes())
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(
        UsageError, match=rf"expected the package {package}, got none installed; pip install 'clipmill\[onnx\]'"
    ):
        resolve(path, name="onnx")


def test_a_gpu_that_onnxruntime_has_no_support_of_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    recipe = resolve(onnx_file("resnet"), name="onnx")
    with pytest.raises(
        UsageError, match="expected onnxruntime with CUDA.*, got a build for the CPU; pip install onnxruntime-gpu"
    ):
        registry.registration("onnx").factory(recipe, "cuda")
