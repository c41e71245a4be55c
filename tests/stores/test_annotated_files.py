"""Published annotations as the list of a build's videos."""

import json
from pathlib import Path
from typing import Any

import pytest

from clipmill.schemas.config import VideosConfig
from clipmill.schemas.errors import ConfigError, FormatError, ManifestError
from clipmill.schemas.model import validate
from clipmill.schemas.records import Segment, Video
from clipmill.stores.annotated_files import Matching
from clipmill.stores.formats.annotated_videos import read_annotated_videos
from clipmill.stores.manifests import Manifest, read_manifest

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def listed_by(annotations: Path, folder: Path, **keys: Any) -> Manifest:
    return read_manifest(VideosConfig(folder=str(folder), annotations=str(annotations), **keys))


def matching_of(manifest: Manifest) -> Matching:
    assert manifest.matching is not None
    return manifest.matching


def anet(path: Path, database: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"version": "", "taxonomy": [], "database": database}))
    return path


def entry(subset: str, *segments: tuple[str, float, float]) -> dict[str, Any]:
    annotations = [{"label": label, "segment": [start, stop]} for label, start, stop in segments]
    return {"subset": subset, "duration": 30.0, "annotations": annotations}


def test_activitynet_names_videos_labels_and_parts(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    touch(videos, "v_a.mp4", "v_b.mp4", "v_other.mp4", "c.mp4", "notes.txt")
    database = {
        "b": entry("training", ("Run", 1.5, 3.0), ("Jump", 4.0, 6.0)),
        "a": entry("validation", ("Run", 0.0, 2.0), ("Run", 5.0, 5.0)),
        "c": entry("testing"),
        "d": entry("training", ("Run", 0.0, 1.0)),
    }
    manifest = listed_by(anet(tmp_path / "anet.json", database), videos, ids="v_{id}.mp4")
    assert manifest.videos == (
        Video(
            "b",
            str(videos / "v_b.mp4"),
            split="train",
            segments=(Segment(1.5, 3.0, "Run"), Segment(4.0, 6.0, "Jump")),
        ),
        Video("a", str(videos / "v_a.mp4"), label="Run", split="validation", segments=(Segment(0.0, 2.0, "Run"),)),
    )
    matching = matching_of(manifest)
    assert matching == Matching(4, ("c", "d"), ("c.mp4", "v_other.mp4"), {"a": 1})
    assert matching.lines() == [
        "annotated videos: 4, 2 of them with a file",
        "  without a file: 2: 'c', 'd'",
        "  files nobody annotated: 2: 'c.mp4', 'v_other.mp4'",
        "  segments without length, left out: 1, of 'a'",
    ]
    assert manifest.num_left_out == {".txt": 1}
    training = listed_by(tmp_path / "anet.json", videos, ids="v_{id}.mp4", subset="training")
    assert [video.id for video in training.videos] == ["b"]


def test_ids_are_found_in_any_folder_with_any_suffix(tmp_path: Path) -> None:
    # QVHighlights' ids have dots.
    videos = tmp_path / "videos"
    touch(videos, "x/a_360.0_510.0.mp4", "b.webm", "y/z/c.mkv", "xb.mp4")
    lines = [
        {"qid": 1, "query": "a dog", "duration": 150, "vid": "a_360.0_510.0", "relevant_windows": [[0, 4], [8, 10]]},
        {"qid": 2, "query": "a cat", "duration": 150, "vid": "a_360.0_510.0", "relevant_windows": [[2, 6]]},
        {"qid": 3, "query": "a hat", "duration": 150, "vid": "c", "relevant_windows": [[2, 6]]},
    ]
    file = tmp_path / "highlight_val_release.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    manifest = listed_by(file, videos)
    first, second = manifest.videos
    assert first.segments == (Segment(0.0, 4.0, "a dog"), Segment(8.0, 10.0, "a dog"), Segment(2.0, 6.0, "a cat"))
    assert (first.id, first.label, second.id) == ("a_360.0_510.0", None, "c")
    assert second.uri == str(videos / "y/z/c.mkv")
    assert matching_of(manifest).not_annotated == ("b.webm", "xb.mp4")


@pytest.mark.parametrize(
    ("name", "text", "segments"),
    [
        ("charades_sta_test.txt", "one 24.3 30.4##a light.\n", (Segment(24.3, 30.4, "a light."),)),
        (
            "val_1.json",
            '{"one": {"duration": 55.15, "timestamps": [[0.28, 55.15]], "sentences": ["A lift."]}}',
            (Segment(0.28, 55.15, "A lift."),),
        ),
        (
            "truth.csv",
            "video_id,start_seconds,stop_seconds,label\none,1,2,Run\none,3,4,Run\n",
            (Segment(1.0, 2.0, "Run"), Segment(3.0, 4.0, "Run")),
        ),
    ],
)
def test_other_formats_name_the_same(tmp_path: Path, name: str, text: str, segments: tuple[Segment, ...]) -> None:
    touch(tmp_path / "videos", "one.avi")
    (tmp_path / name).write_text(text)
    (video,) = listed_by(tmp_path / name, tmp_path / "videos").videos
    assert (video.id, video.segments, video.split) == ("one", segments, None)
    assert video.label == ("Run" if name == "truth.csv" else None)


def test_a_folder_of_thumos14_has_both_parts(tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    truth.mkdir()
    (truth / "Diving_val.txt").write_text("video_validation_0000051  1.5 3.0\n")
    (truth / "Diving_test.txt").write_text("video_test_0000004  0.2 1.1\n")
    touch(tmp_path / "videos", "video_validation_0000051.mp4", "video_test_0000004.mp4")
    found = {video.id: video.split for video in listed_by(truth, tmp_path / "videos").videos}
    assert found == {"video_validation_0000051": "validation", "video_test_0000004": "test"}


def test_two_files_of_one_video_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "videos", "a/one.mp4", "b/one.mkv")
    file = anet(tmp_path / "anet.json", {"one": entry("training", ("Run", 0, 1))})
    with pytest.raises(ManifestError, match=r"one file of id 'one', got 'a/one.mp4' and 'b/one.mkv'"):
        listed_by(file, tmp_path / "videos")
    (video,) = listed_by(file, tmp_path / "videos", ids="b/{id}.mkv").videos
    assert video.uri == str(tmp_path / "videos/b/one.mkv")


def test_no_match_at_all_says_what_would(tmp_path: Path) -> None:
    touch(tmp_path / "videos", "v_one.mp4", "v_two.mp4")
    file = anet(tmp_path / "anet.json", {name: entry("training", ("Run", 0, 1)) for name in ("one", "two")})
    with pytest.raises(ManifestError, match=r"ids such as 'one', 'two' and files such as 'v_one.mp4'.*prefix 'v_'"):
        listed_by(file, tmp_path / "videos")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"manifest": "x.csv", "annotations": "a.json"}, "give folder"),
        ({"folder": "x", "annotations": "a.json", "label": "parent_folder"}, "leave out label"),
        ({"folder": "x", "ids": "{id}.mp4"}, "ids belongs to annotations"),
        ({"folder": "x", "annotations": "a.json", "ids": "v_.mp4"}, "expected {id} once"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(VideosConfig, keys, "config")


def test_what_is_no_annotation_of_videos_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "videos", "one.avi")
    (tmp_path / "qrels").write_text("301 0 FBIS3-10082 1\n")
    (tmp_path / "notes").write_text("nothing of the kind\n")
    with pytest.raises(FormatError, match="a known format"):
        listed_by(tmp_path / "notes", tmp_path / "videos")
    with pytest.raises(FormatError, match=r"one of activitynet, .*got trec"):
        listed_by(tmp_path / "qrels", tmp_path / "videos", format="trec")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
def test_real_annotations_have_the_published_numbers_of_videos_and_segments() -> None:
    expected = {
        "annotations/thumos14/annotation_val": ("thumos14", 200, 3007),
        "annotations/charades_sta/charades_sta_test.txt": ("charades_sta", 1334, 3720),
        "annotations/activitynet_captions/val_1.json": ("activitynet_captions", 4917, 17505),
        "annotations/activitynet1.3/activitynet_v1-3_valid_tsp_groundtruth.csv": ("csv", 4926, 7654),
        "evaluation/moment-detr-qvhighlights/highlight_val_release.jsonl": ("qvhighlights", 1519, 2803),
    }
    for path, numbers in expected.items():
        found = read_annotated_videos(str(SHARED / path))
        assert (found.format, len(found.videos), sum(len(v.segments) for v in found.videos.values())) == numbers
