"""Templates are compiled once for a user; a page does not depend on it."""

import tempfile
from pathlib import Path

import pytest

from clipmill.pipelines.reports.blocks import Page, Section, render_blocks


@pytest.mark.parametrize("place", ["there", "missing", "read-only"])
def test_a_place_for_compiled_templates_changes_nothing(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _rendered()
    folder = tmp_path / "missing" if place == "missing" else tmp_path
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    if place == "read-only":
        monkeypatch.setattr(tempfile, "NamedTemporaryFile", _refused)
    assert _rendered() == _rendered() == expected
    kept = list(tmp_path.rglob("*.cache"))
    assert bool(kept) == (place == "there")


def _refused(*arguments: object, **options: object) -> None:
    raise PermissionError(13, "Permission denied")


def _rendered() -> str:
    return render_blocks(Page("a <title>", "below", (), (Section("first", "First", (), "text"),)))
