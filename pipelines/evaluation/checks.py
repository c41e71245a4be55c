"""What is checked of a ground truth and predictions before they are scored, and stands as notes beside the score."""

import numpy as np

from clipmill.schemas.errors import FormatError
from clipmill.schemas.segments import Segments
from clipmill.stores.formats.ids import IdMatch, match_ids, require_ids

_ID_KEYS = {"without the prefix 'v_'": "drop_prefix: v_", "without their endings": "drop_ending: true"}
"""Hint of `match_ids` to the key of the config that does it."""


_NUMBERS = (
    "the predictions have class numbers: give predictions.classes, a list of names for 1, 2, ... or a file of them "
    "(detclasslist.txt, a label map)"
)


def check_ids(match: IdMatch) -> tuple[str, ...]:
    """Returns a note that lists the ids that differ; none where both sides agree.

    Raises:
        FormatError: no id is on both sides.
    """
    try:
        require_ids(match)
    except FormatError as error:
        key = next((key for words, key in _ID_KEYS.items() if words in match.hint), None)
        raise FormatError(f"{error}" + (f"; write {key} beside file or store" if key else "")) from None
    return () if match.complete else (f"ids of {match.left} and {match.right}: {match}",)


def check_classes(truth: Segments, predictions: Segments, least: float = 0.5) -> tuple[str, ...]:
    """Returns a note that lists predicted classes without ground truth and true classes never predicted.

    Args:
        least: smallest share of the true classes that may be predicted, where more would be if they were spelt alike.

    Raises:
        FormatError: no class is on both sides, or a spelling keeps most of them apart.
    """
    sides = []
    for table in (truth, predictions):
        used = np.flatnonzero(np.bincount(table.label, minlength=len(table.label_names)))
        sides.append([table.label_names[code] for code in used.tolist()])
    if not sides[1]:
        return ()
    match = match_ids(sides[0], sides[1], "classes of the ground truth", "classes of the predictions")
    require_classes(match, least)
    return () if match.complete else (f"classes: {match}",)


def require_classes(match: IdMatch, least: float) -> None:
    """Refuses classes of which none is on both sides, or few are because they are spelt differently.

    Raises:
        FormatError: with the counts and examples of both sides.
    """
    try:
        require_ids(match)
    except FormatError as error:
        are_numbers = all(name.isdecimal() for name in match.only_right)
        raise FormatError(f"{error}" + (f"; {_NUMBERS}" if are_numbers else "")) from None
    num_true = match.num_both + len(match.only_left)
    if match.hint and match.num_both < least * num_true:
        raise FormatError(
            f"{match.left} and {match.right}: expected at least {100 * least:g} % of the {num_true} in common, got "
            f"{match}; spell them alike, or set min_coverage: 0"
        )


def inverted_notes(
    truth: Segments, predictions: Segments, swapped: bool = False, one_of: str = "video"
) -> tuple[str, ...]:
    """Returns a note for each side that has segments which end before they start.

    Args:
        swapped: their times have been swapped for the score; else they overlap nothing.
        one_of: what `video_ids` are ids of.
    """
    done = "their times are swapped, as by the official kit" if swapped else "they overlap nothing"
    notes = []
    for thing, table in (("ground truths", truth), ("predictions", predictions)):
        rows = np.flatnonzero(table.start_seconds > table.stop_seconds)
        if len(rows):
            first = table.video_ids[int(table.video[rows[0]])]
            notes.append(f"{thing}: {len(rows)} end before they start, such as one of {one_of} {first}; {done}")
    return tuple(notes)
