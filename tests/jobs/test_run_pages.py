"""The page that a build leaves in its store."""

import re
from pathlib import Path

import pytest
import yaml

from clipmill.jobs import run_reports
from clipmill.jobs.build import run_build
from tests.encoded_videos import encode_video


def test_a_builds_page_has_a_contact_sheet_and_says_what_its_videos_are_like(blobs: Path) -> None:
    [page] = (blobs / "store" / "runs").glob("*/report.html")
    html = page.read_text("utf-8")
    assert "6 of 6 videos" in html
    assert html.count('<li class=""><button type="button" data-text="label ') == 6
    for title in ("Length", "Size", "Rate"):
        assert f"<h3>{title}</h3>" in html
    assert "videos (6)" in html, "the broken video states nothing"


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """The config of a build of a video that breaks off, thrice, and of two files in which there is no picture."""
    for name in ("cut a", "cut b", "cut c"):
        cut = encode_video(tmp_path / "videos" / f"{name}.mkv", 20, fps=10, pattern="noise")
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 6 // 10])
    (tmp_path / "videos" / "a text.mp4").write_bytes(b"no video")
    (tmp_path / "videos" / "nothing.mp4").write_bytes(b"")
    config = {
        "store": {"url": str(tmp_path / "store")},
        "videos": {"folder": str(tmp_path / "videos")},
        "features": {"frames": {"extractor": "squeezenet", "sampling": {"fps": 5}, "weights": {"random": 0}}},
        "engine": {"device": "cpu", "threads": 1, "max_fault_share": 1.0},
    }
    path = tmp_path / "build.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _pictured(config: Path) -> tuple[int, list[str]]:
    outcome = run_build(str(config), [])
    assert outcome.data["num_quarantined"] == 5
    html = Path(outcome.data["report"]).read_text("utf-8")
    return outcome.exit_code, re.findall('aria-label="A frame of ([^"]+)"', html)


def test_videos_in_quarantine_are_shown_with_a_frame_where_there_is_one(damaged: Path) -> None:
    assert _pictured(damaged) == (3, ["cut a.mkv", "cut b.mkv", "cut c.mkv"])


def test_only_some_videos_in_quarantine_are_decoded_for_the_page(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_reports, "QUARANTINE_PICTURES", 2)
    assert _pictured(damaged) == (3, ["cut a.mkv", "cut b.mkv"])


def test_a_picture_that_does_not_come_in_time_fails_no_build(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_reports, "PICTURE_SECONDS", 0.001)
    assert _pictured(damaged) == (3, [])
