"""Queries as items: which cells a moment has, what is shared, and what is counted or refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill.models.registry import card, resolve_options
from clipmill.pipelines.datasets.items import Items
from clipmill.pipelines.datasets.queries import read_query_items
from clipmill.pipelines.datasets.video_steps import best_cells, seconds_of
from clipmill.pipelines.datasets.word_vectors import read_word_vectors
from clipmill.pipelines.training.run_folder import data_fingerprint
from clipmill.schemas.config import DataConfig
from clipmill.schemas.errors import ClipmillError, FormatError, ManifestError, UsageError
from clipmill.schemas.inputs import InputRows
from clipmill.schemas.model import validate
from tests.pipelines.datasets.moment_stores import LINES, SECONDS, write_annotations, write_moment_store

Make = Callable[..., Items]


@pytest.fixture
def read(tmp_path: Path) -> Make:
    """Queries of a store of three videos, as CI-MHA with some options is given them."""

    def make(
        lines: str = LINES, options: dict[str, Any] | None = None, durations: bool = True, **queries: Any
    ) -> Items:
        url = write_moment_store(tmp_path)
        train = write_annotations(tmp_path, lines, durations)
        given = {"train": train | queries.pop("train", {}), **queries}
        data = validate(DataConfig, {"store": url, "video": "steps", "queries": given}, "test")
        inputs = card("ci_mha", resolve_options("ci_mha", {"max_steps": 8, "word_dim": 3} | (options or {}))).inputs
        return read_query_items(data, inputs)

    return make


def test_the_cells_of_a_moment_have_the_highest_iou_of_all() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        edges = np.append(0.0, np.cumsum(random.uniform(0.2, 2.0, random.integers(1, 12))))
        start, stop = np.sort(random.uniform(0, edges[-1], 2))
        found = best_cells(edges, start, stop)

        def iou(i: int, j: int) -> float:
            shared = max(0.0, min(edges[j + 1], stop) - max(edges[i], start))  # noqa: B023
            return shared / (max(edges[j + 1], stop) - min(edges[i], start))  # noqa: B023

        pairs = [(i, j) for i in range(len(edges) - 1) for j in range(i, len(edges) - 1)]
        assert iou(*found) == pytest.approx(max(iou(*pair) for pair in pairs))


def test_a_moment_without_length_is_in_the_step_that_holds_it() -> None:
    edges = np.array([0.0, 1.0, 2.0, 3.0])
    assert [best_cells(edges, at, at) for at in (0.0, 1.5, 2.0, 3.0)] == [(0, 0), (1, 1), (2, 2), (2, 2)]
    np.testing.assert_allclose(seconds_of(np.array([0.0, 2.0, 3.0]), np.array([[0, 1], [0.5, 2]])), [[0, 2], [1, 3]])


def test_queries_share_the_rows_of_their_video(read: Make) -> None:
    items = read()
    rows = items.inputs["video"]
    assert items.clip_ids == ("a#1", "a#2", "b#3", "c#4")
    assert len(rows) == 4
    # Three videos of 4, 10 (shortened to 8) and 6 steps.
    assert rows.values.shape == (18, 5)
    assert rows.lengths().tolist() == [4, 4, 8, 6]
    values, _ = rows.padded()
    np.testing.assert_array_equal(values[0], values[1])
    assert np.shares_memory(items.of("train").inputs["video"].values, rows.values)
    # Of a, 8 s in four steps: 2 to 4 s is step 1; of b, 20 s in eight: 5 to 10 s is steps 2 and 3.
    assert items.targets["span"].tolist() == [[1, 1], [0, 3], [2, 3], [0, 2]]


def test_a_fingerprint_knows_shared_rows_and_targets(read: Make) -> None:
    items = read()
    before = data_fingerprint(items)
    assert data_fingerprint(read()) == before
    assert data_fingerprint(items.take(np.arange(3))) != before
    items.targets["span"][0] = 0
    assert data_fingerprint(items) != before


def test_shared_rows_are_those_of_items_of_their_own() -> None:
    values, entry = np.arange(12, dtype=np.float32).reshape(6, 2), np.array([1, 0, 1, 2])
    shared = InputRows(values, np.array([0, 1, 4, 6]), entry=entry)
    own = shared.unshared()
    assert own.values.shape == (9, 2)
    for one, two in ((shared, own), (shared.take(np.array([3, 0])), own.take(np.array([3, 0])))):
        assert one.lengths().tolist() == two.lengths().tolist()
        for left, right in zip(one.padded(), two.padded(), strict=True):
            np.testing.assert_array_equal(left, right)
        np.testing.assert_array_equal(one.means(), two.means())


def test_what_lies_outside_a_video_is_clipped_or_left_out_and_counted(read: Make) -> None:
    items = read(LINES + "c 9.0 99.0##she waits\nc 30.0 31.0##too late\n")
    assert len(items) == 5
    assert items.clip_seconds[-1].tolist() == [9.0, SECONDS["c"]]
    assert "1 clipped to their video, 1 outside their video" in " ".join(items.notes)


def test_inverted_moments_are_refused_dropped_or_turned_round(read: Make) -> None:
    lines = LINES + "b 9.0 4.0##backwards\n"
    with pytest.raises(FormatError, match="line 5"):
        read(lines)
    dropped, swapped = (read(lines, train={"inverted": way}) for way in ("drop", "swap"))
    assert (len(dropped), len(swapped)) == (4, 5)
    assert "1 inverted and left out" in " ".join(dropped.notes)
    assert "1 inverted and turned round" in " ".join(swapped.notes)
    assert swapped.clip_seconds[-1].tolist() == [4.0, 9.0]


def test_videos_without_rows_are_refused_or_left_out_with_counts(read: Make) -> None:
    lines = LINES + "x 0.0 1.0##nobody\nx 1.0 2.0##nothing\n"
    with pytest.raises(UsageError, match=r"none for 1 of 4 \('x'\), 2 queries"):
        read(lines)
    items = read(lines, missing="skip")
    assert len(items) == 4
    assert "2 without rows in train" in " ".join(items.notes)


def test_videos_without_queries_are_counted(read: Make) -> None:
    items = read("a 0.0 2.0##he sits\nb 1.0 2.0##he stands\n")
    assert "1 videos of steps have no query" in " ".join(items.notes)


def test_a_validation_split_is_by_video(read: Make) -> None:
    items = read(validation_fraction=0.34)
    parts = dict(zip(items.video_ids, items.part.tolist(), strict=True))
    assert sorted(parts.values()) == ["train", "train", "validation"]
    assert len(items.of("train")) + len(items.of("validation")) == 4


def vectors(folder: Path, text: str) -> str:
    path = folder / "vectors.txt"
    path.write_text(text, "utf-8")
    return str(path)


def test_words_begin_with_the_vectors_of_a_file(read: Make, tmp_path: Path) -> None:
    file = vectors(tmp_path, "400000 3\nsits 1 2 3\nunused x y z\nhe 4 5 6\nhe 7 8 9\n")
    items = read(word_vectors=file)
    table, known = items.word_vectors["query"]
    words = items.vocabularies["query"]
    assert table[2 + words.index("sits")].tolist() == [1, 2, 3]
    assert table[2 + words.index("he")].tolist() == [4, 5, 6]
    assert known.sum() == 2
    assert not table[~known].any()


def test_the_vocabulary_of_vslnet_has_the_words_with_a_vector_of_all_annotations_named(
    read: Make, tmp_path: Path
) -> None:
    test = tmp_path / "test.txt"
    test.write_text("z 0.0 1.0##she juggles, unheard\n", "utf-8")
    file = vectors(tmp_path, "sits 1 2 3\njuggles 4 5 6\n, 7 8 9\nnever 1 1 1\n")
    options = {"tokeniser": "treebank", "vocabulary": "vslnet"}
    items = read(options=options, word_vectors={"file": file, "also": str(test)})
    assert sorted(items.vocabularies["query"]) == [",", "juggles", "sits"]


BAD: list[tuple[dict[str, Any], str, type[ClipmillError], str]] = [
    ({"word_vectors": "sits 1 2\nhe 1 2\n"}, LINES, ManifestError, "word_dim: 2"),
    ({"word_vectors": "SITS 1 2 3\n"}, LINES, ManifestError, "a vector of none of them"),
    ({"word_vectors": "sits 1 2 3\nhe 1 2\n"}, LINES, ManifestError, "line 2: expected 3 numbers"),
    ({}, LINES + "a 0.0 1.0##...\n", ManifestError, "none in 1 of 5, such as that of 'a#5'"),
    ({"options": {"vocabulary": "vslnet"}}, LINES, UsageError, "give word_vectors"),
    ({"train": {"drop_prefix": "a"}}, LINES, UsageError, "none for 1 of 3"),
    ({"train": {"format": "qvhighlights_x"}}, LINES, FormatError, "charades_sta"),
    ({"train": {"subset": "val_1"}}, LINES, UsageError, "leave it out"),
]


@pytest.mark.parametrize(("given", "lines", "kind", "says"), BAD, ids=[case[3] for case in BAD])
def test_what_cannot_be_trained_on_is_one_line(
    given: dict[str, Any], lines: str, kind: type[ClipmillError], says: str, read: Make, tmp_path: Path
) -> None:
    if "word_vectors" in given:
        given = given | {"word_vectors": vectors(tmp_path, given["word_vectors"])}
    with pytest.raises(kind) as error:
        read(lines, **given)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_durations_are_the_annotations_own_else_the_videos_and_asked_for(tmp_path: Path) -> None:
    inputs = card("ci_mha", resolve_options("ci_mha", {})).inputs
    bare = write_annotations(tmp_path, durations=False)
    for times in ("evenly", "known", "unknown"):
        (tmp_path / times).mkdir()
        url = write_moment_store(tmp_path / times, times=times)
        data = validate(DataConfig, {"store": url, "video": "steps", "queries": {"train": bare}}, "test")
        if times != "unknown":
            assert read_query_items(data, inputs).targets["span"].tolist() == [[1, 1], [0, 3], [2, 4], [0, 2]]
        else:
            with pytest.raises(UsageError, match=r"none for 3 videos \('a'.*give durations"):
                read_query_items(data, inputs)


def test_steps_can_be_when_their_rows_are(tmp_path: Path) -> None:
    inputs = card("ci_mha", resolve_options("ci_mha", {})).inputs
    queries = {"train": write_annotations(tmp_path, "a 1.0 6.0##he sits\na 6.1 8.0##he falls\n"), "grid": "rows"}
    # Four rows of 2 s from 0 s on: the second moment is the last row, whatever the duration.
    data = validate(
        DataConfig,
        {"store": write_moment_store(tmp_path, times="known"), "video": "steps", "queries": queries},
        "test",
    )
    assert read_query_items(data, inputs).targets["span"].tolist() == [[0, 2], [3, 3]]


def test_a_file_of_vectors_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="correct its path"):
        read_word_vectors(str(tmp_path / "none.txt"), ["a"])


@pytest.mark.parametrize(
    ("subset", "num"),
    [("train", 37421), ("vslnet_validation", 17031), ("vslnet_test", 17505), ("2d_tan_test", 17031),
     ("lgi_test", 34536)],
)  # fmt: skip
def test_the_protocols_of_activitynet_by_name(subset: str, num: int, shared_data: Path) -> None:
    from clipmill.pipelines.datasets.queries import read_annotated
    from clipmill.schemas.config_truth import TruthConfig

    folder = str(shared_data / "annotations" / "activitynet_captions")
    found = read_annotated(TruthConfig(file=folder, subset=subset, inverted="swap"), "train")
    assert len(found) == num
    assert len(set(found.ids)) == num


def test_activitynet_folders_ask_for_a_subset(shared_data: Path) -> None:
    from clipmill.pipelines.datasets.queries import read_annotated
    from clipmill.schemas.config_truth import TruthConfig

    folder = str(shared_data / "annotations" / "activitynet_captions")
    with pytest.raises(FormatError, match="lgi_test"):
        read_annotated(TruthConfig(file=folder), "train")


def test_both_counts_of_charades_sta(tmp_path: Path, shared_data: Path) -> None:
    from clipmill.pipelines.datasets.queries import read_annotated
    from clipmill.schemas.config_truth import TruthConfig

    copy = (shared_data / "annotations" / "charades_sta" / "charades_sta_train.txt").read_text("utf-8").splitlines()
    # As the original file has it: four of VSLNet's lines were altered by hand.
    turned = [number for number, line in enumerate(copy) if line.split()[0] in ("LEOL6", "IOL8Q", "AKKWU")][:4]
    for number in turned:
        head, _, text = copy[number].partition("##")
        video, _, _ = head.split()
        copy[number] = f"{video} 9.0 1.0##{text}"
    path = tmp_path / "train.txt"
    path.write_text("\n".join(copy) + "\n", "utf-8")
    dropped, swapped = (
        read_annotated(TruthConfig(file=str(path), inverted=way), "train")  # type: ignore[arg-type]
        for way in ("drop", "swap")
    )
    assert (len(dropped), len(swapped)) == (12404, 12408)


def test_annotations_of_several_windows_are_an_item_each(tmp_path: Path) -> None:
    from clipmill.pipelines.datasets.queries import read_annotated
    from clipmill.schemas.config_truth import TruthConfig

    line = {
        "qid": 1, "query": "he sits", "duration": 150, "vid": "a", "relevant_windows": [[0, 4], [10, 20]],
        "relevant_clip_ids": [0, 1, 5, 6, 7, 8, 9], "saliency_scores": [[1, 1, 1]] * 7,
    }  # fmt: skip
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(line) + "\n", "utf-8")
    found = read_annotated(TruthConfig(file=str(path)), "train")
    assert found.window_seconds.tolist() == [[0, 4], [10, 20]]
    assert found.sentences == ("he sits", "he sits")
