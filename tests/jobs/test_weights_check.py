"""``clipmill weights check``: what a file is, for every kind of file, and I3D's sample where one has it."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from clipmill.extractors.i3d.weights import join_streams
from clipmill.extractors.weights_report import report_weights
from clipmill.jobs.cli import app
from clipmill.jobs.weights.check import run_check
from clipmill.jobs.weights.join import run_join
from clipmill.schemas.errors import FormatError, StorageUnavailableError, UsageError, WeightsError
from tests.encoded_videos import encode_video
from tests.extractors.synthetic_i3d import authors_logits, save_with_logits

REAL = "weights/squeezenet1_0_imagenet_decoded.pt"
FRAMES, SIDE = 9, 32


def test_the_real_file_is_known_and_says_how_to_use_it(shared_data: Path) -> None:
    path = shared_data / REAL
    found = run_check("squeezenet", str(path), [])
    data = json.loads(json.dumps(found.data))
    assert found.exit_code == 0
    assert (data["layout"], data["card"], data["passed"]) == ("squeezenet1_0", "imagenet-caffe", True)
    assert (data["num_parameters"], data["num_classes"], data["num_bytes"]) == (1_248_424, 1000, 5_011_453)
    assert [item["name"] for item in data["published"]] == ["squeezenet1_0_imagenet_decoded.pt"]
    assert data["preprocess"]["mean"] == [104.0, 117.0, 123.0]
    assert "colour bgr, mean (104, 117, 123)" in found.text
    assert f"in a build  squeezenet: {{weights: {{file: {path}}}}}" in found.text


def test_the_command_line_passes_everything_on(shared_data: Path, tmp_path: Path) -> None:
    def weights(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["weights", *arguments])

    path = str(shared_data / REAL)
    checked = weights("check", "squeezenet", path, "--json")
    assert (checked.exit_code, json.loads(checked.stdout)["card"]) == (0, "imagenet-caffe")
    assert weights("check", "vgg16", path).exit_code == 1
    assert weights("check", "squeezenet", path, "--input", "a.npy").exit_code == 2
    missing = str(tmp_path / "none.mp4")
    classified = weights("classify", "squeezenet", "--file", path, "--set", "sampling.fps=2", missing, "--json")
    assert classified.exit_code == 3
    assert json.loads(classified.stdout)["failed"][0]["reason"] == "missing_file"
    assert weights("classify", "squeezenet", missing).exit_code == 2, "--file must be given"
    assert weights("classify", "squeezenet", "--file", path, "--top", "0", missing).exit_code == 2


def test_a_file_of_another_extractor_lists_every_key_and_says_whose_it_is(shared_data: Path) -> None:
    found = run_check("vgg16", str(shared_data / REAL), [])
    assert found.exit_code == 1
    assert found.data["layout"] is None
    assert found.data["passed"] is False
    assert found.data["published"][0]["extractor"] == "squeezenet"
    wrong = len(found.data["missing"]) + len(found.data["unexpected"]) + len(found.data["misshaped"])
    assert wrong > 50
    assert f"{wrong} keys do not fit" in found.text
    for kind, key in (("missing", "missing"), ("unexpected", "unexpected"), ("mis-shaped", "misshaped")):
        for name in found.data[key]:
            assert f"{kind:<10}  {name}" in found.text


def test_the_options_that_take_a_file_are_told(tmp_path: Path) -> None:
    path = save_with_logits(tmp_path / "flow.pt", "flow", np.zeros(400))
    found = run_check("i3d", str(path), [])
    assert found.exit_code == 0
    assert found.data["options"] == {"stream": "flow"}
    assert found.data["num_parameters"] == 12_675_312
    assert "i3d: {options: {stream: flow}, weights: {file: " in found.text
    assert "not one of the files whose digest is known" in found.text
    assert "not compared: give --input" in found.text
    assert "v_CricketShot_g04_c01_flow.npy" in found.text


def test_numbers_that_are_none_fail(tmp_path: Path) -> None:
    path = save_with_logits(tmp_path / "rgb.pt", "rgb", np.full(400, np.nan))
    found = run_check("i3d", str(path), [])
    assert found.exit_code == 1
    assert found.data["not_finite"] == ["logits.conv3d.bias"]
    assert "logits.conv3d.bias holds NaN or infinity" in found.text


def test_a_file_that_names_code_runs_nothing(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "args": argparse.Namespace(lr=1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="names code to run when loaded: argparse.Namespace"):
        run_check("i3d", str(tmp_path / "w.pth"), [])


@pytest.mark.parametrize(
    ("extractor", "file", "inputs", "message"),
    [
        ("i3dd", "w.pth", [], "did you mean 'i3d'"),
        ("i3d", "none.pth", [], "No such file"),
        ("c3d", "w.pth", ["a.npy"], "expected extractor i3d"),
    ],
)
def test_wrong_usage_is_one_line(extractor: str, file: str, inputs: list[str], message: str, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=message) as caught:
        run_check(extractor, str(tmp_path / file), inputs)
    assert "\n" not in str(caught.value)


@pytest.fixture
def small_sample(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """Arrays of both streams, smaller than the published ones: the synthetic networks give one thing for any input."""
    monkeypatch.setattr("clipmill.extractors.i3d.check.NUM_FRAMES", FRAMES)
    monkeypatch.setattr("clipmill.extractors.i3d.check.SIDE", SIDE)
    paths = {}
    for stream, channels in (("rgb", 3), ("flow", 2)):
        paths[stream] = str(tmp_path / f"{stream}.npy")
        np.save(paths[stream], np.zeros((1, FRAMES, SIDE, SIDE, channels), dtype=np.float32))
    return paths


def test_weights_that_give_the_authors_logits_pass_and_others_fail(
    tmp_path: Path, small_sample: dict[str, str]
) -> None:
    right = save_with_logits(tmp_path / "right.pt", "rgb", authors_logits("rgb"))
    found = run_check("i3d", str(right), [small_sample["rgb"]])
    assert found.exit_code == 0
    assert "all agree (within 0.002, relative)" in found.text
    assert "25.856646    25.856646   ok  playing cricket" in found.text
    assert "has not the bytes of the published array" in found.text
    assert found.data["sample"]["agrees"] is True
    assert len(found.data["sample"]["comparisons"]) == 21
    # As if batch norm's epsilon were another: every number a little off.
    wrong = save_with_logits(tmp_path / "wrong.pt", "rgb", authors_logits("rgb") * 1.005)
    found = run_check("i3d", str(wrong), [small_sample["rgb"]])
    assert found.exit_code == 1
    assert "21 of 21 are off: not the authors' numbers" in found.text
    assert found.data["passed"] is False


def test_joined_streams_are_a_file_for_both(tmp_path: Path) -> None:
    rgb = str(save_with_logits(tmp_path / "rgb.pt", "rgb", np.zeros(400)))
    flow = str(save_with_logits(tmp_path / "flow.pt", "flow", np.zeros(400)))
    joined = run_join([flow, rgb], str(tmp_path / "new" / "both.pt"))
    assert (joined.data["rgb"], joined.data["flow"]) == (rgb, flow)
    report = report_weights("i3d", joined.data["path"])
    assert (report.fit.layout.name, report.options) == ("i3d_two_stream", {"stream": "both"})
    assert report.num_parameters == 12_697_264 + 12_675_312
    assert report.sha256 == joined.data["sha256"]
    with pytest.raises(UsageError, match="expected a new file"):
        run_join([flow, rgb], joined.data["path"])
    with pytest.raises(UsageError, match="got flow .* and flow"):
        run_join([flow, flow], str(tmp_path / "twice.pt"))
    with pytest.raises(StorageUnavailableError, match="to be written"):
        run_join([flow, rgb], str(tmp_path / "rgb.pt" / "both.pt"))
    assert sorted(path.name for path in tmp_path.rglob("*.part")) == []


@pytest.mark.slow
def test_two_streams_are_compared_with_the_joint_numbers(tmp_path: Path, small_sample: dict[str, str]) -> None:
    rgb = save_with_logits(tmp_path / "rgb.pt", "rgb", authors_logits("both") / 3)
    flow = save_with_logits(tmp_path / "flow.pt", "flow", authors_logits("both") * 2 / 3)
    join_streams(str(rgb), str(flow), str(tmp_path / "both.pt"))
    found = run_check("i3d", str(tmp_path / "both.pt"), [*small_sample.values()])
    assert (found.exit_code, found.data["sample"]["stream"]) == (0, "both")
    with pytest.raises(FormatError, match="expected the flow array"):
        run_check("i3d", str(tmp_path / "both.pt"), [small_sample["rgb"]])


@pytest.mark.slow
def test_on_a_video_only_the_highest_class_is_held_to(tmp_path: Path) -> None:
    encode_video(tmp_path / "v.mp4", num_frames=20, fps=25, width=320, height=240)
    # A little off, as frames prepared in another way make the numbers.
    right = save_with_logits(tmp_path / "right.pt", "rgb", authors_logits("rgb") * 1.05)
    found = run_check("i3d", str(right), [str(tmp_path / "v.mp4")])
    assert found.exit_code == 0
    assert "the highest class is the published one" in found.text
    assert found.data["sample"]["comparisons"][1]["got"] == pytest.approx(25.856646 * 1.05, rel=1e-5)
    wrong = save_with_logits(tmp_path / "wrong.pt", "rgb", np.roll(authors_logits("rgb"), 1))
    found = run_check("i3d", str(wrong), [str(tmp_path / "v.mp4")])
    assert found.exit_code == 1
    assert "the highest class is class 228; published is 227, playing cricket" in found.text


def test_arrays_and_videos_are_not_mixed(tmp_path: Path, small_sample: dict[str, str]) -> None:
    path = save_with_logits(tmp_path / "rgb.pt", "rgb", np.zeros(400))
    with pytest.raises(UsageError, match=r"expected one video, or arrays \(.npy\) only"):
        run_check("i3d", str(path), [small_sample["rgb"], "video.avi"])
