"""What each kind of input reads of stored rows, against loops over single rows; texts and vocabularies."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from clipmill.pipelines.datasets.items import read_items
from clipmill.pipelines.datasets.rows import read_rows
from clipmill.pipelines.datasets.text import Vocabulary, read_tokens
from clipmill.pipelines.datasets.tokenisers import words_of
from clipmill.schemas.config import DataConfig, TextConfig
from clipmill.schemas.errors import ManifestError, UsageError
from clipmill.schemas.inputs import Bag, Input, InputRows, Sequence, Tokens, Vector, from_padded
from clipmill.schemas.model import validate
from clipmill.stores import FeatureStore, Store
from tests.pipelines.conftest import WriteFeature, rows_of, stored_video

VIDEOS = [stored_video(f"v{number}", f"label {number % 2}") for number in range(4)]


def read(store: Store, kinds: dict[str, Input], **data: Any) -> Any:
    config = {"store": store.url, "split": {"test_fraction": 0.5}} | data
    return read_items(validate(DataConfig, config, "test"), kinds)


SHAPES = [(1, 3), (3, 3), (4, 3), (7, 3), (100, 7), (5, 1)]


@pytest.mark.parametrize("slab_rows", [1, 3, 10_000])
def test_a_long_sequence_is_shortened_to_means_of_equal_stretches(
    slab_rows: int, store: Store, write_feature: WriteFeature, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipmill.stores.feature._SLAB_BYTES", slab_rows * 2 * 4)
    rng = np.random.default_rng(0)
    drawn = {f"v{number}": rng.normal(size=(rows, 2)).astype(np.float32) for number, (rows, _) in enumerate(SHAPES)}
    write_feature("clip", {stored_video(name, "l"): rows_of(values) for name, values in drawn.items()})
    feature = FeatureStore(store.url)["clip"]
    for max_steps in {steps for _, steps in SHAPES}:
        means, picked = (read_rows(feature, Sequence(max_steps, how)).rows for how in ("mean", "pick"))
        assert means.offsets is not None
        for number, values in enumerate(drawn.values()):
            num_rows, first = len(values), int(means.offsets[number])
            steps = min(num_rows, max_steps)
            assert means.lengths()[number] == picked.lengths()[number] == steps
            assert means.start_seconds is not None
            assert means.stop_seconds is not None
            assert picked.start_seconds is not None
            for step in range(steps):
                start, stop = step * num_rows // steps, (step + 1) * num_rows // steps
                expected = values[start:stop].astype(np.float64).sum(axis=0) / (stop - start)
                np.testing.assert_array_equal(means.values[first + step], expected.astype(np.float32))
                assert (means.start_seconds[first + step], means.stop_seconds[first + step]) == (start, stop)
            times = picked.start_seconds[first : first + steps].astype(int)
            assert len(set(times.tolist())) == steps
            np.testing.assert_array_equal(picked.values[first : first + steps], values[times])


@pytest.mark.parametrize("slab_rows", [1, 4, 10_000])
@pytest.mark.parametrize("kind", [Vector("first"), Bag(3), Bag(3, "score"), Sequence(4), Sequence(4, "pick")])
def test_what_is_read_does_not_depend_on_slabs_and_is_what_a_loop_over_videos_finds(
    kind: Input, slab_rows: int, store: Store, write_feature: WriteFeature, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipmill.stores.feature._SLAB_BYTES", slab_rows * 3 * 4)
    rng = np.random.default_rng(1)
    rows = {}
    for number in range(7):
        count = int(rng.integers(1, 12))
        made = rows_of(rng.normal(size=(count, 3)), mask=(rng.random(count) > 0.3).tolist())
        rows[stored_video(f"v{number}", "l")] = replace(made, extras={"score": rng.random(count).astype(np.float32)})
    write_feature("clip", rows)
    found = read_rows(FeatureStore(store.url)["clip"], kind)
    for position, key in enumerate(found.clips):
        video = next(video for video in rows if video.id == key[0])
        kept = np.flatnonzero(rows[video].mask)
        values = rows[video].values[kept].astype(np.float64)
        if isinstance(kind, Vector):
            values = values[:1]
        elif isinstance(kind, Bag):
            order = np.argsort(-rows[video].extras["score"][kept].astype(np.float64), kind="stable")
            values = values[order[:3] if kind.choose == "score" else slice(3)]
        elif len(values) > 4:
            steps = [values[i * len(values) // 4 : (i + 1) * len(values) // 4] for i in range(4)]
            edges = [i * len(values) // 4 for i in range(5)]
            middles = [values[(left + right) // 2] for left, right in zip(edges, edges[1:], strict=False)]
            values = np.array([step.mean(axis=0) for step in steps] if kind.reduce == "mean" else middles)
        one = found.rows.take(np.array([position]))
        np.testing.assert_array_equal(one.values, values.astype(np.float32))
    assert [key[0] for key in found.clips] == sorted(video.id for video, item in rows.items() if item.mask.any())


def test_a_bag_holds_the_best_scored_rows_and_a_sequence_the_order_of_time(
    store: Store, write_feature: WriteFeature
) -> None:
    write_feature("frame", {video: rows_of([[1.0], [2.0], [3.0]], mask=[True, False, True]) for video in VIDEOS})
    write_feature("clip", {video: rows_of([[float(i)] for i in range(n + 2)]) for n, video in enumerate(VIDEOS)})
    inputs: dict[str, Input] = {"image": Bag(2), "video": Sequence(3)}
    items = read(store, inputs, image="frame", video="clip")
    assert items.inputs["image"].lengths().tolist() == [2, 2, 2, 2]
    assert items.inputs["image"].values[:2].tolist() == [[1.0], [3.0]]
    values, mask = items.inputs["video"].padded()
    assert mask.sum(axis=1).tolist() == [2, 3, 3, 3]
    assert values[0].tolist() == [[0.0], [1.0], [0.0]]
    # Four rows in three steps: one, one, and the mean of two.
    assert values[2].tolist() == [[0.0], [1.0], [2.5]]
    with pytest.raises(UsageError, match="feature frame: expected a column score to choose rows by, got none"):
        read(store, {"image": Bag(2, "score"), "video": Vector("mean")}, image="frame", video="clip")


def test_rows_survive_padding_and_taking() -> None:
    rows = InputRows(np.arange(12.0, dtype=np.float32).reshape(6, 2), np.array([0, 2, 2, 5, 6]))
    assert rows.take(np.array([2, 0])).values.tolist() == [[4, 5], [6, 7], [8, 9], [0, 1], [2, 3]]
    assert rows.take(np.array([False, True, False, True])).offsets.tolist() == [0, 0, 1]  # type: ignore[union-attr]
    again = from_padded(*rows.padded(4))
    np.testing.assert_array_equal(again.values, rows.values)
    np.testing.assert_array_equal(again.offsets, rows.offsets)  # type: ignore[arg-type]
    assert np.isnan(rows.means()[1]).all()
    np.testing.assert_array_equal(rows.means()[[0, 2]], [[1, 2], [6, 7]])


def test_the_vocabulary_is_that_of_the_training_clips(
    store: Store, write_feature: WriteFeature, tmp_path: Path
) -> None:
    write_feature("clip", {video: rows_of([[1.0]]) for video in VIDEOS})
    path = tmp_path / "texts.parquet"
    texts = ["A dog runs", "A cat, a cat!", "dog", "bird #0"]
    pa.parquet.write_table(pa.table({"name": [f"v{i}#0" for i in range(4)], "sentence": texts}), path)
    text = {"file": str(path), "id": "name", "text": "sentence"}
    items = read(store, {"text": Tokens(3), "video": Vector("mean")}, video="clip", inputs={"text": text})
    training = [words_of(texts[i]) for i, part in enumerate(items.part.tolist()) if part == "train"]
    known = {word for words in training for word in words}
    assert set(items.vocabularies["text"]) == known
    position = {word: i for i, word in enumerate(items.vocabularies["text"], start=2)}
    rows = items.inputs["text"]
    for number, sentence in enumerate(texts):
        start, stop = rows.offsets[number : number + 2]
        expected = [position.get(word, 1) for word in words_of(sentence)[:3]]
        assert rows.values[start:stop].tolist() == expected
    assert items.sources["text"].dim == len(known) + 2


def test_frequent_words_come_first_and_rare_ones_are_left_out() -> None:
    texts = [("b", "a", "c"), ("a", "b"), ("a", "d")]
    assert Vocabulary.of(texts).words == ("a", "b", "c", "d")
    assert Vocabulary.of(texts, min_count=2).words == ("a", "b")
    assert words_of("Übung macht'S: 3x!") == ("übung", "macht", "s", "3x")


@pytest.mark.parametrize(
    ("content", "config", "message"),
    [
        ("id,text\nv0,a dog\n", {}, r"got none for 1 of 2, such as 'v1#0'"),
        ('id,text\nv0,a dog\nv1,"?!"\n', {}, r"expected words for every clip.*such as 'v1#0'"),
        ("id,sentence\nv0,a\n", {}, r"expected a column 'text', got id, sentence"),
        (None, {}, "expected a readable .csv or .parquet, got No such file"),
    ],
)
def test_texts_that_do_not_fit_are_refused_in_one_line(
    content: str | None, config: dict[str, str], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "texts.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ManifestError, match=message) as caught:
        read_tokens(TextConfig(file=str(path), **config), ["v0#0", "v1#0"], ["v0", "v1"])
    assert "\n" not in str(caught.value)


def test_inputs_of_the_wrong_kind_are_refused(store: Store, write_feature: WriteFeature) -> None:
    write_feature("clip", {video: rows_of([[1.0]]) for video in VIDEOS})
    with pytest.raises(UsageError, match="data text: expected a file of texts, such as .file: texts.csv., got clip"):
        read(store, {"text": Tokens(3), "video": Vector("mean")}, video="clip", inputs={"text": "clip"})
    with pytest.raises(UsageError, match=r"expected what the model is given \(image, video\), got video"):
        read(store, {"image": Vector("first"), "video": Vector("mean")}, video="clip")
