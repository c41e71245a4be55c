"""The runs of a store: what each was given, what its names mean, and what its tasks did."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, cast

import pyarrow as pa

from clipmill.schemas.records import Video
from clipmill.schemas.tables import MANIFEST, VIDEO_IDS
from clipmill.schemas.task import TaskPart, TaskProgress, TaskResult
from clipmill.stores.run_ids import next_run_id
from clipmill.stores.stored_tables import StoredTables, problem
from clipmill.stores.tables import (
    gather,
    manifest_table,
    manifest_videos,
    task_part_json,
    task_part_of,
    task_result_json,
    task_result_of,
    to_parquet,
)

BUILD_FILE = "build.json"
"""Of a run: what its feature names mean."""

_STOP = "stop.json"
_PROGRESS = "progress"


class StoredRuns(StoredTables):
    """The files below ``runs/`` of a store."""

    def write_run_file(self, run_id: str, name: str, data: bytes | str) -> str:
        """Writes a file of a run and returns where it is."""
        path = f"runs/{run_id}/{name}"
        self.objects.write(path, data.encode() if isinstance(data, str) else data)
        return f"{self.url.rstrip('/')}/{path}"

    def read_run_file(self, run_id: str, name: str) -> bytes:
        """Returns a file of a run.

        Raises:
            FileNotFoundError: the run has no such file.
        """
        return self.objects.read(f"runs/{run_id}/{name}")

    def request_stop(self, run_id: str, reason: str) -> None:
        """Asks the workers of a run, wherever they are, to begin no further video."""
        self.write_run_file(run_id, _STOP, json.dumps({"reason": reason}, indent=1))

    def stop_requested(self, run_id: str) -> bool:
        """Returns whether the workers of a run were asked to stop."""
        return self.objects.exists(f"runs/{run_id}/{_STOP}")

    def new_run_id(self) -> str:
        """Returns an id for a run that begins now: unique, and sorted after every run this store has seen.

        It is the time of this machine's clock, or, where an earlier run was given a later one (by a clock that was
        ahead), a millisecond after that: so order never comes from clocks alone.
        """
        written = [name for folder in ("quarantine", "removed") for name in self.objects.names(folder)]
        seen = [*self.runs(), *(name.removesuffix(".parquet") for name in written)]
        return next_run_id(seen, datetime.now(UTC))

    def runs(self) -> list[str]:
        """Returns the ids of all runs, oldest first (run ids sort by time)."""
        return self.objects.names("runs")

    def write_manifest(self, run_id: str, videos: Sequence[Video]) -> None:
        """Keeps the videos a run was given."""
        self.objects.write(f"runs/{run_id}/manifest.parquet", to_parquet(manifest_table(videos)))

    def run_manifest(self, run_id: str) -> list[Video]:
        """Returns the videos one run was given; none where it was killed before it wrote them."""
        try:
            return manifest_videos(gather(MANIFEST, [self.read_table(f"runs/{run_id}/manifest.parquet")]))
        except FileNotFoundError:
            return []

    def write_build(self, run_id: str, features: Mapping[str, str], is_full: bool, listed: Collection[str]) -> None:
        """Keeps what a build's feature names mean, and what its manifest says of the dataset; written after that.

        Args:
            features: recipe fingerprints by name.
            is_full: the manifest is the whole dataset: what it does not list is no longer served.
            listed: ids of the whole manifest, where this run was given a share of it; nothing: what it was given.
        """
        data: dict[str, Any] = {"features": dict(features), "manifest": "full" if is_full else "additive"}
        if listed:
            table = pa.table({"video_id": pa.array(sorted(listed), pa.string())}, schema=VIDEO_IDS)
            self.objects.write(f"runs/{run_id}/listed.parquet", to_parquet(table))
            data["is_share"] = True
        self.write_run_file(run_id, BUILD_FILE, json.dumps(data, indent=1, sort_keys=True))

    def _build_features(self, run_id: str) -> dict[str, str]:
        return cast(dict[str, str], self.build_file(run_id).get("features", {}))

    def build_file(self, run_id: str) -> dict[str, Any]:
        """Returns what `write_build` kept of a run; nothing where it was killed before that.

        Raises:
            StoreError: the file is damaged.
        """
        try:
            data = json.loads(self.read_run_file(run_id, BUILD_FILE))
            if isinstance(data["features"], dict):
                return cast(dict[str, Any], data)
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError):
            pass
        path = f"{self.url}/runs/{run_id}/{BUILD_FILE}"
        raise problem("store", path, "a build's features", "a damaged file", "restore or delete it")

    def write_task_result(self, run_id: str, result: TaskResult) -> None:
        """Keeps what a task did."""
        self.objects.write(f"runs/{run_id}/tasks/{result.key}.json", task_result_json(result).encode())

    def task_result(self, run_id: str, task_key: str) -> TaskResult | None:
        """Returns what a task of a run did; None where no try of it has told."""
        try:
            return task_result_of(self.objects.read(f"runs/{run_id}/tasks/{task_key}.json"))
        except FileNotFoundError:
            return None

    def task_results(self, run_id: str) -> list[TaskResult]:
        """Returns what the tasks of a run did, by task key."""
        paths = [f"runs/{run_id}/tasks/{name}" for name in self.objects.names(f"runs/{run_id}/tasks")]
        return [task_result_of(data) for data in self.objects.each(self.objects.read, paths)]

    def write_task_progress(self, run_id: str, progress: TaskProgress) -> None:
        """Notes how far a task is."""
        path = f"runs/{run_id}/{_PROGRESS}/{progress.key}.json"
        self.objects.write(path, json.dumps(asdict(progress), sort_keys=True).encode())

    def task_progress(self, run_id: str, keys: Collection[str]) -> list[TaskProgress]:
        """Returns what was noted of those tasks of a run."""
        folder = f"runs/{run_id}/{_PROGRESS}"
        paths = [f"{folder}/{name}" for name in self.objects.names(folder) if name.removesuffix(".json") in keys]
        return [TaskProgress(**json.loads(data)) for data in self.objects.each(self.objects.read, paths)]

    def clear_task_progress(self, run_id: str) -> None:
        """Deletes what was noted of the tasks of a run."""
        folder = f"runs/{run_id}/{_PROGRESS}"
        self.objects.each(self.objects.delete, [f"{folder}/{name}" for name in self.objects.names(folder)])

    def write_task_part(self, run_id: str, part: TaskPart) -> None:
        """Keeps which videos of a task are about to be committed before the rest of it."""
        path = f"runs/{run_id}/parts/{part.task_key}/{part.key}.json"
        self.objects.write(path, task_part_json(part).encode())

    def task_parts(self, run_id: str, task_key: str) -> list[TaskPart]:
        """Returns the parts of a task, by key, that tries of it in this run were about to commit."""
        folder = f"runs/{run_id}/parts/{task_key}"
        paths = [f"{folder}/{name}" for name in self.objects.names(folder)]
        return [task_part_of(data) for data in self.objects.each(self.objects.read, paths)]
