"""What Arrow's own threads must not touch: one that lets go of Python's bytes at the very end aborts the process."""

import io
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill.schemas.config import VideosConfig
from clipmill.stores import Store, manifest_tables, tables
from clipmill.stores.manifests import read_manifest
from clipmill.stores.objects import Objects
from clipmill.stores.shard_formats import open_shard


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The threads that have read from memory since."""
    seen: set[int] = set()

    class Recorded(io.BytesIO):
        def read(self, *arguments: Any) -> bytes:
            seen.add(threading.get_ident())
            return super().read(*arguments)

    for module in (tables, manifest_tables):
        monkeypatch.setattr(module, "io", type("io", (), {"BytesIO": Recorded, "StringIO": io.StringIO}))
    return seen


def test_tables_of_a_store_are_read_by_the_thread_that_asks(readers: set[int]) -> None:
    table = pa.table({"number": list(range(1000)), "text": [str(number) for number in range(1000)]})
    assert tables.from_parquet(tables.to_parquet(table)).equals(table)
    assert readers == {threading.get_ident()}


def test_manifests_are_read_by_the_thread_that_asks(readers: set[int], tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a.mp4", "b.mp4"]}), tmp_path / "videos.parquet")
    assert len(read_manifest(VideosConfig(manifest=str(tmp_path / "videos.parquet"))).videos) == 2
    assert readers == {threading.get_ident()}


def test_a_local_parquet_shard_is_opened_by_arrow(
    tmp_path: Path, make_recipe: Any, make_rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, rows = Store.create(str(tmp_path), "parquet", "d"), make_rows(100)
    path = store.write_shard(make_recipe(), "t", rows, [("v", 0, 100)])

    def refuse(self: Objects, path: str) -> Any:
        raise AssertionError("a file of Python's")

    monkeypatch.setattr(Objects, "open", refuse)
    shard = open_shard(store.objects, path)
    assert shard.values(10, 20).tobytes() == rows.values[10:20].tobytes()
    assert shard.columns().mask.tolist() == rows.mask.tolist()


def test_what_is_no_file_is_missing_for_arrow_too(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for path in ("nothing", "folder", "file/below"):
        with pytest.raises(FileNotFoundError, match="no such object"):
            objects.open_for_arrow(path)
