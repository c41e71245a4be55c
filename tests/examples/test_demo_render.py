"""The demo's videos: real, labelled by folder, varied, the same each time, and not rendered twice."""

from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import yaml

from clipmill.schemas.config import BuildConfig, TrainConfig, parse_config
from clipmill.schemas.config_retrieval import RetrievalConfig
from clipmill.schemas.config_search import SearchConfig
from examples.demo import render as demo
from examples.demo.scenes import CLASSES, Scene

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "videos"
    assert demo.render(folder, demo.plan(clips_per_class=1), workers=1)
    return folder


def test_the_whole_set_is_large_and_varied() -> None:
    plans = demo.plan()
    per_class = Counter(item.label for item in plans)
    assert len(per_class) >= 8
    assert sum(per_class.values()) >= 96
    assert len(set(per_class.values())) == 1
    assert len({(item.height, item.width) for item in plans}) >= 5
    assert len({item.fps for item in plans}) == len(demo.FRAME_RATES)
    seconds = [float(item.num_frames / item.fps) for item in plans]
    assert 2 < min(seconds) < 2.5 < 3.5 < max(seconds) < 4, "one window of 16 frames at 8 a second"


def test_classes_differ_in_appearance_only_in_motion_only_and_in_both() -> None:
    pairs = [(CLASSES[a], CLASSES[b]) for a in CLASSES for b in CLASSES if a < b]
    kinds = {(first[0] is second[0], first[1] == second[1]) for first, second in pairs}
    assert kinds == {(True, False), (False, True), (False, False)}


def test_files_are_h264_with_the_planned_frames_rate_and_size(rendered: Path) -> None:
    for item in demo.plan(clips_per_class=1):
        with av.open(str(rendered / item.path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert (stream.height, stream.width) == (item.height, item.width)
            assert stream.average_rate == item.fps
            assert sum(1 for _ in container.decode(stream)) == item.num_frames
        assert Path(item.path).parent.name == item.label


def test_a_second_rendering_renders_nothing(rendered: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in rendered.rglob("*.mp4")}
    assert not demo.render(rendered, demo.plan(clips_per_class=1))
    assert before == {path: path.stat().st_mtime_ns for path in rendered.rglob("*.mp4")}


@pytest.mark.parametrize("damage", ["missing", "truncated", "extra", "other parameters"])
def test_a_folder_that_is_not_as_rendered_is_seen(rendered: Path, tmp_path: Path, damage: str) -> None:
    plans = demo.plan(clips_per_class=1)[:1]
    folder = tmp_path / "videos"
    demo.render(folder, plans, workers=1)
    video = folder / plans[0].path
    if damage == "missing":
        video.unlink()
    elif damage == "truncated":
        video.write_bytes(video.read_bytes()[:100])
    elif damage == "extra":
        (video.parent / "other.mp4").write_bytes(b"")
    else:
        plans = demo.plan(clips_per_class=1, seed=1)[:1]
    assert not demo.is_complete(folder, plans)
    assert demo.render(folder, plans, workers=1)
    assert demo.is_complete(folder, plans)
    same_bytes = (folder / plans[0].path).read_bytes() == (rendered / plans[0].path).read_bytes()
    assert same_bytes == (damage != "other parameters")


def test_things_move_and_classes_of_one_appearance_share_their_colours() -> None:
    def spread(name: str) -> float:
        """Mean change between frames a quarter of a second apart, over some clips."""
        changes = []
        for seed in range(4):
            scene = Scene(name, np.random.default_rng(seed), 64, 96)
            frames = [scene.frame(0.25 * index).astype(np.float32) for index in range(4)]
            changes += [np.abs(later - sooner).mean() for sooner, later in zip(frames, frames[1:], strict=False)]
        return float(np.mean(changes))

    assert all(spread(name) > 3 for name in CLASSES)
    courts = [name for name in CLASSES if name.startswith("court")]
    colours = [Scene(name, np.random.default_rng(0), 64, 96).frame(0).mean(axis=(0, 1)) for name in courts]
    assert np.ptp(np.stack(colours), axis=0).max() < 40


def test_configs_of_the_demo_are_valid_and_fit_together() -> None:
    folder = ROOT / "examples" / "demo"
    build = parse_config(BuildConfig, (folder / "build.yaml").read_text(), source="build")
    train = parse_config(TrainConfig, (folder / "train.yaml").read_text(), source="train")
    evaluate = parse_config(RetrievalConfig, (folder / "evaluate.yaml").read_text(), source="evaluate")
    assert train.data.store == build.store.url
    assert {train.data.image, train.data.video, evaluate.cosine_baseline} <= set(build.features)
    assert evaluate.run == train.out
    assert yaml.safe_load((folder / "build.yaml").read_text())["store"]["url"].startswith("out/")


def test_configs_of_own_videos_are_valid_and_fit_together() -> None:
    folder = ROOT / "examples" / "own_videos"
    build = parse_config(BuildConfig, (folder / "build.yaml").read_text(), source="build")
    evaluate = parse_config(RetrievalConfig, (folder / "evaluate.yaml").read_text(), source="evaluate")
    search = parse_config(SearchConfig, (folder / "search.yaml").read_text(), source="search")
    for config in (evaluate, search):
        assert config.data is not None
        assert config.data.store == build.store.url
        assert {config.data.image, config.data.video} <= set(build.features)
