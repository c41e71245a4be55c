"""What each kind of input reads of stored rows, against loops over single rows; texts and vocabularies."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from clipmill.pipelines.datasets.items import read_items
from clipmill.pipelines.datasets.rows import shortened
from clipmill.pipelines.datasets.text import Vocabulary, read_tokens, words_of
from clipmill.schemas.config import DataConfig, TextConfig
from clipmill.schemas.errors import ManifestError, UsageError
from clipmill.schemas.inputs import Bag, Input, InputRows, Sequence, Tokens, Vector, from_padded
from clipmill.schemas.model import validate
from clipmill.stores import Store
from tests.pipelines.conftest import WriteFeature, rows_of, stored_video

VIDEOS = [stored_video(f"v{number}", f"label {number % 2}") for number in range(4)]


def read(store: Store, kinds: dict[str, Input], **data: Any) -> Any:
    config = {"store": store.url, "split": {"test_fraction": 0.5}} | data
    return read_items(validate(DataConfig, config, "test"), kinds)


@pytest.mark.parametrize(("num_rows", "max_steps"), [(1, 3), (3, 3), (4, 3), (7, 3), (100, 7), (5, 1)])
def test_a_long_sequence_is_shortened_to_means_of_equal_stretches(num_rows: int, max_steps: int) -> None:
    values = np.random.default_rng(0).normal(size=(num_rows, 2)).astype(np.float32)
    found = shortened(rows_of(values), Sequence(max_steps))
    steps = min(num_rows, max_steps)
    assert found.values.shape == (steps, 2)
    for step in range(steps):
        start, stop = step * num_rows // steps, (step + 1) * num_rows // steps
        np.testing.assert_allclose(found.values[step], values[start:stop].mean(axis=0), rtol=1e-5, atol=1e-7)
        assert (found.start_seconds[step], found.stop_seconds[step]) == (start, stop)
    picked = shortened(rows_of(values), Sequence(max_steps, "pick"))
    assert len(picked) == steps
    assert set(picked.start_seconds.tolist()) <= set(range(num_rows))


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
