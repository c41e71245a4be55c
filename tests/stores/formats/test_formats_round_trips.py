"""Every format: what is written comes back, and the real published files read as their papers count them."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from clipmill.schemas.segments import Segments, segments_from_columns
from clipmill.stores.formats.activitynet import (
    ActivityNetDatabase,
    ActivityNetResults,
    read_activitynet_database,
    read_activitynet_results,
    write_activitynet_database,
    write_activitynet_results,
)
from clipmill.stores.formats.activitynet_captions import read_activitynet_captions, write_activitynet_captions
from clipmill.stores.formats.charades_sta import read_charades_durations, read_charades_sta, write_charades_sta
from clipmill.stores.formats.moments import MomentQueries
from clipmill.stores.formats.parquet import read_segments_parquet, write_segments_parquet
from clipmill.stores.formats.qvhighlights import (
    read_qvhighlights,
    read_qvhighlights_predictions,
    write_qvhighlights,
    write_qvhighlights_predictions,
)
from clipmill.stores.formats.revisited_oxford import read_revisited_oxford, write_revisited_oxford
from clipmill.stores.formats.thumos14 import (
    read_thumos14,
    read_thumos14_classes,
    read_thumos14_detections,
    write_thumos14,
    write_thumos14_detections,
)
from clipmill.stores.formats.trec import TrecRun, read_trec_qrels, read_trec_run, write_trec_qrels, write_trec_run


def table() -> Segments:
    return segments_from_columns(
        ["b", "a", "b"],
        [0.1, 2.0, 1 / 3],
        [1.5, 4.25, 9.0],
        ["läuft", "x", "läuft"],
        [0.5, 1e-9, 2 / 3],
        ("a", "empty"),
    )


def by_video(segments: Segments) -> dict[str, list[tuple[str, float, float, float]]]:
    rows: dict[str, list[tuple[str, float, float, float]]] = {name: [] for name in segments.video_ids}
    columns = (segments.video, segments.label, segments.start_seconds, segments.stop_seconds, segments.score)
    for video, label, start, stop, score in zip(*(column.tolist() for column in columns), strict=True):
        rows[segments.video_ids[video]].append((segments.label_names[label], start, stop, score))
    return rows


def same(first: Segments, second: Segments) -> None:
    """The same rows per video and the same videos; formats that group by video keep the order within each."""
    assert by_video(first) == by_video(second)


def same_queries(first: MomentQueries, second: MomentQueries) -> None:
    assert (first.query_ids, first.video_ids, first.sentences) == (second.query_ids, second.video_ids, second.sentences)
    np.testing.assert_array_equal(first.duration_seconds, second.duration_seconds)
    same(first.windows, second.windows)


def test_activitynet_database(tmp_path: Path) -> None:
    annotations = Segments(**{**_columns(table()), "score": np.ones(3)})
    database = ActivityNetDatabase(
        annotations,
        {"a": 12.5, "b": 100.0},
        {"a": "training", "b": "validation", "empty": "validation"},
        "1.3",
        ({"n": 1},),
    )
    write_activitynet_database(tmp_path / "gt.json", database)
    got = read_activitynet_database(tmp_path / "gt.json")
    same(got.segments, annotations)
    assert (got.duration_seconds, got.subset, got.version, got.taxonomy) == (
        database.duration_seconds,
        database.subset,
        "1.3",
        ({"n": 1},),
    )
    validation = read_activitynet_database(tmp_path / "gt.json", "validation")
    assert set(validation.segments.video_ids) == {"b", "empty"}


def _columns(segments: Segments) -> dict[str, object]:
    return {name: getattr(segments, name) for name in Segments.__slots__}


def test_activitynet_results(tmp_path: Path) -> None:
    write_activitynet_results(tmp_path / "r.json", ActivityNetResults(table(), "1.3", {"used": True}))
    got = read_activitynet_results(tmp_path / "r.json")
    same(got.segments, table())
    assert (got.version, got.external_data) == ("1.3", {"used": True})


def test_activitynet_proposals_have_no_labels(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"results": {"v": [{"score": 1, "segment": [0, 2]}]}, "version": "1"}')
    assert read_activitynet_results(tmp_path / "p.json").segments.label_names == ("",)


def test_thumos14_annotations(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "annotations" / "thumos14" / "annotation_test"
    truth, classes = read_thumos14(folder, "test"), read_thumos14_classes(folder / "detclasslist.txt")
    assert (len(truth.segments), len(truth.segments.label_names), len(classes)) == (3358, 20, 20)
    assert (classes[1], classes[20]) == ("BaseballPitch", "VolleyballSpiking")
    assert len(truth.ambiguous) == len((folder / "Ambiguous_test.txt").read_text().splitlines())
    assert len({truth.segments.video_ids[code] for code in truth.segments.video}) == 212
    write_thumos14(tmp_path / "copy", "test", truth, classes)
    copy = read_thumos14(tmp_path / "copy", "test")
    same(copy.segments, truth.segments)
    same(copy.ambiguous, truth.ambiguous)
    assert len(read_thumos14(shared_data / "annotations" / "thumos14" / "annotation_val", "val").segments) == 3007


def test_thumos14_detections(tmp_path: Path) -> None:
    classes = {7: "läuft", 9: "x"}
    detections = Segments(**_columns(table())).of_videos(["a", "b"])
    write_thumos14_detections(tmp_path / "run.txt", detections, classes)
    same(read_thumos14_detections(tmp_path / "run.txt", classes), detections)
    (tmp_path / "mp4.txt").write_text("video_test_0000004.mp4 0.2 1.1 7 0.98 \n")
    assert read_thumos14_detections(tmp_path / "mp4.txt", classes).video_ids == ("video_test_0000004",)


def test_charades_sta(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "annotations" / "charades_sta"
    durations = read_charades_durations(folder / "charades.json")
    test = read_charades_sta(folder / "charades_sta_test.txt", durations)
    assert (len(test), len(set(test.video_ids))) == (3720, 1334)
    assert not np.isnan(test.duration_seconds).any()
    assert np.mean(test.windows.stop_seconds - test.windows.start_seconds) == pytest.approx(8.0, abs=0.1)
    beyond = test.windows.stop_seconds > test.duration_seconds
    assert beyond.mean() == pytest.approx(0.151, abs=0.001)
    write_charades_sta(tmp_path / "copy.txt", test)
    same_queries(read_charades_sta(tmp_path / "copy.txt", durations), test)


def test_charades_durations_from_a_csv_or_a_flat_object_agree(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("id,subject,length\nAAAAA,x,12.5\n")
    (tmp_path / "c.json").write_text('{"AAAAA": 12.5}')
    assert (
        read_charades_durations(tmp_path / "c.csv") == read_charades_durations(tmp_path / "c.json") == {"AAAAA": 12.5}
    )


def test_charades_lines_that_run_backwards_are_dropped_or_swapped_on_request(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("LEOL6 8.0 7.0##a\nAAAAA 1.0 2.0##b\n")
    assert len(read_charades_sta(tmp_path / "c.txt", inverted="drop")) == 1
    swapped = read_charades_sta(tmp_path / "c.txt", inverted="swap").windows
    assert (swapped.start_seconds[0], swapped.stop_seconds[0]) == (7.0, 8.0)


def test_activitynet_captions(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "annotations" / "activitynet_captions"
    queries = read_activitynet_captions(folder / "val_1.json")
    assert (len(queries), len(set(queries.video_ids))) == (17505, 4917)
    assert all(sentence == sentence.strip() for sentence in queries.sentences)
    write_activitynet_captions(tmp_path / "copy.json", queries)
    same_queries(read_activitynet_captions(tmp_path / "copy.json"), queries)


def test_qvhighlights(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "evaluation" / "moment-detr-qvhighlights"
    truth = read_qvhighlights(folder / "highlight_val_release.jsonl")
    assert (len(truth.queries), len(truth.saliency)) == (1550, 1550)
    assert truth.saliency["2579"].shape == (75, 3)
    assert truth.saliency["2579"][41].tolist() == [1, 1, 2]
    write_qvhighlights(tmp_path / "gt.jsonl", truth)
    copy = read_qvhighlights(tmp_path / "gt.jsonl")
    same_queries(copy.queries, truth.queries)
    assert all(np.array_equal(copy.saliency[name], scores) for name, scores in truth.saliency.items())
    answers = read_qvhighlights_predictions(folder / "sample_val_preds.jsonl")
    write_qvhighlights_predictions(tmp_path / "p.jsonl", answers)
    copy = read_qvhighlights_predictions(tmp_path / "p.jsonl")
    same_queries(copy.queries, answers.queries)
    assert all(np.array_equal(copy.saliency[name], scores) for name, scores in answers.saliency.items())


def test_trec_run_and_qrels(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "evaluation" / "trec_eval"
    run, qrels = read_trec_run(folder / "results.test"), read_trec_qrels(folder / "qrels.test")
    assert (sum(map(len, run.scores.values())), len(qrels)) == (1500, 3)
    write_trec_run(tmp_path / "run", run)
    write_trec_qrels(tmp_path / "qrels", qrels)
    copy = read_trec_run(tmp_path / "run")
    assert (copy.name, copy.scores) == (run.name, run.scores)
    assert read_trec_qrels(tmp_path / "qrels") == qrels


def test_trec_run_is_written_in_the_order_trec_eval_ranks(tmp_path: Path) -> None:
    write_trec_run(tmp_path / "run", TrecRun("me", {"q": {"a": 1.0, "c": 1.0, "b": 2.0}}))
    assert [line.split()[2:4] for line in (tmp_path / "run").read_text().splitlines()] == [
        ["b", "1"],
        ["c", "2"],
        ["a", "3"],
    ]


def test_trec_comments_blank_lines_and_trailing_text_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("# a comment\n\nq Q0 d 1 0.5 me and more\n")
    assert read_trec_run(tmp_path / "run").scores == {"q": {"d": 0.5}}


@pytest.mark.parametrize("protocol", [2, 4])
def test_revisited_oxford_pickle_and_its_converted_form(tmp_path: Path, protocol: int) -> None:
    entry = {"bbx": np.array([1.5, 2.0, 3.0, 4.0]), "easy": [3, 0], "hard": np.array([1]), "junk": [2, np.int64(4)]}
    data = {"imlist": [f"i{n}" for n in range(5)], "qimlist": ["q"], "gnd": [entry]}
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(data, protocol=protocol))
    truth = read_revisited_oxford(tmp_path / "gnd.pkl")
    assert truth.protocol("easy") == [((0, 3), (1, 2, 4))]
    assert truth.protocol("medium") == [((0, 1, 3), (2, 4))]
    assert truth.protocol("hard") == [((1,), (0, 2, 3, 4))]
    assert truth.queries[0].box == (1.5, 2.0, 3.0, 4.0)
    write_revisited_oxford(tmp_path / "gnd.json", truth)
    assert read_revisited_oxford(tmp_path / "gnd.json") == truth


def test_the_old_ground_truth_in_the_revisited_form(tmp_path: Path) -> None:
    entry = {"bbx": [1.5, 2.0, 3.0, 4.0], "ok": [3, 0], "junk": [2]}
    data = {"imlist": [f"i{n}" for n in range(5)], "qimlist": ["q"], "gnd": [entry]}
    (tmp_path / "gnd_oxford5k.pkl").write_bytes(pickle.dumps(data, protocol=2))
    truth = read_revisited_oxford(tmp_path / "gnd_oxford5k.pkl")
    assert truth.protocols == ("good",)
    assert truth.protocol("good") == [((0, 3), (2,))]
    write_revisited_oxford(tmp_path / "gnd.json", truth)
    assert read_revisited_oxford(tmp_path / "gnd.json") == truth


def test_segments_parquet(tmp_path: Path) -> None:
    write_segments_parquet(tmp_path / "s.parquet", table())
    got = read_segments_parquet(tmp_path / "s.parquet")
    assert (got.video_ids, got.label_names) == (table().video_ids, table().label_names)
    same(got, table())
    write_segments_parquet(tmp_path / "again.parquet", got)
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "s.parquet").read_bytes()


def test_segments_parquet_of_another_writer_needs_only_the_times(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"video_id": ["v"], "start_seconds": pa.array([1], pa.int32()), "stop_seconds": [2.0], "score": [None]}
    pq.write_table(pa.table(columns | {"score": pa.array([None], pa.float32())}), tmp_path / "s.parquet")
    got = read_segments_parquet(tmp_path / "s.parquet")
    assert (got.start_seconds.tolist(), got.score.tolist(), got.label_names) == ([1.0], [1.0], ("",))
