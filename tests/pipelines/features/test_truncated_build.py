"""What a build makes of videos that break off, are joined, or claim times that their frames do not justify."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from clipmill.extractors.resolve import resolve_recipe
from clipmill.pipelines.decode.probe import content_fingerprint
from clipmill.pipelines.features.build import build
from clipmill.pipelines.features.build_report import BuildReport
from clipmill.pipelines.features.planning import plan_build
from clipmill.pipelines.features.prepare import prepare
from clipmill.schemas.config import BuildConfig
from clipmill.schemas.records import Video
from clipmill.schemas.tables import COMMITS
from clipmill.stores import FeatureStore
from clipmill.stores.store import Store
from clipmill.stores.tables import gather, truncated_and_joined
from tests.command_line import invoked_result
from tests.encoded_videos import encode_video

NUM_FRAMES = 20


def _data(root: Path, truncated: str = "quarantine", fps: float = 5) -> dict[str, Any]:
    return {
        "store": {"url": str(root / "store")},
        "videos": {"folder": str(root / "videos")},
        "features": {"frames": {"extractor": "squeezenet", "sampling": {"fps": fps}, "weights": {"random": 0}}},
        "decode": {"truncated": truncated},
        "engine": {"device": "cpu", "threads": 1},
    }


def _build(root: Path, **options: Any) -> BuildReport:
    return build(BuildConfig.model_validate(_data(root, **options)))


def _passports(root: Path) -> dict[str, dict[str, Any]]:
    index = FeatureStore(str(root / "store"))["frames"].index()
    return dict(zip(index.column("video_id").to_pylist(), index.column("passport").to_pylist(), strict=True))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole video, and one that was cut in the middle; built with truncated videos in quarantine."""
    folder = tmp_path_factory.mktemp("truncated")
    encode_video(folder / "videos" / "whole.mkv", NUM_FRAMES, fps=10, pattern="noise")
    cut = encode_video(folder / "videos" / "cut.mkv", NUM_FRAMES, fps=10, pattern="noise")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 6 // 10])
    report = _build(folder)
    assert (report.num_complete, report.reasons, report.num_truncated_kept) == (1, {"truncated": 1}, 0)
    return folder


@pytest.fixture(scope="module")
def kept(root: Path) -> Path:
    """The same folder, built once more from the command line, with truncated videos kept."""
    (row,) = Store.open(str(root / "store")).quarantine().to_pylist()
    assert (row["video_id"], row["stage"], row["reason"]) == ("cut.mkv", "scan", "truncated")
    assert "expected 2.000 s as its header claims, got" in row["message"]
    assert "decode.truncated: keep" in row["message"]
    config = root / "build.yaml"
    config.write_text(yaml.safe_dump(_data(root, "keep")))
    # What is in quarantine for it is taken out, and counted instead.
    data = invoked_result("build", "--config", str(config), code=3)
    assert (data["num_tasks"], data["num_quarantined"], data["num_truncated_kept"]) == (1, 0, 1)
    assert data["num_complete"] == 2
    return root


def test_what_is_kept_is_counted_and_its_passport_says_how_much_it_is(kept: Path) -> None:
    (feature,) = invoked_result("status", str(kept / "store"))["features"]
    assert (feature["num_truncated_kept"], feature["num_joined"]) == (1, 0)
    found = _passports(kept)
    whole, cut = found["whole.mkv"], found["cut.mkv"]
    assert (whole["truncated"], whole["num_joined_parts"], whole["header_duration_seconds"]) == (None, 1, 2.0)
    assert (cut["header_duration_seconds"], cut["num_frames"] < NUM_FRAMES) == (2.0, True)
    assert 0.5 < cut["duration_seconds"] < 1.9
    assert "bytes fewer" in cut["truncated"]


def test_what_is_kept_has_the_rows_of_the_whole_video(kept: Path) -> None:
    feature = FeatureStore(str(kept / "store"))["frames"]
    num_rows = len(feature["cut.mkv"].values) - 1
    assert num_rows >= 2
    np.testing.assert_allclose(feature["cut.mkv"].values[:num_rows], feature["whole.mkv"].values[:num_rows], rtol=1e-4)


def test_the_choice_is_no_part_of_a_recipe(kept: Path) -> None:
    again = _build(kept)
    assert (again.num_tasks, again.num_complete, again.num_truncated_kept) == (0, 2, 1)
    assert len(Store.open(str(kept / "store")).recipes()) == 1


def test_commits_of_earlier_versions_are_read(kept: Path) -> None:
    commits = Store.open(str(kept / "store")).commits()
    later = {"header_duration_seconds", "header_num_frames", "truncated", "num_joined_parts", "num_repeated_times"}
    stored = commits["passport"].to_pylist()
    before = pa.struct([item for item in COMMITS.field("passport").type if item.name not in later])
    passports = pa.array([{name: row[name] for name in row if name not in later} for row in stored], before)
    place = commits.schema.get_field_index("passport")
    old = commits.set_column(place, pa.field("passport", before, nullable=False), passports)
    read = gather(COMMITS, [old, commits])
    assert read.num_rows == 4
    assert read["passport"].to_pylist()[0]["truncated"] is None
    assert read["passport"].to_pylist()[0]["num_frames"] == stored[0]["num_frames"]
    assert truncated_and_joined(read) == ({"cut.mkv"}, set())


def test_joined_recordings_are_counted(tmp_path: Path) -> None:
    parts = [encode_video(tmp_path / f"{n}.ts", n, fps=10).read_bytes() for n in (8, 12)]
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "joined.ts").write_bytes(b"".join(parts))
    report = _build(tmp_path)
    assert (report.num_complete, report.num_joined, report.num_frames_substituted) == (1, 1, 0)
    passport = _passports(tmp_path)["joined.ts"]
    assert (passport["num_joined_parts"], passport["num_frames"]) == (2, 20)
    assert len(FeatureStore(str(tmp_path / "store"))["frames"]["joined.ts"].values) == 10


def _slow(path: Path, divisor: int) -> Path:
    """Breaks the time scale of an MP4's one track: its frames last `divisor` times longer."""
    data = bytearray(path.read_bytes())
    place = data.index(b"mdhd") + 4 + 12
    scale = int.from_bytes(data[place : place + 4], "big")
    data[place : place + 4] = (scale // divisor).to_bytes(4, "big")
    # Without the edit list, whose length is told in another time scale.
    place = data.index(b"elst")
    data[place : place + 4] = b"free"
    path.write_bytes(data)
    return path


def test_a_broken_time_scale_makes_no_windows_without_end(tmp_path: Path) -> None:
    _slow(encode_video(tmp_path / "videos" / "a.mp4", 46, max_b_frames=0), 12_800)
    config = BuildConfig.model_validate(_data(tmp_path, fps=25))
    (task,) = plan_build(config).plan.tasks
    (video,) = task.videos
    assert video.header is not None
    assert (video.header.duration_seconds or 0) > 20_000
    assert task.num_windows_estimated <= 46 * 2000
    item = prepare(video, task.recipes)
    ((_, error),) = item.failures
    assert (error.stage, error.reason) == ("segment", "implausible_times")
    assert "from 46 frames" in error.message
    assert item.request is None


def test_a_lecture_of_few_pictures_has_a_window_for_every_tick(shared_data: Path, tmp_path: Path) -> None:
    lecture = str(shared_data / "field" / "last_frame_lecture.mp4")
    config = BuildConfig.model_validate(_data(tmp_path))
    recipe = resolve_recipe("frames", config.features["frames"], config.clips, config.decode)
    item = prepare(Video("lecture", lecture, content_fingerprint(lecture)), [recipe])
    assert item.failures == []
    (group,) = item.windows[recipe.fingerprint]
    assert len(group.windows) == 2105
