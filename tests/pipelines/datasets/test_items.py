"""Pairs read from a real store: which rows, which clips, which side; one clear line where there are none."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clipmill.models.map_ivr import REGISTRATION
from clipmill.pipelines.datasets.items import Items, read_items
from clipmill.pipelines.datasets.split import manifest_parts, random_parts
from clipmill.schemas.config import DataConfig
from clipmill.schemas.errors import CopiesAcrossSplitWarning, ManifestError, StoreError, UsageError
from clipmill.schemas.model import validate
from clipmill.schemas.records import Segment, Video
from clipmill.stores import Store
from tests.pipelines.conftest import WriteFeature, rows_of, stored_video


def read(store: Store, **changes: Any) -> Items:
    data = {"store": store.url, "image": "frame", "video": "clip", "split": {"test_fraction": 0.5}} | changes
    return read_items(validate(DataConfig, data, "test"), REGISTRATION.card.inputs)


def image_of(items: Items) -> Any:
    return items.inputs["image"].values


def video_of(items: Items) -> Any:
    return items.inputs["video"].values


def seconds_of(items: Items) -> list[float]:
    found = items.inputs["image"].start_seconds
    assert found is not None
    return found.tolist()


def ids_tested(video_ids: list[str], labels: list[str], fraction: float, seed: int) -> set[str]:
    parts = random_parts(video_ids, labels, fraction, 0.0, seed)
    return {video_id for video_id, part in zip(video_ids, parts.tolist(), strict=True) if part == "test"}


def videos_of(num_labels: int = 2, per_label: int = 4, split: str | None = None) -> list[Video]:
    return [
        stored_video(f"label {code}/ü {number}.mp4", f"label {code}", split)
        for code in range(num_labels)
        for number in range(per_label)
    ]


def write_both(write_feature: WriteFeature, videos: list[Video]) -> None:
    write_feature("frame", {video: rows_of([[i, 0, 0]]) for i, video in enumerate(videos)})
    write_feature("clip", {video: rows_of([[i, 1], [i, 3]]) for i, video in enumerate(videos)})


def test_copies_of_a_video_stand_on_one_side_and_other_splits_stay_as_they_are() -> None:
    ids = [f"v{number}" for number in range(40)]
    labels = ["a"] * 20 + ["b"] * 20
    alone = {video_id: f"bytes of {video_id}" for video_id in ids}
    for seed in range(8):
        plain = random_parts(ids, labels, 0.3, 0.2, seed)
        np.testing.assert_array_equal(random_parts(ids, labels, 0.3, 0.2, seed, alone), plain)
        # Each of the first ten is there again, as z..., under another label too.
        copies = [f"z{number}" for number in range(10)]
        contents = alone | {name: f"bytes of v{name[1:]}" for name in copies}
        parts = random_parts([*ids, *copies], [*labels, *"ab" * 5], 0.3, 0.2, seed, contents)
        of = dict(zip([*ids, *copies], parts.tolist(), strict=True))
        assert [of[name] for name in copies] == [of[f"v{name[1:]}"] for name in copies]
        assert [of[name] for name in ids] == plain.tolist()


def test_copies_across_a_manifests_split_are_warned_of_and_stay() -> None:
    splits = {"a": "train", "b": "test", "c": "test"}
    with pytest.warns(CopiesAcrossSplitWarning, match=r"1 videos hold .* 'b' \(test\) and 'a' \(train\)"):
        parts = manifest_parts(["a", "b", "b", "c"], splits, {"a": "1", "b": "1", "c": "2"})
    assert parts.tolist() == ["train", "test", "test", "test"]
    assert manifest_parts(["a", "b"], splits, {"a": "1", "b": "2"}).tolist() == ["train", "test"]


def test_a_store_with_copies_is_split_by_their_bytes(store: Store, write_feature: WriteFeature) -> None:
    videos = videos_of(per_label=6)
    again = [replace(video, id=f"copies/{video.id}", label=video.label) for video in videos]
    write_both(write_feature, [*videos, *again])
    for seed in range(4):
        items = read(store, split={"test_fraction": 0.5, "seed": seed})
        of = dict(zip(items.video_ids, items.part.tolist(), strict=True))
        assert set(of.values()) == {"train", "test"}
        assert all(of[video.id] == of[f"copies/{video.id}"] for video in videos)


def test_a_pair_is_the_first_row_and_the_mean_of_the_kept_rows(store: Store, write_feature: WriteFeature) -> None:
    videos = videos_of()
    frame = rows_of([[9, 9, 9], [1, 2, 3], [7, 7, 7]], mask=[False, True, True])
    clip = rows_of([[1, 2], [3, 6], [100, 100]], mask=[True, True, False])
    write_feature("frame", {video: frame for video in videos})
    write_feature("clip", {video: clip for video in videos})
    pairs = read(store)
    np.testing.assert_array_equal(image_of(pairs), [[1, 2, 3]] * 8)
    np.testing.assert_array_equal(video_of(pairs), [[2, 4]] * 8)
    assert image_of(pairs).dtype == video_of(pairs).dtype == np.float32
    assert seconds_of(pairs) == [1.0] * 8
    assert pairs.clip_seconds.tolist() == [[0.0, 10.0]] * 8
    assert pairs.label_names == ("label 0", "label 1")
    assert pairs.label.tolist() == [0] * 4 + [1] * 4
    assert pairs.clip_ids[0] == "label 0/ü 0.mp4#0"
    assert [(source.name, source.dim) for source in pairs.sources.values()] == [("frame", 3), ("clip", 2)]
    assert pairs.dataset == "made"


def test_pairs_stay_together_whatever_the_order_in_the_store(store: Store, write_feature: WriteFeature) -> None:
    videos = videos_of()
    write_feature("frame", {video: rows_of([[videos.index(video), 0, 0]]) for video in videos})
    write_feature("clip", {video: rows_of([[videos.index(video), 1]]) for video in reversed(videos)})
    pairs = read(store)
    assert (
        image_of(pairs)[:, 0].tolist()
        == video_of(pairs)[:, 0].tolist()
        == [videos.index(v) for v in sorted_by_id(videos)]
    )


def sorted_by_id(videos: list[Video]) -> list[Video]:
    return sorted(videos, key=lambda video: video.id)


def test_clips_of_one_video_have_their_own_rows_and_labels(store: Store, write_feature: WriteFeature) -> None:
    videos = [
        stored_video(f"v{number}", None, None, Segment(0.0, 10.0, "run"), Segment(10.0, 20.0, "jump"))
        for number in range(4)
    ]
    frame, clip = rows_of([[1], [2], [3]], clip=[0, 0, 1]), rows_of([[4], [6], [8]], clip=[0, 1, 1])
    write_feature("frame", {video: frame for video in videos}, rule="annotations")
    write_feature("clip", {video: clip for video in videos}, rule="annotations")
    pairs = read(store)
    assert pairs.clip_ids[:2] == ("v0#0", "v0#1")
    assert image_of(pairs)[:2].tolist() == [[1], [3]]
    assert video_of(pairs)[:2].tolist() == [[4], [7]]
    assert [pairs.label_names[code] for code in pairs.label[:2]] == ["run", "jump"]
    for video_id in set(pairs.video_ids):
        sides = {bool(t) for name, t in zip(pairs.video_ids, pairs.part == "test", strict=True) if name == video_id}
        assert len(sides) == 1, f"clips of {video_id} on both sides"


def test_clips_with_rows_of_one_feature_alone_are_left_out_and_counted(
    store: Store, write_feature: WriteFeature
) -> None:
    videos = videos_of(per_label=5)
    write_feature("frame", {video: rows_of([[1.0]]) for video in videos[1:]})
    empty = rows_of([[1.0]], mask=[False])
    write_feature("clip", {video: rows_of([[1.0]]) if i < 7 else empty for i, video in enumerate(videos)})
    pairs = read(store)
    assert (len(pairs), pairs.num_only) == (6, {"image": 3, "video": 1})


def test_the_random_split_is_stratified_seeded_and_by_video(store: Store, write_feature: WriteFeature) -> None:
    write_both(write_feature, videos_of(num_labels=3, per_label=10))
    first, again, other = (read(store, split={"test_fraction": 0.2, "seed": seed}) for seed in (0, 0, 1))
    for pairs in (first, again, other):
        assert np.bincount(pairs.of("test").label).tolist() == [2, 2, 2]
    assert first.test_clip_ids == again.test_clip_ids
    assert first.test_clip_ids != other.test_clip_ids


def test_a_video_of_several_labels_counts_for_its_most_frequent_one() -> None:
    video_ids = ["a", "a", "a", "b", "b", "c"]
    labels = ["run", "run", "jump", "jump", "jump", "run"]
    # run has a and c, jump has b alone, which therefore trains.
    assert ids_tested(video_ids, labels, 0.5, 0) in ({"a"}, {"c"})


@pytest.mark.parametrize(("num", "fraction", "expected"), [(1, 0.9, 0), (2, 0.01, 1), (2, 0.99, 1), (10, 0.25, 3)])
def test_every_label_with_two_videos_is_on_both_sides(num: int, fraction: float, expected: int) -> None:
    video_ids = [f"v{number}" for number in range(num)]
    assert len(ids_tested(video_ids, ["a"] * num, fraction, 3)) == expected


def test_a_videos_side_does_not_depend_on_other_labels() -> None:
    one, two = [f"a{n}" for n in range(10)], [f"b{n}" for n in range(10)]
    alone = ids_tested(one, ["a"] * 10, 0.3, 5)
    assert ids_tested([*one, *two], ["a"] * 10 + ["b"] * 10, 0.3, 5) & set(one) == alone


def test_the_manifests_split_is_followed_and_keeps_validation_apart(store: Store, write_feature: WriteFeature) -> None:
    splits = ["train", "train", "test", "validation"] * 2
    videos = [stored_video(f"v{i}", f"label {i // 4}", split) for i, split in enumerate(splits)]
    write_both(write_feature, videos)
    pairs = read(store, split={"from": "manifest"})
    assert pairs.part.tolist() == splits
    assert pairs.of("validation").video_ids == ("v3", "v7")
    assert pairs.test_clip_ids == ("v2#0", "v6#0")


def test_without_a_split_every_clip_is_tested(store: Store, write_feature: WriteFeature) -> None:
    write_both(write_feature, videos_of(split="train"))
    items = read(store, split={"from": "none"})
    assert items.part.tolist() == ["test"] * 8
    assert len(items.of("train")) == 0


def test_labels_that_lack_a_side_are_reported(store: Store, write_feature: WriteFeature) -> None:
    given = [("a", "train"), ("a", "test"), ("b", "test"), ("c", "train")]
    write_both(write_feature, [stored_video(f"v{i}", label, split) for i, (label, split) in enumerate(given)])
    pairs = read(store, split={"from": "manifest"})
    assert pairs.labels_without_training == ("b",)
    assert pairs.labels_without_test == ("c",)


def test_a_manifest_without_split_is_refused(store: Store, write_feature: WriteFeature) -> None:
    write_both(write_feature, videos_of())
    with pytest.raises(
        ManifestError, match=r"manifest split: expected train.*got None for 'label 0/ü 0.mp4' and 7 more"
    ):
        read(store, split={"from": "manifest"})


def test_a_manifest_that_only_trains_is_refused(store: Store, write_feature: WriteFeature) -> None:
    write_both(write_feature, videos_of(split="train"))
    with pytest.raises(UsageError, match="data.split manifest: expected clips on both sides, got none to test"):
        read(store, split={"from": "manifest"})


def test_one_video_per_label_cannot_be_split(store: Store, write_feature: WriteFeature) -> None:
    write_both(write_feature, videos_of(num_labels=3, per_label=1))
    with pytest.raises(UsageError, match="got none to test; random needs two videos of a label"):
        read(store)


def test_an_unknown_feature_lists_near_ones(store: Store, write_feature: WriteFeature) -> None:
    write_both(write_feature, videos_of())
    with pytest.raises(StoreError, match="feature frmae: .*did you mean 'frame'"):
        read(store, image="frmae")


def test_a_store_that_is_not_there_is_refused() -> None:
    config = validate(DataConfig, {"store": "nowhere/store", "image": "a", "video": "b"}, "test")
    with pytest.raises(StoreError, match="nowhere/store"):
        read_items(config, REGISTRATION.card.inputs)


def test_no_clip_in_common_counts_both_sides(store: Store, write_feature: WriteFeature) -> None:
    videos = videos_of()
    write_feature("frame", {video: rows_of([[1.0]]) for video in videos[:3]})
    write_feature("clip", {video: rows_of([[1.0]]) for video in videos[3:]})
    with pytest.raises(UsageError, match="got 3 with frame, 5 with clip, none with all; build the features"):
        read(store)


def test_features_cut_into_other_clips_are_refused(store: Store, write_feature: WriteFeature) -> None:
    videos = videos_of()
    write_feature("frame", {video: rows_of([[1.0]]) for video in videos})
    write_feature("clip", {video: rows_of([[1.0]]) for video in videos}, rule="shots")
    with pytest.raises(UsageError, match="features frame and clip: expected the same clips, got whole and shots"):
        read(store)


def test_a_missing_label_is_refused_with_its_clip(store: Store, write_feature: WriteFeature) -> None:
    write_both(write_feature, [*videos_of(), stored_video("x.mp4", None)])
    with pytest.raises(ManifestError, match="got none for 1 of 9, such as 'x.mp4#0'; build with label: parent_folder"):
        read(store)


def test_one_label_alone_is_refused(store: Store, write_feature: WriteFeature) -> None:
    write_both(write_feature, videos_of(num_labels=1))
    with pytest.raises(UsageError, match="expected at least two, got only 'label 0'"):
        read(store)
