"""C3D: its layouts, its network by a second implementation, and the published preprocessings number by number."""

import itertools
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from clipmill.extractors import registry
from clipmill.extractors.c3d.build import mean_volume
from clipmill.extractors.c3d.card import CARD
from clipmill.extractors.c3d.layouts import layouts
from clipmill.extractors.c3d.mean import read_mean_cube
from clipmill.extractors.c3d.network import C3D, pool5
from clipmill.extractors.preprocess import apply_geometry
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.torch_extractor import TorchExtractor, empty, seeded
from clipmill.extractors.weights import match_layout
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.errors import WeightsError
from clipmill.schemas.recipe import ClipRule, Preprocess, Recipe
from tests.extractors.published_layouts import numbered_state, published

NAMES = [
    "c3d_sports1m_caffe",
    "c3d_sports1m_davidea",
    "c3d_sports1m_jfzhang95",
    "c3d_ucf101_jfzhang95",
    "c3d_sports1m_mmaction2",
    "c3d_ucf101_mmaction2",
]
CUBE = "weights/c3d_sports1m_mean.binaryproto"
SQUARE = {"size": [128, 128], "crop_offset": [8, 8]}


def resolve(**written: Any) -> Recipe:
    written.setdefault("weights", {"random": 0})
    return resolve_recipe("c3d", FeatureConfig.model_validate(written), ClipRule(), DecodeConfig())


def built(recipe: Recipe) -> TorchExtractor:
    extractor = registry.build(recipe, "cpu")
    assert isinstance(extractor, TorchExtractor)
    return extractor


@pytest.mark.parametrize("name", NAMES)
def test_layouts_are_the_published_ones(name: str, shared_data: Path) -> None:
    shapes = {key: tuple(shape) for key, shape in published(shared_data, name).items()}
    layout = match_layout(name, shapes, layouts())
    assert layout.name == name
    # Only the number of classes is left open.
    assert {ours for ours, shape in layout.keys.values() if None in shape} <= {"fc8.weight", "fc8.bias"}


# As published; of mmaction2's Sports-1M file both are told.
CONTAINERS = [
    ("c3d_sports1m_caffe", False),
    ("c3d_sports1m_davidea", False),
    ("c3d_sports1m_jfzhang95", False),
    ("c3d_ucf101_jfzhang95", True),
    ("c3d_sports1m_mmaction2", False),
    ("c3d_sports1m_mmaction2", True),
    ("c3d_ucf101_mmaction2", True),
]


@pytest.mark.parametrize(("name", "wrapped"), CONTAINERS)
def test_every_published_file_lands_where_it_belongs(
    name: str, wrapped: bool, shared_data: Path, tmp_path: Path
) -> None:
    """Tensor i of a file is filled with i: all files list conv1a to fc8 in order, so tensor i of ours must be i too."""
    keys = published(shared_data, name)
    content: dict[str, Any] = dict(numbered_state(keys))
    torch.save({"state_dict": content, "epoch": 1} if wrapped else content, tmp_path / "c3d.pth")
    layer = "fc7" if name == "c3d_sports1m_mmaction2" else "logits"
    recipe = resolve(layer=layer, weights={"file": str(tmp_path / "c3d.pth")})
    assert recipe.weights.layout == name
    assert recipe.dim == list(keys.values())[-1][0]
    network = built(recipe).network
    found = network.state_dict()
    assert len(found) == len(keys)
    for index, (key, value) in enumerate(found.items()):
        assert bool((value == index + 1).all()), key


# Per published source: layout, card, pool5, channel order, size, corner of the crop of a 320 x 240 frame, mean.
SOURCES = [
    ("c3d_sports1m_caffe", "sports1m-caffe", "caffe", "bgr", (128, 171), (8, 29), (90.25, 97.66, 101.41)),
    ("c3d_sports1m_davidea", "sports1m-caffe", "caffe", "bgr", (128, 171), (8, 29), (90.25, 97.66, 101.41)),
    ("c3d_sports1m_jfzhang95", "sports1m-caffe", "caffe", "bgr", (128, 171), (8, 29), (90.25, 97.66, 101.41)),
    ("c3d_ucf101_jfzhang95", "ucf101-jfzhang95", "port", "bgr", (128, 171), (8, 30), (90.0, 98.0, 102.0)),
    ("c3d_sports1m_mmaction2", "mmaction2", "port", "rgb", (128, 171), (8, 29), (104.0, 117.0, 128.0)),
    ("c3d_ucf101_mmaction2", "mmaction2", "port", "rgb", (128, 171), (8, 29), (104.0, 117.0, 128.0)),
]


@pytest.mark.parametrize("source", SOURCES, ids=[source[0] for source in SOURCES])
def test_weights_bring_their_preprocessing(source: Any, shared_data: Path, tmp_path: Path) -> None:
    layout, card, rule, colour, size, corner, mean = source
    torch.save(dict(numbered_state(published(shared_data, layout))), tmp_path / "c3d.pth")
    recipe = resolve(weights={"file": str(tmp_path / "c3d.pth")})
    assert (recipe.weights.layout, recipe.weights.card, recipe.options["pool5"]) == (layout, card, rule)
    assert (recipe.preprocess.colour, recipe.preprocess.mean) == (colour, mean)
    assert (recipe.preprocess.scale, recipe.preprocess.std) == (1.0, ())
    frame = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    expected = cv2.resize(frame, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    expected = expected[corner[0] : corner[0] + 112, corner[1] : corner[1] + 112]
    np.testing.assert_array_equal(apply_geometry(frame, recipe.preprocess), expected)


def test_a_wide_video_keeps_its_aspect_only_under_mmaction2() -> None:
    frame = np.zeros((240, 426, 3), dtype=np.uint8)
    frame[:, 213 - 20 : 213 + 20] = 255
    widths = {}
    for card in ("sports1m-caffe", "mmaction2"):
        preprocess = resolve(weights={"random": 0, "card": card}).preprocess
        widths[card] = float((apply_geometry(frame, preprocess)[56, :, 0] / 255).sum())
    assert widths["sports1m-caffe"] == pytest.approx(40 * 171 / 426, abs=0.5)
    assert widths["mmaction2"] == pytest.approx(40 * 128 / 240, abs=0.5)


def test_a_switch_that_is_given_wins_over_the_weights() -> None:
    assert resolve(options={"pool5": "port"}).options["pool5"] == "port"
    assert resolve(weights={"random": 0, "card": "mmaction2"}).options["pool5"] == "port"


@pytest.mark.parametrize(
    ("rule", "cells"),
    [("caffe", [(0, 1), (2, 3), (4, 5), (6,)]), ("port", [(0,), (1, 2), (3, 4), (5, 6)])],
)
def test_pool5_takes_the_cells_the_reference_names(rule: Any, cells: list[tuple[int, ...]]) -> None:
    maps = np.random.default_rng(0).normal(size=(1, 3, 2, 7, 7)) - 3
    found = pool5(torch.from_numpy(maps), rule).numpy()
    assert found.shape == (1, 3, 1, 4, 4)
    for (row, rows), (column, columns) in itertools.product(enumerate(cells), enumerate(cells)):
        expected = maps[0][:, :, list(rows)][:, :, :, list(columns)].max(axis=(1, 2, 3))
        np.testing.assert_array_equal(found[0, :, 0, row, column], expected)


def by_hand(state: dict[str, Tensor], clips: Tensor) -> dict[str, Tensor]:
    """C3D as the sheet's table lists it; 3D convolutions as sums of 2D ones over three frames."""

    def convolution(x: Tensor, name: str) -> Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        padded = functional.pad(x, (0, 0, 0, 0, 1, 1))
        length = x.shape[2]
        frames = [
            sum(functional.conv2d(padded[:, :, time + shift], weight[:, :, shift], padding=1) for shift in range(3))
            for time in range(length)
        ]
        return (torch.stack(frames, dim=2) + bias.reshape(1, -1, 1, 1, 1)).clamp(min=0)  # type: ignore[arg-type]

    def halve(x: Tensor, time: int) -> Tensor:
        batch, channels, length, height, width = x.shape
        return x.reshape(batch, channels, length // time, time, height // 2, 2, width // 2, 2).amax(dim=(3, 5, 7))

    x = halve(convolution(clips, "conv1a"), 1)
    x = halve(convolution(x, "conv2a"), 2)
    x = halve(convolution(convolution(x, "conv3a"), "conv3b"), 2)
    x = halve(convolution(convolution(x, "conv4a"), "conv4b"), 2)
    x = convolution(convolution(x, "conv5a"), "conv5b")
    # All values are at least zero after the ReLU, so a border of zeros stands for the rounding up.
    x = halve(functional.pad(x, (0, 1, 0, 1)), 2)
    found = {"pool5": x.flatten(1)}
    for name, following in (("fc6", "pool5"), ("fc7", "fc6")):
        found[name] = (found[following] @ state[f"{name}.weight"].T + state[f"{name}.bias"]).clamp(min=0)
    found["logits"] = found["fc7"] @ state["fc8.weight"].T + state["fc8.bias"]
    return found


def test_the_network_is_the_published_table() -> None:
    network = seeded(0, lambda: C3D("logits")).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0.0, 10.0, generator=generator)
    clips = torch.rand((1, 3, 16, 112, 112), generator=generator) * 255 - 100
    state = network.state_dict()
    with torch.inference_mode():
        expected = by_hand(state, clips)
        for layer in ("pool5", "fc6", "fc7", "logits"):
            part = empty(lambda wanted=layer: C3D(wanted))  # type: ignore[misc]
            part.drop_unused()
            part.load_state_dict({key: value for key, value in state.items() if key in part.state_dict()})
            found = part.eval()(clips)
            assert found.shape == expected[layer].shape
            if layer in ("fc6", "fc7"):
                assert float(found.min()) == 0.0
                assert float(found.max()) > 0.0
            error = (found - expected[layer]).abs().max() / expected[layer].abs().max()
            assert float(error) < 1e-5, layer


def test_cost_and_size_are_the_published_ones() -> None:
    with torch.device("meta"):
        network = C3D("logits", num_classes=101)
    assert sum(parameter.numel() for parameter in network.parameters()) == 78_409_573
    positions = {"conv1a": 16 * 112**2, "conv2a": 16 * 56**2, "conv3": 8 * 28**2, "conv4": 4 * 14**2, "conv5": 2 * 7**2}
    gmac = 0.0
    for name, parameter in network.named_parameters():
        if name.endswith("weight"):
            count = next((value for key, value in positions.items() if name.startswith(key)), 1)
            gmac += parameter.numel() * count / 1e9
    assert gmac == pytest.approx(CARD.gmac_per_window, abs=0.05)


def test_only_what_a_layer_needs_is_kept() -> None:
    sizes = {}
    for layer in ("pool5", "fc6", "fc7", "logits"):
        with torch.device("meta"):
            network = C3D(layer)
        network.drop_unused()
        sizes[layer] = sum(parameter.numel() for parameter in network.parameters())
    fc6, fc7, fc8 = 8192 * 4096 + 4096, 4096 * 4096 + 4096, 4096 * 487 + 487
    assert [sizes["fc6"] - sizes["pool5"], sizes["fc7"] - sizes["fc6"], sizes["logits"] - sizes["fc7"]] == [
        fc6,
        fc7,
        fc8,
    ]


def ucf101_frames(shared_data: Path, name: str) -> list[npt.NDArray[np.uint8]]:
    with av.open(str(shared_data / "clips" / "ucf101" / name)) as container:
        frames = [
            frame.to_ndarray(format="rgb24") for _, frame in zip(range(16), container.decode(video=0), strict=False)
        ]
    return frames


@pytest.mark.parametrize("clip", ["v_ApplyEyeMakeup_g01_c01.avi", "v_BaseballPitch_g01_c01.avi"])
def test_the_mean_volume_is_subtracted_as_caffe_does(clip: str, shared_data: Path) -> None:
    """The whole input as Caffe makes it, in its own order: BGR, resize, subtract the cube, crop."""
    recipe = resolve(layer="pool5", options={"mean_cube": str(shared_data / CUBE)}, preprocess=SQUARE)
    assert recipe.preprocess.mean_cube == "6370be9296af909b561aee785ad54543a89f5ddf31b1fb7a31a78248824c84fe"
    assert (recipe.preprocess.mean, recipe.options["mean_cube"]) == ((), None)
    frames = ucf101_frames(shared_data, clip)
    cube = np.frombuffer((shared_data / CUBE).read_bytes()[17:], dtype="<f4").reshape(3, 16, 128, 128)
    expected = np.empty((3, 16, 112, 112), dtype=np.float32)
    for time, frame in enumerate(frames):
        resized = cv2.resize(frame[:, :, ::-1].copy(), (128, 128), interpolation=cv2.INTER_LINEAR).astype(np.float32)
        for channel in range(3):
            expected[channel, time] = (resized[:, :, channel] - cube[channel, time])[8:120, 8:120]
    prepared = np.stack([apply_geometry(frame, recipe.preprocess) for frame in frames])[None]
    found = built(recipe).prepare(prepared)[0].numpy()[::-1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_the_sports1m_cube_is_cut_at_column_29(tmp_path: Path) -> None:
    row, column = np.mgrid[:128, :171]
    cube = np.stack(
        [np.stack([channel * 1000 + time + row / 1000 + column for time in range(16)]) for channel in range(3)]
    )
    np.save(tmp_path / "cube.npy", cube[None].astype(np.float32))
    for card, first in (("sports1m-caffe", 29), ("ucf101-jfzhang95", 30)):
        preprocess = resolve(
            weights={"random": 0, "card": card}, options={"mean_cube": str(tmp_path / "cube.npy")}
        ).preprocess
        found = read_mean_cube(str(tmp_path / "cube.npy"), preprocess)
        assert found.shape == (3, 16, 112, 112)
        np.testing.assert_allclose(found[0, 0, 0], 0.008 + np.arange(first, first + 112), rtol=1e-6)
        np.testing.assert_allclose(found[2, 15, 111, 0], 2015.119 + first, rtol=1e-6)


def test_the_cubes_channels_are_turned_to_rgb(tmp_path: Path) -> None:
    cube = np.broadcast_to(np.array([1, 2, 3], dtype=np.float32)[:, None, None, None], (3, 16, 128, 171))
    np.save(tmp_path / "cube.npy", cube)
    volume = mean_volume(resolve(options={"mean_cube": str(tmp_path / "cube.npy")}))
    assert volume is not None
    assert volume[0, :, 0, 0, 0].tolist() == [3, 2, 1]
    assert mean_volume(resolve()) is None


def test_the_cubes_bytes_and_not_its_path_are_in_the_fingerprint(shared_data: Path, tmp_path: Path) -> None:
    original = resolve(options={"mean_cube": str(shared_data / CUBE)}, preprocess=SQUARE)
    data = (shared_data / CUBE).read_bytes()
    copied, changed = tmp_path / "copied", tmp_path / "changed"
    copied.write_bytes(data)
    changed.write_bytes(data[:-1] + b"\x43")
    found = [resolve(options={"mean_cube": str(path)}, preprocess=SQUARE) for path in (copied, changed)]
    assert found[0].fingerprint == original.fingerprint != found[1].fingerprint
    assert resolve(preprocess=SQUARE).fingerprint != original.fingerprint
    copied.write_bytes(changed.read_bytes())
    with pytest.raises(WeightsError, match="expected SHA-256 6370be9296af"):
        mean_volume(found[0])


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({}, "expected 3 x 16 x 128 x 171, the size frames are resized to, got 3 x 16 x 128 x 128"),
        ({"weights": {"random": 0, "card": "mmaction2"}}, "expected preprocess.resize: exact and a crop"),
    ],
)
def test_a_cube_of_another_size_is_refused(written: dict[str, Any], message: str, shared_data: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        resolve(options={"mean_cube": str(shared_data / CUBE)}, **written)


@pytest.mark.parametrize("data", [b"", b"mean", b"\x93NUMPY\x01\x00"], ids=["empty", "text", "half an array"])
def test_a_file_that_is_no_cube_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "cube").write_bytes(data)
    with pytest.raises(WeightsError, match="expected a mean volume"):
        resolve(options={"mean_cube": str(tmp_path / "cube")})


def test_the_card_of_random_weights_is_caffes() -> None:
    assert resolve().preprocess == Preprocess(
        resize="exact",
        size=(128, 171),
        crop=(112, 112),
        crop_offset=(8, 29),
        colour="bgr",
        mean=(90.25, 97.66, 101.41),
    )
