"""The check of an I3D file: what it is, and the authors' sample where one has it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.i3d_check import (
    EXPECTED,
    check,
    compare,
    git_blob_sha1,
    read_class_names,
    top_classes,
)
from extractors.i3d_layouts import layouts
from extractors.i3d_network import InceptionI3D
from extractors.torch_extractor import seeded
from schemas.errors import FormatError, WeightsError


def read_expected(path: Path) -> tuple[float, list[tuple[str, float]]]:
    """The authors' own output: the norm, then probability, logit and name per line."""
    lines = path.read_text("utf-8").splitlines()
    top = [line.split(maxsplit=2) for line in lines[3:] if line.strip()]
    return float(lines[0].split(":")[1]), [(name, float(logit)) for _, logit, name in top]


@pytest.mark.parametrize(("stream", "file"), [("rgb", "rgb"), ("flow", "flow"), ("both", "joint")])
def test_expected_numbers_are_the_authors(shared_data: Path, stream: str, file: str) -> None:
    norm, top = read_expected(shared_data / "evaluation" / "i3d-expected" / f"imagenet_{file}.txt")
    assert EXPECTED[stream].norm == pytest.approx(norm, rel=1e-7)
    assert [name for name, _ in EXPECTED[stream].top] == [name for name, _ in top[:2]]
    assert [value for _, value in EXPECTED[stream].top] == pytest.approx([value for _, value in top[:2]], rel=1e-6)


def test_the_authors_own_logits_pass_and_half_of_them_fail(shared_data: Path) -> None:
    names = read_class_names(str(shared_data / "annotations" / "kinetics400_labels.txt"))
    assert len(names) == 400
    norm, top = read_expected(shared_data / "evaluation" / "i3d-expected" / "imagenet_rgb.txt")
    logits = np.zeros(400)
    for name, value in top:
        logits[names.index(name)] = value
    rest = [index for index in range(400) if logits[index] == 0]
    logits[rest] = np.sqrt((norm**2 - float((logits**2).sum())) / len(rest))
    assert all(comparison.agrees for comparison in compare("rgb", logits, names))
    assert all(comparison.agrees for comparison in compare("rgb", logits))
    assert not any(comparison.agrees for comparison in compare("rgb", logits / 2, names))
    named = top_classes(logits, names, num_top=2)
    assert [name for name, _ in named] == ["playing cricket", "playing kickball"]


def test_git_names_a_file_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "hello"
    path.write_bytes(b"hello\n")
    # What `git hash-object` prints for this content.
    assert git_blob_sha1(str(path)) == "ce013625030ba8dba906f756967f9e9ca394464a"


def saved(folder: Path, stream: str) -> Path:
    layout = {layout.name: layout for layout in layouts(stream)}[f"i3d_hassony2_{stream}"]
    state = seeded(0, lambda: InceptionI3D(stream)).state_dict()
    path = folder / f"{stream}.pth"
    torch.save({key: state[ours] for key, (ours, _) in layout.keys.items()}, path)
    return path


def test_a_file_is_recognised_and_a_wrong_sample_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, "flow")
    report = check(str(path))
    assert (report.stream, report.layout, report.num_classes) == ("flow", "i3d_hassony2_flow", 400)
    assert report.num_parameters == 12_675_312
    assert report.published_as is None
    assert report.passed
    with pytest.raises(FormatError, match="v_CricketShot_g04_c01"):
        check(str(path), {"rgb": "sample.npy"})
    np.save(tmp_path / "short.npy", np.zeros((1, 16, 224, 224, 2), dtype=np.float32))
    with pytest.raises(FormatError, match=r"got \[1, 16, 224, 224, 2\]"):
        check(str(path), {"flow": str(tmp_path / "short.npy")})
    with pytest.raises(FormatError, match="No such file"):
        check(str(path), {"flow": str(tmp_path / "none.npy")})


def test_another_networks_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"conv.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="287 missing|230 missing"):
        check(str(path))


def test_softmax_of_top_classes_by_hand() -> None:
    logits = np.log(np.array([1.0, 6.0, 3.0]))
    found = top_classes(logits, ["a", "b", "c"], num_top=2)
    assert [name for name, _ in found] == ["b", "c"]
    assert [probability for _, probability in found] == pytest.approx([0.6, 0.3])
    with pytest.raises(WeightsError, match="expected 3 names, got 2"):
        top_classes(logits, ["a", "b"])


def test_class_names_errors_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="correct the path"):
        read_class_names(str(tmp_path / "none.txt"))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(FormatError, match="an empty file"):
        read_class_names(str(tmp_path / "empty.txt"))
