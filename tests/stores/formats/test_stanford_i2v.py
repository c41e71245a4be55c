"""Stanford I2V's files: what they hold, what is written is read again, and what is refused."""

from pathlib import Path

import pytest

from clipmill.schemas.errors import FormatError
from clipmill.stores.formats.records import ReportedSeconds, ShownIn
from clipmill.stores.formats.registry import format_of
from clipmill.stores.formats.stanford_i2v import (
    read_stanford_i2v,
    read_stanford_i2v_results,
    read_stanford_i2v_seconds,
    write_stanford_i2v_results,
)

TRUTH = "0 a/01.mp4 0:56 1:02 b.mp4 1:00:30 1:00:55\n1 b.mp4 1:38 1:44\n"
RANKED = "Query 0\na/01.mp4\nb.mp4\nQuery 1\n"
TIMES = "Query 0\na/01.mp4,0:56 0:58,1:01 1:01\nQuery 1\nb.mp4,1:38 1:39\n"
KEYFRAMES = "Query 0\na/01.mp4,60,3,62\nb.mp4,5\nQuery 1\n"


def file(folder: Path, text: str) -> Path:
    (folder / "i2v.txt").write_text(text)
    return folder / "i2v.txt"


def test_ground_truth_has_stretches_in_whole_seconds(tmp_path: Path) -> None:
    truth = read_stanford_i2v(file(tmp_path, "0 a/01.mp4 0:56 1:02 a/01.mp4 1:00:30 1:00:55\n1 b.mp4 1:38 1:44\n"))
    assert truth == {
        "0": (ShownIn("a/01.mp4", 56, 62), ShownIn("a/01.mp4", 3630, 3655)),
        "1": (ShownIn("b.mp4", 98, 104),),
    }


def test_results_are_read_as_written(tmp_path: Path) -> None:
    ranked = {"3": ("a/01.mp4", "b.mp4"), "0": (), "1": ("b.mp4",)}
    write_stanford_i2v_results(tmp_path / "r.txt", ranked)
    assert (tmp_path / "r.txt").read_text() == "Query 3\na/01.mp4\nb.mp4\nQuery 0\nQuery 1\nb.mp4\n"
    assert read_stanford_i2v_results(tmp_path / "r.txt") == ranked


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q1 a 0:01 0:02\n", "expected Stanford I2V ground truth"),
        ("0 a 0:01 0:02\n1 a 0:01\n", "line 2"),
        ("0 a 0:01 0:02\n1 a 0:01 x\n", "line 2"),
        ("0 a 0:01 0:02\n0 b 0:01 0:02\n", "query 0 once"),
        ("0 a 0:09 0:02\n", "stop after they start"),
    ],
)
def test_a_ground_truth_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_stanford_i2v(file(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4\nQuery 0\n", "expected Stanford I2V results"),
        ("Query\na.mp4\n", "expected Stanford I2V results"),
        ("Query 0\na.mp4\nQuery x\n", "line 3"),
        ("Query 0\na.mp4\nQuery 0\n", "query 0 once"),
    ],
)
def test_results_that_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_stanford_i2v_results(file(tmp_path, text))


def test_times_are_whole_seconds_with_both_ends_and_have_no_rank(tmp_path: Path) -> None:
    assert read_stanford_i2v_seconds(file(tmp_path, TIMES)) == ReportedSeconds(
        {"0": {"a/01.mp4": [56, 57, 58, 61]}, "1": {"b.mp4": [98, 99]}}, is_ranked=False
    )


def test_keyframes_are_four_late_and_keep_their_order(tmp_path: Path) -> None:
    # Keyframes 1 to 4 are all of the first second.
    assert read_stanford_i2v_seconds(file(tmp_path, KEYFRAMES)) == ReportedSeconds(
        {"0": {"a/01.mp4": [56, 0, 58], "b.mp4": [1]}, "1": {}}, is_ranked=True
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4,0:01 0:02\n", "expected Stanford I2V seconds"),
        ("Query 0\na.mp4\n", "expected Stanford I2V seconds"),
        ("Query 0\na.mp4,0:01 0:02\nb.mp4,7\n", "<start m:ss> <stop m:ss> after each comma"),
        ("Query 0\na.mp4,7\nb.mp4,0:01 0:02\n", "a keyframe after each comma"),
        ("Query 0\na.mp4,7,0\n", "a keyframe after each comma"),
        ("Query 0\na.mp4,0:09 0:02\n", "<start m:ss> <stop m:ss> after each comma"),
        ("Query 0\na.mp4,7\na.mp4,8\n", "clip a.mp4 once for query 0"),
        ("Query 0\na.mp4,7\nQuery 0\n", "query 0 once"),
    ],
)
def test_seconds_that_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_stanford_i2v_seconds(file(tmp_path, text))


@pytest.mark.parametrize("text", [TRUTH, RANKED, TIMES, KEYFRAMES])
def test_files_are_known_by_their_content(tmp_path: Path, text: str) -> None:
    assert format_of(file(tmp_path, text)) == "stanford_i2v"


@pytest.mark.parametrize("text", ["0 0 d1 1\n", "1 Q0 d2 1 0.9 x\n", "0 a.mp4 56 62\n"])
def test_numbers_without_colons_are_something_else(tmp_path: Path, text: str) -> None:
    try:
        found = format_of(file(tmp_path, text))
    except FormatError:
        return
    assert found != "stanford_i2v"
