"""The page that a build leaves in its store."""

from pathlib import Path


def test_a_builds_page_has_a_contact_sheet_and_says_what_its_videos_are_like(blobs: Path) -> None:
    [page] = (blobs / "store" / "runs").glob("*/report.html")
    html = page.read_text("utf-8")
    assert "6 of 6 videos" in html
    assert html.count('<li class=""><button type="button" data-text="label ') == 6
    for title in ("Length", "Size", "Rate"):
        assert f"<h3>{title}</h3>" in html
    assert "videos (6)" in html, "the broken video states nothing"
