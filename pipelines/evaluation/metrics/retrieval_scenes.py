"""Stanford I2V: mAP@100 of ranked scenes (clips), mean P@1, and how well the seconds inside them are found.

A system ranks frames or shots; a scene takes the place of its first one, which is the same as scoring it by its best
frame. With rel(r) of the r-th *distinct* scene and R relevant scenes in the ground truth, found or not::

    AP@100 = sum_{r <= 100} rel(r) P(r) / R        (rectangles; R, not min(100, R))        mP@1 = mean rel(1)
    refinement = mean over queries of  sum over relevant scenes of |S n T| / |S u T|, / R

where T are the whole seconds of the annotated stretches, both ends included and each stretch one second longer on both
sides, and S those reported; of ranked frames the first 50 of a scene count. Scenes without a report count 0.

Differences from the released scorer: relevance is tested by equality (it looks for the name anywhere in the line of the
ground truth, so ``1.mp4`` is found in ``01.mp4``); repeated scenes are dropped rather than refused; judged queries
without a list count 0 rather than not at all.
Ties: the list decides; rank it with `retrieval_rank`. Source: A. Araujo et al., Stanford I2V, MMSys 2015.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from clipmill.pipelines.evaluation.metrics.retrieval_junk import rectangle_ap
from clipmill.pipelines.evaluation.metrics.retrieval_state import PerQuery
from clipmill.schemas.errors import UsageError, describe

SHORT_LIST = 100
TOLERANCE_SECONDS = 1
MOST_FRAMES = 50


@dataclass(frozen=True, slots=True)
class SceneScore:
    """The score of ranked scenes.

    Attributes:
        mean_average_precision, precision_at_1: means over the judged queries.
        query_ids, average_precision: of each judged query, ascending.
        num_without_list: judged queries without a list; they count 0.
        num_without_judgement: lists of queries that are not judged; left out.
    """

    mean_average_precision: float
    precision_at_1: float
    query_ids: tuple[str, ...]
    average_precision: tuple[float, ...]
    num_without_list: int
    num_without_judgement: int

    @property
    def line(self) -> str:
        """The score line."""
        return (
            f"scene mAP {self.mean_average_precision:.4f}, mP@1 {self.precision_at_1:.4f}; {len(self.query_ids)} "
            f"queries; {self.num_without_list} without a list; {self.num_without_judgement} lists not judged"
        )


@dataclass(frozen=True, slots=True)
class SceneMap:
    """The state; immutable: `update` and `merge` return the new one, and any cut by query gives the same bits.

    Attributes:
        most: length at which lists are cut.
    """

    most: int = SHORT_LIST
    values: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    num_without_list: int = 0
    num_without_judgement: int = 0

    def update(self, truth: Mapping[str, Collection[str]], ranked: Mapping[str, Sequence[str]]) -> "SceneMap":
        """Returns the state with some queries added.

        Args:
            truth: query to its relevant scenes, at least one each.
            ranked: query to scenes, best first, of which the first of each name counts.

        Raises:
            UsageError: a query has no relevant scene, or was added before.
        """
        found = dict(self.values)
        for query, relevant in truth.items():
            if not relevant:
                remedy = "leave the query out"
                raise UsageError(describe("ground truth query", query, "at least one scene", "none", remedy))
            if query in found:
                raise UsageError(f"query {query}: expected it in one update, got two; cut the work by query")
            found[query] = _score(ranked.get(query, ()), set(relevant), self.most)
        return replace(
            self,
            values=found,
            num_without_list=self.num_without_list + sum(query not in ranked for query in truth),
            num_without_judgement=self.num_without_judgement + sum(query not in truth for query in ranked),
        )

    def merge(self, other: "SceneMap") -> "SceneMap":
        """Returns the state of both.

        Raises:
            UsageError: a query stands in both.
            ValueError: the lists were cut at different lengths.
        """
        if self.most != other.most:
            raise ValueError(f"scene mAP: expected lists cut at {self.most}, got {other.most}; merge one protocol")
        for query in other.values:
            if query in self.values:
                raise UsageError(f"query {query}: expected it in one update, got two; cut the work by query")
        return replace(
            self,
            values={**self.values, **other.values},
            num_without_list=self.num_without_list + other.num_without_list,
            num_without_judgement=self.num_without_judgement + other.num_without_judgement,
        )

    def result(self) -> SceneScore:
        """Returns the score.

        Raises:
            UsageError: no query is judged.
        """
        if not self.values:
            raise UsageError("scenes: expected at least one judged query, got none; check the ids of both files")
        names = tuple(sorted(self.values))
        columns = zip(*(self.values[name] for name in names), strict=True)
        precision, first = (PerQuery().update(np.arange(len(names)), column) for column in columns)
        return SceneScore(
            precision.result(),
            first.result(),
            names,
            tuple(precision.values.tolist()),
            self.num_without_list,
            self.num_without_judgement,
        )


def scenes_of(frames: Iterable[str], scene_of: Mapping[str, str]) -> list[str]:
    """Returns the scenes of ranked frames (or shots), each at the place of its first frame.

    Args:
        frames: ids, best first.
        scene_of: frame to its scene.

    Raises:
        UsageError: a frame has no scene.
    """
    try:
        return list(dict.fromkeys(scene_of[frame] for frame in frames))
    except KeyError as error:
        raise UsageError(describe("frame", str(error.args[0]), "one with a scene", "none", "add it")) from None


def refinement(
    truth: Sequence[tuple[str, int, int]],
    reported: Mapping[str, Sequence[int]],
    most: int | None = MOST_FRAMES,
    tolerance_seconds: int = TOLERANCE_SECONDS,
) -> float:
    """Returns one query's mean Jaccard index over its relevant scenes.

    Args:
        truth: (scene, first second, last second) of each annotated stretch.
        reported: scene to the whole seconds found, best first; scenes that are not relevant are not looked at.
        most: seconds of a scene that count; None: all.
    """
    annotated: dict[str, set[int]] = {}
    for scene, start, stop in truth:
        seconds = range(max(0, start - tolerance_seconds), stop + tolerance_seconds + 1)
        annotated.setdefault(scene, set()).update(seconds)
    total = 0.0
    for scene, wanted in annotated.items():
        found = set(reported.get(scene, ())[:most])
        total += len(found & wanted) / len(found | wanted)
    return total / len(annotated)


def _score(ranked: Sequence[str], relevant: set[str], most: int) -> tuple[float, float]:
    distinct = list(dict.fromkeys(ranked))[:most]
    ranks = [rank for rank, scene in enumerate(distinct) if scene in relevant]
    return rectangle_ap(ranks, len(relevant)), float(bool(ranks) and ranks[0] == 0)
