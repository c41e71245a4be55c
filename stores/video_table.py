"""The videos of manifests as a table, and the commits that count beside them: records are made when they are asked for.

A store is opened to read rows, and a record for each of its videos would be nearly all the time that takes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.schemas.arrays import Ints
from clipmill.schemas.records import Video
from clipmill.schemas.task import clips_fingerprint, with_file_digest
from clipmill.stores.tables import integers, manifest_videos, take

COUNTING_COLUMNS = (
    "video_id",
    "video_fingerprint",
    "clips_fingerprint",
    "recipe_fingerprint",
    "shard",
    "row_start",
)
"""Of COMMITS: what decides whether a row counts."""
_ORDER = ["shard", "row_start"]


class VideoTable(Mapping[str, Video]):
    """The videos of `tables` (MANIFEST schema) by id; all records are made when the first one is asked for.

    Args:
        rows: of the tables, one after the other, by id, in the order of the mapping.
        digests: of files beside videos, by recipe, where they are not those of the table alone.
    """

    def __init__(
        self, tables: Sequence[pa.Table], rows: Mapping[str, int], digests: Mapping[str, Mapping[str, str]]
    ) -> None:
        self._tables, self._rows, self._digests = tables, rows, digests

    @cached_property
    def _videos(self) -> dict[str, Video]:
        every = [video for table in self._tables for video in manifest_videos(table)]
        found = {name: every[row] for name, row in self._rows.items()}
        for name, known in self._digests.items():
            found[name] = replace(found[name], file_digests=tuple(known.items()))
        return found

    def __getitem__(self, video_id: str) -> Video:
        return self._videos[video_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._rows

    def counting(self, commits: pa.Table) -> npt.NDArray[np.bool_]:
        """Returns ``bool[n]``, whether each row of `commits` was made of the bytes and clips of its video."""
        rows = np.array([self._rows.get(name, -1) for name in commits.column("video_id").to_pylist()], np.int64)
        known = np.flatnonzero(rows >= 0)
        ours = pa.chunked_array([table.column("video_fingerprint").combine_chunks() for table in self._tables])
        same = pc.equal(
            ours.take(integers(rows[known], pa.int64())),
            commits.column("video_fingerprint").take(integers(known, pa.int64())),
        )
        found = np.zeros(len(rows), np.bool_)
        found[known[_positions(pc.indices_nonzero(same))]] = True
        # Only of rows with annotated clips, or of videos with files beside them, is the record needed.
        plain = np.array([text == "" for text in commits.column("clips_fingerprint").to_pylist()], np.bool_)
        has_files = bool(self._digests) or any(
            table.column("file_digests").null_count < table.num_rows for table in self._tables
        )
        left = np.flatnonzero(found if has_files else found & ~plain)
        if left.size:
            found[left] = _counting(take(commits, left.tolist()), self)
        return found


def counting_rows(commits: pa.Table, manifest: Mapping[str, Video]) -> pa.Table:
    """Returns the COMMITS rows that count, by shard and row: one per video at most.

    A row counts when its video's bytes and clips are those of `manifest`; the clips of a row without a fingerprint of
    them do not come from annotations. So must be the files beside the video, where the row's recipe reads any. Two that
    do hold the same values (a video committed by two plans that cut the work differently); the first by shard path is
    taken.
    """
    if not commits.num_rows or not len(manifest):
        return take(commits, [])
    counts = manifest.counting(commits) if isinstance(manifest, VideoTable) else _counting(commits, manifest)
    order = pc.sort_indices(
        commits.select(["shard", "row_start"]), [("shard", "ascending"), ("row_start", "ascending")]
    )
    numbers = _positions(order)
    numbers = numbers[counts[numbers]]
    seen: set[str] = set()
    kept = []
    ids = commits.select(["video_id"])
    for number, name in zip(numbers.tolist(), take(ids, numbers).column(0).to_pylist(), strict=True):
        if name not in seen:
            seen.add(name)
            kept.append(number)
    # Taking rows copies them, and a catalog is often in this order.
    return commits if kept == list(range(commits.num_rows)) else take(commits, kept)


def _counting(commits: pa.Table, manifest: Mapping[str, Video]) -> npt.NDArray[np.bool_]:
    columns = (commits.column(name).to_pylist() for name in COUNTING_COLUMNS[:4])

    def counts(video_id: str, fingerprint: str, clips: str, recipe: str) -> bool:
        video = manifest.get(video_id)
        if video is None or video.fingerprint != fingerprint:
            return False
        digest = dict(video.file_digests).get(recipe, "") if video.file_digests else ""
        return clips in (with_file_digest("", digest), with_file_digest(clips_fingerprint(video), digest))

    return np.array([counts(*row) for row in zip(*columns, strict=True)], np.bool_)


def _positions(found: pa.Array) -> Ints:
    """Returns what Arrow gives as ``uint64[n]``, in a way that does not import pandas."""
    numbers = np.frombuffer(found.buffers()[1], np.uint64, len(found), found.offset * 8)
    return numbers.astype(np.int64)
