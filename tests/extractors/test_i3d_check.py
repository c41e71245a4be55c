"""The check of an I3D file against the authors' sample, proved with synthetic weights that give the authors' logits."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from clipmill.extractors.class_scores import read_class_names
from clipmill.extractors.i3d.check import TOLERANCE, compare, read_inputs, sample_logits
from clipmill.extractors.i3d.layouts import layouts
from clipmill.extractors.i3d.network import InceptionI3D
from clipmill.extractors.i3d.sample import EXPECTED
from clipmill.extractors.i3d.weights import join_streams, stream_of
from clipmill.extractors.torch_extractor import seeded
from clipmill.schemas.errors import FormatError, WeightsError
from tests.extractors.synthetic_i3d import EXPECTED_FILES, authors_logits, save_with_logits

SMALL_FRAMES, SMALL_SIDE = 9, 32


def read_expected(path: Path) -> tuple[float, list[tuple[str, float]]]:
    """The authors' own output: the norm, then probability, logit and name per line."""
    lines = path.read_text("utf-8").splitlines()
    top = [line.split(maxsplit=2) for line in lines[3:] if line.strip()]
    return float(lines[0].split(":")[1]), [(name, float(logit)) for _, logit, name in top]


@pytest.mark.parametrize("stream", ["rgb", "flow", "both"])
def test_expected_numbers_and_class_numbers_are_the_authors(shared_data: Path, stream: str) -> None:
    norm, top = read_expected(shared_data / "evaluation" / "i3d-expected" / EXPECTED_FILES[stream])
    names = read_class_names(str(shared_data / "annotations" / "kinetics400_labels.txt"))
    assert EXPECTED[stream].norm == norm
    assert len(top) == 20
    assert list(EXPECTED[stream].top) == [(names.index(name), name, value) for name, value in top]


def test_the_two_streams_sum_to_the_joint_numbers() -> None:
    """The authors' three lists agree with each other: what they say of two streams is the sum of their logits."""
    rgb, flow = ({index: value for index, _, value in EXPECTED[name].top} for name in ("rgb", "flow"))
    both = {index: value for index, _, value in EXPECTED["both"].top}
    shared = rgb.keys() & flow.keys() & both.keys()
    assert len(shared) >= 5
    for index in shared:
        assert rgb[index] + flow[index] == pytest.approx(both[index], rel=1e-6)


@pytest.mark.parametrize("stream", ["rgb", "flow", "both"])
def test_the_authors_own_logits_agree_and_others_do_not(stream: str) -> None:
    logits = authors_logits(stream)
    assert len(compare(stream, logits)) == 21
    assert all(comparison.agrees(TOLERANCE) for comparison in compare(stream, logits))
    assert not any(comparison.agrees(TOLERANCE) for comparison in compare(stream, logits / 2))
    lowest = EXPECTED[stream].top[-1][0]
    logits[lowest] *= 1 + 2 * TOLERANCE
    assert [item.index for item in compare(stream, logits) if not item.agrees(TOLERANCE)] == [lowest]


def save_hassony2(folder: Path, stream: str, seed: int = 0, num_classes: int = 400) -> tuple[Path, InceptionI3D]:
    network = seeded(seed, lambda: InceptionI3D(stream, num_classes=num_classes))
    name = f"i3d_hassony2_{stream}" if num_classes == 400 else f"i3d_piergiaj_{stream}_charades"
    layout = {layout.name: layout for layout in layouts(stream)}[name]
    state = network.state_dict()
    path = folder / f"{stream}.pth"
    torch.save({key: state[ours] for key, (ours, _) in layout.keys.items()}, path)
    return path, network.eval()


def save_array(
    path: Path, channels: int, frames: int = SMALL_FRAMES, side: int = SMALL_SIDE
) -> npt.NDArray[np.float32]:
    shape = (1, frames, side, side, channels)
    array = np.random.default_rng(channels).uniform(-1, 1, shape).astype(np.float32)
    np.save(path, array)
    return array


@pytest.fixture
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample's arrays are 79 x 224 x 224, a minute of work: what is tested here does not depend on their size."""
    monkeypatch.setattr("clipmill.extractors.i3d.check.NUM_FRAMES", SMALL_FRAMES)
    monkeypatch.setattr("clipmill.extractors.i3d.check.SIDE", SMALL_SIDE)


@pytest.mark.usefixtures("small_sample")
def test_each_stream_and_their_sum_are_those_of_the_network_itself(tmp_path: Path) -> None:
    arrays = {"rgb": save_array(tmp_path / "rgb.npy", 3), "flow": save_array(tmp_path / "flow.npy", 2)}
    inputs = read_inputs([str(tmp_path / "flow.npy"), str(tmp_path / "rgb.npy")])
    assert {name: item.published for name, item in inputs.items()} == {"rgb": False, "flow": False}
    expected = np.zeros(400)
    paths = {}
    for seed, stream in enumerate(arrays):
        paths[stream], network = save_hassony2(tmp_path, stream, seed)
        with torch.inference_mode():
            alone = network(torch.from_numpy(arrays[stream]).permute(0, 4, 1, 2, 3))[0].double().numpy()
        found = sample_logits(str(paths[stream]), inputs)
        assert found[0] == stream
        np.testing.assert_allclose(found[1], alone, rtol=1e-5, atol=1e-6)
        expected += alone
    joined = tmp_path / "joined.pt"
    join_streams(str(paths["rgb"]), str(paths["flow"]), str(joined))
    stream, logits = sample_logits(str(joined), inputs)
    assert stream == "both"
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(FormatError, match=r"sample flow: expected the flow array, for .*joined.pt, got rgb"):
        sample_logits(str(joined), {"rgb": inputs["rgb"]})


@pytest.mark.usefixtures("small_sample")
def test_a_file_of_other_classes_has_nothing_to_compare_with(tmp_path: Path) -> None:
    path, _ = save_hassony2(tmp_path, "rgb", num_classes=157)
    save_array(tmp_path / "rgb.npy", 3)
    with pytest.raises(WeightsError, match="expected 400 classes, got 157"):
        sample_logits(str(path), read_inputs([str(tmp_path / "rgb.npy")]))


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_synthetic_weights_that_give_the_authors_logits_pass_at_full_size(tmp_path: Path, stream: str) -> None:
    save_array(tmp_path / "sample.npy", {"rgb": 3, "flow": 2}[stream], frames=79, side=224)
    path = save_with_logits(tmp_path / "right.pth", stream, authors_logits(stream))
    found, logits = sample_logits(str(path), read_inputs([str(tmp_path / "sample.npy")]))
    assert found == stream
    assert all(comparison.agrees(TOLERANCE) for comparison in compare(stream, logits))


def test_wrong_samples_are_named(tmp_path: Path) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(FormatError, match=message) as caught:
            read_inputs([str(path)])
        assert "deepmind/kinetics-i3d" in str(caught.value)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "none.npy", "No such file")
    save_array(tmp_path / "short.npy", 2, frames=16, side=8)
    refused(tmp_path / "short.npy", r"got float32\[1, 16, 8, 8, 2\]")
    np.save(tmp_path / "bytes.npy", np.zeros((1, 79, 224, 224, 2), dtype=np.uint8))
    refused(tmp_path / "bytes.npy", "got uint8")
    np.savez(tmp_path / "archive.npz", a=np.zeros(1))
    refused(tmp_path / "archive.npz", "got an archive")
    (tmp_path / "empty.npy").touch()
    refused(tmp_path / "empty.npy", "sample .*empty.npy: expected the published array")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    refused(tmp_path / "objects.npy", "Object arrays cannot be loaded")


@pytest.mark.usefixtures("small_sample")
def test_two_arrays_of_one_stream_are_refused(tmp_path: Path) -> None:
    save_array(tmp_path / "a.npy", 3)
    with pytest.raises(FormatError, match="got a second rgb"):
        read_inputs([str(tmp_path / "a.npy"), str(tmp_path / "a.npy")])


def test_a_stream_is_recognised_by_its_keys(tmp_path: Path) -> None:
    path, _ = save_hassony2(tmp_path, "flow")
    assert stream_of(str(path)) == "flow"
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="28[57] missing|230 missing|228 missing"):
        stream_of(str(tmp_path / "other.pt"))
