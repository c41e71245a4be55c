"""The simulated cluster where its answer can be worked out by hand."""

from typing import Any

import numpy as np
import pytest

from benchmarks.simulate_cluster import Cluster, simulate

IDEAL: dict[str, Any] = {
    "driver_seconds": 0.0,
    "requests": 0,
    "request_seconds": 0.0,
    "slow_share": 0.0,
    "hours_between_failures": 1e12,
    "restart_seconds": 0.0,
}


def test_equal_tasks_on_equal_workers_are_done_at_once_and_a_last_one_leaves_the_others_idle() -> None:
    assert simulate(np.full(40, 100.0), Cluster(4, **IDEAL)).efficiency == pytest.approx(1)
    found = simulate(np.full(41, 100.0), Cluster(4, **IDEAL))
    assert found.efficiency == pytest.approx(41 / 44)
    assert found.shares["idle at the end"] == pytest.approx(3 / 44)


def test_a_driver_that_is_slower_than_the_workers_decides_the_wall_time() -> None:
    found = simulate(np.full(1000, 10.0), Cluster(100, **IDEAL | {"driver_seconds": 1.0}))
    assert found.wall_hours * 3600 == pytest.approx(1000 + 10)


def test_storage_that_takes_few_requests_decides_it_too() -> None:
    found = simulate(np.full(1000, 10.0), Cluster(100, **IDEAL | {"requests": 10, "requests_per_second": 10.0}))
    assert found.wall_hours * 3600 == pytest.approx(10 + 1000)


def test_all_workers_twice_as_slow_halve_the_efficiency_and_failures_cost_what_they_lose() -> None:
    tasks = np.full(400, 100.0)
    assert simulate(tasks, Cluster(4, **IDEAL | {"slow_share": 1.0})).efficiency == pytest.approx(0.5)
    failing = Cluster(4, **IDEAL | {"hours_between_failures": 0.25, "restart_seconds": 60.0, "commit_seconds": 0.0})
    found = simulate(tasks, failing)
    assert found.num_failures > 10
    lost = found.shares["failures"] * 4 * found.wall_hours * 3600
    assert lost == pytest.approx(60 * found.num_failures)
