"""Exported programs of PyTorch: rows are the network's own, and nothing of a file is run."""

import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from clipmill.extractors import registry
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.torch_extractor import seeded
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.errors import UsageError, VideoError, WeightsError
from clipmill.schemas.recipe import ClipRule, Recipe
from tests.extractors.exported_programs import (
    HALF,
    NETWORKS,
    SmallC3D,
    SmallResNet,
    example,
    network,
    program,
    save_onnx,
    save_program,
)

TOLERANCE = 1e-5


def resolve(path: Path | str, side: int = 64, name: str = "torch", **changes: Any) -> Recipe:
    preprocess = changes.pop("preprocess", {"resize": "exact", "size": [side, side], **HALF})
    feature = FeatureConfig(weights=WeightsConfig(file=str(path)), preprocess=preprocess, **changes)
    return resolve_recipe(name, feature, ClipRule(), DecodeConfig())


def frames_of(shape: tuple[int, ...], num_windows: int = 3) -> npt.NDArray[np.uint8]:
    """Returns ``uint8[N, T, H, W, 3]`` for a network's input of `shape`."""
    frames = shape[0] if shape[0] > 3 else shape[1] if len(shape) == 4 else 1
    return np.random.default_rng(0).integers(0, 256, (num_windows, frames, *shape[-2:], 3), dtype=np.uint8)


def by_hand(name: str, frames: npt.NDArray[np.uint8]) -> Any:
    """Returns what the network itself gives of frames scaled to -1 to 1, without anything of the project."""
    scaled = (torch.from_numpy(frames.astype(np.float32)) / 255 - 0.5) / 0.5
    order = {"video": (0, 1, 4, 2, 3), "c3d": (0, 4, 1, 2, 3)}.get(name, (0, 1, 4, 2, 3))
    given = scaled.permute(order)
    with torch.inference_mode():
        return network(name)(given if name in ("video", "c3d") else given[:, 0])


def rows(recipe: Recipe, frames: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    return np.asarray(registry.build(recipe, "cpu").forward(frames)["values"])


def off(found: npt.NDArray[Any], expected: Tensor) -> float:
    wanted = expected.numpy()
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


CASES: list[tuple[str, str, dict[str, Any], Callable[[Any], Tensor]]] = [
    ("resnet", "features", {}, lambda out: out["features"]),
    ("resnet", "logits", {}, lambda out: out["logits"]),
    ("resnet", "maps", {"pool": "mean"}, lambda out: out["maps"].mean((2, 3))),
    ("resnet", "maps", {"pool": "max"}, lambda out: out["maps"].amax((2, 3))),
    ("resnet", "maps", {"pool": "none"}, lambda out: out["maps"].flatten(1)),
    ("vit", "pooler_output", {}, lambda out: out["pooler_output"]),
    ("vit", "last_hidden_state", {"pool": "cls"}, lambda out: out["last_hidden_state"][:, 0]),
    ("vit", "last_hidden_state", {"pool": "mean"}, lambda out: out["last_hidden_state"].mean(1)),
    (
        "vit",
        "last_hidden_state",
        {"pool": "mean", "skip_tokens": 1},
        lambda out: out["last_hidden_state"][:, 1:].mean(1),
    ),
    ("video", "last_hidden_state", {"pool": "mean"}, lambda out: out["last_hidden_state"].mean(1)),
    ("c3d", "output", {}, lambda out: out),
]


@pytest.mark.parametrize(("name", "layer", "options", "expected"), CASES)
def test_rows_are_the_networks_own(
    name: str, layer: str, options: dict[str, Any], expected: Callable[[Any], Tensor]
) -> None:
    shape = NETWORKS[name][1]
    recipe = resolve(program(name), shape[-1], layer=layer, options=options)
    frames = frames_of(shape)
    wanted = expected(by_hand(name, frames))
    assert off(rows(recipe, frames), wanted) < TOLERANCE
    assert recipe.dim == wanted.shape[1]
    # A batch of one, which torch.export takes for a special case.
    assert off(rows(recipe, frames[:1]), wanted[:1]) < TOLERANCE


def test_a_clip_decides_the_windows_and_what_they_cost() -> None:
    recipe = resolve(program("c3d"), 24)
    assert (recipe.sampling.frames, recipe.sampling.step) == (6, 6)
    # 8 of 3 x 27 over the whole clip, 12 of 8 x 27 over an eighth of it.
    expected = (6 * 24 * 24 * 8 * 3 * 27 + 3 * 12 * 12 * 12 * 8 * 27) / 1e9
    assert registry.card_of(recipe).gmac_of(recipe.sampling) == pytest.approx(expected)
    with pytest.raises(UsageError, match="expected 6 "):
        resolve(program("c3d"), 24, sampling={"frames": 8})


def test_lengths_that_the_program_leaves_open_are_the_recipes(tmp_path: Path) -> None:
    dims = {axis: torch.export.Dim(name, min=4) for axis, name in ((2, "frames"), (3, "rows"), (4, "columns"))}
    shapes = {"clip": {0: torch.export.Dim("batch"), **dims}}
    path = save_program(network("c3d"), tmp_path / "open.pt2", example("c3d"), "clip", dynamic_shapes=shapes)
    with pytest.raises(UsageError, match=r"sampling frames: expected a number.*got None; write sampling"):
        resolve(path, 16)
    frames = np.random.default_rng(0).integers(0, 256, (2, 9, 16, 20, 3), dtype=np.uint8)
    preprocess = {"resize": "exact", "size": [16, 20], **HALF}
    recipe = resolve(path, sampling={"frames": 9}, preprocess=preprocess)
    assert off(rows(recipe, frames), by_hand("c3d", frames)) < TOLERANCE


def test_a_program_with_a_largest_batch_is_given_no_more(tmp_path: Path) -> None:
    shapes = {"x": {0: torch.export.Dim("batch", max=4)}}
    path = save_program(network("resnet"), tmp_path / "four.pt2", example("resnet"), "x", dynamic_shapes=shapes)
    frames = frames_of(NETWORKS["resnet"][1], 10)
    extractor = registry.build(resolve(path), "cpu")
    sizes: list[int] = []
    inner: Any = extractor
    run = inner._program.run
    inner._program.run = lambda given, output: sizes.append(len(given)) or run(given, output)
    assert off(np.asarray(extractor.forward(frames)["values"]), by_hand("resnet", frames)["features"]) < TOLERANCE
    # Parts of one size, the last one filled up: what a window gives must not depend on the part it is in.
    assert sizes == [4, 4, 4]
    places = [9, 1, 2, 3, 4, 5, 6, 7, 8, 0]
    moved = extractor.forward(frames[places])["values"]
    np.testing.assert_array_equal(moved, np.asarray(extractor.forward(frames)["values"])[places])


@pytest.mark.filterwarnings("ignore::clipmill.extractors.precision.SlowPrecisionWarning")
def test_bgr_and_reduced_precision(tmp_path: Path) -> None:
    frames = frames_of(NETWORKS["resnet"][1])
    expected = by_hand("resnet", np.ascontiguousarray(frames[..., ::-1]))["features"]
    preprocess = {"resize": "exact", "size": [64, 64], "colour": "bgr", **HALF}
    assert off(rows(resolve(program("resnet"), preprocess=preprocess), frames), expected) < TOLERANCE
    exact = by_hand("resnet", frames)["features"]
    difference = off(rows(resolve(program("resnet"), precision="bfloat16"), frames), exact)
    assert 1e-5 < difference < 3e-2


def test_one_program_serves_other_weights(tmp_path: Path) -> None:
    other = seeded(7, SmallResNet).eval()
    state = {f"backbone.{key}": value for key, value in other.state_dict().items()} | {"backbone.extra": torch.ones(2)}
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "other.safetensors")
    recipe = resolve(program("resnet"), options={"tensors": str(tmp_path / "other.safetensors")})
    frames = frames_of(NETWORKS["resnet"][1])
    scaled = ((torch.from_numpy(frames.astype(np.float32)) / 255 - 0.5) / 0.5).permute(0, 1, 4, 2, 3)[:, 0]
    with torch.inference_mode():
        assert off(rows(recipe, frames), other(scaled)["features"]) < TOLERANCE
    assert recipe.fingerprint != resolve(program("resnet")).fingerprint
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((tmp_path / "other.safetensors").read_bytes())
    assert resolve(program("resnet"), options={"tensors": str(moved)}).fingerprint == recipe.fingerprint
    (tmp_path / "other.safetensors").write_bytes(moved.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(WeightsError, match="expected SHA-256"):
        registry.build(recipe, "cpu")
    torch.save({key: value for key, value in other.state_dict().items() if "layer2" not in key}, tmp_path / "less.pth")
    with pytest.raises(WeightsError, match=r"got \d+ of \d+ missing: layer2\.bn1"):
        resolve(program("resnet"), options={"tensors": str(tmp_path / "less.pth")})
    torch.save(other.state_dict() | {"fc.bias": torch.zeros(3)}, tmp_path / "shape.pth")
    with pytest.raises(WeightsError, match=r"expected fc.bias of \[10\], got \[3\]"):
        resolve(program("resnet"), options={"tensors": str(tmp_path / "shape.pth")})


def test_a_recipe_is_the_bytes_of_the_program_not_its_path(tmp_path: Path) -> None:
    copy = tmp_path / "copy.pt2"
    copy.write_bytes(program("resnet").read_bytes())
    recipe = resolve(copy)
    assert recipe.fingerprint == resolve(program("resnet")).fingerprint
    copy.write_bytes(program("vit").read_bytes())
    with pytest.raises(WeightsError, match="expected SHA-256"):
        registry.build(recipe, "cpu")


def test_a_preprocessor_beside_the_program_is_taken_unless_it_is_not_wanted(tmp_path: Path) -> None:
    copy = tmp_path / "model.pt2"
    copy.write_bytes(program("vit").read_bytes())
    processor = {
        "do_resize": True,
        "size": {"height": 32, "width": 32},
        "resample": 3,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    found = resolve(copy, preprocess={}, layer="pooler_output")
    assert (found.preprocess.size, found.preprocess.interpolation) == ((32, 32), "pillow_bicubic")
    same = {"resize": "exact", "size": [32, 32], "interpolation": "pillow_bicubic", **HALF}
    assert resolve(program("vit"), preprocess=same, layer="pooler_output").fingerprint == found.fingerprint
    assert found.files["preprocessor"] == str(tmp_path / "preprocessor_config.json")
    changed = resolve(copy, preprocess={"interpolation": "bilinear"}, layer="pooler_output")
    assert (changed.preprocess.interpolation, changed.preprocess.size) == ("bilinear", (32, 32))
    with pytest.raises(UsageError, match=r"preprocess: expected how frames .* of 32 x 32, got nothing"):
        resolve(copy, preprocess={}, layer="pooler_output", options={"preprocessor": "none"})


# What cannot be used, and the words of the one line that says so.
class Wrapped(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Any:
        return self.function(x * self.weight.reshape(1, 3, *[1] * (x.dim() - 2)))


class Two(nn.Module):
    def forward(self, x: Tensor, input_ids: Tensor) -> Tensor:
        return x.mean((2, 3)) + input_ids.sum()


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x.mean((2, 3)) + self.calls


@torch.library.custom_op("clipmill_tests::double", mutates_args=())
def double(x: Tensor) -> Tensor:
    return x * 2


@double.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


IMAGE = torch.zeros(2, 3, 8, 8)


def exported(path: Path, module: nn.Module, *inputs: Tensor, shapes: Any = None, train: bool = False) -> None:
    if shapes is None:
        shapes = [{0: torch.export.Dim("batch")}, *[None] * (len(inputs) - 1)]
    found = torch.export.export(module.train(train), inputs, dynamic_shapes=tuple(shapes))
    torch.export.save(found, path)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "torchscript": (
        lambda path: torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path)),
        r"got a TorchScript program \(not run\)",
    ),
    "state dict": (lambda path: torch.save({"a": torch.zeros(2)}, path), "got weights without their network"),
    "onnx": (
        lambda path: save_onnx(nn.Flatten(), path, IMAGE, "x", ["y"]),
        r"got an ONNX model, by its first bytes \(extractor: onnx takes it\)",
    ),
    "safetensors": (
        lambda path: save_file({"a": torch.zeros(2)}, path),
        "got safetensors, which are weights without their network",
    ),
    "empty": (lambda path: path.write_bytes(b""), "got an empty file"),
    "text": (lambda path: path.write_text("import os\nos.system('true')"), "got a file of another kind"),
    "cut": (lambda path: path.write_bytes(program("vit").read_bytes()[:5000]), "got a file that broke off"),
    "folder": (lambda path: path.mkdir(), "expected a readable file, got Is a directory"),
    "missing": (lambda path: None, "expected a readable file, got No such file or directory"),
    "other zip": (
        lambda path: zipfile.ZipFile(path, "w").writestr("a.txt", "a"),
        "got a zip file of another kind",
    ),
    "fixed batch": (
        lambda path: exported(path, Wrapped(lambda x: x.mean((2, 3))), IMAGE, shapes=[None]),
        r"expected a batch axis of open length, got a batch of 2 .*dynamic_shapes=\{'x': \{0: torch.export.Dim",
    ),
    "two inputs": (lambda path: exported(path, Two(), IMAGE, torch.zeros(3)), r"got 2 \(x, input_ids\)"),
    "vectors": (
        lambda path: exported(path, Wrapped(lambda x: x), torch.zeros(2, 3)),
        r"expected an input \[N, C, H, W\] .*got float32\[N, 3\] x",
    ),
    "double": (
        lambda path: exported(path, Wrapped(lambda x: x.mean((2, 3))).double(), IMAGE.double()),
        r"expected an input of float32 .* got float64\[N, 3, 8, 8\] x",
    ),
    "four channels": (
        lambda path: exported(path, nn.Flatten(), torch.zeros(2, 4, 8, 8)),
        "expected 1 or 3 channels of fixed number",
    ),
    "training": (
        lambda path: exported(path, Wrapped(lambda x: nn.functional.dropout(x, 0.5).flatten(1)), IMAGE, train=True),
        r"got torch.ops.aten.dropout.default, which only training needs; export it after model.eval\(\)",
    ),
    "random": (
        lambda path: exported(path, Wrapped(lambda x: (x + torch.rand_like(x)).flatten(1)), IMAGE),
        "got torch.ops.aten.rand_like.default, which only training needs",
    ),
    "batch statistics": (
        lambda path: exported(path, nn.Sequential(nn.BatchNorm2d(3), nn.Flatten()), IMAGE, train=True),
        "got torch.ops.aten.batch_norm.default, which only training needs",
    ),
    "counting": (lambda path: exported(path, Counting(), IMAGE), "got one that writes to them; export it after"),
    "custom operator": (
        lambda path: exported(path, Wrapped(lambda x: double(x).flatten(1)), IMAGE),
        r"expected operators of ATen, got torch.ops.clipmill_tests.double.default; .*custom operators are not run",
    ),
    "one for all": (
        lambda path: exported(path, Wrapped(lambda x: x.mean((0, 2, 3))[None]), IMAGE),
        r"expected one entry per window, got \[1, 3\] for 2 windows",
    ),
    "not finite": (
        lambda path: exported(path, Wrapped(lambda x: (x / 0).flatten(1)), IMAGE),
        "expected finite numbers, got NaN or infinity from output output",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_cannot_be_used_is_one_line(kind: str, tmp_path: Path) -> None:
    make, words = BAD[kind]
    path = tmp_path / "model.pt2"
    make(path)
    with pytest.raises(UsageError, match=words) as caught:
        resolve(path, 8)
    assert "\n" not in str(caught.value)
    assert re.match(r"program \S+: expected .+, got .+; .+", str(caught.value))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        (
            "vit",
            {"layer": "pooler"},
            r"layer: expected one of .*, pooler_output, got pooler; did you mean",
        ),
        ("vit", {}, r"pool: expected cls, mean, max, none for tokens, got nothing .* or layer: pooler_output"),
        ("vit", {"layer": "pooler_output", "options": {"pool": "mean"}}, "which is one vector already; leave it out"),
        ("resnet", {"layer": "maps", "options": {"pool": "cls"}}, "expected mean, max, none for maps, got cls"),
        ("vit", {"options": {"pool": "mean", "skip_tokens": 17}}, "skip_tokens: expected at most 16"),
        ("vit", {"options": {"skip_tokens": 1}}, "skip_tokens belongs to pool mean or max"),
        ("resnet", {"side": 48}, None),
        (
            "vit",
            {"layer": "pooler_output", "side": 48},
            "crop: expected 32 rows .* got frames of 48 rows; set",
        ),
        (
            "vit",
            {"layer": "pooler_output", "preprocess": {"resize": "short_side", "size": [32], **HALF}},
            "got frames of whatever size a video has; set preprocess",
        ),
        ("vit", {"layer": "pooler_output", "sampling": {"frames": 4}}, r"frames: expected 1 \(torch takes no other\)"),
        ("resnet", {"options": {"axes": "ncthw"}}, r"expected options.axes nchw .* got ncthw"),
        ("resnet", {"options": {"layers": 1}}, "unknown key"),
    ],
)
def test_a_recipe_that_does_not_fit_is_one_line(
    name: str, changes: dict[str, Any], words: str | None, tmp_path: Path
) -> None:
    path = program(name)
    if words is None:
        # Fixed at 64 x 64 by its export.
        words = "crop: expected 64 rows"
    with pytest.raises(UsageError, match=words) as caught:
        resolve(path, changes.pop("side", NETWORKS[name][1][-1]), **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weights", [None, {"random": 0}])
def test_a_program_has_no_random_weights(weights: dict[str, int] | None) -> None:
    feature = FeatureConfig(weights=WeightsConfig(**weights) if weights else None)
    with pytest.raises(UsageError, match=r"weights: expected \{file: PATH\}, the exported network"):
        resolve_recipe("torch", feature, ClipRule(), DecodeConfig())


def test_a_window_of_another_size_is_the_videos_error() -> None:
    extractor = registry.build(resolve(program("resnet")), "cpu")
    with pytest.raises(VideoError, match="expected 1 x 64 x 64, got 1 x 32 x 64"):
        extractor.forward(np.zeros((1, 1, 32, 64, 3), np.uint8))


def edited(path: Path, change: Callable[[dict[str, bytes]], None], source: str = "resnet") -> Path:
    """Writes a program whose members `change` has changed, as an attacker would."""
    with zipfile.ZipFile(program(source)) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"model/{name}", content)
    return path


def graph_of(members: dict[str, bytes]) -> tuple[str, dict[str, Any]]:
    name = next(name for name in members if name.startswith("models/"))
    return name, json.loads(members[name])


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickles_and_expressions_in_a_file_are_not_looked_at(tmp_path: Path) -> None:
    trace = tmp_path / "ran"

    def change(members: dict[str, bytes]) -> None:
        buffer = io.BytesIO()
        torch.save((Touch(trace), {}), buffer)
        [inputs] = [name for name in members if name.startswith("data/sample_inputs/")]
        members[inputs] = buffer.getvalue()
        name, content = graph_of(members)
        text = json.dumps(content)
        expression = f"__import__('pathlib').Path({str(trace)!r}).touch()"
        text = re.sub(r'"expr_str": "(?:[^"\\]|\\.)*"', lambda _: f'"expr_str": {json.dumps(expression)}', text)
        content = json.loads(text) | {"guards_code": [expression], "range_constraints": {}}
        members[name] = json.dumps(content).encode()

    path = edited(tmp_path / "model.pt2", change)
    frames = frames_of(NETWORKS["resnet"][1])
    assert off(rows(resolve(path), frames), by_hand("resnet", frames)["features"]) < TOLERANCE
    assert not trace.exists()
    # What was in it would have run: PyTorch's own loader falls back to an unrestricted pickle.
    pickle.loads(pickle.dumps(Touch(trace)))
    assert trace.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.warn.default",
        "torch.ops.aten.no_such_operator.default",
        "torch.ops.higher_order.cond",
        "torch.ops.prim.Print.default",
        "torch.load",
        "torch.os.system",
        "torch.hub.load",
        "_operator.methodcaller",
        "math.factorial",
        "#namespace:operator",
        "",
    ],
)
def test_targets_that_are_no_arithmetic_are_refused_by_name(target: str, tmp_path: Path) -> None:
    def change(members: dict[str, bytes]) -> None:
        name, content = graph_of(members)
        content["graph_module"]["graph"]["nodes"][0]["target"] = target
        members[name] = json.dumps(content).encode()

    with pytest.raises(WeightsError, match=re.escape(f"got {target}; ")):
        resolve(edited(tmp_path / "model.pt2", change))


def _pickled(members: dict[str, bytes]) -> None:
    [name] = [name for name in members if name.endswith("weights_config.json")]
    content = json.loads(members[name])
    next(iter(content["config"].values()))["use_pickle"] = True
    members[name] = json.dumps(content).encode()


def _opaque(members: dict[str, bytes]) -> None:
    [name] = [name for name in members if name.endswith("constants_config.json")]
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    members[name] = json.dumps({"config": {"thing": entry}}).encode()


def _short(members: dict[str, bytes]) -> None:
    members["data/weights/weight_0"] = members["data/weights/weight_0"][:-4]


def _huge(members: dict[str, bytes]) -> None:
    [name] = [name for name in members if name.endswith("weights_config.json")]
    content = json.loads(members[name])
    next(iter(content["config"].values()))["tensor_meta"]["sizes"][0] = {"as_int": 1 << 40}
    members[name] = json.dumps(content).encode()


def _lost(members: dict[str, bytes]) -> None:
    del members["data/weights/weight_0"]


def _nan(members: dict[str, bytes]) -> None:
    numbers = np.frombuffer(members["data/weights/weight_0"], "<f4")
    members["data/weights/weight_0"] = np.full_like(numbers, np.nan).tobytes()


def _schema(members: dict[str, bytes]) -> None:
    name, content = graph_of(members)
    members[name] = json.dumps(content | {"schema_version": {"major": 9, "minor": 1}}).encode()


def _nested(members: dict[str, bytes]) -> None:
    name, _ = graph_of(members)
    members[name] = b"[" * 100_000


def _no_graph(members: dict[str, bytes]) -> None:
    name, content = graph_of(members)
    del content["graph_module"]["graph"]["nodes"]
    members[name] = json.dumps(content).encode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_pickled, "got a pickled object for"),
        (_opaque, "got a pickled object for thing"),
        (_short, "expected the numbers of .*, got fewer or damaged bytes"),
        (_huge, "expected the numbers of .*, got fewer or damaged bytes"),
        (_lost, "expected a member data/weights/weight_0"),
        (_nan, "expected finite numbers, got NaN or infinity in"),
        (_schema, "expected schema 8 of torch.export, got schema 9"),
        (_nested, "damaged or foreign data"),
        (_no_graph, "damaged or foreign data"),
    ],
)
def test_an_archive_that_is_not_what_it_should_be_is_one_line(
    change: Callable[[dict[str, bytes]], None], words: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=words) as caught:
        resolve(edited(tmp_path / "model.pt2", change))
    assert "\n" not in str(caught.value)


def test_members_that_unfold_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/models/model.json", b" " * (8 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(WeightsError, match="got compressed ones"):
        resolve(path)


def test_maps_of_one_position_need_no_pooling(tmp_path: Path) -> None:
    exported(tmp_path / "pooled.pt2", nn.AdaptiveAvgPool2d(1), IMAGE)
    frames = frames_of((3, 8, 8))
    expected = (frames.astype(np.float32) / 255 - 0.5).mean((1, 2, 3)) * 2
    np.testing.assert_allclose(rows(resolve(tmp_path / "pooled.pt2", 8), frames), expected, atol=1e-6)


def test_grey_frames_and_channels_of_either_place(tmp_path: Path) -> None:
    class Grey(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(3)[:, 0]

    exported(tmp_path / "grey.pt2", Grey(), torch.zeros(2, 1, 8, 6))
    recipe = resolve(tmp_path / "grey.pt2", preprocess={"resize": "exact", "size": [8, 6], "scale": 0.5})
    assert (recipe.preprocess.colour, recipe.dim) == ("grey", 8)
    frames = np.random.default_rng(0).integers(0, 256, (2, 1, 8, 6, 1), dtype=np.uint8)
    np.testing.assert_allclose(rows(recipe, frames), frames[:, 0, :, :, 0].mean(2) / 2, rtol=1e-6)

    exported(tmp_path / "either.pt2", nn.Sequential(SmallC3D()), torch.zeros(2, 3, 3, 8, 8))
    with pytest.raises(UsageError, match=r"expected options.axes ncthw or ntchw, got float32\[N, 3, 3, 8, 8\]"):
        resolve(tmp_path / "either.pt2", 8)
    frames = np.random.default_rng(1).integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    by_time, by_channel = (
        rows(resolve(tmp_path / "either.pt2", 8, options={"axes": axes}), np.ascontiguousarray(given))
        for axes, given in (("ntchw", frames), ("ncthw", frames.transpose(0, 4, 2, 3, 1)))
    )
    np.testing.assert_array_equal(by_time, by_channel)
