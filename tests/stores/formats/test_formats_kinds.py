"""Which format a file is, and the tables that evaluation reads besides the published formats."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill.schemas.errors import FormatError
from clipmill.schemas.segments import segments_from_columns
from clipmill.stores.formats.activitynet import read_activitynet_results
from clipmill.stores.formats.charades_sta import read_charades_durations
from clipmill.stores.formats.class_scores import read_class_scores, read_labels
from clipmill.stores.formats.oxford_buildings import read_oxford_buildings, read_rankings
from clipmill.stores.formats.parquet import write_segments_parquet
from clipmill.stores.formats.registry import format_of, names
from clipmill.stores.formats.segments_csv import read_segments_csv, write_segments_csv

SEGMENTS = segments_from_columns(["a", "b"], [0.1, 2], [1.0, 3], ["run", "jump, high"], [0.25, 1 / 3])
CAPTIONS = {"v_a": {"duration": 5.0, "timestamps": [[0, 1]], "sentences": ["x"]}}
REVISITED = {"imlist": ["i"], "qimlist": ["q"], "gnd": []}


def text(content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "given.file"
        path.write_text(content)
        return path

    return write


def parquet(folder: Path) -> Path:
    write_segments_parquet(folder / "given.file", SEGMENTS)
    return folder / "given.file"


def table(**columns: list[object]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pq.write_table(pa.table(columns), folder / "given.file")
        return folder / "given.file"

    return write


def folder_of(*names: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        for name in names:
            (folder / name).write_text("one 0 1\n")
        return folder

    return write


def npy(folder: Path) -> Path:
    np.save(folder / "given.npy", np.zeros((2, 1), np.int64))
    return folder / "given.npy"


def pickled(folder: Path) -> Path:
    (folder / "given.file").write_bytes(pickle.dumps(REVISITED, protocol=2))
    return folder / "given.file"


CASES: list[tuple[str, Callable[[Path], Path]]] = [
    ("activitynet", text(json.dumps({"taxonomy": [], "database": {}}))),
    ("activitynet", text(json.dumps({"results": {}}, indent=2))),
    ("activitynet_captions", text(json.dumps(CAPTIONS))),
    ("qvhighlights", text('{"qid": 1, "vid": "v"}\n{"qid": 2, "vid": "v"}\n')),
    ("qvhighlights", text('{"qid": 1, "vid": "v"}')),
    ("revisited", text(json.dumps(REVISITED))),
    ("revisited", pickled),
    ("ranks", text(json.dumps({"q": ["a", "b"]}))),
    ("ranks", npy),
    ("charades_sta", text("AO8RW 0.0 6.9##a person reads.\n")),
    ("thumos14", text("video_test_1 0.2 1.1 7 0.98\n")),
    ("thumos14", folder_of("Run_test.txt")),
    ("oxford", folder_of("all_souls_1_query.txt", "all_souls_1_good.txt")),
    ("trec", text("301 0 D1 1\n")),
    ("trec", text("# comment\n301\tQ0\tD1\t1\t2.5\ttag\n")),
    ("csv", text("video_id,start_seconds,stop_seconds\na,0,1\n")),
    ("csv", text("video-name,t-start,t-end,action-label\na,0,1,x\n")),
    ("labels", text("id,label\na,run\n")),
    ("scores", text("id,label,score\na,run,1\n")),
    ("scores", text("id,run,jump\na,1,2\n")),
    ("parquet", parquet),
    ("labels", table(id=["a"], label=["run"])),
    ("scores", table(id=["a"], run=[0.5])),
]


@pytest.mark.parametrize(("kind", "write"), CASES)
def test_a_format_is_known_by_its_content(tmp_path: Path, kind: str, write: Callable[[Path], Path]) -> None:
    assert format_of(write(tmp_path)) == kind
    assert kind in names()


@pytest.mark.parametrize("content", ["", "<html></html>", "one two\n", '{"a": 1}', "[1, 2]", "a,b\n1,2\n"])
def test_an_unknown_file_says_what_it_looks_like(tmp_path: Path, content: str) -> None:
    with pytest.raises(FormatError, match=r"given\.file: expected a known format .* got .*; check the path"):
        format_of(text(content)(tmp_path))


def test_real_files_are_known(shared_data: Path) -> None:
    for name, kind in (
        ("annotations/activitynet1.3/activitynet_v1-3_valid_tsp_groundtruth.csv", "csv"),
        ("annotations/thumos14/annotation_val", "thumos14"),
        ("annotations/charades_sta/charades_sta_test.txt", "charades_sta"),
        ("annotations/activitynet_captions/val_1.json", "activitynet_captions"),
        ("evaluation/moment-detr-qvhighlights/highlight_val_release.jsonl", "qvhighlights"),
        ("evaluation/moment-detr-qvhighlights/sample_val_preds.jsonl", "qvhighlights"),
        ("evaluation/trec_eval/qrels.test", "trec"),
        ("evaluation/trec_eval/results.test", "trec"),
    ):
        assert format_of(shared_data / name) == kind


def test_segments_survive_csv_to_the_last_bit(tmp_path: Path) -> None:
    write_segments_csv(tmp_path / "a.csv", SEGMENTS)
    again = read_segments_csv(tmp_path / "a.csv").segments
    assert (again.video_ids, again.label_names) == (SEGMENTS.video_ids, SEGMENTS.label_names)
    for column in ("video", "label", "start_seconds", "stop_seconds", "score"):
        assert getattr(again, column).tobytes() == getattr(SEGMENTS, column).tobytes()


def test_tsp_ground_truth_has_durations_of_its_videos(shared_data: Path) -> None:
    found = read_segments_csv(shared_data / "annotations" / "thumos14" / "thumos14_test_tsp_groundtruth.csv")
    assert found.duration_seconds["video_test_0000004"] == pytest.approx(33.7333333)
    metadata = read_charades_durations(shared_data / "annotations" / "thumos14" / "thumos14_test_metadata.csv")
    assert metadata["video_test_0000004"] == pytest.approx(33.7333333)


def test_what_lies_between_annotations_is_no_annotation(tmp_path: Path, shared_data: Path) -> None:
    rows = "a,0,3,run,9,Action\na,3,9,,9,No action\nb,0,5,,5,No action\n"
    header = "video-name,t-start,t-end,action-label,video-duration,temporal-region-label\n"
    (tmp_path / "a.csv").write_text(header + rows)
    found = read_segments_csv(tmp_path / "a.csv")
    assert (found.segments.label_names, found.segments.stop_seconds.tolist()) == (("run",), [3.0])
    assert found.segments.video_ids == ("a", "b")
    assert found.duration_seconds == {"a": 9.0, "b": 5.0}
    folder = shared_data / "annotations"
    real = read_segments_csv(folder / "activitynet1.3" / "activitynet_v1-3_valid_tsp_groundtruth.csv").segments
    # As ActivityNet 1.3 is published: 200 classes, 7,654 instances.
    assert (len(real), len(real.label_names)) == (7654, 200)


def test_a_csv_of_segments_without_a_column_or_with_a_bad_row_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("video_id,start_seconds\na,0\n")
    with pytest.raises(FormatError, match="video_id, start_seconds, stop_seconds"):
        read_segments_csv(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("video_id,start_seconds,stop_seconds\na,0,soon\n")
    with pytest.raises(FormatError, match=r"a\.csv line 2: expected a video and numbers"):
        read_segments_csv(tmp_path / "a.csv")


def test_class_scores_are_read_wide_long_and_from_parquet(tmp_path: Path) -> None:
    (tmp_path / "wide.csv").write_text("run,id,jump\n0.5,a,0.25\n1,b,2\n")
    (tmp_path / "long.csv").write_text("id,label,score\na,run,0.5\nb,jump,2\n")
    pq.write_table(pa.table({"id": ["a"], "run": [0.1], "jump": [1 / 3]}), tmp_path / "wide.parquet")
    wide = read_class_scores(tmp_path / "wide.csv")
    assert (wide.ids, wide.class_names, wide.values.tolist()) == (("a", "b"), ("run", "jump"), [[0.5, 0.25], [1, 2]])
    assert read_class_scores(tmp_path / "long.csv").values.tolist() == [[0.5, -np.inf], [-np.inf, 2.0]]
    assert read_class_scores(tmp_path / "wide.parquet").values.tolist() == [[0.1, 1 / 3]]


def test_labels_and_scores_that_repeat_or_lack_something_are_refused(tmp_path: Path) -> None:
    for reader, content, message in (
        (read_labels, "id,label\na,x\na,y\n", "line 3: expected each id once"),
        (read_labels, "id,label\na,\n", "line 2: expected an id and a label"),
        (read_labels, "id,name\na,x\n", "the columns id and label"),
        (read_class_scores, "id,x\na,1,2\n", "line 2: expected 2 fields"),
        (read_class_scores, "id,x\na,high\n", "a number for each class"),
        (read_class_scores, "id,label,score\na,x,1\na,x,2\n", "each class of an item once"),
        (read_class_scores, "name,x\na,1\n", "the column id"),
    ):
        (tmp_path / "given.csv").write_text(content)
        with pytest.raises(FormatError, match=message):
            reader(tmp_path / "given.csv")


def test_oxford_ground_truth_is_read_and_an_incomplete_one_refused(tmp_path: Path) -> None:
    for end, content in (("query", "oxc1_a 1 2 3 4\n"), ("good", "a\nb\n"), ("ok", "c\n"), ("junk", "")):
        (tmp_path / f"t_1_{end}.txt").write_text(content)
    query = read_oxford_buildings(tmp_path)["t_1"]
    assert (query.image, query.box, query.good, query.ok, query.junk) == ("a", (1, 2, 3, 4), ("a", "b"), ("c",), ())
    (tmp_path / "t_1_query.txt").write_text("oxc1_a 1 2\n")
    with pytest.raises(FormatError, match="<left> <top> <right> <bottom>"):
        read_oxford_buildings(tmp_path)
    (tmp_path / "t_1_ok.txt").unlink()
    with pytest.raises(FormatError, match=r"no 't_1_ok\.txt'"):
        read_oxford_buildings(tmp_path)
    with pytest.raises(FormatError, match="a folder of Oxford/Paris"):
        read_oxford_buildings(tmp_path / "gone")


def test_rankings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "ranks.npy", np.array([[5], [0]]))
    with pytest.raises(FormatError, match="positions below 2"):
        read_rankings(tmp_path / "ranks.npy", ("a", "b"), ("q",))
    with pytest.raises(FormatError, match="this truth lists none"):
        read_rankings(tmp_path / "ranks.npy")
    (tmp_path / "ranks.json").write_text('{"q": [1]}')
    with pytest.raises(FormatError, match="query q: expected a list of names"):
        read_rankings(tmp_path / "ranks.json")


def test_results_of_whole_videos_need_no_segment(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"results": {"a": [{"label": "x", "score": 1}]}}')
    assert read_activitynet_results(tmp_path / "r.json", whole_videos=True).segments.stop_seconds.tolist() == [1.0]
    with pytest.raises(FormatError, match="'segment'"):
        read_activitynet_results(tmp_path / "r.json")
