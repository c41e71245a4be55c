"""From logits to the classes a person can read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipmill.schemas.errors import FormatError, describe


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class of a clip; `name` is None where no list of names was given."""

    index: int
    name: str | None
    probability: float
    logit: float


def read_class_names(path: str) -> list[str]:
    """Returns the class names of a text file, one per line in the order of the network's last layer.

    Raises:
        FormatError: the file cannot be read or is empty.
    """
    try:
        with open(path, encoding="utf-8") as file:
            names = [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(describe("class names", path, "a text file", str(error), "correct the path")) from None
    if not names:
        raise FormatError(describe("class names", path, "one name per line", "an empty file", "give the right file"))
    return names


def check_class_names(names: Sequence[str] | None, num_classes: int) -> None:
    """Makes sure that there are as many names as classes.

    Raises:
        FormatError: there are not.
    """
    if names is not None and len(names) != num_classes:
        remedy = "give the list of the data these weights were trained on"
        raise FormatError(describe("class names", "list", f"{num_classes} names", str(len(names)), remedy))


def top_classes(
    logits: npt.NDArray[np.floating], class_names: Sequence[str] | None = None, num_top: int = 5
) -> list[ClassScore]:
    """Returns the most probable classes of one row of logits ``[C]`` with their probabilities (softmax), best first.

    For several rows of one clip, average the logits first: that is the order the published scores are made in.

    Raises:
        FormatError: there are not as many names as logits.
    """
    check_class_names(class_names, len(logits))
    logits = np.asarray(logits, dtype=np.float64)
    shifted = np.exp(logits - logits.max())
    probabilities = shifted / shifted.sum()
    order = np.argsort(-probabilities, kind="stable")[:num_top]
    names = class_names if class_names is not None else [None] * len(logits)
    return [ClassScore(int(index), names[index], float(probabilities[index]), float(logits[index])) for index in order]
