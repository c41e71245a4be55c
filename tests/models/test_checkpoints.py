"""Checkpoints: read back whole, without pickled classes; every wrong file has its own line."""

import dataclasses
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipmill.models.base import Sizes
from clipmill.models.checkpoints import checkpoint_path, checkpoints, find_checkpoint, load, save
from clipmill.models.embedding import embed
from clipmill.schemas.errors import StorageUnavailableError, UsageError, WeightsError
from clipmill.schemas.features import FeatureSource
from clipmill.schemas.inputs import InputRows
from tests.models.conftest import IMAGE_DIM, VIDEO_DIM, MakeTrained

DATA = Path(__file__).parent / "data"


def test_a_model_scores_the_same_after_a_round_trip(make_trained: MakeTrained, tmp_path: Path) -> None:
    trained = make_trained(lambda_v=0.3, num_samples=4)
    save(tmp_path / "model.pt", trained)
    again = load(tmp_path / "model.pt")
    for name in ("name", "options", "sizes", "scalings", "origin", "epoch", "training"):
        assert getattr(again, name) == getattr(trained, name), name
    inputs = {
        "image": InputRows(np.ones((2, IMAGE_DIM), np.float32)),
        "video": InputRows(np.random.default_rng(0).random((2, VIDEO_DIM), np.float32)),
    }
    for side in ("query", "gallery"):
        first, second = (embed(item, side, inputs) for item in (trained, again))
        for name, values in first.items():
            np.testing.assert_array_equal(values, second[name])
    assert again.model.spaces() == trained.model.spaces()


def test_a_checkpoint_of_version_1_is_still_read(tmp_path: Path) -> None:
    """The file was written by clipmill before inputs had names; the arrays are what it embedded then."""
    trained = load(DATA / "map_ivr_version_1.pt")
    with np.load(DATA / "map_ivr_version_1.npz") as stored:
        inputs = {name: InputRows(stored[name]) for name in ("image", "video")}
        for side in ("query", "gallery"):
            for name, values in embed(trained, side, inputs).items():
                np.testing.assert_allclose(values, stored[f"{side}_{name}"], rtol=1e-6, atol=1e-6)
    assert trained.sizes == Sizes({"image": 5, "video": 11}, 3)
    assert trained.origin.inputs["video"] == FeatureSource("c3d", "2" * 32, 11)
    assert (trained.epoch, trained.origin.test_clip_ids) == (3, ("a#0", "c#1"))
    save(tmp_path / "again.pt", trained)
    assert load(tmp_path / "again.pt").origin == trained.origin


def test_a_checkpoint_holds_plain_types_and_tensors_only(make_trained: MakeTrained, tmp_path: Path) -> None:
    save(tmp_path / "model.pt", make_trained())

    def check(value: Any) -> None:
        if isinstance(value, dict):
            [check(item) for pair in value.items() for item in pair]
        elif isinstance(value, list):
            [check(item) for item in value]
        else:
            assert type(value) in (str, int, float, bool, type(None), torch.Tensor), type(value)

    check(torch.load(tmp_path / "model.pt", weights_only=True))


def test_a_newer_model_does_not_disturb_a_reader(make_trained: MakeTrained, tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path, 3)
    save(path, make_trained())
    save(path, dataclasses.replace(make_trained(), epoch=9))
    assert load(path).epoch == 9
    assert [item.name for item in path.parent.iterdir()] == ["epoch-0003.pt"]


def test_the_newest_checkpoint_is_found_by_number(make_trained: MakeTrained, tmp_path: Path) -> None:
    for epoch in (9, 10000, 200):
        save(checkpoint_path(tmp_path, epoch), make_trained())
    assert list(checkpoints(tmp_path)) == [9, 200, 10000]
    assert find_checkpoint(tmp_path).name == "epoch-10000.pt"
    assert find_checkpoint(tmp_path, "epoch-0009").name == find_checkpoint(tmp_path, "epoch-0009.pt").name


def test_a_folder_without_checkpoints_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a folder made by clipmill train, got no checkpoint"):
        find_checkpoint(tmp_path / "nothing")


def test_an_unknown_checkpoint_lists_near_ones(make_trained: MakeTrained, tmp_path: Path) -> None:
    save(checkpoint_path(tmp_path, 10), make_trained())
    with pytest.raises(UsageError, match="checkpoint epoch-0011: .*did you mean 'epoch-0010'"):
        find_checkpoint(tmp_path, "epoch-0011")


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, MakeTrained], None]:
    def write(path: Path, make_trained: MakeTrained) -> None:
        save(path, make_trained())
        data = torch.load(path, weights_only=True)
        change(data)
        torch.save(data, path)

    return write


def truncated(path: Path, make_trained: MakeTrained) -> None:
    save(path, make_trained())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


WRONG: list[tuple[str, Callable[[Path, MakeTrained], object], str]] = [
    ("missing", lambda path, _: None, "expected a file, got none"),
    ("empty", lambda path, _: path.write_bytes(b""), "expected a whole file"),
    ("truncated", truncated, "expected a whole file"),
    ("text", lambda path, _: path.write_text("epoch: 3\n"), "expected a whole file"),
    ("weights alone", lambda path, _: torch.save({"fc6.weight": torch.zeros(2)}, path), "got keys fc6.weight"),
    ("a tensor", lambda path, _: torch.save(torch.zeros(2), path), "got Tensor"),
    ("newer version", edit(lambda data: data.update(format_version=3)), "version: expected at most 2, got 3"),
    ("no origin", edit(lambda data: data.pop("origin")), "expected a whole checkpoint, got KeyError 'origin'"),
    ("bad option", edit(lambda data: data["model"]["options"].update(heads=8)), "heads: unknown key"),
    ("no scaling", edit(lambda data: data["scaling"]["image"].pop("span")), "expected kind, offset and span"),
    (
        "other sizes",
        edit(lambda data: data["model"]["options"].update(latent_dim=4)),
        r"weights: expected decoder.0.weight \[8, 10\], got \[8, 9\] \(5 of 24 differ\)",
    ),
]


@pytest.mark.parametrize(("name", "write", "message"), WRONG, ids=[name for name, _, _ in WRONG])
def test_a_wrong_checkpoint_is_refused_in_one_line(
    name: str, write: Callable[[Path, MakeTrained], object], message: str, make_trained: MakeTrained, tmp_path: Path
) -> None:
    path = tmp_path / f"{name}.pt"
    write(path, make_trained)
    with pytest.raises(WeightsError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", ["zip", "legacy"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(protocol: str, tmp_path: Path) -> None:
    trap, path = tmp_path / "was-run", tmp_path / "evil.pt"
    if protocol == "zip":
        torch.save({"format": _Trap(trap)}, path)
    else:
        path.write_bytes(pickle.dumps(_Trap(trap)))
    with pytest.raises(WeightsError, match="expected plain tensors, got a pickle that names Python classes"):
        load(path)
    assert not trap.exists()


def test_an_unknown_model_in_a_checkpoint_is_named(make_trained: MakeTrained, tmp_path: Path) -> None:
    edit(lambda data: data["model"].update(name="map_ivr2"))(tmp_path / "m.pt", make_trained)
    with pytest.raises(UsageError, match="model map_ivr2: expected one of .*map_ivr"):
        load(tmp_path / "m.pt")


def test_a_folder_that_cannot_be_made_is_retryable(make_trained: MakeTrained, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageUnavailableError, match="expected a folder that can be written"):
        save(tmp_path / "file" / "epoch-0001.pt", make_trained())
