"""I3D on flow from image files: rows of the published loader; files that change, do not fit or are not there."""

import re
import shutil
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from encoded_videos import encode_video

from clipmill.extractors.flow import FlowOptions, make_flow
from clipmill.extractors.i3d.network import InceptionI3D
from clipmill.extractors.torch_extractor import seeded
from clipmill.pipelines.features.build import build
from clipmill.pipelines.features.build_config import parse_build_config
from clipmill.pipelines.features.build_report import BuildReport
from clipmill.pipelines.features.planning import plan_build
from clipmill.schemas.errors import ClipmillError
from clipmill.stores import FeatureStore
from clipmill.stores.store import Store
from tests.command_line import invoke, invoked_result, refused

NUM_FRAMES = 26
NUM_FLOWS = 9
"""Of a window."""
SIDE, CROP = 72, 32
X, Y = "{stem}-{number:06d}x.jpg", "{stem}-{number:06d}y.jpg"
PREPROCESS = {
    "resize": "short_side",
    "size": [SIDE],
    "resize_when": "enlarge",
    "resize_rounding": "opencv_factor",
    "crop_rounding": "half_even",
    "crop": None,
}
"""The Charades loader's, made small."""


def write_flow(video: Path, folder: Path, first: int = 1, bound: float = 20.0) -> None:
    """Writes the flow of each frame to the next one, as the published tools do: 256 levels, JPEG."""
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    flow = make_flow(FlowOptions(preset="ultrafast"), "cpu")
    folder.mkdir(parents=True)
    for number, (previous, following) in enumerate(zip(frames[:-1], frames[1:], strict=True), start=first):
        for axis, field in zip("xy", flow(previous, following), strict=True):
            level = np.clip(np.round((field + bound) * 255 / (2 * bound)), 0, 255).astype(np.uint8)
            assert cv2.imwrite(str(folder / f"{video.stem}-{number:06d}{axis}.jpg"), level)


def published_flow(folder: Path, name: str, numbers: Sequence[int]) -> npt.NDArray[np.float32]:
    """``float32[T, H, W, 2]``: pytorch-i3d's loader and its centred crop, read again."""
    found = []
    for number in numbers:
        pair = []
        for axis in "xy":
            image = cv2.imread(str(folder / f"{name}-{str(number).zfill(6)}{axis}.jpg"), cv2.IMREAD_GRAYSCALE)
            shortest = min(image.shape)
            if shortest < SIDE:
                factor = 1 + (float(SIDE) - shortest) / shortest
                image = cv2.resize(image, dsize=(0, 0), fx=factor, fy=factor)
            pair.append((image / 255.0) * 2 - 1)
        found.append(np.asarray(pair).transpose(1, 2, 0))
    clip = np.asarray(found, dtype=np.float32)
    row, column = (int(np.round((side - CROP) / 2.0)) for side in clip.shape[1:3])
    return clip[:, row : row + CROP, column : column + CROP]


@cache
def network() -> InceptionI3D:
    return seeded(0, partial(InceptionI3D, "flow")).eval()


def features(clip: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        values = network().features(torch.from_numpy(clip).permute(3, 0, 1, 2)[None].contiguous())
    return values[0].mean(dim=1).numpy()


def feature(flow: dict[str, Any], **sampling: Any) -> dict[str, Any]:
    return {
        "extractor": "i3d",
        "options": {"stream": "flow", "crop": CROP, "flow": {"method": "images"} | flow},
        "preprocess": PREPROCESS,
        "sampling": {"fps": None, "frames": NUM_FLOWS + 1, "step": NUM_FLOWS, "tail": "drop"} | sampling,
        "weights": {"random": 0},
    }


def config(root: Path, features: dict[str, Any], store: str = "store", engine: str = "local") -> Path:
    written = {
        "store": {"url": str(root / store)},
        "videos": {"folder": str(root / "videos")},
        "features": features,
        "engine": {"name": engine, "device": "cpu", "threads": 1},
    }
    path = root / "build.yaml"
    path.write_text(yaml.safe_dump(written, sort_keys=False))
    return path


def built(*arguments: Any) -> BuildReport:
    return build(parse_build_config(config(*arguments).read_text()))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    for seed, name in enumerate(("one", "two")):
        video = encode_video(tmp_path / "videos" / f"{name}.mp4", NUM_FRAMES + seed, pattern="drift")
        write_flow(video, tmp_path / "flow" / name)
    return tmp_path


def test_rows_are_those_of_the_published_loader(root: Path) -> None:
    named = {"folder": str(root / "flow" / "{stem}"), "x": X, "y": Y}
    resampled = feature(named, fps=10, step=None)
    report = built(root, {"every": feature(named), "ticks": resampled, "whole": feature(named, tail="repeat")})
    assert (report.num_complete, report.num_quarantined) == (6, 0)
    store = FeatureStore(str(root / "store"))
    for name, num_frames in (("one", NUM_FRAMES), ("two", NUM_FRAMES + 1)):
        folder, last = root / "flow" / name, num_frames - 1
        windows = [range(start + 1, start + 1 + NUM_FLOWS) for start in range(0, num_frames - NUM_FLOWS, NUM_FLOWS)]
        expected = np.stack([features(published_flow(folder, name, window)) for window in windows])
        rows = store["every"][f"{name}.mp4"].values
        assert rows.shape == expected.shape == (2, 1024)
        assert np.abs(rows - expected).max() < 1e-5 * np.abs(expected).max()
        # A tick of 0.1 s shows frame 0, 2, 5, 7, ...; its flow is the one that begins there.
        numbers = [int(tick * 2.5) + 1 for tick in range(NUM_FLOWS)]
        (row,) = store["ticks"][f"{name}.mp4"].values
        of_ticks = features(published_flow(folder, name, numbers))
        assert np.abs(row - of_ticks).max() < 1e-5 * np.abs(of_ticks).max()
        assert np.abs(row - rows[0]).max() > 1e-4 * np.abs(rows[0]).max()
        # The window that is filled up repeats the last flow there is.
        filled = [min(number, last) for number in range(19, 19 + NUM_FLOWS)]
        of_tail = features(published_flow(folder, name, filled))
        tail = store["whole"][f"{name}.mp4"].values[2]
        assert np.abs(tail - of_tail).max() < 1e-5 * np.abs(of_tail).max()


def test_steps_and_both_streams_read_the_same_files(root: Path) -> None:
    named = {"folder": str(root / "flow" / "{stem}"), "x": X, "y": Y}
    steps, both = feature(named), feature(named)
    steps["options"] |= {"steps": True}
    steps["sampling"] = {"fps": None}
    both["options"] |= {"stream": "both"}
    built(root, {"flow": feature(named), "steps": steps, "both": both})
    store = FeatureStore(str(root / "store"))
    for name, num_flows in (("one", NUM_FRAMES - 1), ("two", NUM_FRAMES)):
        whole = published_flow(root / "flow" / name, name, range(1, num_flows + 1))
        with torch.inference_mode():
            values = network().features(torch.from_numpy(whole).permute(3, 0, 1, 2)[None].contiguous())
        expected = values[0].T.numpy()
        rows = store["steps"][f"{name}.mp4"].values
        assert rows.shape == expected.shape
        assert np.abs(rows - expected).max() < 1e-5 * np.abs(expected).max()
        flow, two = store["flow"][f"{name}.mp4"].values, store["both"][f"{name}.mp4"].values
        assert two.shape == (2, 2048)
        assert np.abs(two[:, 1024:] - flow).max() < 1e-5 * np.abs(flow).max()


def test_a_changed_file_is_read_again_and_a_moved_folder_is_not(root: Path) -> None:
    named = {"folder": str(root / "flow" / "{stem}"), "x": X, "y": Y}
    other = {"extractor": "squeezenet", "sampling": {"fps": 1}, "weights": {"random": 0}}
    built(root, {"flow": feature(named), "frames": other})
    url = str(root / "store")
    before = _rows(url)
    digest = _digests(url)
    assert len(set(digest.values())) == 2

    changed = root / "flow" / "one" / "one-000003x.jpg"
    assert cv2.imwrite(str(changed), 255 - cv2.imread(str(changed), cv2.IMREAD_GRAYSCALE))
    again = built(root, {"flow": feature(named), "frames": other})
    assert (again.num_complete_before, again.num_complete) == (3, 4)
    assert [key.partition("-")[0] for key in again.num_rows] == ["flow"]
    after = _rows(url)
    assert np.abs(after["one.mp4"][0] - before["one.mp4"][0]).max() > 1e-4
    np.testing.assert_array_equal(after["one.mp4"][1:], before["one.mp4"][1:])
    np.testing.assert_array_equal(after["two.mp4"], before["two.mp4"])
    assert _digests(url)["one.mp4"] != digest["one.mp4"]
    assert _digests(url)["two.mp4"] == digest["two.mp4"]
    assert invoked_result("verify", url, "--sample", "1")["problems"] == []

    shutil.move(root / "flow", root / "elsewhere")
    moved = named | {"folder": str(root / "elsewhere" / "{stem}")}
    same = built(root, {"flow": feature(moved), "frames": other})
    assert (same.num_tasks, same.num_complete) == (0, 4)
    # A build of other features knows nothing of flow, and leaves its rows in force.
    alone = built(root, {"frames": other})
    assert (alone.num_tasks, alone.num_complete) == (0, 2)
    assert _rows(url).keys() == {"one.mp4", "two.mp4"}
    assert _digests(url).keys() == {"one.mp4", "two.mp4"}
    # Images take much room, and are deleted when their features are made: those stay.
    shutil.rmtree(root / "elsewhere" / "one")
    deleted = built(root, {"flow": feature(moved), "frames": other})
    assert (deleted.num_tasks, deleted.num_complete, deleted.num_quarantined) == (0, 4, 0)
    np.testing.assert_array_equal(_rows(url)["one.mp4"], after["one.mp4"])


def _rows(url: str) -> dict[str, npt.NDArray[np.float32]]:
    found = FeatureStore(url)["flow"]
    return {video_id: np.array(found[video_id].values) for video_id in found.video_ids}


def _digests(url: str) -> dict[str, str]:
    store = Store.open(url)
    (recipe,) = [recipe for recipe in store.recipes() if recipe.name == "flow"]
    rows = store.commits_in_force(recipe.fingerprint).to_pylist()
    return {row["video_id"]: row["passport"]["flow_files_digest"] for row in rows}


def test_files_that_are_not_there_or_do_not_fit_are_quarantined_with_a_reason(root: Path) -> None:
    flow = root / "flow"
    for name in ("missing", "gap", "surplus", "sizes", "turned", "damaged"):
        shutil.copy(root / "videos" / "one.mp4", root / "videos" / f"{name}.mp4")
        if name != "missing":
            (flow / name).mkdir()
            for path in sorted((flow / "one").iterdir()):
                shutil.copy(path, flow / name / path.name.replace("one-", f"{name}-"))
    (flow / "gap" / "gap-000013y.jpg").unlink()
    for axis in "xy":
        for number in (26, 27):
            shutil.copy(flow / "one" / f"one-000025{axis}.jpg", flow / "surplus" / f"surplus-{number:06d}{axis}.jpg")
    assert cv2.imwrite(str(flow / "sizes" / "sizes-000002y.jpg"), np.zeros((64, 95), np.uint8))
    for path in (flow / "turned").iterdir():
        assert cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).T)
    (flow / "damaged" / "damaged-000005x.jpg").write_bytes(b"no image")
    path = config(root, {"flow": feature({"folder": str(flow / "{stem}"), "x": X, "y": Y})})
    report = invoked_result("build", "--config", str(path), code=3)
    assert report["num_complete"] == 2
    assert report["reasons"] == {"flow_size": 2, "missing_flow": 2, "surplus_flow": 1, "unreadable_flow": 1}
    rows = {row["video_id"]: row["message"] for row in Store.open(str(root / "store")).quarantine().to_pylist()}
    assert all("\n" not in message for message in rows.values())
    assert "missing.mp4: expected 25 or 26 flows" in rows["missing.mp4"]
    assert "got 0 of x and 0 of y" in rows["missing.mp4"]
    assert "got 25 of x and 12 of y" in rows["gap.mp4"]
    assert "got 27 of x and 27 of y" in rows["surplus.mp4"]
    assert "expected 96x64" in rows["sizes.mp4"]
    assert "got 95x64" in rows["sizes.mp4"]
    assert "images of 64x96" in rows["turned.mp4"]
    # What is mended is tried again, without a word of requeue.
    shutil.copy(flow / "one" / "one-000013y.jpg", flow / "gap" / "gap-000013y.jpg")
    again = build(parse_build_config(path.read_text()))
    assert (again.num_complete, again.num_tasks, again.num_quarantined) == (3, 1, 5)
    found = _rows(str(root / "store"))
    np.testing.assert_array_equal(found["gap.mp4"], found["one.mp4"])


def test_names_of_denseflow_from_zero_and_a_bound(root: Path) -> None:
    for name in ("one", "two"):
        for axis in "xy":
            for number in range(1, NUM_FRAMES + (name == "two")):
                old = root / "flow" / name / f"{name}-{number:06d}{axis}.jpg"
                new = root / "dense" / f"{name}.mp4" / f"flow_{axis}_{number - 1:05d}.jpg"
                new.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(old, new)
    dense = {"folder": str(root / "dense" / "{path}.mp4")}
    charades = {"folder": str(root / "flow"), "x": f"{{stem}}/{X}", "y": f"{{stem}}/{Y}", "first": 1}
    features_ = {"dense": feature(dense), "charades": feature(charades), "halved": feature(dense | {"bound": 10})}
    built(root, features_)
    store = FeatureStore(str(root / "store"))
    for video_id in ("one.mp4", "two.mp4"):
        np.testing.assert_array_equal(store["dense"][video_id].values, store["charades"][video_id].values)
        clip = published_flow(root / "flow" / video_id[:3], video_id[:3], range(1, 1 + NUM_FLOWS)) / 2
        expected = features(clip)
        assert np.abs(store["halved"][video_id].values[0] - expected).max() < 1e-5 * np.abs(expected).max()
    fingerprints = {recipe.name: recipe.fingerprint for recipe in Store.open(str(root / "store")).recipes()}
    assert len(set(fingerprints.values())) == 3


def test_what_cannot_be_used_is_refused_before_any_work(root: Path) -> None:
    cases = {
        "flow.folder: expected a folder": {"x": X, "y": Y},
        "got nothing there": {"folder": str(root / "nowhere" / "{stem}")},
        "expected a folder of the file system": {"folder": "s3://bucket/flow/{stem}"},
        "expected two names": {"folder": str(root), "x": "a{number}.jpg", "y": "a{number}.jpg"},
        "expected one {number}": {"folder": str(root), "x": "a.jpg"},
        "the same for one.mp4 and two.mp4": {"folder": str(root / "flow" / "one")},
        "no other places than {id}, {path} and {stem}": {"folder": str(root / "{name}")},
        "no other": {"folder": str(root), "x": "{number}_{number:5d}.jpg"},
        "no other places": {"folder": str(root), "x": "{name}{number}.jpg"},
        "folder belongs to method: images": {"method": "dis", "folder": str(root)},
        "expected no values": {"folder": str(root), "values": "uint8"},
    }
    for expected, flow in cases.items():
        with pytest.raises(ClipmillError, match=re.escape(expected)):
            plan_build(parse_build_config(config(root, {"flow": feature(flow)}).read_text()))
    refused(invoke("build", "--config", str(config(root, {"flow": feature({"folder": "/nowhere/at/all"})}))), "folder")


@pytest.mark.ray
@pytest.mark.slow
def test_workers_of_ray_find_files_of_a_relative_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    features_ = {"flow": feature({"folder": "flow/{stem}", "x": X, "y": Y})}
    built(root, features_)
    report = built(root, features_, "of-ray", "ray")
    assert (report.num_complete, report.num_quarantined) == (2, 0)
    expected = _rows(str(root / "store"))
    for video_id, values in _rows(str(root / "of-ray")).items():
        np.testing.assert_array_equal(values, expected[video_id])
