"""Data sets of PyTorch over stored features: against the store's own rows, for any number of workers and ranks."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from clipmill.pipelines.datasets.epoch_order import epoch_order, share
from clipmill.pipelines.datasets.items import read_items
from clipmill.pipelines.training import loop, parallel
from clipmill.schemas.config import DataConfig
from clipmill.schemas.errors import UsageError
from clipmill.schemas.inputs import Vector
from clipmill.schemas.model import validate
from clipmill.stores import FeatureStore, Store
from clipmill.torch import FeatureDataset, FeatureStream, GlobalBatches, collate
from tests.pipelines.conftest import WriteFeature, rows_of, stored_video

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "torch.md"
DIM = 3


def fill(write_feature: WriteFeature) -> None:
    """Twelve videos of three labels, of one to three clips of several rows, some of which only fill up."""
    rng = np.random.default_rng(0)
    clips, frames = {}, {}
    for number in range(12):
        video = stored_video(f"v{number:02d}", f"label {number % 3}", ["train", "test", "validation"][number % 3])
        lengths = rng.integers(1, 6, int(rng.integers(1, 4)))
        clip = np.repeat(np.arange(len(lengths)), lengths)
        mask = rng.random(len(clip)) > 0.2
        mask[0] = True
        clips[video] = rows_of(rng.normal(size=(len(clip), DIM)), clip, mask)
        frames[video] = rows_of(rng.normal(size=(len(lengths), 2)), np.arange(len(lengths)))
    write_feature("clip", clips, rule="whole")
    write_feature("frame", frames, rule="whole")


@pytest.fixture
def url(store: Store, write_feature: WriteFeature) -> str:
    fill(write_feature)
    return store.url


def drawn(loader: Any) -> list[dict[str, Any]]:
    return [{key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
            for batch in loader]  # fmt: skip


def same(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    assert len(left) == len(right)
    for mine, other in zip(left, right, strict=True):
        assert mine.keys() == other.keys()
        for key, value in mine.items():
            assert torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]


# --- items ----------------------------------------------------------------------------------------


def test_clips_and_videos_are_the_stores_rows(url: str) -> None:
    feature = FeatureStore(url)["clip"]
    for kind in ("clip", "video"):
        dataset = FeatureDataset(url, "clip", kind)  # type: ignore[arg-type]
        owners = (
            [clip.key for clip in feature.clips()] if kind == "clip" else [(name, -1) for name in feature.video_ids]
        )
        assert len(dataset) == len(owners)
        for item, (video_id, clip) in zip((dataset[number] for number in range(len(dataset))), owners, strict=True):
            rows = feature.clip_rows(video_id, clip) if kind == "clip" else feature[video_id]
            assert (item["video_id"], item["clip"]) == (video_id, clip)
            np.testing.assert_array_equal(item["values"].numpy(), np.where(rows.mask[:, None], rows.values, 0))
            np.testing.assert_array_equal(item["mask"].numpy(), rows.mask)
            np.testing.assert_array_equal(item["start_seconds"].numpy(), rows.start_seconds)
            np.testing.assert_array_equal(item["stop_seconds"].numpy(), rows.stop_seconds)
            assert dataset.label_names[item["label"]] == f"label {int(video_id[1:]) % 3}"


def test_rows_are_those_whose_mask_is_set(url: str) -> None:
    feature, dataset = FeatureStore(url)["clip"], FeatureDataset(url, "clip", "row")
    expected = np.concatenate([feature[name].values[feature[name].mask] for name in feature.video_ids])
    items = [dataset[number] for number in range(len(dataset))]
    np.testing.assert_array_equal(torch.stack([item["values"] for item in items]).numpy(), expected)
    assert items[0]["values"].shape == (DIM,)
    assert all(item["mask"].item() for item in items)
    assert collate(items[:5])["values"].shape == (5, DIM)
    assert collate(items[:5])["start_seconds"].shape == (5,)
    np.testing.assert_array_equal(dataset[-1]["values"], items[-1]["values"])
    with pytest.raises(IndexError, match=rf"got {len(items)} to {len(items)}"):
        dataset[len(items)]


@pytest.mark.parametrize("tail", ["pad", "drop"])
@pytest.mark.parametrize(("rows", "step"), [(2, None), (3, 1), (4, 2), (2, 3), (100, None)])
def test_windows_lie_within_clips_and_their_tails_are_filled_up_or_dropped(
    rows: int, step: int | None, tail: Any, url: str
) -> None:
    feature, expected = FeatureStore(url)["clip"], []
    for clip in feature.clips():
        values = feature.clip_rows(*clip.key)
        start = 0
        while start == 0 or start + rows - (step or rows) < len(values):  # some row is not in the window before
            part = values.slice(start, start + rows)
            if len(part) == rows or (tail == "pad" and len(part)):
                filled = np.zeros((rows, DIM), np.float32)
                filled[: len(part)] = np.where(part.mask[:, None], part.values, 0)
                expected.append((clip.key, filled, np.pad(part.mask, (0, rows - len(part)))))
            start += step or rows
    if not expected:
        with pytest.raises(UsageError, match=f"at least one window, got none of {rows} rows"):
            FeatureDataset(url, "clip", "window", window_rows=rows, step_rows=step, tail=tail)
        return
    dataset = FeatureDataset(url, "clip", "window", window_rows=rows, step_rows=step, tail=tail)
    assert len(dataset) == len(expected)
    for item, (key, values, mask) in zip((dataset[n] for n in range(len(dataset))), expected, strict=True):
        assert (item["video_id"], item["clip"]) == key
        np.testing.assert_array_equal(item["values"].numpy(), values)
        np.testing.assert_array_equal(item["mask"].numpy(), mask)


def test_a_batch_is_filled_up_to_its_longest_item(url: str) -> None:
    dataset = FeatureDataset(url, "clip")
    items = [dataset[number] for number in range(7)]
    batch = collate(items)
    longest = max(len(item["values"]) for item in items)
    assert batch["values"].shape == (7, longest, DIM)
    for number, item in enumerate(items):
        length = len(item["values"])
        assert torch.equal(batch["values"][number, :length], item["values"])
        assert torch.equal(batch["mask"][number, :length], item["mask"])
        assert not batch["mask"][number, length:].any()
        assert not batch["values"][number, length:].any()
    assert batch["label"].dtype == batch["clip"].dtype == torch.int64
    assert batch["video_id"] == [item["video_id"] for item in items]


@pytest.mark.parametrize(
    "arguments",
    [{"item": "row"}, {"item": "video"}, {"item": "window", "window_rows": 3}, {"features": ["frame", "clip"]}],
)
def test_a_batch_made_at_once_is_the_collated_items(arguments: dict[str, Any], url: str) -> None:
    dataset = FeatureDataset(url, **{"features": "clip"} | arguments)
    indices = [3, 0, -1, 3]
    made, collated = dataset.batch(indices), collate([dataset[number] for number in indices])
    if "features" in made:
        for name in made["features"]:
            same([made["features"][name]], [collated["features"][name]])
        made, collated = ({key: batch[key] for key in ("label", "video_id", "clip")} for batch in (made, collated))
    same([made], [collated])


def test_several_features_of_one_clip_come_together(url: str) -> None:
    pairs, store = FeatureDataset(url, ["frame", "clip"]), FeatureStore(url)
    item = pairs[4]
    for name in ("frame", "clip"):
        rows = store[name].clip_rows(item["video_id"], item["clip"])
        np.testing.assert_array_equal(
            item["features"][name]["values"].numpy(), np.where(rows.mask[:, None], rows.values, 0)
        )
    batch = collate([pairs[0], pairs[4]])
    assert batch["features"]["frame"]["values"].shape == (2, 1, 2)
    assert batch["video_id"] == [pairs[0]["video_id"], item["video_id"]]
    assert pairs.dims() == {"frame": 2, "clip": DIM}


def test_a_part_is_the_split_of_a_training_run(url: str) -> None:
    split = {"from": "random", "test_fraction": 0.25, "validation_fraction": 0.25, "seed": 3}
    config = {"store": url, "image": "frame", "video": "clip", "split": split}
    items = read_items(validate(DataConfig, config, "test"), {"image": Vector("first"), "video": Vector("mean")})
    for part in ("train", "validation", "test"):
        dataset = FeatureDataset(url, ["frame", "clip"], part=part, split=split)
        wanted = set(items.of(part).clip_ids)
        found = {f"{dataset[n]['video_id']}#{dataset[n]['clip']}" for n in range(len(dataset))}
        # A clip none of whose rows counts is no item of a training, but is here one whose mask is all False.
        assert wanted <= found
        assert {name.split("#")[0] for name in found} == {name.split("#")[0] for name in wanted}
    by_manifest = FeatureDataset(url, "clip", "video", part="test")
    assert {by_manifest[n]["video_id"] for n in range(len(by_manifest))} == {f"v{n:02d}" for n in range(1, 12, 3)}
    assert by_manifest.label_names == ("label 0", "label 1", "label 2"), "of all items, so that parts agree"


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_ranks_share_the_same_global_batches_which_are_those_of_clipmill_train(num_ranks: int) -> None:
    for epoch in (0, 3):
        samplers = [GlobalBatches(23, 5, seed=7, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
        for sampler in samplers:
            sampler.set_epoch(epoch)
        together = [sum(shares, []) for shares in zip(*samplers, strict=True)]
        order = torch.randperm(23, generator=loop._generator(7, epoch, -1)).tolist()
        expected = [order[start : start + 5] for start in range(0, 23, 5)]
        # Three items are left for the last batch: too few for four ranks.
        assert together == (expected if num_ranks < 4 else expected[:-1])
        assert all(len(sampler) == len(together) for sampler in samplers)
    assert [share(11, rank, 4) for rank in range(4)] == [parallel.share(11, rank, 4) for rank in range(4)]
    assert sorted(epoch_order(23, 7, 1).tolist()) == list(range(23))


def test_batches_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 4, one item for each rank, got 3"):
        GlobalBatches(20, 3, rank=0, num_ranks=4)
    with pytest.raises(UsageError, match="rank and num_ranks, or neither"):
        GlobalBatches(20, 5, rank=0)
    with pytest.raises(UsageError, match="expected 0 to 1, got 2"):
        GlobalBatches(20, 5, rank=2, num_ranks=2)
    with pytest.raises(UsageError, match="take drop_last=False"):
        GlobalBatches(4, 5, drop_last=True)
    assert list(GlobalBatches(7, 3, shuffle=False, drop_last=True)) == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("workers", "start"), [(3, "fork"), (1, "spawn")])
def test_workers_change_neither_order_nor_values(workers: int, start: str, url: str) -> None:
    dataset = FeatureDataset(url, "clip")
    dataset[0]  # the parent has opened the storage before it forks
    stream = FeatureStream(dataset, 4, seed=5)
    batches = GlobalBatches(len(dataset), 4, seed=5)
    plain = drawn(DataLoader(dataset, batch_sampler=batches, collate_fn=collate))
    same(drawn(stream), plain)
    options: Any = {"num_workers": workers, "multiprocessing_context": start}
    same(drawn(DataLoader(dataset, batch_sampler=batches, collate_fn=collate, **options)), plain)
    loader = DataLoader(stream, batch_size=None, persistent_workers=True, **options)
    assert len(loader) == len(plain)
    same(drawn(loader), plain)
    for again in (stream, batches):
        again.set_epoch(1)
    second = drawn(DataLoader(dataset, batch_sampler=batches, collate_fn=collate))
    assert [batch["video_id"] for batch in second] != [batch["video_id"] for batch in plain]
    same(drawn(loader), second)


def test_ranks_of_streams_make_up_the_whole_of_each_batch(url: str) -> None:
    dataset = FeatureDataset(url, "clip")
    whole = [batch["video_id"] for batch in FeatureStream(dataset, 6, seed=1)]
    for num_ranks in (2, 4):
        streams = [FeatureStream(dataset, 6, seed=1, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
        parts = zip(*([batch["video_id"] for batch in stream] for stream in streams), strict=True)
        together = [sum(part, []) for part in parts]
        assert together == whole[: len(together)]
        assert len(whole) - len(together) <= 1


@pytest.fixture
def in_memory(write_feature: WriteFeature, store: Store) -> Iterator[str]:
    """The same store on a file system in memory."""
    fill(write_feature)
    target = "memory://torch-features"
    filesystem, root = fsspec.core.url_to_fs(target)
    for item in store.objects.find():
        filesystem.pipe_file(f"{root}/{item.path}", store.objects.read(item.path))
    yield target
    filesystem.rm(root, recursive=True)


def test_a_store_that_is_no_folder_serves_workers_too(in_memory: str, url: str) -> None:
    local = drawn(FeatureStream(FeatureDataset(url, "clip"), 4))
    remote = FeatureStream(FeatureDataset(in_memory, "clip"), 4)
    same(drawn(remote), local)
    same(drawn(DataLoader(remote, batch_size=None, num_workers=2, multiprocessing_context="fork")), local)


def test_rows_outside_a_batch_are_not_read(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = FeatureDataset(url, "clip", "video")
    read: list[int] = []
    take = type(dataset.items.features["clip"]).take
    monkeypatch.setattr("clipmill.stores.Feature.take", lambda self, rows: read.append(len(rows)) or take(self, rows))
    items = dataset.__getitems__([3, 0, 3])
    assert read == [sum(len(item["values"]) for item in items)], "one read for the batch, of its rows alone"
    assert items[0]["video_id"] == items[2]["video_id"] != items[1]["video_id"]


# --- refusals and the page ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"item": "rows"}, "features item: expected row, clip, video or window, got 'rows'"),
        ({"item": "window"}, "features window_rows: expected the rows of a window, got None"),
        ({"item": "clip", "window_rows": 4}, "expected none for item clip, got 4"),
        ({"item": "window", "window_rows": 0}, "expected at least 1, got 0"),
        ({"features": ["clip", "frame"], "item": "row"}, "features row: expected one, got 2"),
        ({"part": "dev"}, "features part: expected train, validation, test, got 'dev'"),
        ({"part": "train", "split": {"from": "none"}}, "split none: expected items to train, got none"),
    ],
)
def test_what_does_not_fit_is_one_line(arguments: dict[str, Any], message: str, url: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        FeatureDataset(url, **{"features": "clip"} | arguments)
    assert "\n" not in str(caught.value)


def test_the_code_of_the_page_runs(url: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 5
    code = f"import torch\nurl = {url!r}\n" + "\n".join(blocks) + "\nprint(len(together))\n"
    path = tmp_path / "page.py"
    path.write_text(code)
    done = subprocess.run(
        [sys.executable, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1
    assert "Warning" not in done.stderr, done.stderr
