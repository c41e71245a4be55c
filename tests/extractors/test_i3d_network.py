"""I3D's network against the published layouts, TensorFlow's padding by brute force, and its own published sizes."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from clipmill.extractors.i3d.layouts import NUM_CLASSES, layouts, tensors
from clipmill.extractors.i3d.network import ENDPOINTS, InceptionI3D, Unit3D, max_pool_same, same_padding
from clipmill.extractors.torch_extractor import seeded

FLOATS = npt.NDArray[np.float64]


def tensorflow_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's documentation: as many outputs as ``ceil(size / stride)`` need, the odd cell at the end."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def windows(maps: FLOATS, kernel: int, stride: int, fill: float) -> FLOATS:
    """``[C, T, H, W]`` to ``[C, T', H', W', k, k, k]``, padded as TensorFlow pads."""
    padding = [(0, 0), *(tensorflow_padding(size, kernel, stride) for size in maps.shape[1:])]
    padded = np.pad(maps, padding, constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, (kernel,) * 3, axis=(1, 2, 3))
    return view[:, ::stride, ::stride, ::stride]


@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (2, 2), (3, 1), (1, 1), (1, 2)])
@pytest.mark.parametrize("size", range(5, 21))
def test_same_padding_is_tensorflows(size: int, kernel: int, stride: int) -> None:
    assert same_padding(size, kernel, stride) == tensorflow_padding(size, kernel, stride)


@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (3, 2)])
@pytest.mark.parametrize("size", range(5, 21))
def test_convolution_is_brute_force_on_every_axis(size: int, kernel: int, stride: int) -> None:
    generator = np.random.default_rng(size)
    for shape in ((size, 6, 5), (5, size, 6), (6, 5, size)):
        maps = generator.normal(size=(2, *shape))
        unit = Unit3D(2, 3, kernel, stride).double().eval()
        weight = generator.normal(size=(3, 2, kernel, kernel, kernel))
        unit.conv3d.weight.data = torch.from_numpy(weight)
        expected = np.einsum("cthwxyz,ocxyz->othw", windows(maps, kernel, stride, 0.0), weight)
        expected = np.maximum(expected / np.sqrt(1.0 + 1e-3), 0.0)
        with torch.inference_mode():
            got = unit(torch.from_numpy(maps)[None])[0].numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (3, 1)])
def test_max_pool_is_brute_force_also_on_negative_maps(kernel: int, stride: int) -> None:
    for size in range(5, 21):
        maps = np.random.default_rng(size).normal(size=(2, size, 25 - size, 7)) - 5.0
        expected = windows(maps, kernel, stride, -np.inf).max(axis=(4, 5, 6))
        got = max_pool_same(torch.from_numpy(maps)[None], (kernel,) * 3, (stride,) * 3)[0].numpy()
        np.testing.assert_array_equal(got, expected)


def test_batch_norm_has_epsilon_a_thousandth() -> None:
    unit = Unit3D(1, 1, 1).eval()
    unit.conv3d.weight.data.fill_(1.0)
    unit.bn.running_var.fill_(0.0)  # type: ignore[union-attr,operator]
    with torch.inference_mode():
        got = float(unit(torch.ones(1, 1, 1, 1, 1)))
    assert got == pytest.approx(1.0 / np.sqrt(1e-3), rel=1e-6)


PUBLISHED_PARAMETERS = [
    ("rgb", 400, 12_697_264),
    ("flow", 400, 12_675_312),
    ("rgb", 157, 12_448_189),
    ("flow", 157, 12_426_237),
]


@pytest.mark.parametrize(("stream", "num_classes", "expected"), PUBLISHED_PARAMETERS)
def test_parameters_are_as_many_as_published(stream: str, num_classes: int, expected: int) -> None:
    with torch.device("meta"):
        network = InceptionI3D(stream, num_classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    keys = [key for key in network.state_dict() if not key.endswith("num_batches_tracked")]
    assert len(keys) == 287
    assert {tensor.key: tensor.shape for tensor in tensors(stream, num_classes)} == {
        key: tuple(network.state_dict()[key].shape) for key in keys
    }


@pytest.mark.parametrize(("stream", "expected"), [("rgb", 12_689_984), ("flow", 12_668_032)])
def test_tensorflows_file_has_no_scales(stream: str, expected: int) -> None:
    found = [tensor for tensor in tensors(stream, NUM_CLASSES["kinetics"]) if tensor.tensorflow is not None]
    assert len(found) == 230
    trainable = [tensor for tensor in found if not tensor.key.endswith(("running_mean", "running_var"))]
    assert sum(int(np.prod(tensor.shape)) for tensor in trainable) == expected  # type: ignore[arg-type]


@pytest.fixture
def checkpoints(shared_data: Path) -> Path:
    return shared_data.parent / "reference" / "checkpoints"


def test_the_key_map_is_the_published_one(checkpoints: Path) -> None:
    published = json.loads((checkpoints / "i3d_key_map.json").read_text("utf-8"))["map"]
    assert [[tensor.tensorflow, tensor.key, tensor.hassony2] for tensor in tensors("rgb", 400)] == published


def test_the_irregular_name_of_mixed_5b_is_kept() -> None:
    names = {tensor.key: tensor.tensorflow for tensor in tensors("rgb", 400)}
    odd = [key for key, name in names.items() if name is not None and "Branch_2/Conv3d_0a_3x3" in name]
    assert {key.rsplit(".", 2)[0] for key in odd} == {"Mixed_5b.b2b"}


@pytest.mark.parametrize(
    "name",
    [
        "i3d_piergiaj_rgb_imagenet",
        "i3d_piergiaj_flow_imagenet",
        "i3d_piergiaj_rgb_charades",
        "i3d_piergiaj_flow_charades",
        "i3d_hassony2_rgb",
        "i3d_hassony2_flow",
        "i3d_tf_rgb_imagenet",
        "i3d_tf_flow_imagenet",
    ],
)
def test_each_published_layout_has_the_published_keys_and_shapes(checkpoints: Path, name: str) -> None:
    published = json.loads((checkpoints / f"{name}.json").read_text("utf-8"))["keys"]
    found = {layout.name: layout for stream in ("rgb", "flow") for layout in layouts(stream)}
    assert {key: list(shape) for key, (_, shape) in found[name].keys.items()} == published


ENDPOINT_SHAPES = {
    "Conv3d_1a_7x7": (64, 32, 112, 112),
    "MaxPool3d_3a_3x3": (192, 32, 28, 28),
    "Mixed_3c": (480, 32, 28, 28),
    "Mixed_4f": (832, 16, 14, 14),
    "Mixed_5c": (1024, 8, 7, 7),
}


def test_endpoints_of_64_frames_have_the_published_shapes() -> None:
    with torch.device("meta"):
        network = InceptionI3D("rgb")
        clips = torch.zeros(1, 3, 64, 224, 224)
    assert set(ENDPOINT_SHAPES) < set(ENDPOINTS)
    for name, shape in ENDPOINT_SHAPES.items():
        assert tuple(network.endpoint(clips, name).shape) == (1, *shape)
    assert tuple(network.features(clips).shape) == (1, 1024, 7)


def test_every_length_gives_its_steps_and_eight_frames_are_refused() -> None:
    with torch.device("meta"):
        network = InceptionI3D("flow")
        for num_frames in (9, 16, 17, 24, 25, 128):
            steps = network.features(torch.zeros(1, 2, num_frames, 32, 32)).shape[2]
            assert steps == -(-num_frames // 8) - 1
        with pytest.raises(ValueError, match="at least 9 frames, got 8"):
            network.features(torch.zeros(1, 2, 8, 32, 32))


@pytest.fixture(scope="module")
def network() -> InceptionI3D:
    found = seeded(0, lambda: InceptionI3D("rgb")).eval()
    assert isinstance(found, InceptionI3D)
    generator = torch.Generator().manual_seed(1)
    for module in found.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_var.uniform_(0.5, 2.0, generator=generator)  # type: ignore[union-attr]
            module.running_mean.normal_(0.0, 0.1, generator=generator)  # type: ignore[union-attr]
            module.bias.data.normal_(0.0, 0.1, generator=generator)
    return found


def test_logits_are_averaged_over_steps(network: InceptionI3D) -> None:
    clips = torch.rand(1, 3, 32, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        steps = network.logits(network.features(clips))
        torch.testing.assert_close(network(clips), steps.mean(2))
    assert steps.shape == (1, 400, 3)


def test_folding_batch_norm_changes_nothing_but_rounding(network: InceptionI3D) -> None:
    clips = torch.rand(1, 3, 16, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        before = network.features(clips)
        folded = InceptionI3D("rgb").eval()
        folded.load_state_dict(network.state_dict())
        folded.fold_batch_norm()
        after = folded.features(clips)
    assert not any(isinstance(module, torch.nn.BatchNorm3d) for module in folded.modules())
    assert float((after - before).norm() / before.norm()) < 1e-5


def test_a_batch_gives_what_single_windows_give(network: InceptionI3D) -> None:
    clips = torch.rand(3, 3, 16, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.inference_mode():
        together = network.features(clips)
        torch.testing.assert_close(together, torch.cat([network.features(clip[None]) for clip in clips]))
        torch.testing.assert_close(together, network.features(clips), rtol=0, atol=0)
