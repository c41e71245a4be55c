"""Search by key features: indexes against all pairs, votes, frames and scores by hand."""

import numpy as np
import pytest

from clipmill.pipelines.evaluation.retrieval.key_features import (
    ExactIndex,
    FaissIndex,
    KeyFeatures,
    Shot,
    ShotFrames,
    best_frame,
    hamming_distances,
    make_index,
    top_shots,
    votes,
)
from clipmill.pipelines.evaluation.tasks.scene_retrieval.frames import frame_hits
from clipmill.stores.formats.records import FoundFrame, ShownFrame


def codes(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, 32), dtype=np.uint8)


def flipped(rows: np.ndarray, share: float, seed: int = 9) -> np.ndarray:
    return rows ^ np.packbits(np.random.default_rng(seed).random((len(rows), 256)) < share, axis=1)


def by_loops(queries: np.ndarray, rows: np.ndarray) -> set[tuple[int, int]]:
    """Returns all pairs of a query and one of its nearest rows."""
    bits = [np.unpackbits(side, axis=1).astype(int) for side in (queries, rows)]
    distances = np.array([[int((left != right).sum()) for right in bits[1]] for left in bits[0]])
    np.testing.assert_array_equal(hamming_distances(queries, rows), distances)
    return {(int(i), int(j)) for i, j in np.argwhere(distances == distances.min(axis=1, keepdims=True))}


@pytest.mark.parametrize("kind", ["exact", "flat"])
def test_all_that_are_as_near_are_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = codes(120)
    # One row 40 times: more than are asked of faiss at first.
    rows[30:70] = rows[30]
    queries = np.concatenate([flipped(rows[[5, 30, 100]], 0.02), codes(4, seed=3)])
    # Blocks of ten rows.
    monkeypatch.setattr("clipmill.pipelines.evaluation.retrieval.key_features._PAIRS", 70)
    found = make_index(rows, kind).nearest(queries)  # type: ignore[arg-type]
    pairs = list(zip(found.query.tolist(), found.item.tolist(), strict=True))
    assert set(pairs) == by_loops(queries, rows)
    assert len(pairs) == len(set(pairs))
    np.testing.assert_array_equal(found.distance, hamming_distances(queries, rows).min(axis=1))


def test_fewer_rows_than_are_asked_for() -> None:
    rows = np.repeat(codes(1), 5, axis=0)
    found = FaissIndex(rows, "flat").nearest(rows[:2])
    pairs = sorted(zip(found.query.tolist(), found.item.tolist(), strict=True))
    assert pairs == [(query, item) for query in (0, 1) for item in range(5)]


def test_inverted_lists_find_nearly_all_and_look_at_fewer() -> None:
    rows = codes(4000)
    queries = flipped(rows[::10], 0.15)
    exact = ExactIndex(rows).nearest(queries)
    found = {
        probes: (FaissIndex(rows, "ivf", probes).nearest(queries).distance == exact.distance).mean()
        for probes in (1, 16, 1000)
    }
    assert found[1] < found[16] <= found[1000] == 1
    assert found[16] > 0.7


def test_bytes_of_an_index_are_its_vectors() -> None:
    rows = codes(1000)
    assert ExactIndex(rows).num_bytes == 32_000
    assert 32_000 <= FaissIndex(rows, "flat").num_bytes < 32_200
    features = KeyFeatures(rows, np.zeros(1000, np.int64), (Shot("a", 0, 0, 0, 1),))
    assert features.num_bytes == 36_000


def features_of(rows: np.ndarray, shot: list[int]) -> KeyFeatures:
    shots = tuple(Shot("a", 0, number, 10.0 * number, 10.0 * number + 9) for number in range(max(shot) + 1))
    return KeyFeatures(rows, np.array(shot), shots)


def test_votes_by_hand() -> None:
    rows = codes(6)
    rows[4] = rows[0]
    features = features_of(rows, [0, 0, 1, 1, 2, 2])
    # The first is as near to shot 0 as to shot 2; the last is far from all, and nearest to some row.
    queries = np.concatenate([rows[:1], rows[1:2], rows[2:3], flipped(rows[3:4], 0.2)])
    nearest = ExactIndex(rows).nearest(queries)
    assert nearest.distance[3] > 20
    assert votes(features, nearest).tolist() == [2, 2, 1]
    assert votes(features, nearest, max_distance=20).tolist() == [2, 1, 1]
    fewer = features_of(rows, [0, 1, 1, 1, 1, 1])
    assert votes(fewer, nearest, normalise=True).tolist() == pytest.approx([1, 4 / np.sqrt(5)])
    # Of equal ones the first.
    assert top_shots(np.array([2.0, 3.0, 3.0, 1.0]), 3).tolist() == [1, 2, 0]


def test_the_frame_with_most_matches_and_of_equal_ones_the_first() -> None:
    queries = codes(5)
    parts = [
        codes(7, seed=1),
        np.concatenate([flipped(queries[:3], 0.02), codes(4, seed=2)]),
        queries[2:5],
        codes(0, seed=3),
    ]
    offsets = np.cumsum([0, *map(len, parts)])
    frames = ShotFrames(np.concatenate(parts), offsets, np.array([1.0, 1.04, 1.08, 1.12]))
    assert best_frame(queries, frames) == (1.04, 3)
    assert best_frame(queries, frames, max_distance=1) == (1.08, 3)
    nothing = ShotFrames(codes(0), np.array([0]), np.zeros(0))
    assert best_frame(queries, nothing)[1] == 0


def test_scores_by_hand() -> None:
    shots = [("a", 0.0, 2.0), ("a", 2.0, 5.0), ("b", 0.0, 9.0)]
    truth = [
        ShownFrame("a", 1.0),
        ShownFrame("a", 1.0),
        ShownFrame("b", 4.0),
        ShownFrame("a", 3.0),
        ShownFrame("a", 0.0),
    ]
    found = [FoundFrame(*shots[place], at) for place, at in ((0, 1.4), (1, 2.0), (2, 4.0), (2, 3.0))]
    hits = frame_hits(truth, [*found, None], (0, 0.5, 1))
    assert {name: values.tolist() for name, values in hits.items()} == {
        "video@1": [1, 1, 1, 0, 0],
        "shot@1": [1, 0, 1, 0, 0],
        "recall@0s": [0, 0, 1, 0, 0],
        "recall@0.5s": [1, 0, 1, 0, 0],
        "recall@1s": [1, 1, 1, 0, 0],
    }
