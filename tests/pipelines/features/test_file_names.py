"""A file whose name is no UTF-8, from the folder to the store, its status, its rows again and its page."""

import os
from pathlib import Path

import pytest
import yaml

from clipmill.stores import FeatureStore
from tests.command_line import invoked_result
from tests.encoded_videos import encode_video


def test_from_folder_to_page(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    encode_video(folder / "plain.mp4", 20)
    source = encode_video(tmp_path / "source.mp4", 20)
    for name in (b"caf\xe9.mp4", b"broken\xff.mp4"):
        try:
            Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(
                source.read_bytes() if name.startswith(b"caf") else b"no video"
            )
        except OSError:
            pytest.skip("this file system refuses such names")
    store = str(tmp_path / "store")
    config = {
        "store": {"url": store},
        "videos": {"folder": str(folder)},
        "features": {"a": {"extractor": "squeezenet", "sampling": {"fps": 5}, "weights": {"random": 0}}},
        "engine": {"device": "cpu", "threads": 1},
    }
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(config))
    report = invoked_result("build", "--config", str(tmp_path / "build.yaml"), code=3)
    assert (report["num_videos"], report["num_left_out"], report["reasons"]) == (3, {}, {"not_a_video": 1})
    feature = FeatureStore(store)["a"]
    assert sorted(feature.video_ids) == ["caf%E9.mp4", "plain.mp4"]
    assert (feature["caf%E9.mp4"].values == feature["plain.mp4"].values).all()
    status = invoked_result("status", store)
    assert [item["video_id"] for item in status["quarantine"]] == ["broken%FF.mp4"]
    assert "broken%FF.mp4" in Path(report["report"]).read_text("utf-8")
    # A second plan reads no video again, and finds nothing to do.
    again = invoked_result("build", "--config", str(tmp_path / "build.yaml"), code=3)
    assert (again["num_tasks"], again["num_complete"]) == (0, 2)
