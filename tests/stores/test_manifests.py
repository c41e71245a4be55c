"""Manifests from folders, CSV and Parquet, good and bad."""

import os
import uuid
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill.schemas.config import VideosConfig
from clipmill.schemas.errors import ManifestError
from clipmill.schemas.records import Segment, Video
from clipmill.stores.file_names import path_of, unquoted_name
from clipmill.stores.manifests import read_manifest

TORTURE = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "torture"


def refused(config: VideosConfig) -> str:
    with pytest.raises(ManifestError) as error:
        read_manifest(config)
    text = str(error.value)
    assert "\n" not in text
    assert "expected" in text
    assert error.value.exit_code == 2
    return text


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


# Folders.


def test_a_folder_gives_sorted_ids_and_counts_what_it_leaves_out(tmp_path: Path) -> None:
    root = tmp_path / "topics"
    touch(root / "b" / "same.mp4", root / "a" / "same.mp4", root / "z.MKV", root / "日本 語" / "é.webm")
    touch(
        root / "b" / "notes.txt",
        root / "x.txt",
        root / "x.JPG",
        root / "README",
        root / ".hidden.mp4",
        root / ".git" / "c.mp4",
    )
    manifest = read_manifest(VideosConfig(folder=str(root)))
    assert [video.id for video in manifest.videos] == ["a/same.mp4", "b/same.mp4", "z.MKV", "日本 語/é.webm"]
    assert manifest.videos[0] == Video("a/same.mp4", str(root / "a" / "same.mp4"))
    assert manifest.dataset == "topics"
    assert manifest.num_left_out == {".txt": 2, ".jpg": 1, "": 1}


def test_labels_come_from_the_parent_folder(tmp_path: Path) -> None:
    touch(tmp_path / "d" / "snow" / "a.mp4", tmp_path / "d" / "work" / "deep" / "b.mp4", tmp_path / "d" / "c.mp4")
    manifest = read_manifest(VideosConfig(folder=str(tmp_path / "d") + "/", label="parent_folder"))
    assert {video.id: video.label for video in manifest.videos} == {
        "c.mp4": "d",
        "snow/a.mp4": "snow",
        "work/deep/b.mp4": "deep",
    }


def test_a_relative_folder_gives_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "d" / "a.mp4")
    monkeypatch.chdir(tmp_path)
    assert read_manifest(VideosConfig(folder="d")).videos[0].uri == str(tmp_path / "d" / "a.mp4")


def test_a_folder_at_a_url_is_listed(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    name = uuid.uuid4().hex
    for path in ("a/x y.mp4", "b.avi", "c.txt", ".h/d.mp4"):
        fs.pipe_file(f"/{name}/{path}", b"x")
    manifest = read_manifest(VideosConfig(folder=f"memory://{name}", label="parent_folder"))
    assert [(video.id, video.uri, video.label) for video in manifest.videos] == [
        ("a/x y.mp4", f"memory:///{name}/a/x y.mp4", "a"),
        ("b.avi", f"memory:///{name}/b.avi", name),
    ]
    assert fs.cat_file(manifest.videos[0].uri) == b"x"
    assert manifest.num_left_out == {".txt": 1}
    fs.rm(f"/{name}", recursive=True)


def test_links_are_followed_once_around_a_loop_and_broken_ones_are_kept(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "linked.mp4", tmp_path / "d" / "a.mp4")
    os.symlink(tmp_path / "elsewhere", tmp_path / "d" / "link")
    os.symlink(tmp_path / "d", tmp_path / "d" / "loop")
    os.symlink(tmp_path / "gone.mp4", tmp_path / "d" / "broken.mp4")
    os.symlink("self.mp4", tmp_path / "d" / "self.mp4")
    os.mkfifo(tmp_path / "d" / "pipe.mp4")
    ids = [video.id for video in read_manifest(VideosConfig(folder=str(tmp_path / "d"))).videos]
    assert ids == ["a.mp4", "broken.mp4", "link/linked.mp4", "self.mp4"]


def no_utf8(folder: Path, name: bytes) -> Path:
    """Writes a file whose name is no UTF-8."""
    path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    except OSError:
        pytest.skip("this file system refuses such names")
    return path


def test_names_that_are_no_utf8_are_videos_with_quoted_ids(tmp_path: Path) -> None:
    touch(tmp_path / "a%41.mp4", tmp_path / "é.mp4")
    paths = [no_utf8(tmp_path, name) for name in (b"caf\xe9 100%.mp4", b"d\xff/b.mp4", b"note\xe9.txt")]
    manifest = read_manifest(VideosConfig(folder=str(tmp_path), label="parent_folder"))
    assert [video.id for video in manifest.videos] == ["a%41.mp4", "caf%E9 100%25.mp4", "d%FF/b.mp4", "é.mp4"]
    assert [video.label for video in manifest.videos] == [tmp_path.name] * 2 + ["d%FF", tmp_path.name]
    assert manifest.num_left_out == {".txt": 1}
    for video, path in zip(manifest.videos[1:3], paths, strict=False):
        assert video.uri.startswith("file:///")
        assert path_of(video.uri) == str(path)
        assert str(tmp_path / unquoted_name(video.id)) == str(path)
    for video in manifest.videos:
        video.id.encode()
        video.uri.encode()


def test_two_names_that_would_have_one_id_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "caf%E9.mp4")
    no_utf8(tmp_path, b"caf\xe9.mp4")
    text = refused(VideosConfig(folder=str(tmp_path)))
    assert "expected one file of id caf%E9.mp4" in text
    assert "rename one of them" in text


@pytest.mark.parametrize("written", [b"caf\xe9.mp4", b"caf%E9.mp4"], ids=["bytes", "quoted"])
def test_a_manifest_names_such_a_file_by_its_bytes_or_its_id(tmp_path: Path, written: bytes) -> None:
    path = no_utf8(tmp_path, b"caf\xe9.mp4")
    (tmp_path / "list.csv").write_bytes(b"path,label\n" + written + b",\xc3\xa9\n")
    (video,) = read_manifest(VideosConfig(manifest=str(tmp_path / "list.csv"))).videos
    assert (video.id, video.label, path_of(video.uri)) == ("caf%E9.mp4", "é", str(path))


def test_bytes_that_are_no_utf8_and_no_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"path,label\ncaf\xe9.mp4,a\n")
    assert "expected UTF-8, got other bytes" in refused(VideosConfig(manifest=str(tmp_path / "list.csv")))
    (tmp_path / "list.csv").write_bytes(b"path,label\na.mp4,caf\xe9\n")
    assert "line 2: expected UTF-8" in refused(VideosConfig(manifest=str(tmp_path / "list.csv")))


def test_a_missing_folder(tmp_path: Path) -> None:
    assert "expected a folder of videos, got nothing there; check the path" in refused(
        VideosConfig(folder=str(tmp_path / "absent"))
    )


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    assert "got a file; name its folder" in refused(VideosConfig(folder=str(tmp_path / "a.mp4")))


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "expected at least one video file, got an empty folder" in refused(VideosConfig(folder=str(tmp_path)))


def test_a_folder_without_media_lists_what_it_left_out(tmp_path: Path) -> None:
    touch(tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "README")
    assert "got none (left out: 1 (no suffix), 2 .txt)" in refused(VideosConfig(folder=str(tmp_path)))


@pytest.mark.skipif(not TORTURE.is_dir(), reason="the folder shared/data is absent")
def test_every_media_file_of_the_torture_folders_is_listed() -> None:
    manifest = read_manifest(VideosConfig(folder=str(TORTURE)))
    num_files = sum(path.is_file() for path in TORTURE.rglob("*"))
    assert len(manifest.videos) + sum(manifest.num_left_out.values()) == num_files
    assert not {".mp4", ".mkv", ".webm", ".3gp", ".mov", ".avi"} & set(manifest.num_left_out)
    assert {".pt", ".json"} <= set(manifest.num_left_out)


# Tables.


def write_csv(tmp_path: Path, text: str | bytes, name: str = "videos.csv") -> VideosConfig:
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / name).write_bytes(data)
    return VideosConfig(manifest=str(tmp_path / name))


def test_a_csv_with_every_column(tmp_path: Path) -> None:
    config = write_csv(
        tmp_path,
        b"\xef\xbb\xbfpath,id,label,split,note\r\n"
        b"a/x.mp4,one,snow,train,n\r\n\r\n"
        + '"with, comma.mp4", two ,,test,\r\ns3://bucket/é.mp4,,,,\r\n/abs/y.mp4,z/ü,,,\r\n'.encode(),
    )
    manifest = read_manifest(config)
    assert manifest.videos == (
        Video("one", str(tmp_path / "a/x.mp4"), label="snow", split="train"),
        Video(" two ", str(tmp_path / "with, comma.mp4"), split="test"),
        Video("s3://bucket/é.mp4", "s3://bucket/é.mp4"),
        Video("z/ü", "/abs/y.mp4"),
    )
    assert manifest.dataset == "videos"
    assert manifest.num_left_out == {}


def test_relative_paths_start_from_root_where_it_is_given(tmp_path: Path) -> None:
    config = write_csv(tmp_path, "uri\n../x.mp4\n")
    assert read_manifest(config).videos[0].uri == str(tmp_path.parent / "x.mp4")
    local = config.model_copy(update={"root": "/data/clips"})
    assert read_manifest(local).videos[0] == Video("../x.mp4", "/data/x.mp4")
    remote = config.model_copy(update={"root": "s3://bucket/clips/"})
    assert read_manifest(remote).videos[0].uri == "s3://bucket/clips/../x.mp4"


def test_a_row_per_segment_makes_one_video(tmp_path: Path) -> None:
    text = (
        "path,label,start_seconds,stop_seconds,segment_label\n"
        "a.mp4,x,0,1.5,jump\nb.mp4,,,,\na.mp4,x,1.5,2,\nc.mp4,,0.25,1e1,run\n"
    )
    assert read_manifest(write_csv(tmp_path, text)).videos == (
        Video("a.mp4", str(tmp_path / "a.mp4"), label="x", segments=(Segment(0.0, 1.5, "jump"), Segment(1.5, 2.0))),
        Video("b.mp4", str(tmp_path / "b.mp4")),
        Video("c.mp4", str(tmp_path / "c.mp4"), segments=(Segment(0.25, 10.0, "run"),)),
    )


def test_parquet_gives_what_csv_gives(tmp_path: Path) -> None:
    columns = {
        "path": ["a.mp4", "a.mp4", "b.mp4"],
        "id": [7, 7, 8],
        "label": ["x", "x", None],
        "start_seconds": [0.0, 1.0, None],
        "stop_seconds": [1.0, 2.0, float("nan")],
        "anything": [{"a": 1}, None, None],
    }
    columns["stop_seconds"][2] = None
    pq.write_table(pa.table(columns), tmp_path / "v.parquet")
    found = read_manifest(VideosConfig(manifest=str(tmp_path / "v.parquet")))
    text = "path,id,label,start_seconds,stop_seconds\na.mp4,7,x,0,1\na.mp4,7,x,1,2\nb.mp4,8,,,\n"
    assert found.videos == read_manifest(write_csv(tmp_path, text)).videos
    assert [video.id for video in found.videos] == ["7", "8"]


TIMES = "path,start_seconds,stop_seconds\n"

BAD_TABLES = {
    "no path column": ("id,label\na,b\n", "expected a column path (or uri), got columns id, label"),
    "empty file": ("", "expected a header and rows, got an empty file"),
    "no rows": ("path\n", "expected at least one row, got none"),
    "semicolons": ("path;label\na;b\n", "expected columns separated by commas, got columns separated by semicolons"),
    "tabs": ("path\tlabel\na\tb\n", "got columns separated by tabs"),
    "duplicated id": (
        "path,id\na.mp4,x\nb.mp4,x\n",
        "row 2 id: expected an id of its own, got 'x', the id of row 1 as well",
    ),
    "duplicated path": ("path\na.mp4\na.mp4\n", "row 2 id: expected an id of its own, got 'a.mp4'"),
    "empty path": ("path,id\na.mp4,x\n,y\n", "row 2 path: expected the path of a video, got nothing"),
    "ragged row": ("path,id\na.mp4,x\nb.mp4\n", "row 2: expected 2 fields, got 1 fields"),
    "column twice": ("path,path\na,b\n", "expected each column once, got 'path' twice"),
    "misspelt column": ("path,Label\na,b\n", "expected a column label, got 'Label'"),
    "open quote": ('path\n"a.mp4\n', "expected CSV, got"),
    "no number": (
        TIMES + "a,0,one\n",
        "row 1 stop_seconds: expected a number of seconds, got 'one'",
    ),
    "not finite": (TIMES + "a,0,inf\n", "row 1 stop_seconds: expected a number of seconds"),
    "one end": (
        TIMES + "a,0,\n",
        "row 1 stop_seconds: expected a number of seconds, got nothing",
    ),
    "backwards": (
        TIMES + "a,2,1\n",
        "row 1 stop_seconds: expected 0 <= start < stop (start is 2.0)",
    ),
    "label without times": ("path,segment_label\na,x\n", "row 1 start_seconds: expected the start of the segment"),
    "rows disagree": (
        "path,id,start_seconds,stop_seconds\na,x,0,1\nb,x,1,2\n",
        "row 2 uri: expected '",
    ),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_csv(case: str, tmp_path: Path) -> None:
    text, expected = BAD_TABLES[case]
    found = refused(write_csv(tmp_path, text))
    assert expected in found
    assert str(tmp_path / "videos.csv") in found


def test_a_csv_in_another_encoding(tmp_path: Path) -> None:
    found = refused(write_csv(tmp_path, "path,label\na.mp4,x\nb.mp4,é\n".encode("latin-1")))
    assert "line 3: expected UTF-8, got other bytes; save it as CSV UTF-8" in found


def test_a_missing_manifest_a_folder_and_another_suffix(tmp_path: Path) -> None:
    assert "got nothing there; check the path" in refused(VideosConfig(manifest=str(tmp_path / "no.csv")))
    assert "got a folder; use videos.folder" in refused(VideosConfig(manifest=str(tmp_path)))
    touch(tmp_path / "a.xlsx")
    assert "expected a .csv or .parquet file, got .xlsx" in refused(VideosConfig(manifest=str(tmp_path / "a.xlsx")))


def test_a_file_that_is_no_parquet_and_a_column_that_is_no_text(tmp_path: Path) -> None:
    touch(tmp_path / "a.parquet")
    assert "expected a Parquet file, got other bytes" in refused(VideosConfig(manifest=str(tmp_path / "a.parquet")))
    pq.write_table(pa.table({"path": [["a.mp4"]]}), tmp_path / "b.parquet")
    assert "row 1 path: expected text, got list" in refused(VideosConfig(manifest=str(tmp_path / "b.parquet")))
