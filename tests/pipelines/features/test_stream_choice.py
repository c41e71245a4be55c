"""Several videos of one file: a manifest's column `stream`, from the manifest to rows that are computed again."""

from pathlib import Path

import pytest
import yaml

from clipmill.schemas.config import VideosConfig
from clipmill.schemas.errors import ManifestError
from clipmill.stores import FeatureStore
from clipmill.stores.manifests import read_manifest
from tests.command_line import invoked_result
from tests.encoded_videos import encode_two_streams


def test_two_streams_of_one_file_are_two_videos(tmp_path: Path) -> None:
    encode_two_streams(tmp_path / "dash.mkv")
    listed = tmp_path / "list.csv"
    listed.write_text("path,id,stream\ndash.mkv,front,front\ndash.mkv,rear,1\ndash.mkv,either,\n")
    store = str(tmp_path / "store")
    config = {
        "store": {"url": store},
        "videos": {"manifest": str(listed)},
        "features": {"a": {"extractor": "squeezenet", "sampling": {"fps": 5}, "weights": {"random": 0}}},
        "engine": {"device": "cpu", "threads": 1},
    }
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(config))
    report = invoked_result("build", "--config", str(tmp_path / "build.yaml"), code=3)
    assert report["reasons"] == {"ambiguous_stream": 1}
    feature = FeatureStore(store)["a"]
    assert sorted(feature.video_ids) == ["front", "rear"]
    assert abs(feature["front"].values - feature["rear"].values).max() > 1e-3
    assert FeatureStore(store).videos()["rear"].stream == "1"
    assert invoked_result("verify", store, "--sample", "1")["problems"] == []
    # The key of the config is for the videos whose row names no stream.
    settings = ["--set", "videos.stream=1"]
    again = invoked_result("build", "--config", str(tmp_path / "build.yaml"), *settings)
    assert (again["num_quarantined"], again["num_complete_before"], again["num_complete"]) == (0, 2, 3)
    feature = FeatureStore(store)["a"]
    assert (feature["either"].values == feature["rear"].values).all()


def test_rows_of_one_video_must_agree_on_its_stream(tmp_path: Path) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text("path,start_seconds,stop_seconds,stream\na.mkv,0,1,0\na.mkv,1,2,1\n")
    with pytest.raises(ManifestError, match="stream: expected '0' as in row 1 of the same id, got '1'"):
        read_manifest(VideosConfig(manifest=str(listed)))
