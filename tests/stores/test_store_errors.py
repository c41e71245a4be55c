"""What a user or the storage can do wrong, and the one line that says so."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from clipmill.schemas.errors import ClipmillError, StorageUnavailableError, StoreError
from clipmill.schemas.records import Video
from clipmill.stores import FeatureStore, Store
from clipmill.stores import objects as objects_module
from clipmill.stores.objects import Objects


def message(error: pytest.ExceptionInfo[ClipmillError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert "expected" in text
    assert "got" in text
    assert ";" in text
    return text


def test_a_store_of_another_dataset_says_both_names_and_the_remedy(any_url: str) -> None:
    Store.create(any_url, "zarr", "topics70")
    with pytest.raises(StoreError) as error:
        Store.create(any_url, "zarr", "falls")
    text = message(error)
    assert "'topics70'" in text
    assert "'falls'" in text
    assert "choose another store url, or set store.dataset to 'topics70'" in text
    assert error.value.exit_code == 2
    assert Store.open(any_url).dataset == "topics70"


def test_a_store_of_another_format_says_both_formats(any_url: str) -> None:
    Store.create(any_url, "zarr", "d")
    with pytest.raises(StoreError, match=r"expected format parquet, got .* format zarr; .*set store.format to zarr"):
        Store.create(any_url, "parquet", "d")


def test_creating_twice_is_opening(any_url: str) -> None:
    first = Store.create(any_url, "parquet", "dé")
    again = Store.create(any_url, "parquet", "dé")
    assert (
        (again.url, again.format, again.dataset)
        == (first.url, first.format, first.dataset)
        == (any_url, "parquet", "dé")
    )


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4", "d.mp4"):
        (tmp_path / name).touch()
    with pytest.raises(StoreError) as error:
        Store.create(str(tmp_path), "zarr", "d")
    assert "a folder without store.json that holds a.mp4, b.mp4, c.mp4, ..." in message(error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]


def test_an_empty_folder_becomes_a_store(tmp_path: Path) -> None:
    assert Store.create(str(tmp_path), "zarr", "d").dataset == "d"


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for url in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises((StoreError, StorageUnavailableError)) as error:
            Store.create(str(url), "zarr", "d")
        message(error)
    with pytest.raises(StoreError, match="expected a clipmill store, got a file"):
        Store.open(str(tmp_path / "file"))


@pytest.mark.parametrize("made", [False, True])
def test_opening_no_store_says_what_is_there(made: bool, tmp_path: Path) -> None:
    url = tmp_path / "out"
    if made:
        url.mkdir()
    with pytest.raises(StoreError) as error:
        FeatureStore(str(url))
    expected = "a folder without store.json" if made else "nothing"
    assert f"expected a clipmill store, got {expected}; check the path" in message(error)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"clipmill": 1}', b"\xff"])
def test_a_damaged_marker_is_named(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "store.json").write_bytes(text)
    with pytest.raises(StoreError, match="expected a readable store.json, got a damaged one"):
        Store.open(str(tmp_path))


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text('{"clipmill": 99, "dataset": "d", "format": "zarr"}')
    with pytest.raises(StoreError, match="got version 99 with zarr; read it with the newer clipmill"):
        Store.open(str(tmp_path))


def test_a_format_nobody_registered_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match="store format: expected a registered shard format, got 'parqet'; did you mean"
    ):
        Store.create(str(tmp_path / "new"), "parqet", "d")
    assert not (tmp_path / "new").exists()
    (tmp_path / "store.json").write_text('{"clipmill": 1, "dataset": "d", "format": "feather"}')
    with pytest.raises(
        StoreError, match=r"registered format \(npy, parquet, zarr\), got 'feather'; install the package"
    ):
        Store.open(str(tmp_path))


def test_an_unknown_protocol_and_a_missing_driver_are_named() -> None:
    with pytest.raises(StoreError, match="store nope://x: expected a path or a URL fsspec can open"):
        Store.open("nope://x")


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "make it writable"), (errno.EACCES, "make it writable")],
)
def test_storage_that_refuses_a_write_is_one_retryable_line(
    code: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_recipe: Any, make_rows: Any
) -> None:
    store = Store.create(str(tmp_path / "s"), "zarr", "d")
    before = {item.path for item in store.objects.find()}

    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(objects_module.os, "fsync", refuse)
    with pytest.raises(StorageUnavailableError) as error:
        store.write_shard(make_recipe(), "t", make_rows(3), [("v", 0, 3)])
    text = message(error)
    assert os.strerror(code).lower() in text
    assert remedy in text
    assert error.value.exit_code == 4
    assert {item.path for item in store.objects.find()} == before


def test_an_object_store_that_refuses_a_write_is_one_retryable_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: MemoryFileSystem, path: str, value: bytes, **options: Any) -> None:
        raise PermissionError("Access Denied\nrequest 123")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
    with pytest.raises(StorageUnavailableError) as error:
        Store.create("memory://refused", "zarr", "d")
    assert "access denied" in message(error)


def test_a_full_disk_leaves_what_is_committed_and_no_half_object(
    tmp_path: Path, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        store = Store.create(str(small / "s"), "zarr", "d")
        video = Video("v", "/", "f")
        commit(store, make_recipe(dim=64), "t", {video: make_rows(100, dim=64)})
        store.write_manifest("r1", [video])
        with pytest.raises(StorageUnavailableError, match="no space left on device; free some space"):
            store.write_shard(make_recipe(dim=512), "t", make_rows(1000, dim=512), [("v", 0, 1000)])
        assert not [item for item in store.objects.find() if item.path.endswith(".tmp")]
        assert len(FeatureStore(store.url)["c3d"]["v"]) == 100
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_read_only_folder_is_one_retryable_line(tmp_path: Path) -> None:
    Store.create(str(tmp_path / "made"), "zarr", "d")
    code = (
        "import os, sys, stores\n"
        "from clipmill.schemas.errors import StorageUnavailableError\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "for url in sys.argv[1:]:\n"
        "    try: stores.Store.create(url, 'zarr', 'd')\n"
        "    except StorageUnavailableError as error: print(error)\n"
        "    else: sys.exit('no error for ' + url)\n"
    )
    urls = [str(tmp_path / "made"), str(tmp_path / "new")]
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o555 if folder == tmp_path else 0o755)
    (tmp_path / "made").chmod(0o555)
    try:
        done = subprocess.run([sys.executable, "-c", code, *urls], capture_output=True, text=True)
    finally:
        tmp_path.chmod(0o755)
        (tmp_path / "made").chmod(0o755)
    if "PermissionError" in done.stderr or "ModuleNotFoundError" in done.stderr:
        pytest.skip("an ordinary user cannot import this checkout")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("make it writable or choose another store url" in line for line in lines)


def test_a_shard_that_is_gone_or_damaged_is_named(
    tmp_path: Path, shard_format: Any, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    store = Store.create(str(tmp_path), shard_format, "d")
    video = Video("v", "/", "f")
    shard = commit(store, make_recipe(), "t", {video: make_rows(3)})
    store.write_manifest("r1", [video])
    values = shard + {"zarr": "/values/c/0/0", "npy": "/values.npy", "parquet": ""}[shard_format]
    data = store.objects.read(values)
    for damage in (None, data[: len(data) // 2]):
        store.objects.delete(values)
        if damage is not None:
            store.objects.write(values, damage)
        with pytest.raises(StoreError) as error:
            FeatureStore(store.url)["c3d"]["v"]
        assert message(error).startswith(f"shard {shard}: expected the rows its commit names, got ")
        with pytest.raises(StoreError):
            FeatureStore(store.url)["c3d"].dask().compute()


def test_unknown_videos_and_features_list_near_names(
    tmp_path: Path, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    store = Store.create(str(tmp_path), "parquet", "d")
    with pytest.raises(StoreError, match="the store holds none yet; run clipmill build"):
        FeatureStore(store.url)["c3d"]
    video = Video("snow/clip_01.mp4", "/", "f")
    commit(store, make_recipe(), "t", {video: make_rows(3)})
    store.write_manifest("r1", [video])
    with pytest.raises(StoreError, match=r"video clip_01.mp4: expected an id .*near ones: 'snow/clip_01.mp4'"):
        FeatureStore(store.url)["c3d"]["clip_01.mp4"]


def test_a_killed_write_leaves_the_old_object_and_a_name_readers_ignore(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    objects.write("runs/r1/report.json", b"old")
    code = (
        "import os, sys; from clipmill.stores import objects\n"
        "objects.os.fsync = lambda descriptor: os._exit(9)\n"
        "objects.Objects(sys.argv[1]).write('runs/r1/report.json', b'new')\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 9
    assert objects.read("runs/r1/report.json") == b"old"
    assert objects.names("runs/r1") == ["report.json"]
    assert [item.path.endswith(".tmp") for item in objects.find("runs")] == [True, False]


def test_ranges_are_read_alike_on_every_file_system(any_url: str) -> None:
    objects = Objects(any_url)
    objects.write("a/b", b"0123456789")
    assert objects.read("a/b", 2, 5) == b"234"
    assert objects.read("a/b", 7) == b"789"
    assert objects.read("a/b", -3) == b"789"
    assert [(item.path, item.num_bytes) for item in objects.find()] == [("a/b", 10)]
    assert [(item.path, item.num_bytes) for item in objects.entries("a")] == [("a/b", 10)]
    assert objects.find()[0].modified_seconds is not None
    assert (objects.kind("a"), objects.kind("a/b"), objects.kind("c")) == ("directory", "file", None)
    objects.delete("a/b")
    objects.delete("a/b")
    assert objects.names("a") == objects.find() == []
    with pytest.raises(FileNotFoundError):
        objects.read("a/b")


@pytest.mark.parametrize("name", [".", "..", ".hidden", "", "-a"])
def test_rows_of_a_feature_with_a_dot_in_front_are_found(
    name: str, tmp_path: Path, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    store, recipe = Store.create(str(tmp_path), "parquet", "d"), make_recipe(name=name)
    commit(store, recipe, "k", {Video("a", "a.mp4", fingerprint="f" * 32): make_rows(2)})
    assert [found.name for found in store.recipes()] == [name]
    assert store.commits(recipe.fingerprint).num_rows == 1


@pytest.mark.parametrize("path", ["recipes/c3d-00000000.json", "runs/1/build.json"])
def test_a_damaged_recipe_or_list_of_features_is_named(path: str, tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), "parquet", "d")
    store.objects.write(path, b"{}")
    with pytest.raises(StoreError) as error:
        store.current_features()
    assert path in message(error)
