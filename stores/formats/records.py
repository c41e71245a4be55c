"""The records that every format is read into, whichever it is: one for each kind of thing a file can hold.

A record has ids (of videos, queries or items), which can be renamed, so that two files that call the same things
differently can be brought together.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from clipmill.schemas.fingerprint import fingerprint
from clipmill.schemas.segments import Segments
from clipmill.stores.formats.moments import MomentQueries

V = TypeVar("V")
Rename = Callable[[Iterable[str]], Sequence[str]]
"""Returns the new ids of some ids, in their order."""


class Record(Protocol):
    """What a file holds, by id."""

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the videos, queries or items, each once."""
        ...

    def renamed(self, rename: Rename) -> "Record":
        """Returns the same with other ids."""
        ...


R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Kind(Generic[R]):
    """One kind of thing a file can hold, and the record it is read into.

    Attributes:
        of: makes the record of data in memory; raises TypeError, ValueError or KeyError for what it cannot use. None:
            as `arrays` does for our kinds; others take the record alone.
    """

    name: str
    record: type[R]
    of: Callable[[Any], R] | None = None


@dataclass(frozen=True, slots=True)
class SegmentTable:
    """Annotated or predicted segments of videos (or, as predicted windows, of queries).

    Attributes:
        segments: each with class and score where there are such; every video that was looked at is listed.
        ambiguous: intervals that are neither correct nor incorrect (THUMOS14); None: there are none.
        duration_seconds: video id to duration, as far as known.
        subset: part of the file that these are, where it has parts.
        elsewhere: ids of its other videos, to their part.
        notes: what a reader of a score has to know of how the file was read.
    """

    segments: Segments
    ambiguous: Segments | None = None
    duration_seconds: Mapping[str, float] = field(default_factory=dict)
    subset: str | None = None
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the videos."""
        return self.segments.video_ids

    def renamed(self, rename: Rename) -> "SegmentTable":
        """Returns the same with other video ids."""
        ambiguous = self.ambiguous
        if ambiguous is not None:
            ambiguous = replace(ambiguous, video_ids=tuple(rename(ambiguous.video_ids)))
        segments = replace(self.segments, video_ids=tuple(rename(self.segments.video_ids)))
        return replace(
            self,
            segments=segments,
            ambiguous=ambiguous,
            duration_seconds=_renamed(self.duration_seconds, rename),
            elsewhere=_renamed(self.elsewhere, rename),
        )

    def without_classes(self) -> "SegmentTable":
        """Returns the same segments, all of one class without a name."""
        nothing = np.zeros(len(self.segments), np.int64)
        return replace(self, segments=replace(self.segments, label_names=("",), label=nothing))


@dataclass(frozen=True, slots=True)
class AnnotatedQueries:
    """Language queries with their windows.

    Attributes:
        protocol: whose rules such annotations are scored by, unless a config says otherwise.
    """

    queries: MomentQueries
    protocol: Literal["charades", "qvhighlights"] = "charades"

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the queries."""
        return self.queries.query_ids

    def renamed(self, rename: Rename) -> "AnnotatedQueries":
        """Returns the same with other query ids."""
        names = tuple(rename(self.queries.query_ids))
        windows = replace(self.queries.windows, video_ids=names)
        return replace(self, queries=replace(self.queries, query_ids=names, windows=windows))


@dataclass(frozen=True, slots=True)
class Saliency:
    """How much worth seeing the clips of a query's video are.

    Attributes:
        scores: query id to ``float64[clips, people]``; one column for predictions.
        sentences: query id to what was asked, as far as known.
    """

    scores: Mapping[str, npt.NDArray[np.float64]]
    sentences: Mapping[str, str] = field(default_factory=dict)

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the queries."""
        return tuple(self.scores)

    def renamed(self, rename: Rename) -> "Saliency":
        """Returns the same with other query ids."""
        return Saliency(_renamed(self.scores, rename), _renamed(self.sentences, rename))


@dataclass(frozen=True, slots=True)
class Labels:
    """The true class of each item, by its id."""

    labels: Mapping[str, str]

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the items."""
        return tuple(self.labels)

    def renamed(self, rename: Rename) -> "Labels":
        """Returns the same with other item ids."""
        return Labels(_renamed(self.labels, rename))


@dataclass(frozen=True, slots=True)
class ClassScoreTable:
    """Scores of N items for C classes.

    Attributes:
        ids: N item ids.
        class_names: C names.
        values: ``float64[N, C]``; minus infinity where an item has no score for a class.
    """

    ids: tuple[str, ...]
    class_names: tuple[str, ...]
    values: npt.NDArray[np.float64]

    def renamed(self, rename: Rename) -> "ClassScoreTable":
        """Returns the same with other item ids."""
        return replace(self, ids=tuple(rename(self.ids)))


@dataclass(frozen=True, slots=True)
class Judgements:
    """How relevant documents are: query to document to judgement."""

    judgements: Mapping[str, Mapping[str, int]]

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the queries."""
        return tuple(self.judgements)

    def renamed(self, rename: Rename) -> "Judgements":
        """Returns the same with other query ids."""
        return Judgements(_renamed(self.judgements, rename))


@dataclass(frozen=True, slots=True)
class Rankings:
    """Ranked names of each query.

    Attributes:
        scores: query to name to score, higher is better; None where only the order is known.
        order: query to names, best first; None where scores decide, and a tie rule between equal ones.
    """

    scores: Mapping[str, Mapping[str, float]] | None = None
    order: Mapping[str, Sequence[str]] | None = None

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the queries."""
        return tuple(self.scores if self.scores is not None else self.order or {})

    def renamed(self, rename: Rename) -> "Rankings":
        """Returns the same with other query ids."""
        scores = None if self.scores is None else _renamed(self.scores, rename)
        return Rankings(scores, None if self.order is None else _renamed(self.order, rename))

    def ordered(self, ties: Literal["ascending", "descending"]) -> dict[str, list[str]]:
        """Returns query to names, best first; names of equal score by name, ascending or descending."""
        if self.scores is None:
            return {query: list(names) for query, names in (self.order or {}).items()}
        ranked = {}
        for query, scores in self.scores.items():
            names = sorted(scores, reverse=ties == "descending")
            ranked[query] = sorted(names, key=lambda name: -scores[name])
        return ranked


@dataclass(frozen=True, slots=True)
class LandmarkTruth:
    """Which images of a collection show what a query image shows.

    Attributes:
        images: of the collection, where the ground truth lists them.
        query_images: query to the name of its own image.
        positives, junk: protocol (``easy``, ``medium``, ``hard``; ``good``) to query to image names.
    """

    images: tuple[str, ...]
    query_images: Mapping[str, str]
    positives: Mapping[str, Mapping[str, frozenset[str]]]
    junk: Mapping[str, Mapping[str, frozenset[str]]]

    @property
    def ids(self) -> Sequence[str]:
        """Names of the queries."""
        return tuple(self.query_images)

    def renamed(self, rename: Rename) -> "LandmarkTruth":
        """Returns the same with other names of queries."""
        sides = [
            {name: _renamed(table, rename) for name, table in side.items()} for side in (self.positives, self.junk)
        ]
        return LandmarkTruth(self.images, _renamed(self.query_images, rename), sides[0], sides[1])

    def to_fingerprint(self) -> str:
        """Returns the fingerprint of the ground truth."""
        plain = {
            name: {query: sorted(items) for query, items in table.items()}
            for side, tables in (("positives", self.positives), ("junk", self.junk))
            for name, table in ((f"{side} {protocol}", tables[protocol]) for protocol in tables)
        }
        return fingerprint([sorted(self.images), sorted(self.query_images.items()), plain])


@dataclass(frozen=True, slots=True)
class ShownIn:
    """A stretch of a clip that shows what a query shows: first and last whole second."""

    clip: str
    start_seconds: int
    stop_seconds: int


@dataclass(frozen=True, slots=True)
class ShownScenes:
    """Which clips ("scenes") show what a query shows, and when: query to one stretch at least."""

    shown: Mapping[str, tuple[ShownIn, ...]]

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the queries."""
        return tuple(self.shown)

    def renamed(self, rename: Rename) -> "ShownScenes":
        """Returns the same with other query ids."""
        return ShownScenes(_renamed(self.shown, rename))

    def clips(self, query: str) -> tuple[str, ...]:
        """Returns the clips of one query, each once, in the order of the file."""
        return tuple(dict.fromkeys(item.clip for item in self.shown[query]))

    def to_fingerprint(self) -> str:
        """Returns the fingerprint of the ground truth."""
        rows = {
            query: sorted([item.clip, item.start_seconds, item.stop_seconds] for item in items)
            for query, items in self.shown.items()
        }
        return fingerprint(sorted(rows.items()))


@dataclass(frozen=True, slots=True)
class ReportedSeconds:
    """Whole seconds of clips in which a query was found.

    Attributes:
        seconds: query to clip to seconds, as listed.
        is_ranked: whether they stand best first, so that the first so many can be read alone.
    """

    seconds: Mapping[str, Mapping[str, Sequence[int]]]
    is_ranked: bool = True

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the queries."""
        return tuple(self.seconds)

    def renamed(self, rename: Rename) -> "ReportedSeconds":
        """Returns the same with other query ids."""
        return replace(self, seconds=_renamed(self.seconds, rename))


@dataclass(frozen=True, slots=True)
class ShownFrame:
    """The frame that a query image was taken from: its video, and the second at which it begins."""

    video: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ShownFrames:
    """Query to its frame."""

    shown: Mapping[str, ShownFrame]

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the queries."""
        return tuple(self.shown)

    def renamed(self, rename: Rename) -> "ShownFrames":
        """Returns the same with other query ids."""
        return ShownFrames(_renamed(self.shown, rename))

    def to_fingerprint(self) -> str:
        """Returns the fingerprint of the ground truth."""
        return fingerprint(sorted([query, item.video, item.seconds] for query, item in self.shown.items()))


@dataclass(frozen=True, slots=True)
class FoundFrame:
    """What was found first of a query: a shot of a video, and the frame in it."""

    video: str
    start_seconds: float
    stop_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class FoundFrames:
    """Query to what was found first; None: nothing.

    Attributes:
        index_bytes: size of what was searched; None: not told.
    """

    found: Mapping[str, FoundFrame | None]
    index_bytes: int | None = None

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the queries."""
        return tuple(self.found)

    def renamed(self, rename: Rename) -> "FoundFrames":
        """Returns the same with other query ids."""
        return replace(self, found=_renamed(self.found, rename))


SEGMENTS = Kind("segments", SegmentTable)
"""Segments of videos with classes: annotations, detections, proposals."""
WINDOWS = Kind("windows", SegmentTable)
"""Predicted moments: the "videos" of the segments are query ids."""
VIDEO_CLASSES = Kind("video_classes", SegmentTable)
"""Classes of whole videos with scores; times play no part."""
QUERIES = Kind("queries", AnnotatedQueries)
SALIENCY = Kind("saliency", Saliency)
LABELS = Kind("labels", Labels)
CLASS_SCORES = Kind("class_scores", ClassScoreTable)
JUDGEMENTS = Kind("judgements", Judgements)
RANKINGS = Kind("rankings", Rankings)
LANDMARKS = Kind("landmarks", LandmarkTruth)
SCENES = Kind("scenes", ShownScenes)
REPORTED_SECONDS = Kind("reported_seconds", ReportedSeconds)
SHOWN_FRAMES = Kind("shown_frames", ShownFrames)
FOUND_FRAMES = Kind("found_frames", FoundFrames)


def _renamed(table: Mapping[str, V], rename: Rename) -> dict[str, V]:
    return dict(zip(rename(table), table.values(), strict=True))
