"""Readers of feature files against what other libraries wrote."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from scipy.io import savemat
from scipy.sparse import csr_matrix

from clipmill.schemas.arrays import Array
from clipmill.schemas.errors import FormatError, UsageError
from clipmill.schemas.registry import Registry
from clipmill.stores.feature_files import registry
from clipmill.stores.feature_files.registry import FEATURE_FORMATS, open_feature_file

IDS = [f"vidéo {number}" for number in range(7)]
MATRIX = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
NUMBERS = np.arange(7) * 0.5


def table() -> pa.Table:
    flat = pa.array(MATRIX.reshape(-1))
    return pa.table(
        {
            "id": IDS,
            "number": NUMBERS,
            "fixed": pa.FixedSizeListArray.from_arrays(flat, 5),
            "listed": pa.array(MATRIX.tolist(), pa.list_(pa.float32())),
            **{f"f{column}": MATRIX[:, column] for column in range(5)},
        }
    )


def write_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["deep/matrix"] = MATRIX
        file.create_dataset("id", data=IDS, dtype=h5py.string_dtype())
        file["number"] = NUMBERS


def write_mat_7_3(path: Path) -> None:
    """As MATLAB lays it out: a header of 512 bytes in front, the axes reversed, cells as references to codes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        file["matrix"] = MATRIX.T
        file["number"] = NUMBERS[np.newaxis].T.T
        cells = file.create_dataset("id", (1, len(IDS)), dtype=h5py.ref_dtype)
        for number, name in enumerate(IDS):
            codes = np.array([[ord(letter)] for letter in name], np.uint16)
            cell = file.create_dataset(f"#refs#/{number}", data=codes)
            cell.attrs["MATLAB_class"] = np.bytes_("char")
            cells[0, number] = cell.ref
        wide = max(map(len, IDS))
        padded = np.array([[ord(letter) for letter in name.ljust(wide)] for name in IDS], np.uint16)
        letters = file.create_dataset("letters", data=padded.T)
        letters.attrs["MATLAB_class"] = np.bytes_("char")
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(512))


def write_arrow(path: Path) -> None:
    with pa.OSFile(str(path), "w") as sink, pa.ipc.new_file(sink, table().schema) as writer:
        writer.write_table(table(), max_chunksize=3)


CASES: dict[str, tuple[str, Callable[[Path], object], str, str | None]] = {
    "hdf5": ("a.h5", write_hdf5, "deep/matrix", "id"),
    "npy": ("a.npy", lambda path: np.save(path, MATRIX), "", None),
    "npz": (
        "a.npz",
        lambda path: np.savez_compressed(path, matrix=MATRIX, id=np.array(IDS), number=NUMBERS),
        "matrix",
        "id",
    ),
    "mat 5": (
        "a.mat",
        lambda path: savemat(path, {"matrix": MATRIX, "id": np.array(IDS, object), "number": NUMBERS}),
        "matrix",
        "id",
    ),
    "mat 7.3": ("a.mat", write_mat_7_3, "matrix", "id"),
    "parquet, fixed lists": ("a.parquet", lambda path: pq.write_table(table(), path, row_group_size=3), "fixed", "id"),
    "parquet, lists": ("a.pq", lambda path: pq.write_table(table(), path, row_group_size=2), "listed", "id"),
    "parquet, columns": ("a.parquet", lambda path: pq.write_table(table(), path, row_group_size=4), "f[0-9]*", "id"),
    "arrow, fixed lists": ("a.arrow", write_arrow, "fixed", "id"),
    "feather, compressed": (
        "a.feather",
        lambda path: pyarrow.feather.write_feather(table(), str(path), compression="zstd", chunksize=2),
        "listed",
        "id",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_format_gives_the_same_numbers_by_rows(case: str, tmp_path: Path) -> None:
    name, write, dataset, ids = CASES[case]
    path = tmp_path / name
    write(path)
    file = open_feature_file(str(path))
    info = file.info(dataset)
    assert info.shape == (7, 5)
    assert info.dtype == np.float32
    for start, stop in ((None, None), (0, 1), (2, 6), (6, 7), (3, 3)):
        found = file.read(dataset, start, stop)
        np.testing.assert_array_equal(found, MATRIX[start:stop])
        assert found.dtype == np.float32 or not found.size
    if ids is not None:
        assert file.texts(ids) == IDS
        assert file.read("number").reshape(-1).tolist() == NUMBERS.tolist()
        assert {"number", ids} <= set(file.names())
    with pytest.raises(KeyError):
        file.info("missing*" if "*" in dataset else "missing")
    file.close()


def test_there_is_a_case_for_every_format() -> None:
    assert {case.split()[0].strip(",").replace("feather", "arrow") for case in CASES} == set(FEATURE_FORMATS.names)


def test_letters_of_matlab_are_ids_too(tmp_path: Path) -> None:
    write_mat_7_3(tmp_path / "new.mat")
    assert open_feature_file(str(tmp_path / "new.mat")).texts("letters") == IDS
    savemat(tmp_path / "old.mat", {"letters": np.array(["ab", "cd "]), "numbers": np.array([[3.0], [7.0]])})
    old = open_feature_file(str(tmp_path / "old.mat"))
    assert old.texts("letters") == ["ab", "cd"]
    assert old.texts("numbers") == ["3", "7"]


def test_a_sparse_matrix_of_matlab_is_read_in_full(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"matrix": csr_matrix(np.eye(4)[:3])})
    file = open_feature_file(str(tmp_path / "a.mat"))
    assert file.info("matrix").shape == (3, 4)
    np.testing.assert_array_equal(file.read("matrix", 1, 3), np.eye(4)[1:3])


def save(path: Path, array: Array) -> None:
    np.save(path, array, allow_pickle=True)


BAD: dict[str, tuple[str, Callable[[Path], object], str, str]] = {
    "objects in npy": ("a.npy", lambda path: save(path, np.array([{}], object)), "", "Python objects"),
    "text called npy": ("a.npy", lambda path: path.write_text("1,2\n"), "", "expected a NumPy .npy file"),
    "npz called npy": ("a.npy", lambda path: np.savez(path.open("wb"), a=MATRIX), "", "expected a NumPy .npy file"),
    "npy called npz": ("a.npz", lambda path: np.save(path.open("wb"), MATRIX), "", "expected a NumPy .npz file"),
    "half of an npy": (
        "a.npy",
        lambda path: (np.save(path, MATRIX), path.write_bytes(path.read_bytes()[:150])),
        "",
        "expected a whole NumPy .npy file",
    ),
    "text called npz": ("a.npz", lambda path: path.write_text("1,2\n"), "x", "expected a NumPy .npz file"),
    "text called hdf5": ("a.h5", lambda path: path.write_text("no"), "", "expected an HDF5 file"),
    "text called mat": ("a.mat", lambda path: path.write_text("no" * 200), "", "expected a MATLAB .mat file"),
    "text called parquet": ("a.parquet", lambda path: path.write_text("no"), "", "expected a Parquet file"),
    "text called arrow": ("a.arrow", lambda path: path.write_text("no"), "", "expected an Arrow"),
    "a suffix nobody knows": ("a.pkl", lambda path: path.write_bytes(b"\x80\x04x"), "", "pickle"),
    "texts in hdf5": ("a.h5", write_hdf5, "id", "expected an array of numbers"),
    "texts in a table": ("a.parquet", lambda path: pq.write_table(table(), path), "id", "expected an array of numbers"),
    "lists in a pattern": ("a.parquet", lambda path: pq.write_table(table(), path), "fi*", "expected an array of numb"),
    "cells in mat": ("a.mat", lambda path: savemat(path, {"id": np.array(IDS, object)}), "id", "got cell"),
    "ragged lists": (
        "a.parquet",
        lambda path: pq.write_table(pa.table({"x": [[1.0, 2.0], [3.0], [4.0, 5.0]]}), path),
        "x",
        "got 2 of 2, 1 of 1",
    ),
    "null cells": (
        "a.parquet",
        lambda path: pq.write_table(pa.table({"x": [1.0, None, None]}), path),
        "x",
        "got 2 null",
    ),
    "null in lists": (
        "a.parquet",
        lambda path: pq.write_table(pa.table({"x": [[1.0, None], [2.0, 3.0]]}), path),
        "x",
        "got 1 null",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_array_of_numbers_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    name, write, dataset, words = BAD[case]
    path = tmp_path / name
    write(path)
    with pytest.raises(FormatError) as error:
        open_feature_file(str(path)).read(dataset)
    assert words in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_chunks_of_hdf5_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        chunked = file.create_dataset("x", data=MATRIX, chunks=(2, 5), compression="gzip", fletcher32=True)
        place = chunked.id.get_chunk_info(0).byte_offset
    with open(path, "r+b") as raw:
        raw.seek(place)
        raw.write(b"\xff" * 8)
    with pytest.raises(FormatError, match="readable data"):
        open_feature_file(str(path)).read("x")


def test_missing_files_and_folders_and_formats_are_told(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="nothing there"):
        open_feature_file(str(tmp_path / "a.npy"))
    with pytest.raises(FormatError, match=r"name its files, such as folder/\{id\}\.npy"):
        open_feature_file(str(tmp_path))
    np.save(tmp_path / "a.npy", MATRIX)
    with pytest.raises(UsageError, match="did you mean 'npz' or 'npy'"):
        open_feature_file(str(tmp_path / "a.npy"), "npx")
    os_path = tmp_path / "a.features"
    np.save(os_path.open("wb"), MATRIX)
    np.testing.assert_array_equal(open_feature_file(str(os_path), "npy").read(""), MATRIX)


def test_a_format_from_outside_the_project_is_found_by_its_suffix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "text_features.py"
    package.write_text(
        "import numpy as np\n"
        "from clipmill.stores.feature_files.base import ArrayInfo, FeatureFormat\n"
        "class TextFile:\n"
        "    def __init__(self, path): self.values = np.loadtxt(path, ndmin=2)\n"
        "    def names(self): return ['rows']\n"
        "    def info(self, name): return ArrayInfo(self.values.shape, self.values.dtype)\n"
        "    def read(self, name, start=None, stop=None): return self.values[start:stop]\n"
        "    def texts(self, name): raise KeyError(name)\n"
        "    def close(self): pass\n"
        "FORMAT = FeatureFormat('text', 'numbers as text', ('.rows',), TextFile)\n"
    )
    info = tmp_path / "text_features-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: text-features\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[clipmill.feature_files]\ntext = text_features:FORMAT\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    known = registry.FEATURE_FORMATS
    fresh = Registry(known.thing, known.group, known.kind, known.built_in)
    monkeypatch.setattr(registry, "FEATURE_FORMATS", fresh)
    (tmp_path / "a.rows").write_text("1 2\n3 4\n")
    assert open_feature_file(str(tmp_path / "a.rows")).read("rows").tolist() == [[1, 2], [3, 4]]
