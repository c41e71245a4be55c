"""Simulates a build on many GPUs: where efficiency falls below 90 %, by stragglers, failures, commits and the driver.

    python -m benchmarks.simulate_cluster [--store STORE] [--workers 10 100 1000 4000] [--hours 8] [--task-seconds 300]

A discrete-event model of what the engines do. A driver hands one task after the other to whichever worker is free, the
longest first, as planning orders them. A worker computes it, writes its objects through storage that takes a bounded
number of requests a second, and comes back to the driver. A worker that fails loses what it did since its last commit
and is started again; the rest of its task goes on there, as the engines' second tries do.

Efficiency is the seconds that the tasks take on workers of ordinary speed, over workers times the wall time. Task times
have the spread of a store's own (``--store``), relative to their mean, or a lognormal one. What is assumed is an option
each: see ``--help``. Not modelled: the networks between nodes, videos that are slow to fetch, preempted pools.
"""

import argparse
import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.stores import Store

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a simulated cluster is like. Times are in seconds.

    Attributes:
        driver_seconds: of the one driver for each task: handing it out, reading what it did.
        requests: of storage for each task: objects of its shards, commits, its result.
        requests_per_second: that storage takes; S3 says 3,500 writes a second for each prefix.
        request_seconds: until one is answered; a task's are made one after the other.
        slow_share, slow_factor: so many workers take so many times as long.
        hours_between_failures: of one worker.
        restart_seconds: until a failed worker works again.
        commit_seconds: most work that a failure loses (`engine.commit_seconds`).
    """

    workers: int = 1000
    driver_seconds: float = 0.01
    requests: int = 14
    requests_per_second: float = 3500.0
    request_seconds: float = 0.05
    slow_share: float = 0.02
    slow_factor: float = 2.0
    hours_between_failures: float = 1000.0
    restart_seconds: float = 120.0
    commit_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Simulated:
    """How a simulated build went; shares are of all workers' time, and add up to 1 with the efficiency."""

    efficiency: float
    wall_hours: float
    num_failures: int
    shares: dict[str, float]


def simulate(tasks: Floats, cluster: Cluster, seed: int = 0) -> Simulated:
    """Returns what a build of `tasks`, each in seconds of an ordinary worker, is like on `cluster`."""
    rng = np.random.default_rng(seed)
    speed = np.where(rng.random(cluster.workers) < cluster.slow_share, cluster.slow_factor, 1.0)
    left = np.sort(tasks).tolist()  # the longest first: from the end
    driver = storage = wall = slow = lost = stored = waited = 0.0
    num_failures = 0
    # In the order of time: a worker asks the driver for a task, or its objects join the queue of storage.
    events = [(0.0, worker, False) for worker in range(cluster.workers)]
    while events:
        now, worker, has_computed = heapq.heappop(events)
        if has_computed:
            storage = max(storage, now) + cluster.requests / cluster.requests_per_second
            end = max(storage, now + cluster.requests * cluster.request_seconds)
            stored += end - now
            wall = max(wall, end)
            heapq.heappush(events, (end, worker, False))
        elif left:
            seconds = left.pop()
            driver = max(driver, now) + cluster.driver_seconds
            waited += driver - now
            takes = float(seconds * speed[worker])
            slow += takes - seconds
            away, failures = _lost(takes, cluster, rng)
            lost += away
            num_failures += failures
            heapq.heappush(events, (driver + takes + away, worker, True))
    whole = cluster.workers * wall
    shares = {"slow workers": slow, "failures": lost, "storage": stored, "waiting for the driver": waited}
    efficiency = float(tasks.sum()) / whole
    found = {name: value / whole for name, value in shares.items()}
    found["idle at the end"] = 1 - efficiency - sum(found.values())
    return Simulated(efficiency, wall / 3600, num_failures, found)


def _lost(takes: float, cluster: Cluster, rng: np.random.Generator) -> tuple[float, int]:
    """Returns the seconds that failures add to a task of `takes` seconds, and how many there were."""
    added, num_failures, to_do = 0.0, 0, takes
    while (until := float(rng.exponential(cluster.hours_between_failures * 3600))) < to_do:
        gone = min(until, float(rng.uniform(0, cluster.commit_seconds)))
        added += gone + cluster.restart_seconds
        to_do -= until - gone
        num_failures += 1
    return added, num_failures


def spread_of(store: str) -> Floats:
    """Returns the seconds of a store's tasks over their mean, all runs together."""
    opened = Store.open(store)
    found = [result.seconds.get("total", 0.0) for run in opened.runs() for result in opened.task_results(run)]
    seconds = np.array([value for value in found if value > 0])
    if not seconds.size:
        raise SystemExit(f"simulate_cluster {store}: expected runs with tasks, got none")
    return seconds / seconds.mean()


def task_stream(relative: Floats | None, num_tasks: int, mean: float, sigma: float, seed: int = 0) -> Floats:
    """Returns ``float64[num_tasks]``, seconds: drawn from `relative`, or lognormal with `sigma`; of mean `mean`."""
    rng = np.random.default_rng(seed)
    drawn = rng.lognormal(0, sigma, num_tasks) if relative is None else rng.choice(relative, num_tasks)
    return np.asarray(drawn / drawn.mean() * mean)


def falls_below(tasks: Floats, cluster: Cluster, name: str, values: Sequence[float], least: float = 0.9) -> Any:
    """Returns the first of `values` of the attribute `name` with which efficiency is under `least`; None: with none."""
    for value in values:
        if simulate(tasks, replace(cluster, **{name: type(getattr(cluster, name))(value)})).efficiency < least:
            return value
    return None


SWEEPS: dict[str, tuple[float, ...]] = {
    "driver_seconds": (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0),
    "requests_per_second": (3500, 1000, 300, 100, 50, 30, 10),
    "request_seconds": (0.05, 0.2, 0.5, 1, 2, 4, 8),
    "slow_share": (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5),
    "slow_factor": (2, 3, 5, 10, 20, 50),
    "hours_between_failures": (1000, 300, 100, 30, 10, 3, 1),
}


def main() -> None:
    """Prints the table, and where each assumption breaks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", help="whose tasks' times are drawn from")
    parser.add_argument("--sigma", type=float, default=0.5, help="of lognormal task times, without --store")
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 100, 1000, 4000])
    parser.add_argument("--hours", type=float, default=8.0, help="of work for each worker")
    parser.add_argument("--task-seconds", type=float, default=300.0)
    for name in Cluster.__dataclass_fields__:
        if name != "workers":
            default = getattr(Cluster(), name)
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = parser.parse_args()
    relative = spread_of(options.store) if options.store else None
    fields = {name: getattr(options, name) for name in Cluster.__dataclass_fields__ if name != "workers"}
    print(json.dumps(fields))
    for task_seconds in (options.task_seconds / 10, options.task_seconds, options.task_seconds * 4):
        for workers in options.workers:
            num_tasks = max(1, round(workers * options.hours * 3600 / task_seconds))
            tasks = task_stream(relative, num_tasks, task_seconds, options.sigma)
            found = simulate(tasks, Cluster(workers, **fields))
            shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in found.shares.items())
            print(
                f"{workers:>5} workers, {num_tasks:>7} tasks of {task_seconds:>5.0f} s: efficiency "
                f"{100 * found.efficiency:5.1f} %, {found.wall_hours:.2f} h, {found.num_failures} failures ({shares})",
                flush=True,
            )
    workers = 1000
    num_tasks = round(workers * options.hours * 3600 / options.task_seconds)
    tasks = task_stream(relative, num_tasks, options.task_seconds, options.sigma)
    print(f"with {workers} workers and tasks of {options.task_seconds:.0f} s, efficiency is under 90 % from:")
    for name, values in SWEEPS.items():
        found_value = falls_below(tasks, Cluster(workers, **fields), name, values)
        print(f"  {name:<24}{'none of ' + str(values) if found_value is None else found_value}", flush=True)


if __name__ == "__main__":
    main()
