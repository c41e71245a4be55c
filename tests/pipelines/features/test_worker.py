"""One shard task on a worker: every recipe of it has its own clips."""

import itertools
from collections.abc import Set
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.squeezenet.network import SqueezeNet
from clipmill.pipelines.decode.probe import content_fingerprint
from clipmill.pipelines.features.worker import Worker
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.recipe import ClipRule, Recipe
from clipmill.schemas.records import Segment, Video
from clipmill.schemas.task import ShardTask, WorkerSpec
from clipmill.stores.reader import FeatureStore
from clipmill.stores.store import Store
from tests.encoded_videos import encode_video

RULES: dict[str, dict[str, Any]] = {
    "whole": {"from": "whole"},
    "seconds": {"from": "windows", "length_seconds": 1},
    "annotated": {"from": "annotations"},
}
SPANS = {
    "whole": [(0.0, 4.0)],
    "seconds": [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0)],
    "annotated": [(0.5, 1.5), (1.0, 3.5)],
}
"""What the rules cut of a video of 4 seconds with those two segments."""


def _recipe(name: str) -> Recipe:
    written = {"extractor": "squeezenet", "sampling": {"fps": 2}, "weights": {"random": 0}, "pooling": "mean"}
    return resolve_recipe(
        name, FeatureConfig.model_validate(written), ClipRule.model_validate(RULES[name]), DecodeConfig()
    )


def _run(url: str, video: Video, names: tuple[str, ...]) -> FeatureStore:
    store = Store.create(url, "parquet", "d")
    store.write_manifest("run", [video])
    task = ShardTask((video,), tuple(_recipe(name) for name in names))
    with Worker(WorkerSpec(url, "parquet", "run", device="cpu", num_threads=1)) as worker:
        result = worker.run(task)
    assert not result.quarantined
    return FeatureStore(url)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Video:
    path = encode_video(tmp_path_factory.mktemp("videos") / "v.mp4", num_frames=40, fps=10)
    segments = tuple(Segment(start, stop) for start, stop in SPANS["annotated"])
    return Video("v", str(path), content_fingerprint(str(path)), path.stat().st_size, segments=segments)


@pytest.fixture(scope="module")
def alone(video: Video, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The values of each recipe from a task of its own."""
    root = tmp_path_factory.mktemp("alone")
    return {name: _run(str(root / name), video, (name,))[name]["v"].values for name in RULES}


@pytest.mark.parametrize(
    "names",
    # Two in which each rule comes first or last of those that are left.
    [
        pytest.param(names, marks=pytest.mark.slow if 0 < number < 5 else ())
        for number, names in enumerate(itertools.permutations(RULES))
    ],
    ids="-".join,
)
def test_recipes_of_one_task_keep_their_own_clips(
    names: tuple[str, ...], video: Video, alone: dict[str, np.ndarray], tmp_path: Path
) -> None:
    store = _run(str(tmp_path / "store"), video, names)
    for name in names:
        rows = store[name]["v"]
        assert list(zip(rows.start_seconds, rows.stop_seconds, strict=True)) == SPANS[name]
        assert [(clip.start_seconds, clip.stop_seconds) for clip in store[name].clips()] == SPANS[name]
        np.testing.assert_array_equal(rows.clip, np.arange(len(SPANS[name])))
        # The same windows in other batches: the last bits of values of about 100.
        np.testing.assert_allclose(rows.values, alone[name], atol=1e-3)


def test_recipes_that_differ_in_their_layer_share_passes_and_have_the_rows_of_their_own(
    video: Video, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {"extractor": "squeezenet", "sampling": {"fps": 2}, "weights": {"random": 0}}
    recipes = [
        resolve_recipe(layer, FeatureConfig.model_validate(written | {"layer": layer}), ClipRule(), DecodeConfig())
        for layer in ("features", "logits")
    ]
    num_passes = 0
    layers = SqueezeNet.layers

    def counted(network: SqueezeNet, images: Tensor, wanted: Set[str]) -> dict[str, Tensor]:
        nonlocal num_passes
        num_passes += 1
        return layers(network, images, wanted)

    monkeypatch.setattr(SqueezeNet, "layers", counted)
    digests = []
    for name, tasks in (("together", [recipes]), ("apart", [[recipe] for recipe in recipes])):
        store = Store.create(str(tmp_path / name), "parquet", "d")
        store.write_manifest("run", [video])
        with Worker(WorkerSpec(store.url, "parquet", "run", device="cpu", num_threads=1, batch_windows=4)) as worker:
            for task in tasks:
                assert worker.run(ShardTask((video,), tuple(task))).num_rows == {item.key: 8 for item in task}
        tables = [store.commits(recipe.fingerprint).to_pylist() for recipe in recipes]
        digests.append([row["passport"]["values_sha256"] for table in tables for row in table])
    assert digests[0] == digests[1]
    # Eight windows in batches of four: two passes for both, then two for each.
    assert num_passes == 2 + 4
