"""Files as their makers leave them: S-CNN's .mat, pickles that are refused, class numbers and their lists."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from clipmill.schemas.errors import FormatError
from clipmill.stores.formats.class_lists import read_class_list
from tests.jobs.evaluation_command import evaluate, refused

FAST = {"resamples": 10, "baselines": False}
HEAD = "video_id,start_seconds,stop_seconds,label,score\n"


def scnn(shared_data: Path, **more: Any) -> dict[str, Any]:
    folder = shared_data / "evaluation" / "scnn-thumos14"
    return FAST | {
        "task": "detection",
        "protocol": "thumos14",
        "ground_truth": str(shared_data / "annotations" / "thumos14" / "annotation_test"),
        "predictions": {
            "file": str(folder / "res_seg_swin.mat"),
            "window_weights": str(folder / "window_weight" / "weight.mat"),
            **more,
        },
        "nms": {"below": 0.1, "ties": "last"},
        "time_decimals": 1,
        "score_digits": 5,
    }


def test_the_authors_own_mat_file_gives_their_numbers(shared_data: Path, tmp_path: Path) -> None:
    done = evaluate(tmp_path, scnn(shared_data))
    assert done.exit_code == 0, done.err
    got = [round(done.run()["metrics"][f"map@{t}"], 4) for t in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert got == [0.4772, 0.4353, 0.3628, 0.2870, 0.1897]
    # The official annotations have 213 videos with an interval that counts; one has no window with a class.
    assert done.run()["metrics"]["coverage"] > 0.99
    # The weights decide: without them it is another result.
    without = evaluate(tmp_path, scnn(shared_data, window_weights=None))
    assert without.run()["metrics"]["map@0.5"] != done.run()["metrics"]["map@0.5"]


def test_other_mat_files_are_refused_with_what_is_in_them(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "evaluation" / "scnn-thumos14"
    refused(evaluate(tmp_path, scnn(shared_data, file=str(folder / "res_scnn_thumos14.mat"))), "seg_swin", "'AP_all'")
    savemat(tmp_path / "narrow.mat", {"seg_swin": np.ones((3, 5))})
    refused(evaluate(tmp_path, scnn(shared_data, file=str(tmp_path / "narrow.mat"))), "14 columns", "3x5")
    (tmp_path / "cut.mat").write_bytes((folder / "res_seg_swin.mat").read_bytes()[:5000])
    refused(evaluate(tmp_path, scnn(shared_data, file=str(tmp_path / "cut.mat"))), "a MATLAB .mat file")
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + bytes(600))
    refused(evaluate(tmp_path, scnn(shared_data, file=str(tmp_path / "new.mat"))), "saved again with -v7")
    refused(evaluate(tmp_path, scnn(shared_data, classes=["one", "two"])), "class numbers from 1 to 2", "1 to 20")
    refused(evaluate(tmp_path, truth_and(tmp_path, "v1,0,9,run,1\n") | scnn_only()), "window_weights", "scnn")


def scnn_only() -> dict[str, Any]:
    return {"predictions": {"file": "answers.csv", "window_weights": "weight.mat", "format": "csv"}}


class _Bomb:
    """Unpickled it leaves a file: a reader that opens pickles would be found out."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("task", ["detection", "classification", "moments", "ranking"])
def test_a_pickle_is_refused_with_the_layout_that_is_taken_and_never_opened(
    task: str, protocol: int, tmp_path: Path, shared_data: Path
) -> None:
    path = tmp_path / "results.pkl"
    path.write_bytes(pickle.dumps({"video-id": ["v1"], "run": _Bomb(tmp_path / "opened")}, protocol=protocol))
    truths = {
        "detection": tmp_path / "truth.csv",
        "classification": tmp_path / "labels.csv",
        "moments": shared_data / "annotations" / "charades_sta" / "charades_sta_test.txt",
        "ranking": shared_data / "evaluation" / "trec_eval" / "qrels.test",
    }
    truth_and(tmp_path, "v1,0,9,run,1\n")
    (tmp_path / "labels.csv").write_text("id,label\na,run\n")
    config = FAST | {"task": task, "ground_truth": str(truths[task]), "predictions": str(path)}
    layouts = {
        "detection": "csv (video_id,start_seconds,stop_seconds,label,score)",
        "classification": "scores (id and a column per class, or id,label,score)",
        "moments": "qvhighlights (JSON lines: qid, pred_relevant_windows",
        "ranking": "trec (query Q0 document rank score run)",
    }
    refused(evaluate(tmp_path, config), "got a Python pickle", "never opened", layouts[task])
    if task == "detection":
        named = config | {"predictions": {"file": str(path), "format": "csv"}}
        refused(evaluate(tmp_path, named), "video_id, start_seconds, stop_seconds")
    assert not (tmp_path / "opened").exists()


def truth_and(folder: Path, answers: str) -> dict[str, Any]:
    (folder / "truth.csv").write_text(f"{HEAD}v1,0,10,run,1\nv2,0,10,High Jump,1\n")
    (folder / "answers.csv").write_text(HEAD + answers)
    paths = {"ground_truth": str(folder / "truth.csv"), "predictions": str(folder / "answers.csv")}
    return FAST | {"task": "detection", **paths}


def test_class_numbers_are_named_by_a_list_and_the_remedy_says_so(tmp_path: Path) -> None:
    config = truth_and(tmp_path, "v1,0,10,1,1\nv2,0,10,2,1\n")
    refused(
        evaluate(tmp_path, config), "the predictions have class numbers: give predictions.classes", "a list of names"
    )
    path = str(tmp_path / "answers.csv")
    listed = evaluate(tmp_path, config | {"predictions": {"file": path, "classes": ["run", "High Jump"]}})
    assert listed.run()["metrics"]["average"] == 1.0
    (tmp_path / "classes.txt").write_text("1 run\n2 High Jump\n")
    (tmp_path / "classes.json").write_text(json.dumps({"run": 1, "High Jump": 2}))
    (tmp_path / "from_zero.txt").write_text("(background)\nrun\nHigh Jump\n")
    for name in ("classes.txt", "classes.json", "from_zero.txt"):
        done = evaluate(tmp_path, config | {"predictions": {"file": path, "classes": str(tmp_path / name)}})
        assert done.run()["metrics"]["average"] == 1.0, name
    (tmp_path / "short.json").write_text('["run", "High Jump"]')
    short = config | {"predictions": {"file": path, "classes": str(tmp_path / "short.json")}}
    refused(evaluate(tmp_path, short), "class numbers of the list (0 to 1)", "'2'")


def test_class_scores_by_number_are_named_too(shared_data: Path, tmp_path: Path) -> None:
    labels = read_class_list(shared_data / "annotations" / "kinetics400_labels.txt")
    assert (len(labels), labels[0]) == (400, "abseiling")
    (tmp_path / "labels.csv").write_text(f"id,label\na,{labels[0]}\nb,{labels[399]}\n")
    columns = ",".join(str(n) for n in range(400))
    rows = "\n".join(
        ",".join([item, *("1" if n == code else "0" for n in range(400))]) for item, code in (("a", 0), ("b", 399))
    )
    (tmp_path / "scores.csv").write_text(f"id,{columns}\n{rows}\n")
    config = FAST | {"task": "classification", "ground_truth": str(tmp_path / "labels.csv")}
    refused(evaluate(tmp_path, config | {"predictions": str(tmp_path / "scores.csv")}), "give predictions.classes")
    classes = str(shared_data / "annotations" / "kinetics400_labels.txt")
    named = {"predictions": {"file": str(tmp_path / "scores.csv"), "classes": classes}}
    assert evaluate(tmp_path, config | named).run()["metrics"]["top1"] == 1.0


def test_lists_of_classes_in_every_form(shared_data: Path, tmp_path: Path) -> None:
    thumos = read_class_list(shared_data / "annotations" / "thumos14" / "annotation_test" / "detclasslist.txt")
    assert (len(thumos), thumos[1]) == (20, "BaseballPitch")
    mapping = read_class_list(shared_data / "annotations/activitynet1.3/activitynet_v1-3_action_label_mapping.json")
    assert (len(mapping), mapping[0]) == (200, "Applying sunscreen")
    path = tmp_path / "classes"
    for text, words in (
        ("1 run\n1 jump\n", "1 twice"),
        ("run\nrun\n", "'run' twice"),
        ('{"a": "b"}', "list of classes"),
    ):
        path.write_text(text)
        with pytest.raises(FormatError, match=words):
            read_class_list(path)
