"""Exported programs through a whole build: rows are the network's own on the frames, whatever the engine."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from PIL import Image

from clipmill.stores import FeatureStore
from tests.command_line import clipmill, invoke, invoked_result, refused, result
from tests.conformance.conftest import ENGINES, digests
from tests.encoded_videos import encode_video
from tests.extractors.exported_programs import HALF, network, onnx_file, program

PROCESSOR = {
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
    "size": {"shortest_edge": 36},
}
NUM_FRAMES = (25, 40)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, a program with its preprocessor_config.json beside it, and a build file."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "videos").mkdir()
    for index, num_frames in enumerate(NUM_FRAMES):
        encode_video(folder / "videos" / f"{index}.mp4", num_frames, fps=10, width=96, height=64)
    shutil.copy(program("vit"), folder / "vit.pt2")
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def write(root: Path, name: str, engine: Mapping[str, Any]) -> tuple[Path, Path]:
    """Returns the path of a build file with three programs, and its store."""
    clips = {"resize": "exact", "size": [24, 24], **HALF}
    features = {
        "vit": {
            "extractor": "torch",
            "layer": "pooler_output",
            "weights": {"file": str(root / "vit.pt2")},
            "sampling": {"fps": 5},
        },
        "tokens": {
            "extractor": "onnx",
            "layer": "last_hidden_state",
            "weights": {"file": str(onnx_file("vit"))},
            "options": {"pool": "mean", "preprocessor": str(root / "preprocessor_config.json")},
            "sampling": {"fps": 5},
        },
        "c3d": {"extractor": "torch", "weights": {"file": str(program("c3d"))}, "preprocess": clips},
    }
    config = {
        "store": {"url": str(root / name)},
        "videos": {"folder": str(root / "videos")},
        "features": features,
        "engine": {"threads": 1, "device": "cpu", "task_seconds": 0.2} | dict(engine),
    }
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path, root / name


@pytest.fixture(scope="module")
def local(root: Path) -> Path:
    config, store = write(root, "local", {"name": "local"})
    assert result("build", "--config", str(config))["num_quarantined"] == 0
    return store


def decoded(path: Path) -> list[Image.Image]:
    with av.open(str(path)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def scaled(image: Image.Image) -> npt.NDArray[np.float32]:
    return ((np.asarray(image).astype(np.float32) / 255 - 0.5) / 0.5).transpose(2, 0, 1)


def by_hand(root: Path, index: int) -> dict[str, npt.NDArray[Any]]:
    """Returns the rows of a video by PyAV, Pillow and the network in PyTorch alone."""
    frames = decoded(root / "videos" / f"{index}.mp4")
    # A frame of 96 x 64 has its short side brought to 36 and its middle cut out; every second frame is shown at 5 fps.
    stills = [image.resize((54, 36), Image.Resampling.BICUBIC).crop((11, 2, 43, 34)) for image in frames[::2]]
    with torch.inference_mode():
        found = network("vit")(torch.from_numpy(np.stack([scaled(image) for image in stills])))
        # OpenCV's bilinear filter of a frame that shrinks is not Pillow's: resized by a matrix of its own rule.
        small = np.stack([_bilinear(np.asarray(image), 24, 24) for image in frames[: len(frames) // 6 * 6]])
        clips = (small / 255 - 0.5) / 0.5
        clips = clips.reshape(-1, 6, 24, 24, 3).transpose(0, 4, 1, 2, 3).astype(np.float32)
        of_clips = network("c3d")(torch.from_numpy(clips))
    return {
        "vit": found["pooler_output"].numpy(),
        "tokens": found["last_hidden_state"].mean(1).numpy(),
        "c3d": of_clips.numpy(),
    }


def _bilinear(pixels: npt.NDArray[np.uint8], rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Returns pixels resized with half-pixel centres and no antialias, rounded to whole levels."""

    def matrix(given: int, wanted: int) -> npt.NDArray[np.float64]:
        centres = np.clip((np.arange(wanted) + 0.5) * given / wanted - 0.5, 0, given - 1)
        low = np.minimum(np.floor(centres).astype(int), given - 2)
        found = np.zeros((wanted, given))
        found[np.arange(wanted), low] = 1 - (centres - low)
        found[np.arange(wanted), low + 1] = centres - low
        return found

    return np.asarray(
        np.rint(np.einsum("rh,hwc,kw->rkc", matrix(len(pixels), rows), pixels, matrix(pixels.shape[1], columns)))
    )


@pytest.mark.parametrize("feature", ["vit", "tokens", "c3d"])
def test_stored_rows_are_the_networks_own(root: Path, local: Path, feature: str) -> None:
    rows = FeatureStore(str(local))[feature]
    for index in range(len(NUM_FRAMES)):
        expected = by_hand(root, index)[feature]
        found = rows[f"{index}.mp4"].values
        assert found.shape == expected.shape
        # Whole levels may be rounded the other way where OpenCV works in fixed point.
        tolerance = 1e-5 if feature != "c3d" else 5e-3
        assert np.abs(found - expected).max() / np.abs(expected).max() < tolerance


# tests/conformance/test_engines.py holds them to the same bytes with a network of ours.
@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", [pytest.param("ray", marks=pytest.mark.ray), pytest.param("beam-in-process", marks=pytest.mark.beam)]
)
def test_every_engine_writes_the_same_bytes(root: Path, local: Path, engine: str) -> None:
    config, store = write(root, engine, ENGINES[engine])
    done = clipmill("build", "--config", str(config))
    assert done.returncode == 0, done.stderr
    assert digests(store) == digests(local)


def test_a_second_build_runs_nothing_and_a_moved_program_is_the_same(root: Path, local: Path) -> None:
    config, _ = write(root, "local", {"name": "local"})
    moved = root / "moved.pt2"
    moved.write_bytes((root / "vit.pt2").read_bytes())
    again = invoked_result("build", "--config", str(config), "--set", f"features.vit.weights.file={moved}")
    assert again["num_tasks_executed"] == 0


def test_a_program_that_does_not_fit_ends_before_a_video_is_read(root: Path) -> None:
    config, store = write(root, "refused", {"name": "local"})
    (root / "no_video").mkdir()
    (root / "no_video" / "broken.mp4").write_bytes(b"not a video")
    changes = ["--set", f"videos.folder={root / 'no_video'}", "--set", "features.vit.layer=poller_output"]
    refused(invoke("build", "--config", str(config), *changes), "features.vit.layer", "did you mean 'pooler_output'?")
    assert not (store / "probes").exists()


def test_the_program_is_described_and_classified(root: Path) -> None:
    found = result("weights", "check", "torch", str(root / "vit.pt2"))
    assert found["passed"]
    assert found["input"] == ["float32[N, 3, 32, 32] pixel_values"]
    assert found["output"] == ["float32[N, 17, 24] last_hidden_state", "float32[N, 12] pooler_output"]
    num_parameters = sum(value.numel() for value in network("vit").state_dict().values())
    assert found["parameters"] == [f"{num_parameters:,}"]
    (root / "broken.onnx").write_bytes(b"no model")
    refused(invoke("weights", "check", "onnx", str(root / "broken.onnx")), "expected an ONNX model")
    shutil.copy(program("resnet"), root / "resnet.pt2")
    changes = [
        *("--set", "options.preprocessor=none"),
        *("--set", "preprocess.resize=exact", "--set", "preprocess.size=[64, 64]"),
        *("--set", "preprocess.scale=0.0039"),
    ]
    top = result(
        "weights", "classify", "torch", str(root / "videos" / "0.mp4"), "--file", str(root / "resnet.pt2"), *changes
    )
    assert top["num_classes"] == 10
    assert len(top["videos"][0]["top"]) == 5
