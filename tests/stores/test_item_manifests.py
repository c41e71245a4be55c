"""Manifests of items without videos: files with and without a header, and one line for each bad one."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill.schemas.config_import import ItemTableConfig
from clipmill.schemas.errors import ManifestError
from clipmill.schemas.records import Segment
from clipmill.stores.item_manifests import ItemManifest, read_item_manifest


def read(folder: Path, text: str, name: str = "m.csv", **keys: Any) -> ItemManifest:
    (folder / name).write_text(text, "utf-8")
    return read_item_manifest([ItemTableConfig(file=str(folder / name), **keys)])


def refused(folder: Path, text: str, name: str = "m.csv", **keys: Any) -> str:
    with pytest.raises(ManifestError) as error:
        read(folder, text, name, **keys)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_columns_that_are_known_become_facts_and_others_serve_in_names(tmp_path: Path) -> None:
    text = "id,label,split,duration_seconds,fps,path,part\na,cat,train,12.5,25,videos/a.mp4,tr\nb,,,,,,te\n"
    manifest = read(tmp_path, text)
    first, second = manifest.items
    assert (first.video.id, first.video.label, first.video.split) == ("a", "cat", "train")
    assert (first.duration_seconds, first.fps) == (12.5, 25.0)
    assert first.video.uri == str(tmp_path / "videos" / "a.mp4")
    assert (second.video.label, second.video.split, second.video.uri, second.duration_seconds) == (None, None, "", None)
    assert [dict(line.cells) for line in manifest.lines][1] == {"id": "b", "part": "te"}
    assert manifest.name == "m"
    assert "part" in manifest.columns


def test_several_files_are_one_list_with_constants_of_each(tmp_path: Path) -> None:
    (tmp_path / "tr.list").write_text("t1\tx\t3\nt2\ty\t4\n")
    (tmp_path / "te.list").write_text("t3\tz\t3\n")
    columns = ("text", "id", "label")
    tables = [
        ItemTableConfig(file=str(tmp_path / f"{part}.list"), columns=columns, constants={"split": split, "part": part})
        for part, split in (("tr", "train"), ("te", "test"))
    ]
    manifest = read_item_manifest(tables)
    assert [(item.video.id, item.video.label, item.video.split) for item in manifest.items] == [
        ("x", "3", "train"),
        ("y", "4", "train"),
        ("z", "3", "test"),
    ]
    assert [line.cells["part"] for line in manifest.lines] == ["tr", "tr", "te"]


@pytest.mark.parametrize("text", ["v1 cat\nv2 dog\n\n", "v1,cat\nv2,dog\n", "v1\tcat\nv2\tdog\n"])
def test_a_list_without_header_is_separated_by_tabs_commas_or_spaces(text: str, tmp_path: Path) -> None:
    manifest = read(tmp_path, text, "list.txt", columns=("id", "label"))
    assert [(item.video.id, item.video.label) for item in manifest.items] == [("v1", "cat"), ("v2", "dog")]


def test_columns_of_other_names_are_taken_by_theirs(tmp_path: Path) -> None:
    text = "video-name,t-start,t-end,class,label\nv,1,2.5,cat,7\nv,3,4,dog,7\n"
    names = {"id": "video-name", "start_seconds": "t-start", "stop_seconds": "t-end", "segment_label": "class"}
    manifest = read(tmp_path, text, columns=names)
    assert manifest.items[0].video.segments == (Segment(1, 2.5, "cat"), Segment(3, 4, "dog"))
    assert manifest.items[0].video.label == "7"
    assert [line.item for line in manifest.lines] == [0, 0]


def test_a_parquet_manifest_may_have_numbers_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"id": [7, 8], "row": [1.0, 0.0], "boxes": [[1], [2]], "ok": [True, False]}), path)
    manifest = read_item_manifest([ItemTableConfig(file=str(path))])
    assert [item.video.id for item in manifest.items] == ["7", "8"]
    assert dict(manifest.lines[0].cells) == {"id": "7", "row": "1"}


BAD = {
    "no ids": ("name,label\na,b\n", {}, "expected a column id, got columns name, label"),
    "no lines": ("id\n", {}, "expected at least one line"),
    "an empty id": ("id,label\n,b\n", {}, "row 1 id: expected the id of an item"),
    "an id twice": ("id\na\na\n", {}, "row 2 id: expected an id of its own, got 'a', the id of"),
    "labels that differ": (
        "id,label,start_seconds,stop_seconds\na,x,0,1\na,y,1,2\n",
        {},
        "row 2 label: expected 'x' as in",
    ),
    "durations that differ": (
        "id,duration_seconds,start_seconds,stop_seconds\na,5,0,1\na,6,1,2\n",
        {},
        "row 2 duration_seconds: expected 5.0 as in",
    ),
    "a segment backwards": ("id,start_seconds,stop_seconds\na,3,1\n", {}, "expected 0 <= start < stop"),
    "a rate of nothing": ("id,fps\na,0\n", {}, "row 1 fps: expected a number above 0, got 0"),
    "a renamed column that is not there": ("id\na\n", {"columns": {"label": "class"}}, "expected a column 'class'"),
    "a constant beside its column": ("id,split\na,x\n", {"constants": {"split": "y"}}, "expected split once"),
    "a misspelt column": ("id,Label\na,x\n", {}, "expected a column label, got 'Label'"),
    "fields too many": ("a b c\n", {"columns": ("id", "label")}, "row 1: expected 2 fields, got 3 fields"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_manifest_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    text, keys, words = BAD[case]
    assert words in refused(tmp_path, text, "m.txt" if isinstance(keys.get("columns"), tuple) else "m.csv", **keys)


def test_a_missing_manifest_is_told(tmp_path: Path) -> None:
    for keys in ({}, {"columns": ("id",)}):
        with pytest.raises(ManifestError, match=r"manifest .*gone.csv: expected a"):
            read_item_manifest([ItemTableConfig(file=str(tmp_path / "gone.csv"), **keys)])
    with pytest.raises(ManifestError, match="got a folder; name a file in it"):
        read_item_manifest([ItemTableConfig(file=str(tmp_path))])
