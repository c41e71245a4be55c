"""An image network and a model trained as one: gradients, turns, killed runs, workers, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipmill.extractors import registry
from clipmill.models.checkpoints import checkpoints, load
from clipmill.models.embedding import embed
from clipmill.pipelines.features.windows import clip_windows
from clipmill.pipelines.training.images.end_to_end import VIEW
from clipmill.pipelines.training.images.items import read_image_items
from clipmill.pipelines.training.images.train import ImageTrainJob, card_of, network_path, read, recipe_of
from clipmill.pipelines.training.loop import TrainingItems
from clipmill.pipelines.training.phases import Turns
from clipmill.pipelines.training.run_folder import RunFolder
from clipmill.pipelines.training.train import resolve
from clipmill.schemas.config import WeightsConfig
from clipmill.schemas.errors import ConfigError, UsageError
from clipmill.schemas.inputs import InputRows
from tests.encoded_videos import encode_video
from tests.pipelines.training.gloo_workers import run_workers
from tests.pipelines.training.image_runs import (
    CML,
    SIMILARITY,
    config_of,
    killed,
    make_images,
    moved,
    run,
    share_of_a_run,
    state_of,
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images") / "images")


def job_of(images: Path, out: Path, of: dict[str, Any], **changes: Any) -> ImageTrainJob:
    config = resolve(config_of(images, out, of, **changes))
    recipe, items = read(config, clip_windows)
    return ImageTrainJob(config, items, {}, str(out), 0, recipe)


def test_turns_change_when_a_part_has_stopped_to_help() -> None:
    turns, seen = Turns([1, 3]), []
    # Less, not less (change), three times not less than the best (change), less, three times not less (change).
    for value in (9.0, 9.0, 9.5, 9.0, 10.0, 8.0, 8.0, 8.0, float("nan"), 7.0):
        turns.add(value)
        seen.append(turns.number)
    assert seen == [0, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    # What a run that goes on reads of the epochs that are done.
    assert Turns([1, 3], (9.0, 9.0, 9.5)).number == 1
    assert Turns((), (1.0, 1.0, 1.0)).number == 0


@pytest.mark.parametrize(
    "options", [{"network": "squeezenet"}, {"network": "resnet50"}], ids=lambda item: item["network"]
)
def test_an_image_of_training_is_the_row_that_a_build_makes(
    images: Path, tmp_path: Path, options: dict[str, str]
) -> None:
    job = job_of(images, tmp_path, SIMILARITY, network={"options": {"pool": "mac"} | options})
    whole = job.start(torch.device("cpu")).model.eval()
    items = job.items.of("test")
    pixels = torch.from_numpy(items.inputs["image"].values)
    assert pixels.shape == (4, 40, 40, 3)
    found = whole.vectors(pixels, None, learns=False).values.detach().numpy()
    # In a build the crop is cut where frames are decoded.
    extractor = registry.build(job.recipe, "cpu")
    frames = items.inputs["image"].values[:, None, 4:36, 4:36]
    rows = extractor.forward(np.ascontiguousarray(frames))["values"]
    np.testing.assert_allclose(found, rows, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_gradients_reach_the_network_and_are_those_of_differences(images: Path, tmp_path: Path) -> None:
    job = job_of(images, tmp_path, CML, network={"swap_patience": [], "at_once": 3}, select="last")
    whole = job.start(torch.device("cpu")).model
    items = job.items.of("train")
    placed = TrainingItems.on_device(items.inputs, items.label, torch.device("cpu"))
    taken = torch.arange(len(items))
    generator = torch.Generator().manual_seed(0)
    draws = {name: torch.randn(len(items), *shape, generator=generator) for name, shape in whole.draws().items()}
    batch = placed.batch(taken, placed.lengths(taken), draws=draws)
    assert set(draws) == {"pair", VIEW}
    whole.train()
    whole.losses(batch)["total"].backward()
    weight = whole.network.classifier[1].weight
    place = np.unravel_index(int(weight.grad.abs().argmax()), weight.shape)
    step, values = 0.02, []
    with torch.no_grad():
        for sign in (1, -1):
            weight[place] += sign * step
            values.append(float(whole.losses(batch)["total"]))
            weight[place] -= sign * step
    assert float(weight.grad[place]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=0.02)
    assert not whole.network.training
    assert whole.model.training


def test_crops_and_mirrors_are_drawn_in_training_alone(images: Path, tmp_path: Path) -> None:
    job = job_of(images, tmp_path, SIMILARITY)
    whole = job.start(torch.device("cpu")).model.train()
    pixels = torch.from_numpy(job.items.inputs["image"].values[:3])
    # Uniform numbers near 0 and 1: the corners, of which the first is mirrored.
    view = torch.tensor([[-9.0, -9.0, -9.0], [9.0, 9.0, 9.0], [-9.0, 9.0, 9.0]])
    cut = whole._cut(pixels, view)
    assert torch.equal(cut[0], pixels[0, :32, :32].flip(1))
    assert torch.equal(cut[1], pixels[1, 8:, 8:])
    assert torch.equal(cut[2], pixels[2, :32, 8:])
    assert torch.equal(whole._cut(pixels, None), pixels[:, 4:36, 4:36])


def test_network_and_layers_learn_in_turns(images: Path, tmp_path: Path) -> None:
    # So small a rate that no epoch helps: from the second on they change places after each.
    report = run(config_of(images, tmp_path, CML, learning_rate=1e-7))
    assert [line["turn"] for line in RunFolder(report.out).metrics()] == [0, 0, 1, 2]
    assert "model and network changed places after epoch 2, 3" in report.notes
    # Whoever stands still has the same bits.
    assert [moved(report.out, epoch, epoch + 1, "network") for epoch in (1, 2, 3)] == [False, True, False]
    assert [moved(report.out, epoch, epoch + 1, "model") for epoch in (1, 2, 3)] == [True, False, True]
    assert report.selected_epoch == 1


@pytest.mark.parametrize(
    "of", [pytest.param(SIMILARITY, marks=pytest.mark.slow), CML], ids=["similarity_network", "semart"]
)
def test_a_killed_training_goes_on_with_the_same_bits(images: Path, tmp_path: Path, of: dict[str, Any]) -> None:
    # Of CML the run is killed in the network's turn, and goes on into another one of the layers.
    changes = {"learning_rate": 1e-7} if of is CML else {}
    whole = run(config_of(images, tmp_path / "whole", of, **changes))
    broken = config_of(images, tmp_path / "broken", of, **changes)
    # Two batches an epoch: in the second one of epoch 3.
    assert killed(broken, 6) == -9
    assert max(checkpoints(broken.out)) == 2
    resumed = run(broken)
    assert (resumed.start_epoch, resumed.losses, resumed.selected_epoch) == (2, whole.losses, whole.selected_epoch)
    ours, theirs = state_of(resumed.out, 4), state_of(whole.out, 4)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    turns = [[line.get("turn") for line in RunFolder(report.out).metrics()] for report in (whole, resumed)]
    assert turns[0] == turns[1]
    if of is CML:
        assert len(set(turns[0])) > 1


@pytest.mark.slow
def test_two_workers_give_the_numbers_of_one(images: Path, tmp_path: Path) -> None:
    # Batches of three of ten: of the last one a worker has none.
    alone = run(config_of(images, tmp_path / "alone", CML, batch=3))
    function = f"{share_of_a_run.__module__}:{share_of_a_run.__name__}"
    out = tmp_path / "shared"
    ours, _ = run_workers(function, 2, tmp_path / "workers", images=str(images), out=str(out))
    lines = [RunFolder(folder).metrics() for folder in (out, Path(alone.out))]
    assert [line["turn"] for line in lines[0]] == [line["turn"] for line in lines[1]]
    for one, two in zip(*lines, strict=True):
        assert one["losses"] == pytest.approx(two["losses"], rel=1e-4)
    theirs = state_of(alone.out, 4)
    for name, values in ours.items():
        # Where a gradient is all but zero Adam makes a whole step of its rounding.
        if not name.startswith("optimiser"):
            np.testing.assert_allclose(values.numpy(), theirs[name].numpy(), atol=2e-3, err_msg=name)


@pytest.mark.parametrize("network", ["vgg16", "squeezenet", "resnet50"])
def test_what_is_written_down_is_read_back_with_the_same_bits(images: Path, tmp_path: Path, network: str) -> None:
    # Caffe's weights are of BGR images: the extractor turns its first layer round, and back.
    options = {"network": network, "pool": "mac"}
    job = job_of(images, tmp_path, SIMILARITY, network={"options": options})
    trained = job.start(torch.device("cpu"))
    with torch.no_grad():
        for weight in trained.model.network.parameters():
            weight.add_(0.01)
    job.save(trained)
    path = network_path(str(tmp_path), 0)
    recipe = recipe_of(job.images, WeightsConfig(file=str(path), card=job.recipe.weights.card))
    again: Any = registry.build(recipe, "cpu")
    kept = trained.model.network.state_dict()
    state = {name: value for name, value in again.network.state_dict().items() if "classifier" not in name}
    # The layers behind the maps are not needed, and not written down.
    state = {name: value for name, value in state.items() if not name.startswith("network.fc.")}
    assert len(state) > 20
    assert [name for name, value in state.items() if not torch.equal(value, kept[name])] == []
    assert load(checkpoints(tmp_path)[0]).origin.inputs["video"].recipe_fingerprint == recipe.fingerprint
    assert recipe.fingerprint != job.recipe.fingerprint


def test_the_head_of_a_checkpoint_scores_rows_as_it_did_in_training(images: Path, tmp_path: Path) -> None:
    report = run(config_of(images, tmp_path, SIMILARITY))
    job = job_of(images, tmp_path, SIMILARITY)
    whole = ImageTrainJob(job.config, job.items, {}, str(tmp_path), 4, job.recipe).start(torch.device("cpu"))
    pixels = torch.from_numpy(job.items.of("test").inputs["image"].values)
    vectors = whole.model.eval().vectors(pixels, None, learns=False).values.detach().numpy()
    trained = load(checkpoints(report.out)[4])
    # Rows are stored before they are scaled.
    rows = InputRows(3 * vectors)
    np.testing.assert_allclose(embed(trained, "query", {"image": rows})["vector"], vectors, atol=1e-6)
    assert trained.origin.test_clip_ids == tuple(
        f"{kind} test {n}#0" for kind, n in (("circle", 0), ("circle", 1), ("cross", 0), ("cross", 1))
    )


def test_frames_of_videos_are_images(tmp_path: Path) -> None:
    lines = ["path,label,split"]
    for number, (pattern, part) in enumerate([("drift", "train"), ("noise", "train"), ("drift", "test")]):
        encode_video(tmp_path / f"{number}.mp4", 20, width=64, height=48, pattern=pattern)  # type: ignore[arg-type]
        lines.append(f"{number}.mp4,{pattern},{part}")
    make_images(tmp_path / "pictures")
    lines.append("pictures/cross train 0.png,noise,train")
    (tmp_path / "images.csv").write_text("\n".join(lines) + "\n")
    config = resolve(
        config_of(tmp_path, tmp_path / "run", SIMILARITY, network={"sampling": {"fps": 12, "uniform_windows": 3}})
    )
    items = read_image_items(config.data, recipe_of(config), card_of(config), config.decode, clip_windows)
    assert [items.video_ids.count(name) for name in ("0.mp4", "1.mp4", "2.mp4", "pictures/cross train 0.png")] == [
        3, 3, 3, 1,
    ]  # fmt: skip
    assert items.test_clip_ids == ("2.mp4#0",) * 3
    assert items.inputs["image"].values.shape == (10, 40, 40, 3)
    assert len(np.unique(items.inputs["image"].values.reshape(10, -1), axis=0)) == 7


REFUSED = [
    (
        {"network": {"extractor": "c3d", "options": {}, "preprocess": {}}},
        "network extractor: expected one of resnet50, rmac, squeezenet, vgg16, got c3d",
    ),
    (
        {"network": {"preprocess": {"resize": "none", "crop": None, "size": []}}},
        "expected 72 x 72 pixels, as others have .*, got 30 x 20",
    ),
    ({"batch": 99}, "expected at most the 10 clips there are to train on"),
    ({"network": {"layer": "regions", "options": {"network": "squeezenet"}}}, "expected one row of an image"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_cannot_be_trained_on_is_one_line(
    images: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    lines = (images / "images.csv").read_text().splitlines()
    odd = make_images(tmp_path / "odd")
    Image.new("RGB", (30, 20)).save(odd / "odd.png")
    (odd / "images.csv").write_text("\n".join([*lines, "odd,odd.png,cross,train"]) + "\n")
    at = odd if "preprocess" in changes.get("network", {}) else images
    with pytest.raises(UsageError, match=message):
        run(config_of(at, tmp_path / "run", SIMILARITY, **changes))


GIVEN_OTHERWISE = [
    ("ci_mha", {}, "model ci_mha: expected a model of retrieval that learns by gradients from vectors and texts, got"),
    ("apivr", {}, "got one that reads video otherwise"),
    ("acmr", {}, "model steps: expected one step of a batch, got 2 in phase main; train it on stored features"),
    ("dscmr", {"scaling": "min_max"}, "model.options scaling: expected none or l2 with a network that learns"),
]


@pytest.mark.parametrize(("name", "options", "message"), GIVEN_OTHERWISE)
def test_models_that_pixels_do_not_serve_are_refused(
    images: Path, tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    of = {**SIMILARITY, "model": {"name": name, "options": options}, "loop": {"epochs": 2, "batch": 5}}
    with pytest.raises(UsageError, match=message):
        run(config_of(images, tmp_path / name, of))


def test_turns_without_anything_to_decide_by_are_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"swap_patience waits for a smaller loss in validation: set loop.select"):
        config_of(images, tmp_path, CML, select="last")
