"""The order of runs where clocks disagree."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from clipmill.schemas.records import Quarantined, Video
from clipmill.stores import FeatureStore
from clipmill.stores.run_ids import next_run_id, run_time
from clipmill.stores.store import Store

NOW = datetime(2026, 5, 1, 12, 0, 0, 250_700, tzinfo=UTC)
AHEAD = "20300101T000000000-ffff"


def test_an_id_is_the_time_unless_a_run_before_is_later() -> None:
    assert next_run_id([], NOW).startswith("20260501T120000250-")
    assert next_run_id(["20260501T110000000-0000"], NOW).startswith("20260501T120000250-")
    assert next_run_id([AHEAD, "20260501T110000000-0000"], NOW).startswith("20300101T000000001-")
    # Within one millisecond, too.
    assert next_run_id(["20260501T120000250-ffff"], NOW).startswith("20260501T120000251-")
    assert next_run_id(["r1", "not a time"], NOW).startswith("20260501T120000250-")


def test_ids_sort_in_the_order_they_were_given() -> None:
    seen: list[str] = []
    for seconds in (0, -3600, 5, 5, -9):
        seen.append(next_run_id(seen, NOW + timedelta(seconds=seconds)))
    assert seen == sorted(seen)
    assert len(set(seen)) == len(seen)


def test_the_time_of_a_run() -> None:
    assert run_time(next_run_id([], NOW)) == NOW.replace(microsecond=250_000)
    assert run_time(f"{AHEAD}-probe.parquet").year == 2030
    assert run_time("r1").year == 1


def test_a_clock_that_is_ahead_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        next_run_id(["20260501T120030000-ffff"], NOW)
        assert not caplog.records
        next_run_id([AHEAD], NOW)
    assert "ahead" not in caplog.text
    assert "began 1340 days" in caplog.text


def test_a_run_after_one_from_the_future_is_the_newest(
    tmp_path: Any, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    store = Store.create(str(tmp_path / "store"), "zarr", "d")
    recipe = make_recipe()
    old, new = Video("v", "/v.mp4", "old bytes"), Video("v", "/v.mp4", "new bytes")
    commit(store, recipe, "a", {old: make_rows(2)})
    store.write_manifest(AHEAD, [old])
    commit(store, recipe, "b", {new: make_rows(5)})
    store.write_manifest(store.new_run_id(), [new])
    assert len(FeatureStore(store.url)["c3d"]["v"]) == 5


def test_what_a_run_from_the_future_booked_can_be_put_back(tmp_path: Any) -> None:
    store = Store.create(str(tmp_path / "store"), "zarr", "d")
    item = Quarantined("v", "f", "/v.mp4", ("recipe",), "decode", "undecodable", "line", 1)
    store.write_quarantine(AHEAD, "task", [item])
    assert store.quarantine().num_rows == 1
    store.write_quarantine(store.new_run_id(), "requeue", [item], released=True)
    assert store.quarantine().num_rows == 0
