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
from clipmill.stores.tables import integers, manifest_videos, numbers_of, take

COUNTING_COLUMNS = (
    "video_id",
    "video_fingerprint",
    "clips_fingerprint",
    "recipe_fingerprint",
    "shard",
    "row_start",
)
"""Of COMMITS: what decides whether a row counts."""


class VideoTable(Mapping[str, Video]):
    """The videos of `tables` (MANIFEST schema) by id; all records are made when the first one is asked for.

    Args:
        numbers: ``int64[n]``, rows of the tables, one after the other, in the order of the mapping; no two of one id.
        digests: of files beside videos, by recipe, where they are not those of the table alone.
    """

    def __init__(self, tables: Sequence[pa.Table], numbers: Ints, digests: Mapping[str, Mapping[str, str]]) -> None:
        self._tables, self._numbers, self._digests = tables, numbers, digests

    @cached_property
    def _ids(self) -> pa.ChunkedArray:
        """The ids, in the order of the mapping."""
        every = self._column("video_id")
        in_order = np.array_equal(self._numbers, np.arange(len(every)))
        return every if in_order else every.take(integers(self._numbers, pa.int64()))

    def _column(self, name: str) -> pa.ChunkedArray:
        return pa.chunked_array([table.column(name).combine_chunks() for table in self._tables], pa.string())

    @cached_property
    def _rows(self) -> dict[str, int]:
        return dict(zip(self._ids.to_pylist(), self._numbers.tolist(), strict=True))

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
        return len(self._numbers)

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._rows

    def counting(self, commits: pa.Table) -> Ints:
        """Returns ``int64[n]``, the number of each row's video, -1 where it was not made of its bytes and clips."""
        place = numbers_of(pc.index_in(commits.column("video_id"), value_set=self._ids))
        known = np.flatnonzero(place >= 0)
        rows = self._numbers[place[known]]
        same = pc.equal(
            self._column("video_fingerprint").take(integers(rows, pa.int64())),
            commits.column("video_fingerprint").take(integers(known, pa.int64())),
        )
        found = np.zeros(len(place), np.bool_)
        found[known[numbers_of(pc.indices_nonzero(same))]] = True
        # Only of rows with annotated clips, or of videos with files beside them, is the record needed.
        annotated = np.zeros(len(place), np.bool_)
        annotated[numbers_of(pc.indices_nonzero(pc.binary_length(commits.column("clips_fingerprint"))))] = True
        all_of_them = bool(self._digests) or any(map(has_files, self._tables))
        left = np.flatnonzero(found if all_of_them else found & annotated)
        if left.size:
            found[left] = _counting(take(commits, left), self)
        return np.where(found, place, -1)


def has_files(manifest: pa.Table) -> bool:
    """Returns whether any video of a manifest has files beside it."""
    return bool(manifest.column("file_digests").null_count < manifest.num_rows)


def counting_rows(commits: pa.Table, manifest: Mapping[str, Video]) -> pa.Table:
    """Returns the COMMITS rows that count, by shard and row: one per video at most.

    A row counts when its video's bytes and clips are those of `manifest`; the clips of a row without a fingerprint of
    them do not come from annotations. So must be the files beside the video, where the row's recipe reads any. Two that
    do hold the same values (a video committed by two plans that cut the work differently); the first by shard path is
    taken.
    """
    if not commits.num_rows or not len(manifest):
        return take(commits, [])
    if isinstance(manifest, VideoTable):
        videos = manifest.counting(commits)
    else:
        codes = numbers_of(commits.column("video_id").combine_chunks().dictionary_encode().indices)
        videos = np.where(_counting(commits, manifest), codes, -1)
    shards = commits.column("shard").combine_chunks().dictionary_encode()
    names = shards.dictionary.to_pylist()
    rank = np.empty(len(names), np.int64)
    rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    starts = numbers_of(commits.column("row_start"))
    numbers = np.lexsort((starts, rank[numbers_of(shards.indices)]))
    numbers = numbers[videos[numbers] >= 0]
    numbers = numbers[np.sort(np.unique(videos[numbers], return_index=True)[1])]
    # Taking rows copies them, and a catalog is often in this order.
    in_order = np.array_equal(numbers, np.arange(commits.num_rows))
    return commits if in_order else take(commits, numbers)


def _counting(commits: pa.Table, manifest: Mapping[str, Video]) -> npt.NDArray[np.bool_]:
    columns = (commits.column(name).to_pylist() for name in COUNTING_COLUMNS[:4])

    def counts(video_id: str, fingerprint: str, clips: str, recipe: str) -> bool:
        video = manifest.get(video_id)
        if video is None or video.fingerprint != fingerprint:
            return False
        digest = dict(video.file_digests).get(recipe, "") if video.file_digests else ""
        return clips in (with_file_digest("", digest), with_file_digest(clips_fingerprint(video), digest))

    return np.array([counts(*row) for row in zip(*columns, strict=True)], np.bool_)
