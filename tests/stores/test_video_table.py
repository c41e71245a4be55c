"""Which commits count, asked of a table of videos, against the same question asked of a record of each."""

import numpy as np
import pyarrow as pa
import pytest

from clipmill.schemas.records import Segment, Video
from clipmill.schemas.tables import COMMITS
from clipmill.schemas.task import clips_fingerprint, with_file_digest
from clipmill.stores.tables import manifest_table
from clipmill.stores.video_table import VideoTable, counting_rows

NUM_VIDEOS = 60
RECIPE = "recipe"


def drawn_videos(random: np.random.Generator, with_files: bool) -> list[Video]:
    """Returns videos with and without annotated segments and files beside them."""
    videos = []
    for number in range(NUM_VIDEOS):
        segments = tuple(Segment(float(start), start + 1.0) for start in range(random.integers(0, 3)))
        digests = ((RECIPE, f"digest {number}"),) if with_files and random.random() < 0.5 else ()
        videos.append(Video(f"v{number}", "/v", f"bytes {number}", segments=segments, file_digests=digests))
    return videos


def drawn_commits(random: np.random.Generator, videos: list[Video], num_rows: int) -> pa.Table:
    """Returns commits of videos, several of one, of other bytes, of clips and files that were, and of unknown ids."""
    rows = []
    for number in range(num_rows):
        video = videos[random.integers(NUM_VIDEOS)]
        files = random.choice([dict(video.file_digests).get(RECIPE, ""), "", "an old digest"])
        clips = random.choice(["", clips_fingerprint(video), "old clips"])
        rows.append(
            {
                "video_id": video.id if random.random() < 0.9 else f"unknown {number}",
                "video_fingerprint": video.fingerprint if random.random() < 0.8 else "other bytes",
                "clips_fingerprint": with_file_digest(str(clips), str(files)),
                "recipe_fingerprint": RECIPE,
                "shard": f"shard {random.integers(4)}",
                "row_start": number,
                "row_stop": number + 1,
                "clips": [],
                "passport": {"values_sha256": str(number)},
            }
        )
    return pa.Table.from_pylist(rows, schema=COMMITS)


@pytest.mark.parametrize("with_files", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_table_answers_as_the_records_do(seed: int, with_files: bool) -> None:
    random = np.random.default_rng(seed)
    videos = drawn_videos(random, with_files)
    commits = drawn_commits(random, videos, 400)
    halves = [manifest_table(videos[: NUM_VIDEOS // 2]), manifest_table(videos[NUM_VIDEOS // 2 :])]
    table = VideoTable(halves, np.arange(NUM_VIDEOS), {})
    found = counting_rows(commits, table)
    assert found.equals(counting_rows(commits, {video.id: video for video in videos}))
    ids = found.column("video_id").to_pylist()
    assert 0 < len(ids) == len(set(ids)) < 400
    places = list(zip(found.column("shard").to_pylist(), found.column("row_start").to_pylist(), strict=True))
    assert places == sorted(places)
    assert dict(table) == {video.id: video for video in videos}


def test_nothing_counts_without_videos_and_all_of_a_table_in_order_is_that_table() -> None:
    videos = drawn_videos(np.random.default_rng(0), with_files=False)
    commits = drawn_commits(np.random.default_rng(0), videos, 20)
    assert counting_rows(commits, VideoTable([], np.arange(0), {})).num_rows == 0
    table = VideoTable([manifest_table(videos)], np.arange(NUM_VIDEOS), {})
    counting = counting_rows(commits, table)
    assert counting_rows(counting, table).equals(counting)


def test_digests_of_other_runs_reach_the_records_and_decide_what_counts() -> None:
    videos = drawn_videos(np.random.default_rng(0), with_files=False)
    table = VideoTable([manifest_table(videos)], np.arange(NUM_VIDEOS), {"v3": {RECIPE: "digest"}})
    assert table["v3"].file_digests == ((RECIPE, "digest"),)
    row = drawn_commits(np.random.default_rng(0), videos, 1).to_pylist()[0]
    row |= {"video_id": "v3", "video_fingerprint": videos[3].fingerprint}
    for digest, count in (("digest", 1), ("another", 0), ("", 0)):
        commit = row | {"clips_fingerprint": with_file_digest("", digest)}
        assert counting_rows(pa.Table.from_pylist([commit], schema=COMMITS), table).num_rows == count
    assert table["v4"] == videos[4]
    with pytest.raises(KeyError):
        table["unknown"]
