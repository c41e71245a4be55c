"""Which videos a store serves, by what its runs were given and what was removed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipmill.schemas.records import Video
from clipmill.schemas.task import imported_fingerprint, is_imported_fingerprint
from clipmill.stores.membership import Membership, RunVideos, copies, membership
from clipmill.stores.store import Store


def given(run_id: str, ids: str, listed: str | None = None, mark: str = "") -> RunVideos:
    return RunVideos(run_id, {name: name + mark for name in ids}, None if listed is None else frozenset(listed))


def ids_of(found: Membership) -> tuple[str, str, str]:
    return "".join(found.served), "".join(found.unlisted), "".join(sorted(found.removed))


def test_additive_runs_add_up_and_the_newest_entry_counts() -> None:
    found = membership([given("1", "ab"), given("2", "bc", mark="2")], {})
    assert found.served == {"a": "a", "b": "b2", "c": "c2"}
    assert (found.unlisted, found.removed) == ({}, {})


def test_the_newest_full_manifest_decides_and_additive_ones_since_add() -> None:
    runs = [given("1", "abc", "abc"), given("2", "bd", "bd"), given("3", "ae")]
    assert ids_of(membership(runs, {})) == ("bdae", "c", "")
    found = membership([*runs, given("4", "c", "c")], {})
    assert (set(found.served), set(found.unlisted)) == ({"c"}, set("abde"))


def test_shares_of_one_build_leave_nothing_of_one_another_out() -> None:
    first, second = given("1", "ab", "abcd"), given("2", "cd", "abcd")
    assert ids_of(membership([first], {})) == ("ab", "", "")
    assert ids_of(membership([first, second], {})) == ("abcd", "", "")
    # The next night: b is gone, e is new; each share runs by itself.
    third, fourth = given("3", "ac", "acde"), given("4", "de", "acde")
    assert ids_of(membership([first, second, third], {})) == ("acd", "b", "")
    assert ids_of(membership([first, second, third, fourth], {})) == ("acde", "b", "")


def test_what_only_an_import_brought_is_no_builds_to_leave_out() -> None:
    imported = RunVideos("1", {name: imported_fingerprint(name) for name in "xy"})
    found = membership([imported, given("2", "ya", "ya"), given("3", "a", "a")], {})
    assert ids_of(found) == ("xa", "y", "")


def test_a_removal_counts_until_a_later_run_lists_the_video() -> None:
    runs = [given("1", "abc", "abc"), given("3", "ab", "ab")]
    assert ids_of(membership(runs[:1], {"2": ["a", "c"]})) == ("b", "", "ac")
    assert ids_of(membership(runs, {"2": ["a", "c"]})) == ("ba", "", "c")
    assert ids_of(membership(runs, {"2": ["a", "c"], "4": ["a"]})) == ("b", "", "ac")
    # What a share lists, but another share is to be given, is not back yet.
    assert ids_of(membership([runs[0], given("3", "b", "abc")], {"2": ["a"]})) == ("bc", "", "a")


def test_copies_are_groups_of_ids_with_the_same_bytes() -> None:
    assert copies({"b": "1", "a": "1", "c": "2", "d": "", "e": "", "f": "2"}) == [("a", "b"), ("c", "f")]


def test_a_store_serves_by_what_it_has_written(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path / "store"), "zarr", "d")

    def run(day: str, ids: str, is_full: bool | None, listed: str = "") -> None:
        run_id = f"2026010{day}T000000000-aaaa"
        store.write_manifest(run_id, [Video(name, f"/{name}", name) for name in ids])
        if is_full is not None:
            store.write_build(run_id, {}, is_full, listed)

    run("1", "ab", None)
    # As versions before the key wrote it.
    store.write_run_file("20260101T000000000-aaaa", "build.json", json.dumps({"features": {}}))
    run("2", "c", False)
    assert sorted(store.manifest()) == ["a", "b", "c"]
    run("3", "ad", True)
    assert sorted(store.manifest()) == sorted(store.membership().served) == ["a", "d"]
    assert store.membership().unlisted == {"b": "b", "c": "c"}
    assert sorted(store.every_video()) == ["a", "b", "c", "d"]
    run("4", "e", True, "abcde")
    assert sorted(store.manifest()) == sorted(store.membership().served) == ["a", "b", "c", "d", "e"]
    # Killed before it said that its manifest is full: it leaves nothing out.
    run("5", "f", None)
    assert sorted(store.manifest()) == ["a", "b", "c", "d", "e", "f"]
    assert not list((tmp_path / "store" / "removed").glob("*"))
    removal = "20991231T000000000-aaaa"
    store.write_removal(removal, {"a": "a"})
    assert sorted(store.manifest()) == sorted(store.membership().served) == ["b", "c", "d", "e", "f"]
    assert store.removed_bytes() == {("a", "a")}
    assert store.new_run_id() > removal


@pytest.mark.parametrize("name", ["abc", "x y/ü"])
def test_a_fingerprint_of_an_import_is_told_from_one_of_bytes(name: str) -> None:
    assert is_imported_fingerprint(name, imported_fingerprint(name))
    assert not is_imported_fingerprint(name, imported_fingerprint(name + "2"))


def drawn_history(store: Store, random: np.random.Generator) -> dict[str, dict[str, Video]]:
    """Writes runs of a store, most of them full, some with imports, files beside videos or removals; returns them."""
    runs: dict[str, dict[str, Video]] = {}
    for day in range(1, random.integers(2, 5)):
        run_id = f"2026010{day}T000000000-aaaa"
        ids = random.permutation(list("abcdefgh"))[: random.integers(1, 9)].tolist()
        if random.random() < 0.1:
            ids.append(ids[0])
        videos = [Video(name, f"/{name}{day}", f"{name}{random.integers(2)}", label=f"{day}") for name in ids]
        if random.random() < 0.1:
            videos.append(Video("z", "/z", imported_fingerprint("z")))
        if random.random() < 0.1:
            videos[0] = replace(videos[0], file_digests=(("recipe", f"digest {day}"),))
        store.write_manifest(run_id, videos)
        if random.random() < 0.9:
            is_share = random.random() < 0.1
            store.write_build(run_id, {}, bool(random.random() < 0.8), [*ids, "s"] if is_share else [])
        if random.random() < 0.1:
            store.write_removal(f"2026010{day}T120000000-aaaa", {ids[0]: ids[0]})
        runs[run_id] = {video.id: video for video in videos}
    return runs


def test_the_manifest_is_what_membership_serves_in_its_order_however_it_was_found(tmp_path: Path) -> None:
    num_short = 0
    for seed in range(25):
        store = Store.create(str(tmp_path / str(seed)), "zarr", "d")
        runs = drawn_history(store, np.random.default_rng(seed))
        found, served = store.manifest(), store.membership().served
        num_short += store._newest_full_manifest() is not None
        assert [(video.id, video.fingerprint) for video in found.values()] == list(served.items())
        for name, video in found.items():
            newest = [videos[name] for _, videos in sorted(runs.items()) if name in videos][-1]
            assert replace(video, file_digests=()) == replace(newest, file_digests=())
            if newest.file_digests:
                assert video.file_digests == newest.file_digests
    assert 5 < num_short < 22
