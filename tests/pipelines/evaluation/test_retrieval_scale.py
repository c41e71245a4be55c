"""A gallery in a store: what is read is what was written, and memory does not grow with it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench_retrieval_scale import NUM_LABELS, ROWS_PER_VIDEO, write
from clipmill.pipelines.evaluation.retrieval.evaluate import Queries, evaluate_retrieval
from clipmill.pipelines.evaluation.retrieval.gallery import gallery_of_rows
from clipmill.pipelines.evaluation.retrieval.scorers import Cosine
from clipmill.pipelines.evaluation.tasks.result import task_results_json
from clipmill.pipelines.evaluation.tasks.retrieval.score import retrieval_score
from clipmill.schemas.errors import UsageError
from clipmill.stores import FeatureStore

ROOT = Path(__file__).resolve().parents[3]


def test_every_row_of_a_feature_is_an_item_with_its_videos_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks smaller than a shard, as a large store has them.
    monkeypatch.setattr("clipmill.stores.dask_rows._BLOCK_BYTES", 700 * 8 * 4)
    url = str(tmp_path / "store")
    write(url, 2300, 8, 20)
    feature = FeatureStore(url)["c3d"]
    gallery = gallery_of_rows(feature)
    assert gallery.vectors["video"].numblocks == (4, 1)
    assert len(gallery.ids) == 2300
    assert gallery.ids[ROWS_PER_VIDEO + 3] == "v000001#3"
    assert gallery.labels[ROWS_PER_VIDEO + 3] == "001"
    vectors = np.concatenate([feature[video].values for video in feature.index().column("video_id").to_pylist()])
    labels = [f"{n % NUM_LABELS:03d}" for n in range(20)]
    queries = Queries([f"q{n}" for n in range(20)], labels, {"image": np.load(f"{url}.queries.npy")})
    spaces = {"cosine": Cosine("image", "video")}
    held = type(gallery)(gallery.ids, gallery.labels, {"video": vectors})
    lazy, whole = (evaluate_retrieval(queries, side, spaces, (5, 50)) for side in (gallery, held))
    assert task_results_json(retrieval_score(lazy)) == task_results_json(retrieval_score(whole))
    assert lazy.space("cosine").metrics["map@50"] > 0


def test_a_feature_without_rows_has_no_gallery(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    write(url, 3, 8, 1)
    for commit in (tmp_path / "store" / "commits").rglob("*.parquet"):
        commit.unlink()
    with pytest.raises(UsageError, match="feature c3d: expected rows, got none"):
        gallery_of_rows(FeatureStore(url)["c3d-" + next((tmp_path / "store" / "recipes").iterdir()).stem[-8:]])


@pytest.mark.slow
def test_memory_grows_far_less_than_the_gallery(tmp_path: Path) -> None:
    peaks = []
    for rows in (50_000, 250_000):
        url = str(tmp_path / str(rows))
        for step in ("write", "search"):
            command = [sys.executable, "-m", "benchmarks.bench_retrieval_scale", "--step", step, "--store", url]
            command += ["--rows", str(rows), "--queries", "200"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment)
        peaks.append(json.loads(done.stdout)["peak_memory_mib"])
    # 200,000 rows are 391 MiB of vectors. What does grow are ids and labels: Python texts.
    assert peaks[1] - peaks[0] < 391 / 3
    # A million rows would have to fit 2 GiB.
    assert peaks[0] + (peaks[1] - peaks[0]) / 200_000 * 950_000 < 2048
