"""``clipmill remove``, ``clean`` after it, and builds whose list of videos shrinks, as run by a user on real videos."""

import contextlib
import csv
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from clipmill.jobs.build import run_build, run_plan
from clipmill.jobs.clean import run_clean
from clipmill.jobs.export import run_export
from clipmill.jobs.remove import run_remove
from clipmill.jobs.status import run_status
from clipmill.pipelines.features.budgets import Budgets, parse_shard
from clipmill.schemas.errors import UsageError
from clipmill.stores import FeatureStore
from clipmill.stores.objects import Objects
from clipmill.stores.store import Store
from clipmill.stores.verify import verify_commits
from tests.command_line import invoke, invoked_result, python, refused, result
from tests.encoded_videos import encode_video

Served = Mapping[str, Mapping[str, np.ndarray]]
"""Rows by feature and video."""

NAMES = ("a.mp4", "b.mp4", "c.mp4", "d.mp4")
FEATURES = {
    "two": {"extractor": "squeezenet", "sampling": {"fps": 2}, "weights": {"random": 0}},
    "five": {"extractor": "squeezenet", "sampling": {"fps": 5}, "weights": {"random": 0}},
}


def config(folder: Path, features: Mapping[str, Any] | None = None, videos: Any = None, **store: Any) -> str:
    """Writes a build config over ``folder/videos`` into ``folder/store`` and returns its path."""
    data = {
        "store": {"url": str(folder / "store"), "dataset": "d", **store},
        "videos": videos or {"folder": str(folder / "videos")},
        "features": dict(features or FEATURES),
        "engine": {"device": "cpu", "threads": 1},
    }
    path = folder / "build.yaml"
    path.write_text(yaml.safe_dump(data))
    return str(path)


def build(folder: Path, **changes: Any) -> dict[str, Any]:
    """Builds in this process and returns what ``--json`` would print."""
    return run_build(config(folder, **changes), []).data


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four videos of other bytes each, and a store of two features, each in one shard."""
    folder = tmp_path_factory.mktemp("made")
    encode_video(folder / "video.mp4", num_frames=10, fps=10, width=64, height=64)
    (folder / "videos").mkdir()
    for number, name in enumerate(NAMES):
        free = b"\0\0\0\x09free" + bytes([number])
        (folder / "videos" / name).write_bytes((folder / "video.mp4").read_bytes() + free)
    report = build(folder)
    assert (report["num_complete"], report["num_unlisted"], report["num_copies"]) == (8, 0, 0)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "videos", tmp_path / "videos")
    shutil.copytree(made / "store", tmp_path / "store")
    return tmp_path


def values(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Returns what a reader that opens now is served."""
    store = FeatureStore(str(folder / "store"))
    return {name: {video: store[name][video].values for video in store[name].video_ids} for name in store.features}


def remove(store: str, *ids: str, missing: bool = False) -> dict[str, Any]:
    """Removes in this process."""
    return run_remove(store, missing, ids, None, False, True).data


def served(folder: Path) -> list[str]:
    return sorted({video for rows in values(folder).values() for video in rows})


def same(left: Served, right: Served, videos: Iterable[str]) -> bool:
    return all(np.array_equal(left[name][video], right[name][video]) for name in FEATURES for video in videos)


def shards(folder: Path) -> set[str]:
    return {path.relative_to(folder / "store").as_posix() for path in (folder / "store" / "shards").glob("*/*")}


def test_a_deleted_and_a_renamed_video_leave_readers_and_exports_with_the_next_build(folder: Path) -> None:
    before = values(folder)
    (folder / "videos" / "a.mp4").unlink()
    (folder / "videos" / "b.mp4").rename(folder / "videos" / "z.mp4")
    plan = run_plan(config(folder), []).data
    assert (plan["num_unlisted"], plan["num_renamed"]) == (2, 1)
    done = invoke("build", "--config", config(folder))
    assert done.returncode == 0, done.stderr
    assert "no longer in the manifest, so no longer served: 2 videos (1 of them renamed" in done.stdout
    assert served(folder) == ["c.mp4", "d.mp4", "z.mp4"]
    after = values(folder)
    assert same(before, after, ["c.mp4", "d.mp4"])
    assert np.array_equal(after["two"]["z.mp4"], before["two"]["b.mp4"])
    run_export(str(folder / "store"), "two", str(folder / "npy"), "npy")
    with open(folder / "npy" / "index.csv", encoding="utf-8") as file:
        assert {row["video_id"] for row in csv.DictReader(file)} == {"c.mp4", "d.mp4", "z.mp4"}
    status = run_status(str(folder / "store")).data
    assert (status["num_videos"], status["unlisted"]) == (3, ["a.mp4", "b.mp4"])
    page = folder / "store" / "runs" / status["runs"][-1] / "report.html"
    assert "2 of the store, 1 of them renamed" in page.read_text()


def test_missing_videos_are_removed_and_clean_gives_their_space_back(folder: Path) -> None:
    store, before, old = str(folder / "store"), values(folder), shards(folder)
    for name in ("a.mp4", "c.mp4"):
        (folder / "videos" / name).unlink()
    build(folder)
    dry = invoked_result("remove", store, "--missing", "--dry-run")
    assert (dry["videos"], dry["num_pairs"], dry["num_served_before"]) == (["a.mp4", "c.mp4"], 4, 0)
    refused(invoke("remove", store, "--missing"), "expected --yes, or --dry-run", "2 videos, 4 pairs")
    assert run_status(store).data["num_unlisted"] == 2
    assert result("remove", store, "--missing", "--yes")["num_removed"] == 2
    status = run_status(store).data
    assert (status["num_unlisted"], status["num_removed_with_rows"]) == (0, 2)
    assert shards(folder) == old
    would = invoked_result("clean", store, "--dry-run")
    assert {"/".join(path.split("/")[:3]) for path in would["paths"]} == old
    assert shards(folder) == old
    cleaned = result("clean", store)
    assert (cleaned["num_removed_videos"], cleaned["num_commits_changed"]) == (2, 2)
    assert (cleaned["paths"], cleaned["num_bytes"]) == (would["paths"], would["num_bytes"])
    assert not shards(folder) & old
    assert served(folder) == ["b.mp4", "d.mp4"]
    assert same(before, values(folder), ["b.mp4", "d.mp4"])
    assert run_status(store).data["num_removed_with_rows"] == 0
    verified = invoked_result("verify", store, "--sample", "1")
    assert (verified["problems"], verified["num_commit_rows"]) == ([], 4)
    assert run_clean(store, False).data["paths"] == []
    # Nothing is due: the rows that moved are complete.
    assert run_plan(config(folder), []).data["num_tasks"] == 0
    assert remove(store, missing=True)["num_removed"] == 0


@pytest.mark.parametrize("is_cleaned", [False, True])
def test_a_removed_video_comes_back_by_a_build_that_lists_it(folder: Path, is_cleaned: bool) -> None:
    store, before = str(folder / "store"), values(folder)
    (folder / "ids.txt").write_text("b.mp4\n")
    removed = invoked_result("remove", store, "--ids", "d.mp4", "--ids-from", str(folder / "ids.txt"), "--yes")
    assert (removed["videos"], removed["num_served_before"]) == (["b.mp4", "d.mp4"], 2)
    assert served(folder) == ["a.mp4", "c.mp4"]
    assert remove(store, "d.mp4")["num_removed"] == 0
    if is_cleaned:
        assert run_clean(store, False).data["num_removed_videos"] == 2
    report = build(folder)
    # Rows that are still there are in force again; others are made again.
    assert (report["num_complete_before"], report["num_complete"]) == (4 if is_cleaned else 8, 8)
    after = values(folder)
    assert same(before, after, ["a.mp4", "c.mp4"] if is_cleaned else NAMES)
    for name in FEATURES:
        for video in NAMES:
            np.testing.assert_allclose(after[name][video], before[name][video], rtol=1e-3, atol=1e-3)
    assert run_clean(store, False).data["num_removed_videos"] == 0
    assert same(after, values(folder), NAMES)


def test_what_remove_refuses(made: Path) -> None:
    store = str(made / "store")
    refused(invoke("remove", store, "--ids", "x.mp4", "--yes"), "ids of store", "'x.mp4'")
    for arguments, got in (((True, ["a.mp4"], None), "both"), ((False, [], None), "neither")):
        with pytest.raises(UsageError, match=f"got {got}"):
            run_remove(store, *arguments, False, True)
    with pytest.raises(UsageError, match="--ids-from .*: expected a readable text file, got No such file"):
        run_remove(store, False, [], str(made / "none.txt"), False, True)


def test_all_rows_of_bytes_that_were_removed_go_though_the_name_came_back_with_others(folder: Path) -> None:
    store = str(folder / "store")
    remove(store, "a.mp4")
    encode_video(folder / "videos" / "a.mp4", num_frames=20, fps=10, width=64, height=64)
    build(folder)
    new = values(folder)
    assert run_clean(store, False).data["num_removed_videos"] == 1
    assert same(new, values(folder), NAMES)
    assert (Store.open(store).commits().num_rows, verify_commits(Store.open(store))) == (8, [])


class Killed(BaseException):
    """Nothing of the process that met it runs on."""


def test_clean_killed_before_any_of_its_writes_loses_nothing_and_is_done_by_the_next(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = values(made)
    shutil.copytree(made / "store", tmp_path / "whole")
    run_remove(str(tmp_path / "whole"), False, ["a.mp4", "b.mp4"], None, False, True)
    left = 0

    def counted(real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return real(*arguments, **named)

        return call

    def assert_two_are_served() -> None:
        found = values(tmp_path)
        assert {video for rows in found.values() for video in rows} == {"c.mp4", "d.mp4"}
        assert same(before, found, ["c.mp4", "d.mp4"])

    store, number = tmp_path / "store", 0
    while True:
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", store)
        left = number
        with monkeypatch.context() as patched:
            patched.setattr(Objects, "write", counted(Objects.write))
            patched.setattr(Objects, "delete", counted(Objects.delete))
            with contextlib.suppress(Killed):
                run_clean(str(store), False)
        assert_two_are_served()
        if left >= 0:
            break
        assert run_clean(str(store), False).exit_code == 0
        assert_two_are_served()
        assert len(shards(tmp_path)) == len(FEATURES)
        assert verify_commits(Store.open(str(store))) == []
        number += 1
    # Each feature: a shard of several objects and a commit written, an old shard deleted.
    assert number > 10


KILLED_IN_CLEAN = """
import os, sys
from clipmill.stores.store import Store
Store.replace_commit = lambda *arguments: os._exit(9)
from clipmill.jobs.build import run_build, run_plan
from clipmill.jobs.clean import run_clean
from clipmill.jobs.export import run_export
run_clean(sys.argv[1], False)
"""


def test_a_clean_that_died_with_its_process_is_finished_by_the_verb(folder: Path) -> None:
    store, before = str(folder / "store"), values(folder)
    remove(store, "a.mp4")
    assert python("-c", KILLED_IN_CLEAN, store).returncode == 9
    assert same(before, values(folder), NAMES[1:])
    assert invoked_result("clean", store)["num_removed_videos"] == 1
    assert len(shards(folder)) == len(FEATURES)
    assert same(before, values(folder), NAMES[1:])


def test_an_additive_manifest_of_new_videos_adds_and_a_full_one_since_decides(folder: Path) -> None:
    (folder / "videos.csv").write_text("id,path\nnew,videos/a.mp4\n")
    nightly = {"manifest": str(folder / "videos.csv")}
    report = build(folder, videos=nightly, manifest="additive")
    assert (report["num_unlisted"], report["num_copies"]) == (0, 0)
    assert served(folder) == [*NAMES, "new"]
    status = run_status(str(folder / "store"))
    assert status.data["copies"] == [["a.mp4", "new"]]
    assert "a.mp4 = new" in status.text
    report = build(folder)
    assert (report["num_unlisted"], report["num_renamed"]) == (1, 1)
    assert served(folder) == list(NAMES)


def test_shares_of_a_build_leave_nothing_of_one_another_out(folder: Path) -> None:
    def share(text: str) -> dict[str, Any]:
        return run_build(config(folder), [], None, Budgets(shard=parse_shard(text))).data

    before = values(folder)
    assert {name for text in ("1/2", "2/2") for name in [share(text)["num_unlisted"]]} == {0}
    assert served(folder) == list(NAMES)
    (folder / "videos" / "a.mp4").rename(folder / "videos" / "e.mp4")
    # Whichever share comes first, what is gone is gone, and what belongs to the other share stays.
    assert share("2/2")["num_unlisted"] == 1
    assert set(NAMES[1:]) <= set(served(folder)) <= {*NAMES[1:], "e.mp4"}
    share("1/2")
    assert served(folder) == ["b.mp4", "c.mp4", "d.mp4", "e.mp4"]
    assert same(before, values(folder), NAMES[1:])


def test_a_list_that_lacks_most_of_the_store_is_refused(folder: Path) -> None:
    for number in range(3):
        data = (folder / "videos" / "a.mp4").read_bytes()
        (folder / "videos" / f"more{number}.mp4").write_bytes(data + b"\0\0\0\x09free" + bytes([50 + number]))
    build(folder)
    for name in (*NAMES, "more0.mp4"):
        (folder / "videos" / name).unlink()
    before = sorted(os.listdir(folder / "store" / "runs"))
    refused(
        invoke("build", "--config", config(folder)),
        "store manifest: expected a full list of the dataset, with most of the 7 videos",
        "one without 5 of them, such as 'a.mp4'",
        "store.manifest: additive",
    )
    assert sorted(os.listdir(folder / "store" / "runs")) == before
    assert build(folder, max_unlisted_share=1)["num_unlisted"] == 5
    assert served(folder) == ["more1.mp4", "more2.mp4"]


def test_copies_are_told_by_the_build_that_meets_them(folder: Path) -> None:
    shutil.copy(folder / "videos" / "a.mp4", folder / "videos" / "again.mp4")
    text = run_build(config(folder), []).text
    assert "copies (the same bytes under several ids): 1, such as a.mp4 = again.mp4" in text
