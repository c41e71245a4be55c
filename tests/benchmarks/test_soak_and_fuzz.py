"""The short form of the soak and of the fuzzing, and that what they count is found where it is there."""

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fuzz, soak
from clipmill.schemas.errors import EXIT_QUARANTINED
from clipmill.schemas.rows import concatenate
from clipmill.stores import FeatureStore, Store
from clipmill.stores.shard_formats import write_shard
from clipmill.stores.shards import Span


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A folder with videos and the store of an undisturbed build (`clean`), and how many seconds that took."""
    root = tmp_path_factory.mktemp("soak")
    videos = soak.lay_out(root, 6)
    config = soak.write_config(root / "clean.yaml", videos, str(root / "clean"), soak.ENGINES["local"])
    start, tally = time.monotonic(), soak.Tally("clean")
    assert soak.run_once(config, os.environ, random.Random(0), None, tally) == EXIT_QUARANTINED
    assert not tally.found.total()
    return root, time.monotonic() - start


# tests/conformance/test_same_bits.py and tests/pipelines/features/test_fatal_videos.py kill builds in every suite.
@pytest.mark.slow
def test_builds_killed_at_random_instants_end_as_if_they_had_not_been(
    built: tuple[Path, float], tmp_path: Path
) -> None:
    root, length = built
    tally = soak.soak("local", tmp_path, root / "videos", str(root / "clean"), 2, 120, 1, length)
    assert tally.found.total() == 0, tally.notes
    assert tally.num_kills >= 1
    assert tally.num_stores >= 1


def _lose(store: Store) -> None:
    store.withdraw_commit(store.commit_paths()[0])


def _commit_twice(store: Store) -> None:
    path = store.commit_paths()[0]
    store.objects.write(path.replace(".parquet", "0.parquet"), store.objects.read(path))


def _tear(store: Store) -> None:
    shard = store.objects.find("shards")[-1]
    store.objects.write(shard.path, store.objects.read(shard.path)[: shard.num_bytes // 2])


def _leave(store: Store) -> None:
    store.objects.write("commits.old/left.parquet", b"left")


def _change(store: Store) -> None:
    """Writes other values to a shard, as a build with another network would have."""
    feature = FeatureStore(store.url)["clip"]
    path = feature.index().column("shard")[0].as_py()
    rows = [row for row in feature.index().to_pylist() if row["shard"] == path]
    spans: list[Span] = [(row["video_id"], row["row_start"], row["row_stop"]) for row in rows]
    (first, *others) = [feature.stored(video_id) for video_id, _, _ in spans]
    changed = concatenate([first, *others])
    np.multiply(changed.values, np.float32(1.01), out=changed.values)
    write_shard(store.objects, path, changed, spans)


@pytest.mark.parametrize(
    ("damage", "kind"),
    [(_lose, "lost"), (_commit_twice, "twice"), (_tear, "torn"), (_leave, "orphans"), (_change, "different")],
)
def test_what_is_wrong_is_counted(
    built: tuple[Path, float], tmp_path: Path, damage: Callable[[Store], None], kind: str
) -> None:
    shutil.copytree(built[0] / "clean", tmp_path / "store")
    assert not sum(soak.check(str(tmp_path / "store"), str(built[0] / "clean"))["found"].values())
    damage(Store.open(str(tmp_path / "store")))
    assert soak.check(str(tmp_path / "store"), str(built[0] / "clean"))["found"][kind] > 0


def test_rounding_is_counted_apart() -> None:
    wanted = np.random.default_rng(0).standard_normal((3, 8), np.float32)
    assert soak.compare(wanted.copy(), wanted) == "same"
    assert soak.compare(np.nextafter(wanted, np.float32(9)), wanted) == "rounding"
    assert soak.compare(wanted * np.float32(1.001), wanted) == soak.compare(wanted[:2], wanted) == "different"


@pytest.mark.slow
def test_damaged_files_have_rows_or_a_reason_in_time(tmp_path: Path) -> None:
    tally = fuzz.fuzz(tmp_path, None, seed=3, seconds=0, batch=10)
    assert tally.found.total() == 0, tally.notes
    assert tally.num_files == 10
    assert tally.num_rows
    assert tally.reasons


def test_damages_are_the_same_for_the_same_seed() -> None:
    sources = [(".mp4", bytes(range(256)) * 8), (".mkv", bytes(1000))]
    first, second = ([fuzz.damaged(sources, rng) for _ in range(50)] for rng in (random.Random(1), random.Random(1)))
    assert first == second
    assert len({data for _, data, _ in first}) > 40
