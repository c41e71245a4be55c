"""One set of videos, one plan, every engine."""

import hashlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.encoded_videos import encode_video

ENGINES: dict[str, dict[str, Any]] = {
    "local": {"name": "local"},
    "ray": {"name": "ray", "workers": 2},
    "beam-in-process": {"name": "beam", "runner": "in_process"},
    "beam-multi-processing": {"name": "beam", "runner": "multi_processing", "workers": 2},
    "beam-portable": {"name": "beam", "runner": "portable"},
    "beam-dask": {"name": "beam", "runner": "dask", "workers": 2},
}

POISON = {"poison/garbage.mp4": "not_a_video", "poison/empty.mp4": "empty_file"}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of two labels in two folders with equal file names, two poisonous files, one that is no media."""
    root = tmp_path_factory.mktemp("videos")
    for label, seed in (("left", 0), ("right", 1)):
        (root / label).mkdir()
        for index in range(3):
            encode_video(root / label / f"{index}.mp4", num_frames=20 + 7 * index + seed, fps=10, width=96, height=64)
    (root / "poison").mkdir()
    (root / "poison" / "garbage.mp4").write_bytes(b"\x00\x01garbage" * 500)
    (root / "poison" / "empty.mp4").write_bytes(b"")
    (root / "left" / "notes.txt").write_text("no media")
    return root


def write_config(
    path: Path, folder: Path, store: Path, engine: dict[str, Any], features: dict[str, Any] | None = None
) -> Path:
    """Writes a build config with two recipes fed by one decode pass; tasks are small so that there are several."""
    config = {
        "store": {"url": str(store)},
        "videos": {"folder": str(folder), "label": "parent_folder"},
        "features": features
        or {
            "squeezenet": {"sampling": {"fps": 4}, "weights": {"random": 0}},
            "query": {
                "extractor": "squeezenet",
                "layer": "logits",
                "sampling": {"random_frames": 1},
                "weights": {"random": 1},
            },
        },
        "engine": {"threads": 1, "device": "cpu", "task_seconds": 0.15} | engine,
    }
    path.write_text(yaml.safe_dump(config))
    return path


def digests(store: Path) -> dict[str, str]:
    """Returns the SHA-256 of every object that says what is true: shards, commits and recipes."""
    return {
        str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest()
        for name in ("shards", "commits", "recipes")
        for file in sorted((store / name).rglob("*"))
        if file.is_file()
    }


@contextmanager
def serving(engine: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Starts what the engine needs to talk to: a Beam job service for the portable runner."""
    if engine.get("runner") != "portable":
        yield engine
        return
    from apache_beam.runners.portability.local_job_service import LocalJobServicer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    service = LocalJobServicer()
    service.start_grpc_server(port)
    try:
        yield engine | {"address": f"localhost:{port}"}
    finally:
        service.stop()
