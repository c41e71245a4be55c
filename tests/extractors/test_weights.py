"""Weights files: every container read, none of them run, and wrong ones named."""

import argparse
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.weights import Layout, check_digest, digest, load_network, match_layout, read_state_dict
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.errors import WeightsError
from clipmill.schemas.recipe import ClipRule

Writer = Callable[[Any, Path], None]


def save_zip(content: Any, path: Path) -> None:
    torch.save(content, path)


def save_legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def save_oldest_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=0))


CONTAINERS = pytest.mark.parametrize("write", [save_zip, save_legacy], ids=["zip", "legacy"])


class Malicious:
    """Unpickling an instance makes a folder: what any other command line would do as well."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def state() -> dict[str, torch.Tensor]:
    return {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.tensor([1.0, 2.0])}


@CONTAINERS
@pytest.mark.parametrize(
    "wrap",
    [
        lambda flat: flat,
        lambda flat: {"state_dict": flat, "epoch": 3, "opt_dict": {"state": {}}},
        lambda flat: {"model": flat, "meta": {"version": "1"}},
        lambda flat: {"model_state_dict": flat},
        lambda flat: {"model": {"state_dict": flat}},
        lambda flat: {f"module.{key}": value for key, value in flat.items()},
        lambda flat: {"state_dict": {f"module.backbone.{key}": value for key, value in flat.items()}},
        lambda flat: flat | {"bn.num_batches_tracked": torch.tensor(7)},
        lambda flat: {key: value.numpy() for key, value in flat.items()},
        lambda flat: {"state_dict": flat, "accuracy": np.float64(0.5), "lr": np.float32(0.1)},
    ],
    ids=[
        "flat",
        "state_dict",
        "model",
        "model_state_dict",
        "nested",
        "module",
        "backbone",
        "counter",
        "numpy",
        "scalars",
    ],
)
def test_wrappers_and_prefixes(write: Writer, wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    write(wrap(state()), path)
    found = read_state_dict(str(path))
    assert found.keys() == state().keys()
    for key, value in state().items():
        assert torch.equal(found[key], value)


def test_a_prefix_of_some_keys_stays(tmp_path: Path) -> None:
    """As in mmaction2's recognisers, where the head stands beside the backbone."""
    keys = {"backbone.conv.weight", "cls_head.fc.weight"}
    torch.save({key: torch.ones(1) for key in keys}, tmp_path / "w.pth")
    assert read_state_dict(str(tmp_path / "w.pth")).keys() == keys


def test_numpy_archives(tmp_path: Path) -> None:
    np.savez(tmp_path / "caffe.npz", **{"conv1a[0]": np.ones((2, 3), np.float32), "conv1a[1]": np.zeros(2)})
    found = read_state_dict(str(tmp_path / "caffe.npz"))
    assert {key: tuple(value.shape) for key, value in found.items()} == {"conv1a[0]": (2, 3), "conv1a[1]": (2,)}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("write", [save_zip, save_legacy, save_pickle, save_oldest_pickle])
@pytest.mark.parametrize(
    "wrap", [lambda bad: bad, lambda bad: {"state_dict": state(), "extra": bad}], ids=["all", "part"]
)
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(
    write: Writer, wrap: Callable[[Any], Any], tmp_path: Path
) -> None:
    path, made = tmp_path / "weights.pth", tmp_path / "made by the file"
    write(wrap(Malicious(made)), path)
    with pytest.raises(WeightsError, match="names code to run when loaded") as caught:
        read_state_dict(str(path))
    assert "posix.mkdir" in str(caught.value) or "nt.mkdir" in str(caught.value)
    assert "refused" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not made.exists()
    # The file is what it claims to be: loaded without care, it does run.
    if write is save_pickle:
        pickle.loads(path.read_bytes())
        assert made.is_dir()


def test_an_object_array_in_an_archive_is_refused(tmp_path: Path) -> None:
    made = tmp_path / "made by the file"
    np.savez(tmp_path / "w.npz", weight=np.array([Malicious(made)], dtype=object))
    with pytest.raises(WeightsError, match="refused"):
        read_state_dict(str(tmp_path / "w.npz"))
    assert not made.exists()


@CONTAINERS
@pytest.mark.parametrize(
    ("content", "named"),
    [(argparse.Namespace(lr=1), "argparse.Namespace"), (nn.Linear(2, 2), "torch.nn.modules.linear.Linear")],
    ids=["namespace", "module"],
)
def test_objects_that_are_not_data_are_refused_by_name(write: Writer, content: Any, named: str, tmp_path: Path) -> None:
    write({"state_dict": state(), "args": content}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=named):
        read_state_dict(str(tmp_path / "w.pth"))


def damaged(tmp_path: Path) -> dict[str, bytes]:
    whole = {}
    for name, write in (("zip", save_zip), ("legacy", save_legacy)):
        write(state(), tmp_path / name)
        whole[name] = (tmp_path / name).read_bytes()
    return {
        "empty": b"",
        "half a zip": whole["zip"][: len(whole["zip"]) // 2],
        "legacy without its end": whole["legacy"][:-4],
        "legacy without its middle": whole["legacy"][:60],
        "noise": np.random.default_rng(0).bytes(1000),
        "a web page": b"<!DOCTYPE html><title>Quota exceeded</title>",
        "starts like Caffe": b"\n" + np.random.default_rng(1).bytes(1000),
        "a prototxt": b'\nname: "DeepConv3DNet"\nlayers {\n  name: "data"\n}\n',
        "text": b"weights go here",
    }


DAMAGED = (
    "empty",
    "half a zip",
    "legacy without its end",
    "legacy without its middle",
    "noise",
    "a web page",
    "starts like Caffe",
    "a prototxt",
    "text",
)


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_told_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(damaged(tmp_path)[name])
    with pytest.raises(WeightsError, match="truncated or foreign data") as caught:
        read_state_dict(str(path))
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value), "advice to load it unsafely must not reach a user"
    assert str(path) in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_table_is_not_taken_for_a_pickle(tmp_path: Path) -> None:
    """``id`` begins like a pickle that names ``d,path a,b.mp4``; what follows is nobody's code."""
    path = tmp_path / "videos.csv"
    path.write_text("id,path\na,b.mp4\n")
    with pytest.raises(WeightsError, match="truncated or foreign data"):
        read_state_dict(str(path))


def test_torchscript_is_told_apart(tmp_path: Path) -> None:
    class Double(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    torch.jit.save(torch.jit.script(Double()), str(tmp_path / "w.pt"))
    with pytest.raises(WeightsError, match="TorchScript program"):
        read_state_dict(str(tmp_path / "w.pt"))


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for read in (read_state_dict, digest):
        with pytest.raises(WeightsError, match="No such file"):
            read(str(tmp_path / "nothing.pth"))
        with pytest.raises(WeightsError, match="Is a directory"):
            read(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "a mapping of names to tensors, got list"),
        (torch.ones(2), "a mapping of names to tensors, got Tensor"),
        ({"epoch": 3}, r"tensors, got none \(keys: epoch\)"),
        ({}, r"tensors, got none \(keys: nothing\)"),
    ],
)
def test_files_without_named_tensors(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        read_state_dict(str(tmp_path / "w.pth"))


def test_digest_is_sha256_and_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(str(path)) == known
    check_digest(str(path), known)
    path.write_bytes(b"abcd")
    assert digest(str(path)) != known
    with pytest.raises(WeightsError, match="expected SHA-256 ba7816bf8f01"):
        check_digest(str(path), known)


LAYOUTS = (
    Layout("first", "card", {"a.weight": ("conv.weight", (2, 3)), "a.bias": ("conv.bias", (2,))}),
    Layout("second", "card", {"b.weight": ("conv.weight", (None, 3)), "b.bias": ("conv.bias", (None,))}, 9),
)


def test_layouts_are_told_by_keys_and_shapes() -> None:
    assert match_layout("w", {"a.weight": (2, 3), "a.bias": (2,)}, LAYOUTS) is LAYOUTS[0]
    shapes = {"b.weight": (7, 3), "b.bias": (7,)}
    assert match_layout("w", shapes, LAYOUTS) is LAYOUTS[1]
    assert LAYOUTS[1].count_classes(shapes) == 7
    assert LAYOUTS[0].count_classes({"a.weight": (2, 3), "a.bias": (2,)}) is None


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"a.weight": (2, 3)}, "nearest to first with 1 missing: a.bias;"),
        ({"a.weight": (2, 3), "a.bias": (2,), "z": (1,)}, "nearest to first with 1 unexpected: z;"),
        (
            {"b.weight": (2, 4), "b.bias": (2,)},
            r"nearest to second with 1 mis-shaped: b.weight \[2, 4\] for \[classes, 3\];",
        ),
        (
            {"a.weight": (1, 3), **{f"x{index}": (1,) for index in range(6)}},
            r"with 1 missing: a.bias; 6 unexpected: x0, x1, x2, x3, ...; 1 mis-shaped: a.weight \[1, 3\] for \[2, 3\];",
        ),
    ],
)
def test_a_wrong_layout_says_what_is_wrong(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        match_layout("w.pth", shapes, LAYOUTS)
    assert "\n" not in str(caught.value)


class Small(nn.Module):
    """Two layers, of which the last may be resized."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Linear(3, 2)
        self.last = nn.Linear(2, 4)

    def resize_classes(self, num_classes: int) -> None:
        self.last = nn.Linear(2, num_classes)


SMALL = Layout(
    "small",
    "card",
    {
        "conv.weight": ("conv.weight", (2, 3)),
        "conv.bias": ("conv.bias", (2,)),
        "fc.weight": ("last.weight", (None, 2)),
        "fc.bias": ("last.bias", (None,)),
    },
)


def small_file(path: Path, **changes: torch.Tensor) -> str:
    torch.save(state() | {"fc.weight": torch.ones(7, 2), "fc.bias": torch.zeros(7)} | changes, path)
    return str(path)


def test_a_network_takes_a_file_of_other_classes_and_precision(tmp_path: Path) -> None:
    path = small_file(tmp_path / "w.pth", **{"conv.weight": torch.arange(6.0).reshape(2, 3).double()})
    network = Small()
    assert load_network(network, path, [SMALL]) is SMALL
    assert network.last.weight.shape == (7, 2)
    assert network.conv.weight.dtype == torch.float32
    assert torch.equal(network.conv.weight.detach(), torch.arange(6.0).reshape(2, 3))


def test_what_a_network_has_no_place_for_is_left_out(tmp_path: Path) -> None:
    network = Small()
    del network.last
    load_network(network, small_file(tmp_path / "w.pth"), [SMALL])
    assert torch.equal(network.conv.bias.detach(), torch.tensor([1.0, 2.0]))


def test_what_a_network_needs_must_be_in_the_file(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "w.pth")
    headless = Layout("headless", "card", {key: SMALL.keys[key] for key in state()})
    with pytest.raises(WeightsError, match=r"a headless file without last.bias, last.weight"):
        load_network(Small(), str(tmp_path / "w.pth"), [headless])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(bad: float, tmp_path: Path) -> None:
    path = small_file(tmp_path / "w.pth", **{"conv.bias": torch.tensor([1.0, bad])})
    with pytest.raises(WeightsError, match=r"NaN or infinity in conv\.bias"):
        load_network(Small(), path, [SMALL])


def test_a_small_file_that_unpacks_to_more_than_the_network_is_refused(tmp_path: Path) -> None:
    """Of 200 MB of zeros, which deflate to a thousandth, nothing is unpacked."""
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, weight=np.zeros(50_000_000, np.float32))
    assert path.stat().st_size < 1 << 20
    for most in (None, 20_000_000):
        tracemalloc.start()
        with pytest.raises(WeightsError, match=r"at most [\d,]+ bytes of numbers, got [\d,]+ bytes that unpack"):
            read_state_dict(str(path), most)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
        tracemalloc.stop()
    feature = FeatureConfig(weights=WeightsConfig(file=str(path)))
    with pytest.raises(WeightsError, match="that unpack to 200,000,"):
        resolve_recipe("squeezenet", feature, ClipRule(), DecodeConfig())


def test_a_compressed_file_of_the_networks_size_is_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "w.npz", weight=np.zeros(1_000_000, np.float32))
    assert read_state_dict(str(tmp_path / "w.npz"))["weight"].shape == (1_000_000,)


def test_safetensors_are_read_by_their_suffix_and_refused_when_damaged(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    expected = {"module.a": torch.arange(6.0).reshape(2, 3), "module.b": torch.ones(2, dtype=torch.bfloat16)}
    save_file(expected, path)
    found = read_state_dict(str(path))
    assert found.keys() == {"a", "b"}
    assert torch.equal(found["a"], expected["module.a"])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(WeightsError, match="expected a safetensors file, got truncated or foreign data"):
        read_state_dict(str(path))
