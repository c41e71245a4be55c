"""A wrong file says what it looks like and what was expected; ids that do not match are listed on both sides."""

import gzip
import json
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipmill.schemas.errors import FormatError
from clipmill.stores.formats.activitynet import read_activitynet_database, read_activitynet_results
from clipmill.stores.formats.activitynet_captions import read_activitynet_captions
from clipmill.stores.formats.charades_sta import read_charades_durations, read_charades_sta
from clipmill.stores.formats.ids import match_ids, require_ids
from clipmill.stores.formats.parquet import read_segments_parquet
from clipmill.stores.formats.qvhighlights import read_qvhighlights, read_qvhighlights_predictions
from clipmill.stores.formats.revisited_oxford import read_revisited_oxford
from clipmill.stores.formats.sniff import looks_like
from clipmill.stores.formats.thumos14 import read_thumos14, read_thumos14_classes, read_thumos14_detections
from clipmill.stores.formats.trec import read_trec_qrels, read_trec_run

Reader = Callable[[Path], Any]


def thumos_detections(path: Path) -> Any:
    return read_thumos14_detections(path, {7: "a"})


READERS: dict[str, tuple[Reader, str]] = {
    "activitynet database": (read_activitynet_database, "with the key 'database'"),
    "activitynet results": (read_activitynet_results, "with the key 'results'"),
    "activitynet captions": (read_activitynet_captions, "'timestamps' and 'sentences'"),
    "charades_sta": (read_charades_sta, "<video> <start> <end>##<sentence>"),
    "charades durations": (read_charades_durations, "id and length"),
    "thumos14 classes": (read_thumos14_classes, "<number> <name>"),
    "thumos14 detections": (thumos_detections, "<video> <start> <stop> <class number> <score>"),
    "trec run": (read_trec_run, "<query> Q0 <document> <rank> <score> <run name>"),
    "trec qrels": (read_trec_qrels, "<query> 0 <document> <judgement>"),
    "qvhighlights": (read_qvhighlights, "'relevant_windows'"),
    "qvhighlights predictions": (read_qvhighlights_predictions, "'pred_relevant_windows'"),
    "revisited oxford": (read_revisited_oxford, "'imlist', 'qimlist' and 'gnd'"),
    "parquet": (read_segments_parquet, "video_id, start_seconds, stop_seconds"),
}
WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "an empty file"),
    "html": (b"<!DOCTYPE html><html>404</html>", "an HTML or XML page"),
    "gzip": (gzip.compress(b"text"), "gzip data, to be unpacked first"),
    "utf16": ('{"alpha": 1}'.encode("utf-16"), "UTF-16 text, to be saved as UTF-8"),
    "latin1": ('{"caf\xe9": 1}'.encode("latin-1"), "text that is not UTF-8 (byte 5)"),
    "truncated": (b'{"alpha": [1, 2, 3, 4', "JSON that breaks off at character 22, beginning with the key 'alpha'"),
    "malformed": (b'{"alpha": [1, 2,, 3, 4]}', "JSON that is malformed at character 17"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
    "hdf5": (b"\x89HDF\r\n\x1a\n\0\0", "an HDF5 file"),
    "csv": (b"alpha,beta,gamma\nx,y,z\n", "text in 3 columns separated by commas"),
    "json": (b'{"alpha": 1, "beta": 2}', "JSON object with the keys 'alpha', 'beta'"),
}


# Any flat JSON object of numbers is one of durations.
PAIRS = [(reader, wrong) for reader in READERS for wrong in WRONG if (reader, wrong) != ("charades durations", "json")]


@pytest.mark.parametrize(("reader", "wrong"), PAIRS)
def test_a_wrong_file_says_what_it_looks_like_and_what_was_expected(tmp_path: Path, reader: str, wrong: str) -> None:
    read, expected = READERS[reader]
    content, looks = WRONG[wrong]
    (tmp_path / "given.file").write_bytes(content)
    with pytest.raises(FormatError) as caught:
        read(tmp_path / "given.file")
    message = str(caught.value)
    assert "\n" not in message
    assert "given.file" in message
    assert expected in message
    assert looks in message


@pytest.mark.parametrize("reader", READERS)
def test_a_missing_file_is_named(tmp_path: Path, reader: str) -> None:
    with pytest.raises(FormatError, match="nowhere"):
        READERS[reader][0](tmp_path / "nowhere")


def refused(read: Reader, path: Path, text: str, message: str) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=message):
        read(path)


def test_swapped_activitynet_files_are_told_apart(tmp_path: Path) -> None:
    refused(read_activitynet_database, tmp_path / "x", '{"results": {}}', "'results'; this is the other kind of file")
    refused(read_activitynet_results, tmp_path / "x", '{"database": {}}', "'database'; this is the other kind of file")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ('{"label": "a", "segment": [1]}', r"video v: expected 'segment': \[start, stop\] in seconds"),
        ('{"label": "a", "segment": [1, "x"]}', "expected 'segment'"),
        ('{"segment": [1, 2]}', "expected annotations with text as 'label'"),
    ],
)
def test_a_malformed_annotation_names_its_video(tmp_path: Path, item: str, message: str) -> None:
    text = '{"database": {"v": {"subset": "validation", "annotations": [' + item + "]}}}"
    refused(read_activitynet_database, tmp_path / "x", text, message)


@pytest.mark.parametrize("told", ['"ImageNet"', "[1]", "[]", "null", "true", '{"used": true}'])
def test_what_activitynet_files_tell_beside_the_data_may_be_anything(tmp_path: Path, told: str) -> None:
    (tmp_path / "x").write_text('{"results": {"v": []}, "external_data": ' + told + ', "version": 1, "more": 2}')
    read_activitynet_results(tmp_path / "x")
    (tmp_path / "x").write_text('{"database": {"v": {"annotations": []}}, "taxonomy": ' + told + "}")
    read_activitynet_database(tmp_path / "x")


def test_a_prediction_without_a_score_names_its_video(tmp_path: Path) -> None:
    text = '{"results": {"v": [{"label": "a", "segment": [0, 1], "score": NaN}]}}'
    refused(read_activitynet_results, tmp_path / "x", text, "video v: expected predictions with a number as 'score'")


def test_an_unknown_subset_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "x").write_text('{"database": {"v": {"subset": "validation", "annotations": []}}}')
    with pytest.raises(FormatError, match="expected videos of subset 'val', got only validation"):
        read_activitynet_database(tmp_path / "x", "val")


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        (read_trec_run, "q Q0 d 1 0.5 me\nq Q0 d 2\n", "line 2: expected a TREC run"),
        (read_trec_run, "q Q0 d 1 0.5 me\nq Q0 d 2 0.4 me\n", "line 2: expected each document once for query q"),
        (read_trec_run, "q Q0 d 1 nan me\n", "expected a TREC run"),
        (read_trec_qrels, "q 0 d 1\nq 0 e x\n", "line 2: expected TREC qrels"),
        (read_trec_qrels, "q 0 d 1\nq 0 d 0\n", "line 2: expected each document once for query q"),
        (read_charades_sta, "A 0.0 1.0##a\nB 2.0##b\n", "line 2: expected Charades-STA"),
        (read_charades_sta, "A 0.0 1.0##a\nB 2.0 1.0##b\n", "line 2: expected start <= end"),
        (thumos_detections, "v 0 1 7 0.5\nv 0 1 8 0.5\n", r"line 2: expected a class number of the list \(7\)"),
        (thumos_detections, "v 0 1 7 0.5\nv 0 1 7\n", "line 2: expected THUMOS14 detections"),
        (read_thumos14_classes, "7 A\n7 B\n", "line 2: expected each class once"),
        (
            read_qvhighlights,
            '{"qid": 1, "vid": "v", "query": "", "duration": 2}\n{"qid": 2}\n',
            "line 2: expected the key",
        ),
        (read_qvhighlights_predictions, '{"qid": 1, "pred_relevant_windows": [[0, 1]]}', "lists of 3 numbers"),
        (read_charades_durations, '{"A": "long"}', "video A: expected seconds, got no number"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, reader: Reader, text: str, message: str) -> None:
    refused(reader, tmp_path / "x", text, message)


def test_qvhighlights_query_twice_and_clips_beyond_the_video_are_refused(tmp_path: Path) -> None:
    row = {"qid": 1, "vid": "v", "query": "", "duration": 4, "relevant_windows": [[0, 2]]}
    refused(
        read_qvhighlights, tmp_path / "x", f"{json.dumps(row)}\n{json.dumps(row)}\n", "line 2: expected each 'qid' once"
    )
    clips = row | {"relevant_clip_ids": [2], "saliency_scores": [[1, 1, 1]]}
    refused(read_qvhighlights, tmp_path / "x", json.dumps(clips), "line 1: expected 'saliency_scores'.*below 2")


@pytest.mark.parametrize("scores", ['["x"]', "[[1], [2]]", '"abc"', "[0.5, NaN]", "[0.5, null]"])
def test_qvhighlights_clip_scores_that_are_no_numbers_are_refused(tmp_path: Path, scores: str) -> None:
    text = '{"qid": 1, "pred_saliency_scores": ' + scores + "}"
    refused(read_qvhighlights_predictions, tmp_path / "x", text, "line 1: expected 'pred_saliency_scores' as a list of")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("duration", "long", "line 1: expected 'duration' in seconds"),
        ("saliency_scores", [[1, 2, 3], [1, 2]], "line 1: expected 'saliency_scores' with as many numbers"),
        ("saliency_scores", [[1, 2, 3], 1], "line 1: expected 'saliency_scores' with as many numbers"),
        ("saliency_scores", 3, "line 1: expected lists as 'relevant_clip_ids' and 'saliency_scores'"),
    ],
)
def test_a_malformed_qvhighlights_annotation_names_its_line(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    row = {"qid": 1, "vid": "v", "query": "q", "duration": 4, "relevant_windows": [[0, 4]]}
    row |= {"relevant_clip_ids": [0, 1], "saliency_scores": [[1, 2, 3], [1, 2, 3]]} | {key: value}
    refused(read_qvhighlights, tmp_path / "x", json.dumps(row), message)


def test_qvhighlights_predictions_given_as_annotations_are_refused(tmp_path: Path) -> None:
    row = {"qid": 1, "vid": "v", "query": "", "duration": 4, "pred_relevant_windows": [[0, 2, 0.5]]}
    refused(read_qvhighlights, tmp_path / "x", json.dumps(row), "QVHighlights annotations.*'pred_relevant_windows'")


def test_captions_whose_lists_differ_name_their_video(tmp_path: Path) -> None:
    text = '{"v_a": {"duration": 5, "timestamps": [[0, 1]], "sentences": []}}'
    refused(read_activitynet_captions, tmp_path / "x", text, "video v_a: expected a duration, and as many timestamps")


def test_a_thumos_folder_without_the_subset_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "Diving_val.txt").write_text("v 0 1\n")
    with pytest.raises(FormatError, match=r"BaseballPitch_test.txt, got 'Diving_val.txt'"):
        read_thumos14(tmp_path, "test")
    (tmp_path / "detclasslist.txt").write_text("26 Diving\n33 GolfSwing\n")
    with pytest.raises(FormatError, match="expected a file for each class, got none for 'GolfSwing'"):
        read_thumos14(tmp_path, "val")


def test_a_parquet_table_with_other_columns_lists_them(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"video_id": ["v"], "start": [0.0]}), tmp_path / "x")
    with pytest.raises(FormatError, match="got the columns video_id, start; add start_seconds, stop_seconds"):
        read_segments_parquet(tmp_path / "x")
    pq.write_table(pa.table({"video_id": ["v"], "start_seconds": ["now"], "stop_seconds": [1.0]}), tmp_path / "x")
    with pytest.raises(FormatError, match="column start_seconds: expected double, got string"):
        read_segments_parquet(tmp_path / "x")
    columns = {"video_id": ["v"], "start_seconds": pa.array([None], pa.float64()), "stop_seconds": [1.0]}
    pq.write_table(pa.table(columns), tmp_path / "x")
    with pytest.raises(FormatError, match="column start_seconds: expected a value in each row, got 1 null values"):
        read_segments_parquet(tmp_path / "x")


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.getoutput, ("touch executed",)


def test_a_pickle_that_would_run_code_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps({"imlist": [], "qimlist": [], "gnd": [_Evil()]}))
    with pytest.raises(FormatError, match=r"expected plain containers and arrays, got 'subprocess.getoutput'"):
        read_revisited_oxford(tmp_path / "gnd.pkl")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"easy": [9], "hard": [], "junk": [], "bbx": [0, 0, 1, 1]},
            "query q: expected positions in a list of 2 images",
        ),
        ({"easy": [0], "hard": [], "bbx": [0, 0, 1, 1]}, "query q: expected the keys"),
        ({"easy": [0], "hard": [], "junk": [], "bbx": [0, 0]}, "query q: expected a box of 4 numbers"),
    ],
)
def test_a_malformed_revisited_query_is_named(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    (tmp_path / "g.json").write_text(json.dumps({"imlist": ["a", "b"], "qimlist": ["q"], "gnd": [entry]}))
    with pytest.raises(FormatError, match=message):
        read_revisited_oxford(tmp_path / "g.json")


def test_ids_that_do_not_match_are_listed_with_counts_on_both_sides() -> None:
    match = match_ids([f"v_{n}" for n in range(9)], [str(n) for n in range(7)], "ground truth", "predictions")
    text = str(match)
    assert "0 ids in both; 9 only in ground truth ('v_0', 'v_1', 'v_2', 'v_3', 'v_4' and 4 more)" in text
    assert "7 only in predictions" in text
    assert "7 more of ground truth and predictions would match without the prefix 'v_'" in text
    with pytest.raises(
        FormatError, match="ids of ground truth and predictions: expected ids in common, got 0 ids in both"
    ):
        require_ids(match)


@pytest.mark.parametrize(
    ("left", "right", "hint"),
    [("a.mp4", "a", "endings"), ("x/a", "a", "folders"), ("007", "7", "leading zeros"), ("A", "a", "lower case")],
)
def test_what_keeps_ids_apart_is_hinted_at(left: str, right: str, hint: str) -> None:
    assert hint in match_ids([left], [right], "one", "other").hint


def test_partial_matches_pass_unless_all_are_required() -> None:
    match = match_ids(["a", "b"], ["b", "c"], "one", "other")
    require_ids(match)
    assert not match.complete
    with pytest.raises(FormatError, match=r"expected the same ids, got 1 ids in both; 1 only in one \('a'\)"):
        require_ids(match, every=True)
    require_ids(match_ids(["a"], ["a"], "one", "other"), every=True)


def test_a_folder_and_binary_data_are_recognised(tmp_path: Path) -> None:
    assert looks_like(tmp_path) == "a folder of 0 entries"
    (tmp_path / "x").write_bytes(b"\x01\x02\0\0\x05")
    assert looks_like(tmp_path / "x") == "binary data"
    assert "unreadable" in looks_like(tmp_path / "none")
    (tmp_path / "y").write_text('{"a": 1}\n{"a": 2}\n')
    assert looks_like(tmp_path / "y") == "JSON lines, objects with the keys 'a'"
