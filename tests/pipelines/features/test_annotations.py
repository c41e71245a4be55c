"""Annotated segments of files that do not begin at 0: rows by row, counts, refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill.pipelines.features.build import build
from clipmill.pipelines.features.planning import plan_build
from clipmill.schemas.config import BuildConfig
from clipmill.schemas.errors import ConfigError
from clipmill.schemas.fingerprint import fingerprint
from clipmill.schemas.model import validate
from clipmill.stores import FeatureStore
from clipmill.stores.store import Store
from tests.command_line import invoked_result
from tests.encoded_videos import encode_video

LATE = 1.4


def config_of(root: Path, listed: str, **changes: Any) -> BuildConfig:
    """Returns a build of SqueezeNet rows at 5 ticks a second of a manifest's segments."""
    manifest = root / "videos.csv"
    manifest.write_text(listed)
    data: dict[str, Any] = {
        "store": {"url": str(root / "store")},
        "videos": {"manifest": str(manifest)},
        "clips": {"from": "annotations"},
        "features": {"a": {"extractor": "squeezenet", "sampling": {"fps": 5}, "weights": {"random": 0}}},
        "engine": {"device": "cpu", "threads": 1},
    }
    return validate(BuildConfig, data | changes, "config")


def table(paths: list[Path], segments: list[tuple[float, float]]) -> str:
    lines = [f"{path},{start},{stop}" for path in paths for start, stop in segments]
    return "path,start_seconds,stop_seconds\n" + "\n".join(lines) + "\n"


@pytest.fixture
def videos(tmp_path: Path) -> list[Path]:
    """The same 3 s in containers that begin at 0, at 1.4 s by their times, and at 1.4 s as broadcasts do."""
    times = [LATE + number / 25 for number in range(75)]
    return [
        encode_video(tmp_path / "zero.mp4", 75),
        encode_video(tmp_path / "late.mkv", 75, pts=times),
        encode_video(tmp_path / "late.ts", 75, pts=times),
        encode_video(tmp_path / "edited.mp4", 75, pts=times),
    ]


def test_segments_lie_where_a_player_shows_them(tmp_path: Path, videos: list[Path]) -> None:
    report = build(config_of(tmp_path, table(videos, [(0, 1), (1, 2), (2, 3)])))
    assert (report.num_quarantined, report.num_segments_clamped, report.num_segments_emptied) == (0, 0, 0)
    feature = FeatureStore(str(tmp_path / "store"))["a"]
    expected = feature[str(videos[0])]
    assert np.bincount(expected.clip).tolist() == [5, 5, 5]
    starts = {row["video_id"]: row["passport"]["first_frame_seconds"] for row in feature.index().to_pylist()}
    for path in videos[1:]:
        found = feature[str(path)]
        np.testing.assert_array_equal(found.clip, expected.clip)
        # The packets differ by container, the pictures do not.
        np.testing.assert_allclose(found.values, expected.values, rtol=1e-3, atol=1e-3)
        assert starts[str(path)] > 1.3
        np.testing.assert_allclose(found.start_seconds - starts[str(path)], expected.start_seconds, atol=0.041)


def test_the_default_leaves_recipes_as_they_were(tmp_path: Path, videos: list[Path]) -> None:
    listed = table(videos[:1], [(0, 1)])
    (plain,) = plan_build(config_of(tmp_path, listed)).recipes
    before = plain.identity()
    del before["clips"]["origin"]
    assert plain.fingerprint == fingerprint(before)
    (stated,) = plan_build(config_of(tmp_path, listed, annotations={"origin": "first_frame"})).recipes
    (other,) = plan_build(config_of(tmp_path, listed, annotations={"origin": "container"})).recipes
    assert plain.fingerprint == stated.fingerprint != other.fingerprint


def test_times_of_the_container_are_taken_on_request_and_counted(tmp_path: Path, videos: list[Path]) -> None:
    listed = table(videos[1:2], [(0, 1), (1, 2), (2, 4)])
    report = build(config_of(tmp_path, listed, annotations={"origin": "container"}))
    assert (report.num_segments_emptied, report.num_segments_clamped) == (1, 1)
    rows = FeatureStore(str(tmp_path / "store"))["a"][str(videos[1])]
    assert np.bincount(rows.clip, minlength=3).tolist() == [0, 3, 10]
    (feature,) = invoked_result("status", str(tmp_path / "store"))["features"]
    assert (feature["num_segments_emptied"], feature["num_segments_clamped"]) == (1, 1)


def test_a_video_whose_segments_lie_elsewhere_is_refused(tmp_path: Path, videos: list[Path]) -> None:
    listed = table(videos[:1], [(0, 1), (40, 41), (50, 52)])
    assert build(config_of(tmp_path, listed)).reasons == {"annotation_outside": 1}
    (row,) = Store.open(str(tmp_path / "store")).quarantine().to_pylist()
    assert "annotations.max_outside_share" in row["message"]
    other = tmp_path / "other"
    other.mkdir()
    report = build(config_of(other, listed, annotations={"max_outside_share": 1}))
    assert (report.num_quarantined, report.num_segments_emptied) == (0, 2)


def test_the_camcorders_file(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "field" / "starts_late_camcorder.mts"
    report = build(config_of(tmp_path, table([path], [(0, 1), (1, 2), (2, 3)])))
    assert (report.num_quarantined, report.num_segments_clamped) == (0, 0)
    rows = FeatureStore(str(tmp_path / "store"))["a"][str(path)]
    assert np.bincount(rows.clip).tolist() == [5, 5, 5]


def test_an_origin_without_annotations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="belongs to clips: {from: annotations}"):
        config_of(tmp_path, "path\na.mp4\n", clips={"from": "whole"}, annotations={"origin": "container"})
