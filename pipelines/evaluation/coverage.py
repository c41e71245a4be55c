"""How much of a ground truth a set of predictions answers, and why it answers so little: the ids it is likely to use.

A run of which next to no query is answered scores next to nothing, exits with 0 and looks like a bad model. So fewer
answers than the config's `min_coverage` are refused, with the scheme that the ids of the predictions seem to follow.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from clipmill.pipelines.evaluation.checks import check_ids
from clipmill.pipelines.evaluation.tasks.result import RunScore
from clipmill.schemas.errors import FormatError
from clipmill.schemas.segments import Segments
from clipmill.stores.formats.ids import ID_CHANGES, match_ids, unchanged
from clipmill.stores.formats.sniff import listed

COVERAGE = "coverage"
"""Name of the metric: the share of the queries (videos, items) that have at least one prediction."""
_POSITIONS = "positions in the ground truth"
_NEARLY_ALL, _FEW = 0.9, 10
"""ours: the share of queries, and how many at least, from which ids that are numbers are taken for positions."""
_SEPARATORS = ("#", "_", "-", "/", ":", " ")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a ground truth asks for.

    Attributes:
        ids: of what is asked: queries, annotated videos or items.
        what: what these are, in the plural.
        left: what the side is called, for messages.
        names: ids that stand in the ground truth, as far as they are more than `ids` (videos without annotations).
        videos: the video of each of `ids`, where queries are asked about videos.
        elsewhere: ids of the same file that are not scored, to the name of the part (subset) they belong to.
    """

    ids: Sequence[str]
    what: str = "queries"
    left: str = "the ground truth"
    names: Collection[str] = ()
    videos: Sequence[str] = ()
    elsewhere: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """Which of what was asked has an answer.

    Attributes:
        share: of what was asked, from 0 to 1.
        notes: which ids differ; empty where both sides agree.
    """

    share: float
    notes: tuple[str, ...]

    def told(self, run: RunScore, more: Iterable[str] = ()) -> RunScore:
        """Returns the score with ``coverage`` among its metrics, and the notes."""
        return replace(run, metrics={**run.metrics, COVERAGE: self.share}, notes=(*self.notes, *more))


def check_answers(
    asked: Asked,
    answers: Collection[str],
    least: float,
    right: str = "the predictions",
    listed_ids: Iterable[str] = (),
    name: str = "",
) -> Answered:
    """Returns how much of what was asked has an answer.

    Args:
        answers: ids with at least one prediction.
        least: the smallest share that is let pass: `min_coverage`.
        listed_ids: ids that stand in the predictions without any, such as videos in which nothing was found.
        name: of the set of predictions, for messages.

    Raises:
        FormatError: no id is on both sides, or fewer are answered than `least`; says which ids the predictions seem to
            use.
    """
    empty = set(listed_ids) - set(answers)
    match = match_ids({*asked.ids, *asked.names}, {*answers, *empty}, asked.left, right)
    wanted, given = set(asked.ids), set(answers)
    num_answered = len(wanted & given)
    share = num_answered / len(wanted) if wanted else 1.0
    try:
        notes = check_ids(match)
    except FormatError as error:
        scheme = _scheme(asked, given, num_answered)
        raise FormatError(f"{error}{'; ' if scheme else ''}{scheme}") from None
    if share < least:
        num_empty = len(wanted & empty)
        got = f"{num_answered:,} ({100 * share:.3g} %)"
        if num_empty:
            got += f", and {num_empty:,} that are listed without a prediction"
        others = sorted(given - wanted)
        if others:
            got += f"; {len(others):,} others are predicted, such as {listed(others, 2)}"
        missed = listed(sorted(wanted - given), 2)
        reason = _scheme(asked, given, num_answered) or match.hint or f"asked for are such as {missed}"
        raise FormatError(
            f"predictions {name or right}: expected answers to at least {100 * least:g} % of the {len(wanted):,} "
            f"{asked.what}, got {got}; {reason}; correct the ids, or set min_coverage: 0 for a file that is partial "
            "on purpose"
        )
    if least and (scheme := _other_numbering(asked, given)):
        raise FormatError(
            f"predictions {name or right}: expected the ids of {asked.left}, got {num_answered:,} of them and "
            f"{len(given - wanted):,} others; {scheme}; correct the ids, or set min_coverage: 0 to score them so"
        )
    return Answered(share, notes)


def annotated(segments: Segments) -> tuple[str, ...]:
    """Returns the ids of the videos (or queries) that have at least one segment."""
    used = set(segments.video.tolist())
    return tuple(name for place, name in enumerate(segments.video_ids) if place in used)


def _scheme(asked: Asked, given: set[str], num_answered: int) -> str:
    """Returns what the ids of the predictions seem to be, where more would match then; else nothing."""
    if given <= set(asked.ids):
        return ""
    if asked.elsewhere:
        parts = [asked.elsewhere[name] for name in given if name in asked.elsewhere]
        if len(parts) > num_answered:
            part = max(sorted(set(parts)), key=parts.count)
            return f"{parts.count(part):,} are of the subset {part!r}: write subset: {part} below ground_truth"
    best, told = num_answered, ""
    readings = list(_readings(asked))
    for change_title, change in (("", unchanged), *ID_CHANGES):
        changed = {change(name) for name in given}
        for title, ids in readings:
            # Distinct ones: a change that makes many ids alike explains little.
            num = len({change(name) for name in ids} & changed)
            if num > best:
                best = num
                words = " ".join(part for part in (title, change_title) if part)
                told = _told(asked, words, sum(change(name) in changed for name in ids))
    return told


def _other_numbering(asked: Asked, given: set[str]) -> str:
    """Returns as what all ids of the predictions can be read of which some are none of the ground truth's.

    Queries of a video that are numbered otherwise share most of their ids with the ground truth, and answer others.
    """
    known = {*asked.ids, *asked.names}
    if given <= known:
        return ""
    for title, ids in _readings(asked):
        num = sum(name in given for name in ids)
        # Ids that are numbers fit many a numbering by chance: there all of the queries have to be answered, nearly.
        is_sure = not title.startswith(_POSITIONS) or num >= max(_NEARLY_ALL * len(ids), _FEW)
        if given <= set(ids) and is_sure:
            return _told(asked, title, num)
    return ""


def _told(asked: Asked, title: str, num: int) -> str:
    return (
        f"read as {title}, {num:,} would be answered, while the ids of {asked.left} are such as "
        f"{listed(sorted(asked.ids), 2)}"
    )


def _readings(asked: Asked) -> Iterable[tuple[str, list[str]]]:
    """Yields what ids could mean, with the id that each asked one would have then."""
    yield "the same ids", list(asked.ids)
    videos = asked.videos
    if videos:
        yield "ids of videos", list(videos)
        for separator in _SEPARATORS:
            for first in (0, 1):
                within = _numbers_within(videos, first)
                numbered = [f"{video}{separator}{number}" for video, number in zip(videos, within, strict=True)]
                yield f"<video>{separator}<sentence of the video, from {first}>", numbered
                rows = [f"{video}{separator}{row}" for row, video in enumerate(videos, first)]
                yield f"<video>{separator}<line of the file, from {first}>", rows
    for first in (0, 1):
        rows = [str(row) for row in range(first, first + len(asked.ids))]
        yield f"{_POSITIONS}, from {first}", rows


def _numbers_within(videos: Sequence[str], first: int) -> list[int]:
    seen: dict[str, int] = {}
    numbers = []
    for video in videos:
        numbers.append(seen.setdefault(video, first))
        seen[video] += 1
    return numbers
