"""CPNet from recipe to rows: published layouts and sizes, a second reading from TensorFlow's names, and refusals."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from clipmill.extractors import registry
from clipmill.extractors.cpnet.build import CPNetExtractor
from clipmill.extractors.cpnet.layouts import layouts, variables
from clipmill.extractors.cpnet.network import CPNet
from clipmill.extractors.cpnet.releases import RELEASES
from clipmill.extractors.cpnet.weights import read_state, to_tensorflow
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.torch_extractor import seeded
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.errors import ConfigError, UsageError, VideoError, WeightsError
from clipmill.schemas.recipe import ClipRule, Recipe, Sampling
from tests.extractors.published_layouts import numbered_state, published


def recipe(
    options: Mapping[str, Any] | None = None, layer: str | None = None, file: Path | None = None, **more: Any
) -> Recipe:
    weights = WeightsConfig(file=str(file)) if file is not None else WeightsConfig(random=0)
    feature = FeatureConfig(layer=layer, options=dict(options or {}), weights=weights, **more)
    return resolve_recipe("cpnet", feature, ClipRule(), DecodeConfig())


def noise(*shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def unsettled(depth: int, **arguments: Any) -> CPNet:
    """Random weights whose batch norms are not the identity."""
    network = seeded(0, partial(CPNet, depth, **arguments)).eval()
    generator = torch.Generator().manual_seed(1)
    for key, value in network.state_dict().items():
        if key.endswith(("running_var", "bn.weight")):
            value.uniform_(0.5, 1.0, generator=generator)
        elif key.endswith(("running_mean", "bias")):
            value.normal_(0.0, 0.1, generator=generator)
    return network


PUBLISHED = {18: (400, 11_575_440), 34: (27, 21_571_227), 101: (400, 44_421_520)}


@pytest.mark.parametrize("depth", PUBLISHED)
def test_layouts_are_the_published_names_and_shapes(shared_data: Path, depth: int) -> None:
    name = f"cpnet_c2d_resnet{depth}_tf"
    found = next(layout for layout in layouts(depth) if layout.name == name)
    assert {key: list(shape) for key, (_, shape) in found.keys.items()} == published(shared_data, name)


@pytest.mark.parametrize("depth", PUBLISHED)
def test_parameters_are_as_many_as_in_the_layouts(depth: int) -> None:
    num_classes, expected = PUBLISHED[depth]
    found = variables(depth, num_classes)
    assert sum(int(np.prod(item.shape)) for item in found if "running" not in item.key) == expected


# The reference sheet's table, in millions: plain C2D and with CP modules, for 400, 174 and 27 classes.
SHEET = {
    18: ((11.39, 11.58), (11.27, 11.46), (11.20, 11.38)),
    34: ((21.50, 21.76), (21.38, 21.65), (21.31, 21.57)),
    101: ((43.37, 44.42), (42.91, 43.96), (42.61, 43.66)),
}


@pytest.mark.parametrize("depth", SHEET)
def test_parameters_are_the_sheets_with_and_without_the_modules(depth: int) -> None:
    for num_classes, (plain, with_modules) in zip((400, 174, 27), SHEET[depth], strict=True):
        for cp_blocks, expected in (((0, 0, 0), plain), (None, with_modules)):
            with torch.device("meta"):
                network = CPNet(depth, num_classes=num_classes, cp_blocks=cp_blocks)
            assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 2) == expected


def test_modules_stand_where_they_are_published() -> None:
    expected = {
        18: ["group1.block0", "group1.block1", "group2.block0", "group2.block1"],
        34: ["group1.block2", "group1.block3", "group2.block3", "group2.block4", "group2.block5"],
        101: ["group1.block2", "group1.block3", "group2.block20", "group2.block21", "group2.block22"],
    }
    for depth, names in expected.items():
        with torch.device("meta"):
            network = CPNet(depth)
        found = [name.removesuffix(".pointnet") for name, _ in network.named_modules() if name.endswith(".pointnet")]
        assert found == names
        modules = [network.get_submodule(f"{name}.pointnet") for name in names]
        assert {module.k for module in modules} == {4 if depth == 101 else 8}
        assert [module.shrink for module in modules] == [name.startswith("group1") for name in names]


def by_hand(variables: Mapping[str, Tensor], clips: Tensor, stem_stride: int, k: int) -> Tensor:
    """The logits of one clip ``[T, 3, H, W]``, from the names and shapes of the TensorFlow file alone."""

    def same(maps: Tensor, side: int, stride: int, value: float = 0.0) -> Tensor:
        pads = []
        for size in (maps.shape[3], maps.shape[2]):
            total = max((-(-size // stride) - 1) * stride + side - size, 0)
            pads += [total // 2, total - total // 2]
        return functional.pad(maps, pads, value=value)

    def norm(maps: Tensor, scope: str) -> Tensor:
        scale = variables[f"{scope}/gamma"] / (variables[f"{scope}/moving_variance"] + 1e-3).sqrt()
        shift = variables[f"{scope}/beta"] - variables[f"{scope}/moving_mean"] * scale
        return maps * scale[:, None, None] + shift[:, None, None]

    def convolve(maps: Tensor, scope: str, stride: int = 1) -> Tensor:
        kernel = variables[f"{scope}/weights"]
        kernel = kernel.reshape(kernel.shape[-4:] if kernel.dim() == 5 else kernel.shape).permute(3, 2, 0, 1)
        padded = same(maps, kernel.shape[2], stride)
        return functional.conv2d(padded, kernel.contiguous(), variables[f"{scope}/biases"], stride)

    def proposals(maps: Tensor, scope: str, shrink: bool) -> Tensor:
        searched = maps
        if f"{scope}/conv_bottle0/weights" in variables:
            searched = norm(convolve(maps, f"{scope}/conv_bottle0"), f"{scope}/conv_bottle0/bn")
        if shrink:
            searched = searched[:, :, ::2, ::2]
        num_frames, channels, height, width = searched.shape
        points = searched.permute(0, 2, 3, 1).reshape(-1, channels)
        scores = -torch.cdist(points.double(), points.double()).square()
        frame = torch.arange(len(points)) // (height * width)
        # The released code writes -1e8, which these untrained features exceed.
        scores[frame[:, None] == frame] = float("-inf")
        nearest = scores.topk(k).indices
        index = torch.arange(len(points))
        places = torch.stack([frame / num_frames, index // width % height / height, index % width / width], dim=1).to(
            maps.dtype
        )
        pairs = torch.cat(
            [places[nearest] - places[:, None], points[:, None].expand(-1, k, -1), points[nearest]], dim=2
        )
        # As an image of points by neighbours, on which TensorFlow's 1x1 convolutions work.
        hidden = pairs.permute(2, 0, 1)[None]
        layer = 0
        while f"{scope}/conv{layer}/weights" in variables:
            hidden = norm(convolve(hidden, f"{scope}/conv{layer}"), f"{scope}/conv{layer}/bn").clamp(min=0)
            layer += 1
        pooled = hidden.amax(3)[0].T.reshape(num_frames, height, width, -1).permute(0, 3, 1, 2)
        update = norm(convolve(pooled, f"{scope}/conv_final"), f"{scope}/bn_final")
        if shrink:
            repeated = functional.pad(update, (0, 1, 0, 1), mode="replicate")
            size = (2 * height + 1, 2 * width + 1)
            update = functional.interpolate(repeated, size=size, mode="bilinear", align_corners=True)[:, :, :-1, :-1]
        return maps + update

    maps = norm(convolve(clips, "conv0", stem_stride), "conv0/bn").clamp(min=0)
    maps = functional.max_pool2d(same(maps, 3, 2, float("-inf")), 3, 2)
    for group in range(4):
        block = 0
        while f"group{group}/block{block}/conv1/weights" in variables:
            scope = f"group{group}/block{block}"
            stride = 2 if group > 0 and block == 0 else 1
            branch = norm(convolve(maps, f"{scope}/conv1", stride), f"{scope}/conv1/bn")
            layer = 2
            while f"{scope}/conv{layer}/weights" in variables:
                branch = norm(convolve(branch.clamp(min=0), f"{scope}/conv{layer}"), f"{scope}/conv{layer}/bn")
                layer += 1
            if f"{scope}/convshortcut/weights" in variables:
                maps = norm(convolve(maps, f"{scope}/convshortcut", stride), f"{scope}/convshortcut/bn")
            maps = maps + branch
            if f"{scope}/pointnet/conv0/weights" in variables:
                maps = proposals(maps, f"{scope}/pointnet", group == 1)
            maps = maps.clamp(min=0)
            block += 1
    return maps.mean(dim=(0, 2, 3)) @ variables["fc/weights"] + variables["fc/biases"]


@pytest.mark.parametrize(("depth", "stem_stride"), [(18, 1), (18, 2), (101, 2)])
def test_the_network_is_its_tensorflow_variables_read_by_hand(depth: int, stem_stride: int) -> None:
    # In double precision, so that no rounding makes another point the nearest.
    network = unsettled(depth, layer="logits", num_classes=7, stem_stride=stem_stride).double()
    side = 32 * stem_stride
    clips = torch.randn(2, 3, 3, side, side, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.inference_mode():
        got = network(clips)
        state = {key: value.double() for key, value in to_tensorflow(network.state_dict(), depth).items()}
        expected = torch.stack([by_hand(state, clip, stem_stride, RELEASES[depth].k) for clip in clips])
    torch.testing.assert_close(got, expected)


def test_the_modules_are_the_only_path_between_frames() -> None:
    clips = torch.randn(1, 3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    changed = clips.clone()
    changed[:, 2] += 1
    for cp_blocks, alone in (((0, 0, 0), True), ((0, 1, 0), False)):
        network = unsettled(18, cp_blocks=cp_blocks)
        with torch.inference_mode():
            before, after = network.maps(clips)[:, :2], network.maps(changed)[:, :2]
        assert torch.allclose(before, after, atol=1e-5) == alone


def test_the_published_start_is_plain_c2d() -> None:
    clips = torch.randn(1, 2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(0)
    network = CPNet(18).eval()
    plain = CPNet(18, cp_blocks=(0, 0, 0)).eval()
    plain.load_state_dict({key: value for key, value in network.state_dict().items() if "pointnet" not in key})
    with torch.inference_mode():
        torch.testing.assert_close(network(clips), plain(clips), rtol=0, atol=0)


def test_maps_are_56_28_14_and_7_for_112_and_for_224_pixels() -> None:
    for side, stem_stride in ((112, 1), (224, 2)):
        with torch.device("meta"):
            network = CPNet(18, cp_blocks=(0, 0, 0), stem_stride=stem_stride)
            assert network.maps(torch.zeros(1, 2, 3, side, side)).shape == (1, 2, 512, 7, 7)


def test_neighbours_of_a_translated_texture_follow_the_translation() -> None:
    # 16 pixels are two columns of res4's map, so what the network sees there is shifted by whole points.
    rng = np.random.default_rng(0)
    canvas = cv2.GaussianBlur(rng.random((112, 144, 3), dtype=np.float32), (0, 0), 2.0)
    canvas = (canvas - canvas.mean()) / canvas.std()
    clip = torch.from_numpy(np.stack([canvas[:, 16:128], canvas[:, :112]])).permute(0, 3, 1, 2)[None]
    network = seeded(0, partial(CPNet, 18, k=1, cp_blocks=(0, 2, 0))).eval()
    module = network.get_submodule("group2.block0.pointnet")
    seen: list[Tensor] = []
    module.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    with torch.inference_mode():
        network(clip)
    found = module.neighbours(seen[0])[0, :, 0]  # type: ignore[operator]
    height, width = seen[0].shape[3:]
    assert (height, width) == (14, 14)
    # Points whose receptive field padding does not reach, and whose match lies in the other frame.
    hits = [
        divmod(int(found[row * width + column]) - height * width, width) == (row, column + 2)
        for row in range(4, 10)
        for column in range(4, 9)
    ]
    assert np.mean(hits) > 0.9


@pytest.mark.parametrize("depth", PUBLISHED)
def test_published_layouts_load_and_come_back(shared_data: Path, tmp_path: Path, depth: int) -> None:
    name = f"cpnet_c2d_resnet{depth}_tf"
    state = numbered_state(published(shared_data, name))
    torch.save(state, tmp_path / "weights.pt")
    found = recipe({"depth": depth}, "logits", tmp_path / "weights.pt")
    assert (found.weights.layout, found.dim) == (name, PUBLISHED[depth][0])
    back = to_tensorflow(read_state(str(tmp_path / "weights.pt"), depth), depth)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())


@pytest.fixture(scope="module")
def jester() -> CPNet:
    return unsettled(34, layer="logits", num_classes=27)


@pytest.fixture(scope="module")
def jester_file(jester: CPNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cpnet") / "cpnet34.npz"
    np.savez(path, **{key: value.numpy() for key, value in to_tensorflow(jester.state_dict(), 34).items()})
    return path


def test_a_file_gives_features_and_logits_of_preprocessed_frames(jester: CPNet, jester_file: Path) -> None:
    frames = noise(2, 3, 48, 48, 3)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    clips = torch.from_numpy(((frames / 255 - mean) / std).astype(np.float32)).permute(0, 1, 4, 2, 3)
    with torch.inference_mode():
        expected = {"features": jester.maps(clips).mean((1, 3, 4)).numpy(), "logits": jester(clips).numpy()}
    for layer, dim in (("features", 512), ("logits", 27)):
        options = {"depth": 34, "fold_batch_norm": layer == "logits"}
        found = recipe(options, layer, jester_file, sampling=Sampling(frames=3))
        assert (found.dim, found.weights.card, found.preprocess.crop) == (dim, "jester-resnet34", (112, 112))
        values = registry.build(found, "cpu").forward(frames)["values"]
        np.testing.assert_allclose(values, expected[layer], rtol=0, atol=1e-3 * float(np.abs(expected[layer]).max()))


def test_the_number_of_classes_tells_what_weights_were_trained_on(tmp_path: Path) -> None:
    for num_classes, layout, card, side in (
        (174, "cpnet_c2d_resnet18_tf_something", "something-resnet18", 224),
        (400, "cpnet_c2d_resnet18_tf", "kinetics-resnet18", 112),
        (5, "cpnet_c2d_resnet18_tf_any", "kinetics-resnet18", 112),
    ):
        path = tmp_path / f"{num_classes}.pt"
        with torch.device("meta"):
            state = CPNet(18, num_classes=num_classes).state_dict()
        shapes = {key: list(value.shape) for key, value in to_tensorflow(state, 18).items()}
        torch.save(numbered_state(shapes), path)
        if num_classes == 5:
            with pytest.raises(UsageError, match="expected one of kinetics-resnet18, something-resnet18, as keys"):
                recipe({}, "logits", path)
            # Given the size, the cards differ in nothing.
            assert recipe({"input_size": 224}, "logits", path).preprocess.crop == (224, 224)
        found = recipe({"input_size": side} if num_classes == 5 else {}, "logits", path)
        assert (found.weights.layout, found.weights.card, found.dim) == (layout, card, num_classes)
        assert (found.preprocess.size, found.preprocess.crop) == ((side,), (side, side))
        assert found.options["input_size"] == side
        extractor = registry.build(found, "cpu")
        assert isinstance(extractor, CPNetExtractor)
        stem: Any = extractor.network.get_submodule("conv0.conv")
        assert stem.stride == ((2, 2) if side == 224 else (1, 1))


def test_defaults_are_the_published_input() -> None:
    found = recipe()
    assert (found.layer, found.dim, found.weights.card) == ("features", 512, "kinetics-resnet18")
    assert found.sampling == Sampling(fps=24, rounding="ffmpeg_r", frames=12, every=2, step=24, tail="overlap")
    jester = recipe({"depth": 34}).sampling
    assert (jester.fps, jester.frames, jester.every, jester.step) == (12, 24, 1, 24)
    assert (found.preprocess.resize, found.preprocess.size, found.preprocess.crop) == (
        "short_side",
        (112,),
        (112, 112),
    )
    assert recipe({"depth": 101}).dim == 2048
    assert recipe({"depth": 101}).preprocess.crop == (224, 224)
    assert recipe({"input_size": 224}).preprocess.crop == (224, 224)
    assert recipe({"num_classes": 12}, "logits").dim == 12


def test_every_option_that_changes_numbers_changes_the_fingerprint() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"depth": 34},
        {"input_size": 224},
        {"k": 4},
        {"cp_blocks": [0, 2, 0]},
        {"mlp_divisors": [2, 2]},
        {"num_classes": 10},
    ]
    assert len({recipe(options).fingerprint for options in changes}) == len(changes)


def test_the_chunk_size_changes_no_number() -> None:
    frames = noise(1, 3, 32, 32, 3)
    options = {"cp_blocks": [0, 2, 0]}
    rows = [
        registry.build(recipe({**options, **more}), "cpu").forward(frames)["values"]
        for more in ({}, {"chunk_queries": 5})
    ]
    np.testing.assert_allclose(rows[0], rows[1], rtol=0, atol=1e-5 * float(np.abs(rows[0]).max()))


REFUSED: list[tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = [
    ({}, {"sampling": Sampling(frames=1)}, UsageError, "features.cpnet.sampling frames: expected at least 2 for cpnet"),
    ({"depth": 50}, {}, ConfigError, "depth: Input should be 18, 34 or 101"),
    ({"cp_blocks": [3, 2, 0]}, {}, ConfigError, r"cp_blocks: expected at most \[2, 2, 2\] for depth 18"),
    ({"mlp_divisors": [3]}, {}, ConfigError, "mlp_divisors: expected one or more powers of two"),
    ({"mlp_divisors": []}, {}, ConfigError, "mlp_divisors: expected one or more powers of two"),
    ({"k": 0}, {}, ConfigError, "k: Input should be greater than or equal to 1"),
    ({"input_size": 160}, {}, ConfigError, "input_size: Input should be 112 or 224"),
    ({"chunk_queries": 0}, {}, ConfigError, "chunk_queries: Input should be greater than or equal to 1"),
    (
        {"k": 197},
        {"sampling": Sampling(frames=2)},
        UsageError,
        "features.cpnet.options k: expected at most the 196 points of the other frames, got 197; lower it",
    ),
    (
        {"cp_blocks": [2, 2, 1], "k": 50},
        {"sampling": Sampling(frames=2)},
        UsageError,
        "at most the 49 points of the other frames, got 50",
    ),
]


@pytest.mark.parametrize(("options", "more", "error", "message"), REFUSED)
def test_refused_before_any_work(
    options: dict[str, Any], more: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        recipe(options, **more)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 9}, "options num_classes: expected what the weights file has, got 9; leave it out"),
        ({"cp_blocks": [0, 3, 0]}, r"options cp_blocks: expected the file's \[2, 3, 0\], got \[0, 3, 0\]"),
        ({"mlp_divisors": [2]}, r"options mlp_divisors: expected the file's \[4, 2\], got \[2\]"),
    ],
)
def test_options_that_a_file_fixes_are_refused(jester_file: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe({"depth": 34, **options}, file=jester_file)


def test_a_file_of_another_depth_or_with_lost_keys_is_told(jester_file: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected one of the layouts cpnet_c2d_resnet18_tf, .* unexpected: group"):
        recipe({"depth": 18}, file=jester_file)
    state = dict(np.load(jester_file))
    del state["group2/block5/pointnet/bn_final/gamma"]
    np.savez(tmp_path / "lost.npz", **state)
    with pytest.raises(WeightsError, match="1 missing: group2/block5/pointnet/bn_final/gamma"):
        recipe({"depth": 34}, file=tmp_path / "lost.npz")


def test_infinite_weights_are_refused_by_name(jester_file: Path, tmp_path: Path) -> None:
    state = dict(np.load(jester_file))
    state["conv0/bn/gamma"] = np.full_like(state["conv0/bn/gamma"], np.inf)
    np.savez(tmp_path / "bad.npz", **state)
    with pytest.raises(WeightsError, match="finite numbers, got NaN or infinity in conv0/bn/gamma"):
        registry.build(recipe({"depth": 34}, file=tmp_path / "bad.npz"), "cpu")


def test_frames_too_small_for_k_are_a_fault_of_their_video() -> None:
    found = recipe(preprocess={"resize": "none", "size": [], "crop": None}, sampling=Sampling(frames=2))
    with pytest.raises(VideoError, match="at least 8 points in other frames, got 4 for 2 frames of 16x16") as caught:
        registry.build(found, "cpu").forward(noise(1, 2, 16, 16, 3))
    assert (caught.value.stage, caught.value.reason) == ("extract", "frame_too_small")


def test_the_layout_files_are_complete(shared_data: Path) -> None:
    folder = shared_data.parent / "reference" / "checkpoints"
    for depth, (num_classes, expected) in PUBLISHED.items():
        told = json.loads((folder / f"cpnet_c2d_resnet{depth}_tf.json").read_text("utf-8"))
        assert (told["num_classes"], told["trainable_parameters"]) == (num_classes, expected)
        assert told["values_in_file"] == sum(int(np.prod(item.shape)) for item in variables(depth, num_classes))
