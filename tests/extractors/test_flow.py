"""Optical flow: a known translation, the pixel order of its channels, what the network sees, and what is refused."""

from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError

from clipmill.extractors.flow import FlowOptions, TVL1Options, WindowFlows, make_flow, network_values
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.weights import digest
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.errors import UsageError, WeightsError
from clipmill.schemas.recipe import ClipRule, Recipe

Pixels = npt.NDArray[np.uint8]
RIGHT, UP = 3, -2


def texture(height: int = 128, width: int = 160, seed: int = 0) -> Pixels:
    """A smooth random texture with structure at several scales."""
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), dtype=np.float32)
    for cells in (8, 16, 32):
        coarse = generator.random((cells, cells, 3), dtype=np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(total / 3 * 255, 0, 255), dtype=np.uint8)


@pytest.mark.parametrize(
    "options",
    [
        FlowOptions(),
        FlowOptions(preset="fast"),
        FlowOptions(preset="ultrafast"),
        FlowOptions(method="tvl1"),
    ],
    ids=lambda options: f"{options.method}-{options.preset}",
)
def test_a_translated_texture_flows_by_its_translation_x_first(options: FlowOptions) -> None:
    previous = texture()
    following = np.roll(previous, (UP, RIGHT), axis=(0, 1))
    field = make_flow(options, "cpu")(previous, following)
    assert field.dtype == np.float32
    assert field.shape == (2, 128, 160)
    inside = field[:, 24:-24, 24:-24]
    assert abs(float(inside[0].mean()) - RIGHT) < 0.3
    assert abs(float(inside[1].mean()) - UP) < 0.3


def test_a_still_frame_does_not_flow() -> None:
    frame = texture()
    assert float(np.abs(make_flow(FlowOptions(), "cpu")(frame, frame)).max()) < 1e-3


def test_one_pair_is_computed_once_and_forgotten_in_time() -> None:
    computed: list[tuple[int, int]] = []

    def count(previous: Pixels, following: Pixels) -> npt.NDArray[np.float32]:
        computed.append((int(previous[0, 0, 0]), int(following[0, 0, 0])))
        return np.full((2, 4, 5), len(computed), dtype=np.float32)

    frames = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 5, 3), dtype=np.uint8)
    flows = WindowFlows(count, num_remembered=3)
    first = flows.of(frames[0:5])
    assert first.shape == (4, 2, 4, 5)
    second = flows.of(frames[2:7])
    assert computed == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)]
    np.testing.assert_array_equal(second[:2], first[2:])
    flows.of(frames[0:2])
    assert computed[-1] == (0, 1)


def test_frames_of_equal_bytes_but_other_shape_are_not_confused() -> None:
    flows = WindowFlows(make_flow(FlowOptions(), "cpu"), num_remembered=8)
    flat = np.zeros((2, 32, 64, 3), dtype=np.uint8)
    assert flows.of(flat).shape == (1, 2, 32, 64)
    assert flows.of(flat.reshape(2, 64, 32, 3)).shape == (1, 2, 64, 32)


def test_tvl1_takes_opencvs_parameters() -> None:
    previous = texture(64, 80)
    following = np.roll(previous, (UP, RIGHT), axis=(0, 1))
    parameters = TVL1Options(tau=0.2, lambda_=0.05, theta=0.25, scales=3, scale_step=0.7, warps=2, epsilon=0.02)
    parameters = parameters.model_copy(update={"inner_iterations": 10, "outer_iterations": 4, "median_filtering": 3})
    algorithm = cv2.optflow.DualTVL1OpticalFlow_create(0.2, 0.05, 0.25, 3, 2, 0.02, 10, 4, 0.7, 0.0, 3)  # type: ignore[attr-defined]
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (previous, following)]
    expected = algorithm.calc(grey[0], grey[1], None).transpose(2, 0, 1)
    found = make_flow(FlowOptions(method="tvl1", tvl1=parameters), "cpu")(previous, following)
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(found, make_flow(FlowOptions(method="tvl1"), "cpu")(previous, following))
    with pytest.raises(ValidationError, match="flow dis: tvl1 belongs to method: tvl1"):
        FlowOptions(tvl1=parameters)


def test_another_bound_and_video_features_levels() -> None:
    flows = np.array([-40.0, -20.0, -5.0, 0.0, 10.0, 20.0, 25.0], dtype=np.float32)
    np.testing.assert_allclose(network_values(flows, "exact", 40), [-1, -0.5, -0.125, 0, 0.25, 0.5, 0.625])
    levels = (network_values(flows, "uint8", 10) + 1) * 255 / 2
    np.testing.assert_allclose(levels, [0, 0, 64, 128, 255, 255, 255], atol=1e-4)
    # As video_features writes it: Clamp, ToUInt8, ScaleTo1_1.
    tensor = torch.from_numpy(flows).clamp(-20, 20)
    expected = 2 * (128 + 255 / 40 * tensor).round() / 255 - 1
    np.testing.assert_allclose(network_values(flows, "video_features"), expected.numpy(), atol=1e-6)
    assert float(network_values(np.float32([0]), "video_features")[0]) == pytest.approx(1 / 255, abs=1e-6)


def test_torchvisions_names_of_rafts_files_are_found_where_torch_puts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    wanted = "raft_large_C_T_SKHT_V1-0b8c9e55.pth"
    with pytest.raises(UsageError, match=f"expected a file, or {wanted} in .*fetch {wanted} --out DIR"):
        raft_recipe(weights="C_T_SKHT_V1")
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / wanted).write_bytes(b"weights")
    for name in ("C_T_SKHT_V1", "Raft_Large_Weights.C_T_SKHT_V1", wanted):
        found = raft_recipe(weights=name)
        assert found.files["flow.weights"] == str(cache / wanted)
        assert found.fingerprint == raft_recipe(weights=str(cache / wanted)).fingerprint
    # Of the small network that name is another file, which is not there.
    with pytest.raises(UsageError, match="raft_small_C_T_V2-01064c6d.pth"):
        raft_recipe(weights="C_T_V2", raft="small")
    with pytest.raises(ValidationError, match="updates and padding belong to method: raft"):
        FlowOptions(updates=20)
    assert raft_recipe(weights="C_T_SKHT_V1", updates=20).fingerprint != found.fingerprint


@pytest.mark.skipif(find_spec("torchvision") is None, reason="needs torchvision")
@pytest.mark.parametrize(("updates", "padding"), [(None, None), (20, "both"), (20, "uncut")])
def test_raft_refines_as_often_and_fills_up_as_asked(updates: int | None, padding: str | None, tmp_path: Path) -> None:
    optical_flow = pytest.importorskip("torchvision.models.optical_flow", exc_type=(ImportError, RuntimeError))
    network = optical_flow.raft_small(weights=None).eval()
    path = tmp_path / "raft.pth"
    torch.save(network.state_dict(), path)
    frames = [texture(130, 150, seed) for seed in (0, 1)]
    more = [-130 % 8, -150 % 8]
    sides = [more[1] // 2, more[1] - more[1] // 2, more[0] // 2, more[0] - more[0] // 2]
    sides = [0, more[1], 0, more[0]] if padding is None else sides
    images = [torch.from_numpy(frame).permute(2, 0, 1)[None].float() for frame in frames]
    images = [2 * (torch.nn.functional.pad(image, sides, mode="replicate") / 255) - 1 for image in images]
    with torch.inference_mode():
        expected = network(*images, num_flow_updates=updates or 12)[-1][0]
    if padding != "uncut":
        expected = expected[:, sides[2] : sides[2] + 130, sides[0] : sides[0] + 150]
    options = FlowOptions.model_validate(
        {"method": "raft", "raft": "small", "weights": str(path), "sha256": digest(str(path))}
        | {"updates": updates, "padding": padding}
    )
    found = make_flow(options, "cpu")(*frames)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-3)


def test_the_network_sees_twenty_pixels_as_one() -> None:
    flows = np.array([-40.0, -20.0, -5.0, 0.0, 10.0, 20.0, 25.0], dtype=np.float32)
    np.testing.assert_allclose(network_values(flows, "exact"), [-1, -1, -0.25, 0, 0.5, 1, 1])
    levels = (network_values(flows, "uint8") + 1) * 255 / 2
    np.testing.assert_allclose(levels, [0, 0, 96, 128, 191, 255, 255], atol=1e-4)


def raft_recipe(**flow: str | int) -> Recipe:
    options = {"stream": "flow", "flow": {"method": "raft"} | flow}
    feature = FeatureConfig(weights=WeightsConfig(random=0), options=options)
    return resolve_recipe("i3d", feature, ClipRule(), DecodeConfig())


def test_the_recipe_covers_the_bytes_of_rafts_file_and_not_its_path(tmp_path: Path) -> None:
    first, moved, other = (tmp_path / name for name in ("raft.pth", "moved.pth", "other.pth"))
    for path, content in ((first, b"weights"), (moved, b"weights"), (other, b"other weights")):
        path.write_bytes(content)
    found = raft_recipe(weights=str(first))
    assert found.options["flow"]["weights"] is None
    assert found.options["flow"]["sha256"] == digest(str(first))
    assert found.files == {"flow.weights": str(first)}
    assert raft_recipe(weights=str(moved)).fingerprint == found.fingerprint
    assert raft_recipe(weights=str(moved), sha256=digest(str(first))).fingerprint == found.fingerprint
    assert raft_recipe(weights=str(other)).fingerprint != found.fingerprint
    assert raft_recipe(weights=str(first), raft="small").fingerprint != found.fingerprint
    # What a store keeps and a worker gets is the same recipe.
    assert Recipe.model_validate_json(found.model_dump_json(by_alias=True)) == found


def test_raft_needs_its_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="flow raft: expected weights"):
        raft_recipe()
    with pytest.raises(UsageError, match=r"features\.i3d\.options flow: expected weights \(a file\) for method raft"):
        raft_recipe(sha256="0" * 64)
    with pytest.raises(WeightsError, match="No such file"):
        raft_recipe(weights=str(tmp_path / "none.pth"))
    (tmp_path / "raft.pth").write_bytes(b"weights")
    with pytest.raises(WeightsError, match="expected SHA-256 000000000000"):
        raft_recipe(weights=str(tmp_path / "raft.pth"), sha256="0" * 64)
    with pytest.raises(ValidationError, match="belong to method: raft"):
        FlowOptions(method="dis", weights="raft.pth")


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_raft_without_torchvision_says_what_to_install() -> None:
    options = FlowOptions(method="raft", weights="raft.pth", sha256="0" * 64)
    with pytest.raises(UsageError, match="pip install torchvision"):
        make_flow(options, "cpu")


def test_raft_refuses_other_files(tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="RAFT comes with torchvision")
    path = tmp_path / "raft.pth"
    torch.save({"a": torch.zeros(1)}, path)
    options = FlowOptions(method="raft", raft="small", weights=str(path), sha256="0" * 64)
    with pytest.raises(WeightsError, match="SHA-256"):
        make_flow(options, "cpu")
    options = options.model_copy(update={"sha256": digest(str(path))})
    with pytest.raises(WeightsError, match="torchvision's raft_small"):
        make_flow(options, "cpu")


def test_raft_gives_pixels_of_the_frame_whatever_its_size(tmp_path: Path) -> None:
    optical_flow = pytest.importorskip("torchvision.models.optical_flow", reason="RAFT comes with torchvision")
    path = tmp_path / "raft.pth"
    torch.save(optical_flow.raft_small(weights=None).state_dict(), path)
    options = FlowOptions(method="raft", raft="small", weights=str(path), sha256=digest(str(path)))
    flow = make_flow(options, "cpu")
    assert flow(texture(130, 161), texture(130, 161, seed=1)).shape == (2, 130, 161)
