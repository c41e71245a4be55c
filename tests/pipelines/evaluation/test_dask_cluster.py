"""Retrieval's Dask cluster by address: stores from any folder, and one line for what is lost or not seen."""

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dask.delayed import delayed

from clipmill.pipelines.evaluation.retrieval.blocks import computing
from clipmill.schemas.errors import EngineError, StoreError, UsageError, WeightsError
from clipmill.stores import FeatureStore
from tests.jobs.retrieval_store import retrieval_config

distributed: Any = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a scheduler with one worker, a process whose working directory is not that of the tests."""
    before = os.getcwd()
    os.chdir("/")
    try:
        cluster = distributed.LocalCluster(1, host="127.0.0.1", threads_per_worker=1, dashboard_address=None)
    finally:
        os.chdir(before)
    with cluster:
        yield cluster.scheduler_address


def test_rows_of_a_store_with_a_relative_url(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retrieval_config(tmp_path)
    monkeypatch.chdir(tmp_path)
    store = FeatureStore("store")
    feature = store[store.features[0]]
    with computing(address, connect_seconds=60) as workers:
        assert workers.run(delayed(os.getcwd)()) != str(tmp_path)
        np.testing.assert_array_equal(workers.run(feature.dask()), feature.dask().compute(scheduler="synchronous"))
        lazy = feature.dask()
        shutil.rmtree(tmp_path / "store")
        with pytest.raises(
            StoreError, match=f"store {tmp_path}/store on node .*: expected a clipmill store, got nothing"
        ):
            workers.run(lazy)


def test_a_workers_own_error_keeps_its_type(address: str) -> None:
    def fails() -> None:
        raise WeightsError("weights a.pth: expected a file, got nothing; correct the path")

    with computing(address, connect_seconds=60) as workers:
        with pytest.raises(WeightsError, match="^weights a.pth: expected a file, got nothing; correct the path$"):
            workers.run(delayed(fails)())


def test_a_package_that_the_workers_lack(address: str) -> None:
    def fails() -> None:
        raise ModuleNotFoundError("No module named 'a_package'")

    with computing(address, connect_seconds=60) as workers:
        with pytest.raises(UsageError, match="expected clipmill and its packages, got No module named 'a_package'"):
            workers.run(delayed(fails)())


def test_workers_that_die(address: str) -> None:
    def dies() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with computing(address, connect_seconds=60) as workers:
        with pytest.raises(EngineError, match=f"dask {address}: expected a cluster that goes on, got "):
            workers.run(delayed(dies)())


def test_an_address_where_nothing_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(EngineError, match=f"dask {place}: expected a running scheduler"):
            with computing(place, connect_seconds=0.5):
                pass
