"""From logits to names: softmax by hand, and lists of names that do not fit."""

from pathlib import Path

import numpy as np
import pytest

from clipmill.extractors.class_scores import check_class_names, read_class_names, top_classes
from clipmill.schemas.errors import FormatError


def test_softmax_of_top_classes_by_hand() -> None:
    logits = np.log(np.array([1.0, 6.0, 3.0]))
    found = top_classes(logits, ["a", "b", "c"], num_top=2)
    assert [(score.index, score.name) for score in found] == [(1, "b"), (2, "c")]
    assert [score.probability for score in found] == pytest.approx([0.6, 0.3])
    assert [score.logit for score in found] == pytest.approx([np.log(6), np.log(3)])


def test_without_names_classes_are_numbers_and_the_list_ends_with_the_classes() -> None:
    found = top_classes(np.array([0.0, 1000.0, -1000.0]), num_top=9)
    assert [(score.index, score.name) for score in found] == [(1, None), (0, None), (2, None)]
    assert sum(score.probability for score in found) == pytest.approx(1)


def test_equal_logits_keep_the_order_of_the_classes() -> None:
    assert [score.index for score in top_classes(np.zeros(4), num_top=3)] == [0, 1, 2]


def test_as_many_names_as_classes() -> None:
    check_class_names(None, 3)
    with pytest.raises(FormatError, match="expected 3 names, got 2"):
        top_classes(np.zeros(3), ["a", "b"])


def test_class_names_errors_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="correct the path"):
        read_class_names(str(tmp_path / "none.txt"))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(FormatError, match="an empty file"):
        read_class_names(str(tmp_path / "empty.txt"))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(FormatError, match="expected a text file"):
        read_class_names(str(tmp_path / "bytes.txt"))
