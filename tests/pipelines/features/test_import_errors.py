"""What an import refuses: one line with counts, before anything is written."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from clipmill.pipelines.features.imported.run import import_features
from clipmill.schemas.config_import import ImportConfig
from clipmill.schemas.errors import EXIT_USAGE, UsageError

LINES = "id,label,part\na,x,1\nb,y,1\nc,x,2\n"


def refused(folder: Path, feature: Mapping[str, Any], lines: str = LINES, **keys: Any) -> str:
    (folder / "m.csv").write_text(lines, "utf-8")
    data = {
        "store": {"url": str(folder / "store")},
        "manifest": str(folder / "m.csv"),
        "features": {"f": dict(feature)},
    }
    with pytest.raises(UsageError) as error:
        import_features(ImportConfig.model_validate(data | keys))
    text = str(error.value)
    assert "\n" not in text
    assert "expected" in text
    assert error.value.exit_code == EXIT_USAGE
    assert not (folder / "store").exists()
    return text


def hdf5(folder: Path, arrays: Mapping[str, Any]) -> str:
    with h5py.File(folder / "a.h5", "w") as file:
        for name, rows in arrays.items():
            file[name] = rows
    return str(folder / "a.h5")


def matrix(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def test_ids_that_do_not_match_are_counted_on_both_sides(tmp_path: Path) -> None:
    file = hdf5(tmp_path, {f"v_{name}": matrix(1, 4) for name in "abcd"})
    text = refused(tmp_path, {"file": file, "dataset": "{id}"})
    assert "0 ids in both; 3 only in the manifest ('a', 'b', 'c'); 4 only in the files ('v_a', 'v_b'" in text
    assert "3 more of the manifest and the files would match without the prefix 'v_'" in text
    # Skipping is no way out where there is nothing to keep.
    assert "correct the ids" in refused(tmp_path, {"file": file, "dataset": "{id}"}, missing="skip")


def test_items_without_rows_are_counted(tmp_path: Path) -> None:
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", matrix(2, 4))
    text = refused(tmp_path, {"file": str(tmp_path / "{id}.npy"), "rows": "bag"})
    assert "expected rows of every item of the manifest, got 2 ids in both; 1 only in the manifest ('c')" in text
    assert "set missing: skip" in text


def test_ids_of_rows_that_do_not_match_are_counted(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", rows=matrix(2, 4), names=["a", "z"])
    text = refused(tmp_path, {"file": str(tmp_path / "a.npz"), "dataset": "rows", "ids": "names"})
    assert "1 ids in both; 2 only in the manifest ('b', 'c'); 1 only in the files ('z')" in text


SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "several rows for one": (
        {"a": matrix(1, 4), "b": matrix(3, 4), "c": matrix(2, 4)},
        {"rows": "video"},
        "expected one row for each item, got another shape for 2 of 3, such as 'b': [3, 4], 3 rows for 1",
    ),
    "no matrix": (
        {"a": matrix(2, 4), "b": matrix(2, 3, 4), "c": matrix(2, 4)},
        {"rows": "bag"},
        "expected a matrix [T, D] for each item, got another shape for 1 of 3, such as 'b': [2, 3, 4]",
    ),
    "rows of two lengths": (
        {"a": matrix(2, 4), "b": matrix(2, 4), "c": matrix(2, 5)},
        {"rows": "bag"},
        "expected rows of one length, got 4 for 2 (such as 'a'), 5 for 1 (such as 'c')",
    ),
    "rows of no length": (
        {name: matrix(2, 0) for name in "abc"},
        {"rows": "bag"},
        "expected rows of some length, got 0",
    ),
    "texts": (
        {"a": np.array([b"x"]), "b": matrix(2, 4), "c": matrix(2, 4)},
        {"rows": "bag"},
        "expected an array of numbers",
    ),
    "NaN": (
        {"a": matrix(2, 4), "b": np.full((3, 4), np.nan), "c": np.full((1, 4), np.inf)},
        {"rows": "bag"},
        "expected finite numbers, got NaN, infinity or more than the dtype holds in 4 rows of 2 items, such as 'b'",
    ),
    "more than float16 holds": (
        {"a": matrix(1, 4), "b": matrix(1, 4), "c": np.full((1, 4), 1e6)},
        {"dtype": "float16"},
        "in 1 rows of 1 items, such as 'c'",
    ),
    "bytes of floats": ({name: matrix(1, 4) for name in "abc"}, {"dtype": "uint8"}, "got uint8 of float32"),
    "no rate": (
        {name: matrix(2, 4) for name in "abc"},
        {"steps": {"frames": 16}},
        "expected fps of every item in the manifest, got none for 3 of 3 items, such as 'a'",
    ),
    "no duration": (
        {name: matrix(2, 4) for name in "abc"},
        {"steps": {"evenly": True}},
        "expected duration_seconds of every item in the manifest, got none for 3 of 3 items",
    ),
    "a placeholder of no column": ({"a": matrix(1)}, {"dataset": "{idd}"}, "got {idd}; did you mean 'id'"),
    "a brace too many": ({"a": matrix(1)}, {"dataset": "{id"}, "expected names with {column}"),
    "a brace with a format": ({"a": matrix(1)}, {"dataset": "{id:05d}"}, "expected a column's name in braces"),
    "several arrays and no name": (
        {"a": matrix(1), "b": matrix(1)},
        {"dataset": None},
        "expected one array, got 2 (a, b)",
    ),
    "no such array": ({"a": matrix(1, 4)}, {"dataset": "feats"}, "expected an array 'feats', got 1 of other names"),
    "an unknown format": ({"a": matrix(1)}, {"format": "hdf"}, "did you mean 'hdf5'?"),
    "an unknown position": ({"a": matrix(1)}, {"position": "parts"}, "did you mean 'part'?"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_wrong_shapes_and_names_are_counted(case: str, tmp_path: Path) -> None:
    arrays, keys, words = SHAPES[case]
    assert words in refused(tmp_path, {"file": hdf5(tmp_path, arrays), "dataset": "{id}", **keys})


MATRICES: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "rows and lines": (
        lambda path: np.savez(path, x=matrix(4, 2)),
        {},
        "expected a row for each of 3 items of the manifest that share it, got 4 rows",
    ),
    "several rows and no ids": (
        lambda path: np.savez(path, x=matrix(4, 2)),
        {"rows": "bag"},
        "expected the id of each row",
    ),
    "ids of other length": (
        lambda path: np.savez(path, x=matrix(4, 2), n=["a", "b"]),
        {"dataset": "x", "ids": "n"},
        "expected an id for each of 4 rows, got 2 in n",
    ),
    "ids that are none": (
        lambda path: np.savez(path, x=matrix(2, 2), n=[0.5, 1.5]),
        {"dataset": "x", "ids": "n"},
        "expected ids: texts or whole numbers, got float64",
    ),
    "no ids there": (lambda path: np.savez(path, x=matrix(2, 2)), {"ids": "n"}, "expected an array 'n'"),
    "an id twice": (
        lambda path: np.savez(path, x=matrix(4, 2), n=["a", "b", "c", "a"]),
        {"dataset": "x", "ids": "n"},
        "got another shape for 1 of 3, such as 'a': 2 rows for 1",
    ),
    "times of other length": (
        lambda path: np.savez(path, x=matrix(3, 2), n=["a", "b", "c"], t=np.zeros(2)),
        {"dataset": "x", "ids": "n", "steps": {"start": "t", "window_seconds": 1}},
        "expected a number for each of 3 rows, got [2]",
    ),
    "times backwards": (
        lambda path: np.savez(path, x=matrix(3, 2), n=["a", "b", "c"], t=np.ones(3), u=np.array([2, 0, np.nan])),
        {"dataset": "x", "ids": "n", "steps": {"start": "t", "stop": "u"}},
        "expected times that are numbers, start <= stop, got others for 2 of 3 items, such as 'b'",
    ),
    "further numbers that are not there": (
        lambda path: np.savez(path, x=matrix(3, 2), n=["a", "b", "c"]),
        {"dataset": "x", "ids": "n", "extras": {"score": "s"}},
        "expected an array 's', got 2 of other names",
    ),
}


@pytest.mark.parametrize("case", MATRICES)
def test_a_matrix_that_does_not_fit_the_lines_is_refused(case: str, tmp_path: Path) -> None:
    write, keys, words = MATRICES[case]
    write(tmp_path / "a.npz")
    assert words in refused(tmp_path, {"file": str(tmp_path / "a.npz"), **keys})


def test_positions_are_counted(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", matrix(2, 2))
    text = refused(tmp_path, {"file": str(tmp_path / "a.npy"), "position": "part"})
    assert "expected a row of" in text
    assert "0 to 1, in each line, got '2' for 'c'" in text


def test_an_empty_cell_of_a_name_is_counted(tmp_path: Path) -> None:
    text = refused(tmp_path, {"file": str(tmp_path / "{part}.npy")}, "id,part\na,1\nb,\nc,\n")
    assert "expected a value of part in each line, got an empty cell in 2 of 3 lines, such as 'b'" in text


def test_one_file_for_all_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "a.npy: expected a file of features, got nothing there" in refused(tmp_path, {"file": "a.npy"})
    assert "expected a local path, got a URL" in refused(tmp_path, {"file": "s3://bucket/a.npy"})


def test_annotated_clips_need_segments_of_every_item(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", matrix(3, 2))
    feature = {"file": str(tmp_path / "a.npy")}
    text = refused(tmp_path, feature, clips={"from": "annotations"})
    assert "got 3 of 3 items without one, such as 'a' (no annotations)" in text
    lines = "id,start_seconds,stop_seconds,duration_seconds\na,0,1,5\nb,7,9,5\nc,0,1,5\n"
    text = refused(tmp_path, feature, lines, clips={"from": "annotations"})
    assert "got 1 of 3 items without one, such as 'b' (annotation outside)" in text


def test_a_matrix_has_a_row_for_each_line_of_annotated_clips(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", matrix(2, 2))
    lines = "id,start_seconds,stop_seconds\na,0,1\na,1,2\nb,0,1\n"
    text = refused(tmp_path, {"file": str(tmp_path / "a.npy")}, lines, clips={"from": "annotations"})
    assert "expected a row for each of 3 lines of the manifest that share it, got 2 rows" in text


def test_another_dataset_or_format_is_refused(tmp_path: Path) -> None:
    from clipmill.stores import Store

    (tmp_path / "m.csv").write_text("id\na\n")
    np.save(tmp_path / "a.npy", matrix(1, 2))
    Store.create(str(tmp_path / "store"), "zarr", "others")
    for keys, words in (({}, "expected dataset 'm'"), ({"format": "parquet", "dataset": "others"}, "expected format")):
        data = {
            "store": {"url": str(tmp_path / "store"), **keys},
            "manifest": str(tmp_path / "m.csv"),
            "features": {"f": {"file": str(tmp_path / "a.npy")}},
        }
        with pytest.raises(UsageError, match=words):
            import_features(ImportConfig.model_validate(data))
