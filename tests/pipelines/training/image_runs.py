"""Small trainings on images, and what became of them."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipmill.models.checkpoints import checkpoint_path, checkpoints, load
from clipmill.pipelines.features.windows import clip_windows
from clipmill.pipelines.training import loop
from clipmill.pipelines.training.images.train import ImageTrainJob, network_path, read, train_on_images
from clipmill.pipelines.training.parallel import ProcessGroup
from clipmill.pipelines.training.train import TrainReport, resolve
from clipmill.schemas.config_images import ImageTrainConfig
from clipmill.schemas.model import validate
from examples.images.shapes import drawn

KINDS = ("circle", "cross")
WORDS = {"circle": "a round thing", "cross": "two arms that meet"}
SIMILARITY: dict[str, Any] = {
    "model": {
        "name": "similarity_network",
        "options": {"hidden_dims": [8], "initial_deviation": 0.1, "warm_up": 1, "random": 2, "difficult": 1},
    },
    "network": {"extractor": "rmac", "options": {"network": "squeezenet", "pool": "mac"}},
    "loop": {"epochs": 4, "batch": 5, "learning_rate": 0.001},
}
CML: dict[str, Any] = {
    "model": {"name": "semart", "options": {"embedding_dim": 8, "min_comment_count": 1}},
    "network": {"extractor": "squeezenet", "layer": "logits", "swap_patience": [1, 1]},
    "loop": {"epochs": 4, "batch": 5, "learning_rate": 0.001, "select": "median_rank"},
}


def make_images(folder: Path) -> Path:
    """Writes 18 images of two kinds, 10 to train on, 4 to validate on and 4 to test, images.csv and texts.csv."""
    random = np.random.default_rng(1)
    folder.mkdir(parents=True)
    images, texts = ["id,path,label,split"], ["id,comment,title"]
    for part, num in {"train": 5, "validation": 2, "test": 2}.items():
        for kind in KINDS:
            for number in range(num):
                name = f"{kind} {part} {number}"
                drawn(kind, random).save(folder / f"{name}.png")
                images.append(f"{name},{name}.png,{kind},{part}")
                texts.append(f"{name},{WORDS[kind]} {'one two three four five'.split()[number]},{kind}")
    (folder / "images.csv").write_text("\n".join(images) + "\n")
    (folder / "texts.csv").write_text("\n".join(texts) + "\n")
    return folder


def config_of(images: Path, out: Path, of: dict[str, Any], **changes: Any) -> ImageTrainConfig:
    """Returns the config of a training on the images of `make_images`; `changes` are of its network and its loop."""
    always = {"device": "cpu", "threads": 1, "checkpoint_every_epochs": 1, "keep_checkpoints": 9}
    network = {"preprocess": {"resize": "exact", "size": [40, 40], "crop": [32, 32]}} | of["network"]
    given: dict[str, Any] = {
        "data": {"images": {"manifest": str(images / "images.csv")}, "split": {"from": "manifest"}},
        "model": of["model"],
        "network": network | changes.pop("network", {}),
        "loop": of["loop"] | always | changes,
        "out": str(out),
    }
    if of is CML:
        given["data"]["inputs"] = {
            name: {"file": str(images / "texts.csv"), "id": "id", "text": name} for name in ("comment", "title")
        }
    return validate(ImageTrainConfig, given, "test")


def run(config: ImageTrainConfig) -> TrainReport:
    """Trains as the command does."""
    return train_on_images(config, clip_windows)


def state_of(out: str, epoch: int) -> dict[str, torch.Tensor]:
    """Returns the weights of network and model of an epoch, and the optimiser's moments."""
    trained = load(checkpoint_path(out, epoch))
    network = torch.load(network_path(out, epoch), weights_only=True)["state_dict"]
    flat = {f"network {name}": value for name, value in network.items()}
    flat |= {f"model {name}": value for name, value in trained.model.state_dict().items()}
    for number, state in trained.training["optimiser"]["state"].items():
        flat |= {f"optimiser {number} {name}": value for name, value in state.items()}
    return flat


def moved(out: str, before: int, after: int, part: str) -> bool:
    """Returns whether the weights of a part are others in another epoch."""
    one, two = state_of(out, before), state_of(out, after)
    return any(not torch.equal(one[name], two[name]) for name in two if name.startswith(f"{part} "))


def killed(config: ImageTrainConfig, at_step: int) -> int:
    """Returns how a process that trains ended, which was sent SIGKILL before step `at_step` (from 1)."""
    # A fork has everything imported; what trains in it has one thread.
    process = multiprocessing.get_context("fork").Process(target=_train, args=(config, at_step))
    process.start()
    process.join(280)
    if process.is_alive():
        process.kill()
    return process.exitcode or 0


def _train(config: ImageTrainConfig, at_step: int) -> None:
    step, taken = loop._step, []

    def watched(*arguments: Any) -> Any:
        taken.append(0)
        if len(taken) == at_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*arguments)

    loop._step = watched
    run(config)
    os._exit(0)


def share_of_a_run(images: str, out: str) -> dict[str, torch.Tensor]:
    """Trains CML as one of the workers of a process group; returns what worker 0 wrote down in the end."""
    config = resolve(config_of(Path(images), Path(out), CML, batch=3))
    recipe, items = read(config, clip_windows)
    Path(out).mkdir(exist_ok=True)
    ImageTrainJob(config, items, {}, out, 0, recipe).work(ProcessGroup(), torch.device("cpu"), lambda: False)
    return state_of(out, max(checkpoints(out))) if torch.distributed.get_rank() == 0 else {}
