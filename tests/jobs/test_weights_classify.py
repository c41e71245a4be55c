"""``clipmill weights classify``: real weights on real clips, I3D's streams summed, and what cannot be classified."""

from pathlib import Path

import numpy as np
import pytest
import torch

from clipmill.extractors.i3d.sample import EXPECTED
from clipmill.jobs.build import run_build
from clipmill.jobs.weights.classify import run_classify
from clipmill.schemas.errors import ConfigError, FormatError, UsageError, WeightsError
from clipmill.stores import FeatureStore
from tests.encoded_videos import encode_video
from tests.extractors.published_layouts import numbered_state, published
from tests.extractors.synthetic_i3d import authors_logits, save_with_logits

REAL = "weights/squeezenet1_0_imagenet_decoded.pt"
LABELS = "annotations/kinetics400_labels.txt"
CLIP = "clips/topics70/animals/1.mp4"
HIPPOPOTAMUS = 344
"""ImageNet's number of what the clip shows."""
SMALL = ("sampling.frames=9", "preprocess.size=[32]")


def test_real_weights_name_a_real_clip_by_its_mean_logits(shared_data: Path, tmp_path: Path) -> None:
    """Against the rows that a build stores, averaged before SciPy's softmax."""
    special = pytest.importorskip("scipy.special")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "1.mp4").symlink_to(shared_data / CLIP)
    (tmp_path / "build.yaml").write_text(
        f"store: {{url: {tmp_path / 'store'}}}\n"
        f"videos: {{folder: {tmp_path / 'clips'}}}\n"
        f"features: {{squeezenet: {{layer: logits, weights: {{file: {shared_data / REAL}}}}}}}\n"
        "engine: {device: cpu, threads: 1}\n"
    )
    assert run_build(str(tmp_path / "build.yaml"), []).exit_code == 0
    rows = FeatureStore(str(tmp_path / "store"))["squeezenet"]["1.mp4"].values
    assert len(rows) > 3
    probabilities = special.softmax(rows.astype(np.float64).mean(axis=0))
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"name {index}" for index in range(1000)))
    clips = [str(shared_data / CLIP), str(tmp_path / "no such clip.mp4")]
    found = run_classify("squeezenet", [str(shared_data / REAL)], clips, str(labels), 5, [], "cpu")
    assert found.exit_code == 3, "one of the two could not be read"
    assert [item["reason"] for item in found.data["failed"]] == ["missing_file"]
    assert "not read: missing_file" in found.text
    (video,) = found.data["videos"]
    assert video["num_windows"] == len(rows)
    order = np.argsort(-probabilities)[:5]
    assert order[0] == HIPPOPOTAMUS
    assert [score["index"] for score in video["top"]] == order.tolist()
    assert [score["name"] for score in video["top"]] == [f"name {index}" for index in order]
    np.testing.assert_allclose([score["probability"] for score in video["top"]], probabilities[order], rtol=1e-4)
    assert f"name {HIPPOPOTAMUS} ({HIPPOPOTAMUS})" in found.text
    averaged_after = special.softmax(rows.astype(np.float64), axis=1).mean(axis=0)
    assert abs(averaged_after[order[0]] - probabilities[order[0]]) > 1e-3, "the order of the two must matter here"


@pytest.fixture
def video(tmp_path: Path) -> str:
    encode_video(tmp_path / "v.mp4", num_frames=30, fps=25)
    return str(tmp_path / "v.mp4")


def test_two_streams_of_i3d_are_summed_and_named(shared_data: Path, tmp_path: Path, video: str) -> None:
    """Streams that give the published logits of each give the published two-stream ones."""
    rgb = save_with_logits(tmp_path / "rgb.pt", "rgb", authors_logits("rgb"))
    flow = save_with_logits(tmp_path / "flow.pt", "flow", authors_logits("flow"))
    labels = str(shared_data / LABELS)
    small = [*SMALL, "options.crop=32", "options.flow.preset=ultrafast", "sampling.frames=10"]
    both = run_classify("i3d", [str(flow), str(rgb)], [video], labels, 2, small, "cpu")
    assert both.exit_code == 0
    (found,) = both.data["videos"]
    expected = {index: (name, logit) for index, name, logit in EXPECTED["both"].top}
    for score in found["top"]:
        name, logit = expected[score["index"]]
        assert score["name"] == name
        assert score["logit"] == pytest.approx(logit, rel=1e-5)
    assert "playing cricket (227)" in both.text
    assert found["top"][0]["probability"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.slow
def test_without_labels_classes_are_numbers(tmp_path: Path, video: str) -> None:
    rgb = save_with_logits(tmp_path / "rgb.pt", "rgb", authors_logits("rgb"))
    found = run_classify("i3d", [str(rgb)], [video], None, 1, [*SMALL, "preprocess.crop=[32,32]"], "cpu")
    (score,) = found.data["videos"][0]["top"]
    assert (score["index"], score["name"]) == (227, None)
    # What kinetics-i3d prints for this stream; the logits beyond the published twenty are equal here.
    assert score["probability"] == pytest.approx(0.9999968, abs=2e-6)
    assert "class 227" in found.text
    assert "--labels FILE names them" in found.text


def refused(
    kind: type[Exception], message: str, extractor: str, files: list[Path], *more: str, labels: str | None = None
) -> None:
    with pytest.raises(kind, match=message) as caught:
        run_classify(extractor, [str(path) for path in files], ["v.mp4"], labels, 5, list(more), "cpu")
    assert "\n" not in str(caught.value)


def test_wrong_usage_is_told_before_a_frame_is_decoded(tmp_path: Path) -> None:
    rgb = save_with_logits(tmp_path / "rgb.pt", "rgb", np.zeros(400))
    (tmp_path / "labels.txt").write_text("a\nb\n")
    refused(FormatError, "expected 400 names, got 2", "i3d", [rgb], labels=str(tmp_path / "labels.txt"))
    refused(FormatError, "expected a text file", "i3d", [rgb], labels=str(tmp_path / "none.txt"))
    refused(UsageError, "expected one file of rgb and one of flow, got rgb .* and rgb", "i3d", [rgb, rgb])
    refused(UsageError, "expected one weights file, got 2", "c3d", [rgb, rgb])
    refused(
        WeightsError, "expected one of the layouts c3d_.*, got keys nearest to c3d_.* with 20 missing", "c3d", [rgb]
    )
    refused(WeightsError, "No such file", "i3d", [tmp_path / "none.pt"])
    refused(UsageError, "did you mean 'i3d'", "i3", [rgb])
    refused(ConfigError, "unknown key", "i3d", [rgb], "sampling.fsp=2")
    refused(UsageError, "expected layer logits, pooling none, got layer features", "i3d", [rgb], "layer=features")


def test_a_network_without_logits_or_a_file_without_its_last_layer(shared_data: Path, tmp_path: Path) -> None:
    for name in ("rc3d_pytorch_thumos14", "c3d_sports1m_mmaction2"):
        torch.save(numbered_state(published(shared_data, name)), tmp_path / f"{name}.pth")
    rc3d, mmaction2 = tmp_path / "rc3d_pytorch_thumos14.pth", tmp_path / "c3d_sports1m_mmaction2.pth"
    refused(UsageError, r"layer: expected one of fc6, detections, got logits", "rc3d", [rc3d])
    refused(WeightsError, "file has no other, got logits", "c3d", [mmaction2])
