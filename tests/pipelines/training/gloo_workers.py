"""Several processes joined by gloo, each running one function of a module; what a test of shared batches needs."""

import datetime
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[3]
_TIMEOUT_SECONDS = 240


def run_workers(function: str, num_workers: int, folder: Path, **arguments: str) -> list[Any]:
    """Returns what ``module:function(**arguments)`` returns in each of `num_workers` processes of one group."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    given = [f"{key}={value}" for key, value in arguments.items()]
    command = [sys.executable, "-m", "tests.pipelines.training.gloo_workers", function, str(folder), str(num_workers)]
    processes = [
        subprocess.Popen([*command, str(rank), *given], env=environment, cwd=ROOT) for rank in range(num_workers)
    ]
    try:
        codes = [process.wait(_TIMEOUT_SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0] * num_workers
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(num_workers)]


def _work(function: str, folder: Path, num_workers: int, rank: int, arguments: Mapping[str, str]) -> None:
    import importlib

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=num_workers,
        timeout=datetime.timedelta(seconds=_TIMEOUT_SECONDS),
    )
    module, _, name = function.partition(":")
    torch.save(getattr(importlib.import_module(module), name)(**arguments), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _work(
        sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), dict(a.split("=", 1) for a in sys.argv[5:])
    )
