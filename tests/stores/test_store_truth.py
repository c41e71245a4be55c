"""What counts: commits, manifests, quarantine, what a feature's name means, the catalog, clean and verify."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clipmill.schemas.errors import StorageUnavailableError, StoreError
from clipmill.schemas.recipe import ClipRule
from clipmill.schemas.records import Quarantined, Segment, Video, VideoHeader
from clipmill.schemas.rows import Rows
from clipmill.schemas.tables import COMMITS, QUARANTINE
from clipmill.schemas.task import TaskResult
from clipmill.stores import FeatureStore, Store
from clipmill.stores import catalog as catalog_module
from clipmill.stores.clean import delete_garbage, find_garbage
from clipmill.stores.store import Probe
from clipmill.stores.verify import values_sha256, verify_commits

VIDEO = Video("v", "/v.mp4", "f1")


@pytest.fixture
def store(tmp_path: Path, shard_format: Any) -> Store:
    return Store.create(str(tmp_path / "store"), shard_format, "d")


def test_a_shard_without_commit_is_not_seen(store: Store, make_recipe: Any, make_rows: Any) -> None:
    recipe = make_recipe()
    store.write_recipe(recipe)
    store.write_manifest("r1", [VIDEO])
    store.write_shard(recipe, "t", make_rows(3), [("v", 0, 3)])
    assert not store.has_commit(recipe, "t")
    feature = FeatureStore(store.url)["c3d"]
    assert (feature.video_ids, len(feature), "v" in feature) == ([], 0, False)
    assert feature.dask().shape == (0, 4)
    assert feature.index().num_rows == 0
    with pytest.raises(StoreError, match=r"^video v: expected rows of c3d-\w+, got none yet; see clipmill status"):
        feature["v"]


def test_rows_count_only_for_the_bytes_and_clips_the_newest_manifest_names(
    store: Store, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    recipe = make_recipe(clips=ClipRule(from_="annotations"))
    changed = replace(VIDEO, fingerprint="f2", segments=(Segment(0.0, 2.0),))
    commit(store, recipe, "t1", {VIDEO: make_rows(3, seed=1)})
    commit(store, recipe, "t2", {changed: make_rows(4, seed=2)})
    store.write_manifest("r1", [VIDEO])
    assert len(FeatureStore(store.url)["c3d"]["v"]) == 3
    store.write_manifest("r2", [changed])
    assert len(FeatureStore(store.url)["c3d"]["v"]) == 4
    store.write_manifest("r3", [replace(changed, segments=(Segment(0.0, 1.0),))])
    assert FeatureStore(store.url)["c3d"].video_ids == []
    assert store.commits(recipe.fingerprint).num_rows == 2


def test_a_video_committed_twice_is_read_once(
    store: Store,
    make_recipe: Any,
    make_rows: Any,
    commit: Any,
) -> None:
    rows = make_rows(3)
    other = Video("w", "/w", "f")
    commit(store, make_recipe(), "t2", {VIDEO: rows})
    commit(store, make_recipe(), "t1", {other: make_rows(2), VIDEO: rows})
    store.write_manifest("r1", [VIDEO, other])
    feature = FeatureStore(store.url)["c3d"]
    assert feature.dask().shape == (5, 4)
    (shard,) = set(feature.index().column("shard").to_pylist())
    assert shard.startswith(f"shards/{feature.recipe.key}/t1-")


def test_the_newest_build_decides_what_a_name_means(
    store: Store, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    old, new = make_recipe(layer="fc6"), make_recipe(layer="fc7")
    commit(store, old, "t1", {VIDEO: make_rows(1)})
    commit(store, new, "t2", {VIDEO: make_rows(2)})
    store.write_manifest("r1", [VIDEO])
    with pytest.raises(StoreError, match=r"got 2 and no build that chooses; name c3d-\w+ or c3d-"):
        FeatureStore(store.url)["c3d"]
    store.write_run_file("r1", "build.json", json.dumps({"features": {"c3d": new.fingerprint}}))
    store.write_run_file("r2", "build.json", json.dumps({"features": {"c3d": old.fingerprint}}))
    assert store.current_features() == {"c3d": old.fingerprint}
    features = FeatureStore(store.url)
    assert features.features == ["c3d"]
    assert (len(features["c3d"]["v"]), len(features[new.key]["v"])) == (1, 2)
    assert features["c3d"].recipe == old
    with pytest.raises(StoreError, match=r"feature c3b: expected one of .*, got an unknown name; did you mean 'c3d'"):
        features["c3b"]


def test_a_renamed_feature_keeps_its_rows(
    store: Store,
    make_recipe: Any,
    make_rows: Any,
    commit: Any,
) -> None:
    recipe = make_recipe(name="c3d")
    renamed = make_recipe(name="nested/naïve name")
    commit(store, recipe, "t1", {VIDEO: make_rows(3)})
    commit(store, renamed, "t2", {Video("w", "/w", "f"): make_rows(2)})
    store.write_manifest("r1", [VIDEO, Video("w", "/w", "f")])
    assert recipe.fingerprint == renamed.fingerprint
    features = FeatureStore(store.url)
    assert features[renamed.name].video_ids == features["c3d"].video_ids == ["v", "w"]
    assert {recipe.name for recipe in store.recipes()} == {"c3d", "nested/naïve name"}


def test_two_writers_racing_on_one_task_leave_one_truth(
    store: Store, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    rows = {VIDEO: make_rows(200, dim=64)}
    recipe = make_recipe(dim=64)
    errors: list[Exception] = []
    barrier = threading.Barrier(4)

    def race() -> None:
        try:
            mine = Store.open(store.url)
            barrier.wait()
            for _ in range(3):
                commit(mine, recipe, "t", rows)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    store.write_manifest("r1", [VIDEO])
    np.testing.assert_array_equal(FeatureStore(store.url)["c3d"]["v"].values, rows[VIDEO].values)
    assert verify_commits(store) == []
    assert find_garbage(store) == []
    assert store.commits().num_rows == 1


def test_a_commit_is_refused_when_its_shard_is_gone(
    store: Store, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    shard = commit(store, make_recipe(), "t", {VIDEO: make_rows(2)})
    table = store.commits()
    for item in store.objects.find("shards"):
        store.objects.delete(item.path)
    with pytest.raises(StorageUnavailableError, match=f"shard {shard}: expected the shard written a moment ago"):
        store.write_commit(make_recipe(), "t2", table)


def test_rows_that_are_not_the_recipes_are_refused(store: Store, make_recipe: Any, make_rows: Any) -> None:
    recipe = make_recipe()
    with pytest.raises(ValueError, match=r"expected float32\[2, 4\], got float32\[2, 5\]"):
        store.write_shard(recipe, "t", make_rows(2, dim=5), [("v", 0, 2)])
    with pytest.raises(ValueError, match=r"expected float32\[2, 4\], got float16"):
        store.write_shard(recipe, "t", make_rows(2, dtype="float16"), [("v", 0, 2)])
    with pytest.raises(ValueError, match="to start at row 1, got 2"):
        store.write_shard(recipe, "t", make_rows(3), [("v", 0, 1), ("w", 2, 3)])
    with pytest.raises(ValueError, match="spans over 3 rows, got 2"):
        store.write_shard(recipe, "t", make_rows(3), [("v", 0, 2)])
    with pytest.raises(ValueError, match="column mask"):
        store.write_shard(recipe, "t", replace(make_rows(3), extras={"mask": np.zeros(3)}), [("v", 0, 3)])
    none = Rows(np.zeros((0, 0)), *(np.zeros(0, kind) for kind in ("i4", "f8", "f8", "?")))
    assert store.write_shard(recipe, "t", none, [("v", 0, 0)]).startswith("shards/c3d-")


# Quarantine.


def item(video_id: str = "v", recipes: tuple[str, ...] = ("r",), reason: str = "not_a_video") -> Quarantined:
    return Quarantined(video_id, "f1", "/v.mp4", recipes, "probe", reason, "video v: no", 2)


def test_quarantine_in_force_is_the_newest_word_per_video_and_recipe(store: Store) -> None:
    store.write_quarantine("run1", "t1", [item(recipes=("a", "b")), item("w", ("a",))])
    store.write_quarantine("run2", "requeue", [item(recipes=("a",))], released=True)
    store.write_quarantine("run3", "t1", [item("w", ("a",), "deadline")])
    store.write_quarantine("run3", "t2", [])
    table = store.quarantine()
    assert table.schema.equals(QUARANTINE)
    rows = [(row["video_id"], row["recipes"], row["reason"], row["run_id"]) for row in table.to_pylist()]
    assert rows == [("v", ["b"], "not_a_video", "run1"), ("w", ["a"], "deadline", "run3")]
    assert store.quarantine_history().num_rows == 4
    store.write_quarantine("run4", "requeue", [item(recipes=("b",)), item("w", ("a",))], released=True)
    assert store.quarantine().num_rows == 0
    store.write_quarantine("run4", "t1", [item(recipes=("b",), reason="again")])
    assert store.quarantine().column("reason").to_pylist() == ["again"]


# Runs, manifests, probes.

HEADER = VideoHeader("mov,mp4", "h264", 320, 240, 90, 12.5, None, 300)


def test_manifests_unite_over_runs_and_the_newest_entry_wins(store: Store) -> None:
    first = Video(
        "a", "s3://b/é.mp4", "f", 12, HEADER, "label", "train", (Segment(0.5, 1.0, "x", 0.25), Segment(1.0, 2.0))
    )
    store.write_manifest("r1", [first, Video("b", "/b")])
    store.write_manifest("r2", [Video("b", "/moved", "g")])
    store.write_run_file("r3", "config.yaml", "x: 1")
    assert store.manifest() == {"a": first, "b": Video("b", "/moved", "g")}
    assert store.runs() == ["r1", "r2", "r3"]


def test_run_files_and_task_results_come_back(store: Store) -> None:
    result = TaskResult(
        "k", True, 3, {"c3d-1": 5}, (item(recipes=("a", "b")),), {"total": 0.5}, 10, 1, 2, 3, {"c3d-1": 5}, 99
    )
    store.write_task_result("r1", result)
    store.write_task_result("r1", replace(result, key="j", quarantined=()))
    assert store.task_results("r1") == [replace(result, key="j", quarantined=()), result]
    assert store.task_results("r2") == []
    url = store.write_run_file("r1", "report.html", "<p>é")
    assert url.endswith("/runs/r1/report.html")
    assert store.read_run_file("r1", "report.html").decode() == "<p>é"
    with pytest.raises(FileNotFoundError):
        store.read_run_file("r1", "absent")


def test_probes_come_back_and_the_newest_run_wins(store: Store) -> None:
    key, other = ("/v é.mp4", 5, 1_700_000_000_123_456_789), ("/w", 0, 1)
    good, bad = Probe("f1", HEADER), Probe("", None, ("probe", "empty_file", "video w: expected bytes, got none"))
    store.write_probes("r1", {key: bad, other: bad})
    store.write_probes("r2", {key: good})
    store.write_probes("r3", {})
    assert store.read_probes() == {key: good, other: bad}


# The catalog.


def test_a_catalog_changes_nothing_but_the_number_of_objects_read(
    store: Store, make_recipe: Any, make_rows: Any, commit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_module, "_WORTH_IT", 2)
    recipe = make_recipe()
    videos = [Video(f"v{n}", "/", f"f{n}") for n in range(5)]
    for number, video in enumerate(videos[:4]):
        commit(store, recipe, f"{9 - number}", {video: make_rows(2, seed=number)})
    _age_commits(store)
    before = store.commits()
    store.write_catalog()
    read: list[str] = []
    original = Store.read_table

    def counting(self: Store, path: str, columns: Any = None) -> pa.Table:
        read.append(path)
        return original(self, path, columns)

    monkeypatch.setattr(Store, "read_table", counting)
    assert store.commits().equals(before)
    assert read == []
    # A further commit is seen, in its place; a deleted one is gone; a rewritten one is read again.
    commit(store, recipe, "7a", {videos[4]: make_rows(1)})
    assert store.commits().column("video_id").to_pylist() == ["v3", "v2", "v4", "v1", "v0"]
    paths = store.commit_paths()
    store.objects.delete(paths[0])
    rewritten = original(store, paths[1]).set_column(2, COMMITS.field(2), pa.array(["changed"]))
    store.write_commit(recipe, "7", rewritten)
    assert store.commits().column("clips_fingerprint").to_pylist() == ["changed", "", "", ""]
    store.objects.write(f"catalog/{recipe.key}.parquet", b"damaged")
    assert store.commits().column("video_id").to_pylist() == ["v2", "v4", "v1", "v0"]


def _age_commits(store: Store) -> None:
    for path in store.commit_paths():
        os.utime(store.objects.full(path), (1, 1))


# Two tries of one task.


def test_a_committed_shard_is_never_overwritten_by_other_rows(
    store: Store, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    recipe = make_recipe()
    rows = make_rows(3)
    shard = commit(store, recipe, "t", {VIDEO: rows})
    store.write_manifest("r1", [VIDEO])
    # The same task with another batch size, killed before its commit: rows differ in the last bit.
    other = replace(rows, values=np.nextafter(rows.values, np.float32(np.inf)))
    assert store.write_shard(recipe, "t", other, [("v", 0, 3)]) != shard
    assert store.write_shard(recipe, "t", rows, [("v", 0, 3)]) == shard
    assert verify_commits(store) == []
    np.testing.assert_array_equal(FeatureStore(store.url)["c3d"]["v"].values, rows.values)


def test_the_name_of_a_shard_depends_on_every_column_and_on_whose_rows_they_are(
    store: Store, make_recipe: Any, make_rows: Any
) -> None:
    rows = make_rows(4, clips=2)
    others = [
        replace(rows, mask=~rows.mask),
        replace(rows, clip=rows.clip + 1),
        replace(rows, start_seconds=rows.start_seconds - 0.25),
        replace(rows, stop_seconds=rows.stop_seconds + 0.25),
        replace(rows, extras={"score": np.zeros(4, np.float32)}),
    ]
    names = [store.write_shard(make_recipe(), "t", item, [("v", 0, 4)]) for item in (rows, *others)]
    names += [
        store.write_shard(make_recipe(), "t", rows, spans) for spans in ([("w", 0, 4)], [("v", 0, 1), ("w", 1, 4)])
    ]
    assert len(set(names)) == len(names)


# Clean.


def test_clean_deletes_what_no_commit_refers_to_and_nothing_else(
    store: Store, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    recipe = make_recipe()
    commit(store, recipe, "kept", {VIDEO: make_rows(3)})
    store.write_manifest("r1", [VIDEO])
    sound = [item.path for item in store.objects.find()]
    orphan = store.write_shard(recipe, "orphan", make_rows(3), [("v", 0, 3)])
    store.objects.write(f"commits/{recipe.key}/.kept.parquet.abc.tmp", b"half a write")
    garbage = find_garbage(store)
    assert {item.path for item in garbage} == {item.path for item in store.objects.find()} - set(sound)
    assert find_garbage(store, min_age_seconds=3600) == []
    delete_garbage(store, garbage)
    assert [item.path for item in store.objects.find()] == sound
    assert not Path(store.objects.full(orphan)).exists()
    assert len(FeatureStore(store.url)["c3d"]["v"]) == 3


def test_clean_spares_a_shard_committed_after_it_was_listed(
    store: Store, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    store.write_shard(make_recipe(), "t", make_rows(3), [("v", 0, 3)])
    garbage = find_garbage(store)
    assert garbage
    commit(store, make_recipe(), "t", {VIDEO: make_rows(3)})
    delete_garbage(store, garbage)
    assert verify_commits(store) == []


# Verify.


def test_verify_finds_nothing_in_a_sound_store(
    any_url: str, shard_format: Any, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    store = Store.create(any_url, shard_format, "d")
    commit(
        store,
        make_recipe(dtype="float16"),
        "t",
        {VIDEO: make_rows(3, dtype="float16"), Video("w", "", "f"): make_rows(0, dtype="float16")},
    )
    assert verify_commits(store) == []


def _values_object(store: Store, shard: str) -> str:
    return shard + {"zarr": "/values/c/0/0", "npy": "/values.npy", "parquet": ""}[store.format]


@pytest.mark.parametrize("damage", ["flipped", "truncated", "deleted"])
def test_verify_finds_damaged_bytes(
    damage: str,
    store: Store,
    make_recipe: Any,
    make_rows: Any,
    commit: Any,
) -> None:
    shard = commit(store, make_recipe(), "t", {VIDEO: make_rows(300)})
    path = _values_object(store, shard)
    data = bytearray(store.objects.read(path))
    store.objects.delete(path)
    if damage == "flipped":
        data[len(data) // 4] ^= 0xFF
        store.objects.write(path, bytes(data))
    elif damage == "truncated":
        store.objects.write(path, bytes(data[: len(data) // 2]))
    problems = verify_commits(store)
    assert {(item.shard, item.reason) for item in problems} <= {(shard, "unreadable_shard"), (shard, "values_sha256")}
    assert problems
    assert all("\n" not in item.message for item in problems)


def test_verify_finds_commits_that_do_not_fit_their_shard(
    store: Store, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    recipe = make_recipe()
    shard = commit(store, recipe, "t", {VIDEO: make_rows(3)})
    row = store.commits().to_pylist()[0]
    wrong = row | {"row_stop": 9}
    other = row | {"passport": row["passport"] | {"values_sha256": "0" * 64}}
    store.write_commit(recipe, "t", pa.Table.from_pylist([wrong, other], schema=COMMITS))
    found = [(item.shard, item.video_id, item.reason) for item in verify_commits(store)]
    assert found == [(shard, "v", "videos"), (shard, "v", "row_span"), (shard, "v", "values_sha256")]
    store.objects.write(f"commits/{recipe.key}/t.parquet", b"no parquet")
    assert [item.reason for item in verify_commits(store)] == ["unreadable_commit"]
    with pytest.raises(StoreError, match="expected a Parquet table, got a damaged file"):
        store.commits()


def test_the_digest_of_values_is_over_their_little_endian_bytes() -> None:
    values = np.array([[1.0, -2.0]], dtype=">f4")
    expected = hashlib.sha256(bytes.fromhex("0000803f000000c0")).hexdigest()
    assert values_sha256(values) == values_sha256(values.astype("<f4")) == expected


def test_importing_and_reading_tables_loads_neither_zarr_nor_dask_nor_torch_nor_pandas(
    tmp_path: Path, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    store = Store.create(str(tmp_path / "s"), "zarr", "d")
    commit(store, make_recipe(), "t", {VIDEO: make_rows(2)})
    store.write_manifest("r1", [VIDEO])
    store.write_quarantine("r1", "t", [item(recipes=("a", "b"))])
    store.write_quarantine("r2", "t", [item(recipes=("a",))], released=True)
    code = (
        "import sys; from clipmill.stores import FeatureStore; s = FeatureStore(sys.argv[1]);"
        "assert s.store.quarantine().num_rows == 1; assert s['c3d'].video_ids == ['v']; assert s['c3d'].clips();"
        "assert s.store.commits_in_force(s['c3d'].recipe.fingerprint).num_rows == 1;"
        "sys.exit(','.join(m for m in ('zarr', 'dask', 'torch', 'h5py', 'pandas') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, store.url], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
