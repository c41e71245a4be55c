"""Annotations of videos as the detection and proposal tasks take them, in an order that no file decides."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from clipmill.schemas.arrays import Ints
from clipmill.schemas.segments import Segments


@dataclass(frozen=True, slots=True)
class SegmentTruth:
    """What segments are scored against.

    Attributes:
        segments: the annotations; every annotated video is listed.
        ambiguous: intervals in which predictions are ignored (THUMOS14); None: there are none.
        durations: video id to seconds, as far as known; baselines need them.
        training, training_durations: annotations that the blind baseline is tuned on; None: `segments` themselves.
        blocked: ids of videos that were in the annotations and have been left out.
        subset: part of the file that is scored, where it has parts.
        elsewhere: ids of its other videos, to their part.
        notes: what a reader of the score has to know of how the files were read.
    """

    segments: Segments
    ambiguous: Segments | None
    durations: Mapping[str, float]
    training: Segments | None = None
    training_durations: Mapping[str, float] | None = None
    blocked: frozenset[str] = frozenset()
    subset: str | None = None
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def baseline_durations(self) -> tuple[Mapping[str, float], int]:
        """Durations for the baselines, and for how many videos the last annotated second had to stand in.

        A shorter video makes random segments hit more often, so a stand-in can only raise a baseline.
        """
        last: dict[str, float] = dict.fromkeys(self.segments.video_ids, 0.0)
        for table in (self.segments, self.ambiguous):
            if table is None:
                continue
            for code, stop in zip(table.video.tolist(), table.stop_seconds.tolist(), strict=True):
                name = table.video_ids[code]
                last[name] = max(last.get(name, 0.0), stop)
        unknown = [name for name in self.segments.video_ids if name not in self.durations]
        stand_ins = {name: last[name] for name in unknown if last[name] > 0}
        return {**self.durations, **stand_ins}, len(unknown)


def in_order(segments: Segments, rows: bool = True) -> Segments:
    """Returns `segments` with video ids and class names ascending and, with `rows`, the rows by video, time, class and
    score (best first), so that the order of a file's entries cannot reach a result.
    """
    videos, video = _ascending(segments.video_ids, segments.video)
    labels, label = _ascending(segments.label_names, segments.label)
    ordered = replace(segments, video_ids=videos, video=video, label_names=labels, label=label)
    if not rows:
        return ordered
    keys = (-ordered.score, ordered.label, ordered.stop_seconds, ordered.start_seconds, ordered.video)
    return ordered.take(np.lexsort(keys))


def _ascending(names: tuple[str, ...], codes: Ints) -> tuple[tuple[str, ...], Ints]:
    order = sorted(range(len(names)), key=names.__getitem__)
    place = np.empty(len(names), np.int64)
    place[order] = np.arange(len(names))
    return tuple(names[position] for position in order), place[codes]
