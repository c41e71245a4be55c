"""SqueezeNet 1.0: its published size, its real weights on real frames, and a second reading of the network by hand."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from extractors import registry
from extractors.preprocess import apply_geometry
from extractors.resolve import resolve_recipe
from extractors.squeezenet_network import SqueezeNet
from extractors.torch_extractor import seeded
from extractors.weights import digest, read_state_dict
from schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from schemas.errors import WeightsError
from schemas.recipe import ClipRule, Recipe

POOLS = (2, 6, 11)


def recipe(layer: str = "features", file: Path | None = None) -> Recipe:
    weights = WeightsConfig(file=str(file)) if file is not None else WeightsConfig(random=0)
    return resolve_recipe("squeezenet", FeatureConfig(layer=layer, weights=weights), ClipRule(), DecodeConfig())


@pytest.fixture(scope="module")
def published(shared_data: Path) -> Path:
    path = shared_data / "weights" / "squeezenet1_0_imagenet_decoded.pt"
    if not path.exists():
        pytest.skip("the ImageNet SqueezeNet weights are not here")
    return path


def by_hand(state: Mapping[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns features and logits, read off the published prototxt: convolutions, Caffe's pools, fires, mean pool."""

    def conv(x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride, padding).clamp(min=0)

    def pool(x: Tensor) -> Tensor:
        # Caffe rounds the output size up; what lies outside counts for nothing.
        extra = [(-(size - 3)) % 2 for size in x.shape[2:]]
        return functional.max_pool2d(functional.pad(x, (0, extra[1], 0, extra[0]), value=float("-inf")), 3, 2)

    x = conv(images, "features.0", stride=2)
    for index in range(2, 13):
        if index in POOLS:
            x = pool(x)
            continue
        squeezed = conv(x, f"features.{index}.squeeze")
        parts = [
            conv(squeezed, f"features.{index}.expand1x1"),
            conv(squeezed, f"features.{index}.expand3x3", padding=1),
        ]
        x = torch.cat(parts, dim=1)
    return x.flatten(2).mean(2), conv(x, "classifier.1").flatten(2).mean(2)


def test_parameters_are_as_many_as_published() -> None:
    with torch.device("meta"):
        network = SqueezeNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_248_424


def test_the_network_is_its_state_dict_read_by_hand() -> None:
    state = seeded(0, SqueezeNet).state_dict()
    # 66 columns: pools meet odd and even sizes, where rounding up and down part ways.
    images = torch.randn(2, 3, 227, 66, generator=torch.Generator().manual_seed(0))
    features, logits = by_hand(state, images)
    for layer, expected in (("features", features), ("logits", logits)):
        network = SqueezeNet(layer).eval()
        network.load_state_dict(state)
        with torch.inference_mode():
            assert float((network(images) - expected).norm() / expected.norm()) < 1e-5


def test_the_extractor_feeds_bgr_minus_the_means() -> None:
    frames: npt.NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (2, 1, 227, 227, 3), dtype=np.uint8)
    bgr = frames[:, 0, :, :, ::-1].astype(np.float32) - np.array([104, 117, 123], dtype=np.float32)
    features, logits = by_hand(seeded(0, SqueezeNet).state_dict(), torch.from_numpy(bgr.copy()).permute(0, 3, 1, 2))
    for layer, expected in (("features", features.numpy()), ("logits", logits.numpy())):
        values = registry.build(recipe(layer), "cpu").forward(frames)["values"]
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4 * float(np.abs(expected).max()))


def test_the_published_file_is_recognised(published: Path) -> None:
    assert sum(tensor.numel() for tensor in read_state_dict(str(published)).values()) == 1_248_424
    found = recipe("logits", published)
    weights = found.weights
    assert (weights.source, weights.layout, weights.card) == ("file", "squeezenet1_0", "imagenet-caffe")
    assert (
        weights.sha256 == digest(str(published)) == "2a5bc28f584eedf223a0e662d7391f4b88e51b569d00395f3387956e44b97802"
    )
    assert weights.licence == "BSD"
    assert found.dim == 1000


def test_the_path_of_the_file_is_no_part_of_the_fingerprint(published: Path, tmp_path: Path) -> None:
    copy = tmp_path / "another name.pt"
    shutil.copyfile(published, copy)
    here, there = recipe(file=published), recipe(file=copy)
    assert here.weights.file != there.weights.file
    assert here.fingerprint == there.fingerprint != recipe().fingerprint


def frames_of(path: Path, every: int = 25, most: int = 4) -> npt.NDArray[np.uint8]:
    preprocess = recipe().preprocess
    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([apply_geometry(frame, preprocess) for frame in decoded[::every][:most]])[:, None]


# ImageNet's class numbers: 281 to 285 cats, 35 to 37 turtles, 345 to 347 ox, water buffalo and bison, 351 to 353
# antelopes (ImageNet has no deer).
SEEN = [
    ("0.mp4", range(281, 286), "a cat"),
    ("3.mp4", range(35, 38), "a turtle"),
    ("6.mp4", range(345, 348), "a herd of bison"),
    ("8.mp4", range(351, 354), "a deer"),
]


@pytest.mark.parametrize(("clip", "classes", "what"), SEEN, ids=[what.replace(" ", "-") for *_, what in SEEN])
def test_real_weights_see_what_real_frames_show(
    published: Path, shared_data: Path, clip: str, classes: range, what: str
) -> None:
    frames = frames_of(shared_data / "clips" / "topics70" / "animals" / clip)
    logits = registry.build(recipe("logits", published), "cpu").forward(frames)["values"].mean(axis=0)
    best = int(logits.argmax())
    assert best in classes, f"{what}: expected one of {list(classes)}, got {np.argsort(-logits)[:5].tolist()}"


def test_a_file_that_changed_since_planning_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "squeezenet.pt"
    torch.save(seeded(0, SqueezeNet).state_dict(), path)
    found = recipe(file=path)
    torch.save(seeded(1, SqueezeNet).state_dict(), path)
    with pytest.raises(WeightsError, match=r"squeezenet\.pt: expected SHA-256 [0-9a-f]{12}\.\.\., got"):
        registry.build(found, "cpu")


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_reduced_precision_stays_near(precision: str) -> None:
    frames: npt.NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (1, 1, 227, 227, 3), dtype=np.uint8)
    exact = registry.build(recipe(), "cpu").forward(frames)["values"]
    feature = FeatureConfig.model_validate({"weights": {"random": 0}, "precision": precision})
    found = resolve_recipe("squeezenet", feature, ClipRule(), DecodeConfig())
    values = registry.build(found, "cpu").forward(frames)["values"]
    assert values.dtype == np.float32
    error = float(np.linalg.norm(values - exact) / np.linalg.norm(exact))
    # bfloat16 keeps 8 bits, float16 11; the sums themselves are float32. An error of zero would mean it was ignored.
    assert 0 < error < {"float16": 5e-3, "bfloat16": 3e-2}[precision]
