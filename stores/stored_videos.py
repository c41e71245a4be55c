"""The videos a store serves: the newest entry of each that `clipmill.stores.membership` says is served."""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.schemas.arrays import Ints
from clipmill.schemas.tables import MANIFEST, REMOVED, VIDEO_IDS
from clipmill.schemas.task import is_imported_fingerprint
from clipmill.stores.membership import Membership, RunVideos, membership
from clipmill.stores.stored_runs import StoredRuns
from clipmill.stores.tables import gather, manifest_videos, numbers_of, take, to_parquet
from clipmill.stores.video_table import VideoTable, has_files

_RUNS_AT_A_TIME = 4
"""ours: so many manifests of runs are in memory at a time."""


class StoredVideos(StoredRuns):
    """Which videos a store has, of all its runs and removals."""

    def manifest(self) -> VideoTable:
        """Returns the videos of the store, by id: those of `every_video` that its membership serves."""
        found = self._newest_full_manifest()
        return found if found is not None else self._newest(self.membership().served)

    def _newest_full_manifest(self) -> VideoTable | None:
        """Returns what `manifest` does where the newest run's manifest alone says which videos are served.

        That is how most stores are: nothing was removed or imported, and the newest manifest is full. None where more
        is to be looked at: by `membership`, which takes a string of Python's for each video of each run.
        """
        runs = self.runs()
        if not runs or self.objects.names("removed"):
            return None
        build = self.build_file(runs[-1])
        if build.get("is_share") or (build.get("manifest") != "full" and len(runs) > 1):
            return None
        # Oldest first, as ids are in the order in which runs first had them.
        order: list[Ints] = []
        newest = next((table for _, table in self._run_tables(runs[-1:], None)), None)
        if newest is None or not newest.num_rows:
            return None
        ids = newest.column("video_id")
        first = numbers_of(pc.index_in(ids, value_set=ids))
        if has_files(newest) or not np.array_equal(first, np.arange(len(ids))):
            return None
        left = np.ones(len(ids), np.bool_)
        for _, table in self._run_tables(runs[:-1], ("video_id", "video_fingerprint", "file_digests")):
            if not table.num_rows:
                continue
            numbers = numbers_of(pc.index_in(table.column("video_id"), value_set=ids))
            unlisted = take(table, np.flatnonzero(numbers < 0))
            names, fingerprints = (unlisted.column(name).to_pylist() for name in unlisted.column_names[:2])
            if has_files(table) or any(map(is_imported_fingerprint, names, fingerprints)):
                return None
            fresh = numbers[(numbers >= 0) & left[numbers]]
            order.append(fresh[np.sort(np.unique(fresh, return_index=True)[1])])
            left[fresh] = False
        order.append(np.flatnonzero(left))
        return VideoTable([newest], np.concatenate(order), {})

    def every_video(self) -> VideoTable:
        """Returns every video any run was given, by id; of several entries the newest run's counts.

        Removed ones are not among them, but those the newest full manifest does not list are.
        """
        held = self.membership()
        return self._newest(held.served | held.unlisted)

    def membership(self) -> Membership:
        """Returns which videos the store serves, and which no longer: see `clipmill.stores.membership`."""
        runs = self.runs()
        full = self._newest_full(runs)
        return membership(self._listings(runs, full), self._removals(), full[0] if full is not None else "")

    def _listings(self, runs: Sequence[str], full: tuple[str, Collection[str]] | None) -> Iterator[RunVideos]:
        """Yields what each run was given, a few in memory at a time: each may be a million videos."""
        before: pa.Table | None = None
        fingerprints: dict[str, str] = {}
        for run_id, table in self._run_tables(runs, ("video_id", "video_fingerprint")):
            # From night to night most manifests say the same.
            if before is None or not table.equals(before):
                fingerprints = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
            before = table
            listed = (full[1] or fingerprints) if full is not None and run_id == full[0] else None
            yield RunVideos(run_id, fingerprints, listed)

    def _run_tables(self, runs: Sequence[str], columns: Sequence[str] | None) -> Iterator[tuple[str, pa.Table]]:
        """Yields each run's manifest (MANIFEST schema, or `columns` of it); runs without one are left out."""
        schema = MANIFEST if columns is None else pa.schema([MANIFEST.field(name) for name in columns])

        def read(run_id: str) -> pa.Table | None:
            try:
                return gather(schema, [self.read_table(f"runs/{run_id}/manifest.parquet", columns)])
            except FileNotFoundError:
                return None

        for start in range(0, len(runs), _RUNS_AT_A_TIME):
            part = runs[start : start + _RUNS_AT_A_TIME]
            for run_id, table in zip(part, self.objects.each(read, part), strict=True):
                if table is not None:
                    yield run_id, table

    def _newest(self, wanted: Mapping[str, str]) -> VideoTable:
        """Returns the newest entry of each video that is wanted, in the order of `wanted`.

        The digests of files beside it are the newest for each recipe: a run of other recipes reads none of them.
        """
        tables: list[pa.Table] = []
        rows: dict[str, int] = {}
        digests: dict[str, dict[str, str]] = {}
        for _, table in self._run_tables(self.runs()[::-1], None):
            ids = table.column("video_id").to_pylist()
            # Of a video that a run lists twice the last entry counts.
            last = {name: row for row, name in enumerate(ids) if name in wanted}
            fresh = {name: row for name, row in last.items() if name not in rows}
            if fresh:
                before = sum(found.num_rows for found in tables)
                rows.update((name, before + number) for number, name in enumerate(fresh))
                tables.append(table if len(fresh) == len(ids) else take(table, list(fresh.values())))
            if has_files(table):
                for video in manifest_videos(take(table, list(last.values()))):
                    digests[video.id] = dict(video.file_digests) | digests.get(video.id, {})
        numbers = np.array([rows[name] for name in wanted if name in rows], np.int64)
        return VideoTable(tables, numbers, digests)

    def _newest_full(self, runs: Sequence[str]) -> tuple[str, Collection[str]] | None:
        """Returns the newest run whose manifest is full, and the ids of that, where they are not those it was given."""
        for run_id in reversed(runs):
            build = self.build_file(run_id)
            if build.get("manifest") == "full":
                if not build.get("is_share"):
                    return run_id, ()
                table = gather(VIDEO_IDS, [self.read_table(f"runs/{run_id}/listed.parquet")])
                return run_id, frozenset(table.column("video_id").to_pylist())
        return None

    def _removals(self) -> dict[str, list[str]]:
        names = self.objects.names("removed")
        tables = self.read_tables([f"removed/{name}" for name in names])
        return {
            name.removesuffix(".parquet"): gather(REMOVED, [table]).column("video_id").to_pylist()
            for name, table in zip(names, tables, strict=True)
        }

    def removed_bytes(self) -> set[tuple[str, str]]:
        """Returns the (video id, video fingerprint) of all that was ever removed, whether or not it came back."""
        table = gather(REMOVED, self.read_tables([f"removed/{name}" for name in self.objects.names("removed")]))
        return set(zip(*(table.column(name).to_pylist() for name in REMOVED.names), strict=True))

    def write_removal(self, run_id: str, fingerprints: Mapping[str, str]) -> None:
        """Takes videos out of the store, by id, at once and all together: the only write it takes.

        Their rows stay where they are until `clipmill clean`; nothing of other videos changes.
        """
        rows = [{"video_id": name, "video_fingerprint": value} for name, value in sorted(fingerprints.items())]
        self.objects.write(f"removed/{run_id}.parquet", to_parquet(pa.Table.from_pylist(rows, schema=REMOVED)))
