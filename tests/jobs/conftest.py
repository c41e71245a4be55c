"""A small store of real videos and a model trained on it, made once for the tests of the verbs that use one."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import yaml

from clipmill.extractors.squeezenet.network import SqueezeNet
from clipmill.extractors.torch_extractor import seeded
from clipmill.jobs.build import run_build
from clipmill.jobs.train import run_train


def _video(path: Path, seed: int, label: int, num_frames: int = 10) -> None:
    """Writes a video of blobs: those of one label share colours, frames move."""
    rng, colours = np.random.default_rng(seed), np.random.default_rng(100 + label).integers(0, 255, (3, 3))
    centres, drift = rng.uniform(10, 86, (3, 2)), rng.uniform(-3, 3, (3, 2))
    rows, columns = np.mgrid[:64, :96]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"preset": "ultrafast", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(num_frames):
            pixels = np.full((64, 96, 3), 40 + 50 * label, np.uint8)
            for (x, y), colour in zip(centres + drift * number, colours, strict=True):
                pixels[(rows - y) ** 2 + (columns - x) ** 2 < 150] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six videos of two labels, a store of three features over them, and a trained run (`run`)."""
    folder = tmp_path_factory.mktemp("search")
    for number in range(6):
        _video(folder / "videos" / f"label {number % 2}" / f"clip ü{number}.mp4", number, number % 2)
    weights = folder / "squeezenet.pt"
    torch.save(seeded(3, SqueezeNet).state_dict(), weights)
    squeezenet = {"extractor": "squeezenet", "weights": {"file": str(weights), "card": "imagenet-caffe"}}
    config = {
        "store": {"url": str(folder / "store"), "dataset": "blobs"},
        "videos": {"folder": str(folder / "videos"), "label": "parent_folder"},
        "features": {
            "frames": squeezenet | {"sampling": {"fps": 5}, "pooling": "mean"},
            "query": squeezenet | {"sampling": {"random_frames": 1}},
            "other": {"extractor": "squeezenet", "weights": {"random": 1}, "sampling": {"fps": 1}},
        },
        "engine": {"device": "cpu", "threads": 1},
    }
    (folder / "videos" / "label 0" / "broken.mp4").write_bytes(b"no video")
    (folder / "build.yaml").write_text(yaml.safe_dump(config))
    built = run_build(str(folder / "build.yaml"), [])
    (folder / "built.json").write_text(json.dumps(built.data))
    small = {"appearance_dim": 8, "motion_dim": 8, "latent_dim": 4, "video_hidden": [8], "image_hidden": [8]}
    trained = {
        "data": {"store": str(folder / "store"), "image": "query", "video": "frames"},
        "model": {"name": "map_ivr", "options": small | {"decoder_hidden": [8], "num_samples": 3}},
        "loop": {"epochs": 2, "batch": 4, "device": "cpu", "threads": 1},
        "out": str(folder / "run"),
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(trained))
    run_train(str(folder / "train.yaml"), [])
    return folder
