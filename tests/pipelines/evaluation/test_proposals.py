"""AR@AN against a direct loop, closed forms, and the usual mistakes."""

import numpy as np
import pytest

from clipmill.pipelines.evaluation.metrics.detection_matching import tiou
from clipmill.pipelines.evaluation.metrics.proposals import ProposalRecall, ProposalScore
from clipmill.schemas.errors import UsageError
from clipmill.schemas.segments import Segments, segments_from_columns


def cases(seed: int) -> tuple[Segments, Segments]:
    random = np.random.default_rng(seed)
    start = random.uniform(0, 50, 30)
    videos = [f"v{n}" for n in random.integers(0, 8, 30)]
    truth = segments_from_columns(
        videos, start, start + random.uniform(1, 20, 30), video_ids=[f"v{n}" for n in range(9)]
    )
    many = random.uniform(0, 50, 400)
    stop = many + random.uniform(1, 20, 400)
    proposals = segments_from_columns(
        [f"v{n}" for n in random.integers(1, 11, 400)], many, stop, score=random.random(400)
    )
    return truth, proposals


def direct(truth: Segments, proposals: Segments, thresholds: tuple[float, ...], largest: float) -> ProposalScore:
    """The definition, video by video."""
    annotated = [code for code in range(len(truth.video_ids)) if (truth.video == code).any()]
    ratio = largest * float(len(annotated)) / len(proposals)
    ranked = []
    for code in annotated:
        name = truth.video_ids[code]
        rows = [row for row in range(len(proposals)) if proposals.video_ids[proposals.video[row]] == name]
        rows.sort(key=lambda row: -proposals.score[row])
        ranked.append(rows[: min(int(len(rows) * ratio), len(rows))])
    num_read = sum(len(rows) for rows in ranked)
    share = np.arange(1, 101) / 100.0 * (largest * float(len(annotated)) / num_read)
    recall = np.zeros((len(thresholds), 100))
    for code, rows in zip(annotated, ranked, strict=True):
        for index in np.flatnonzero(truth.video == code):
            spans = [
                float(
                    tiou(
                        truth.start_seconds[index],
                        truth.stop_seconds[index],
                        proposals.start_seconds[row],
                        proposals.stop_seconds[row],
                    )
                )
                for row in rows
            ]
            for column, part in enumerate(share):
                for line, threshold in enumerate(thresholds):
                    recall[line, column] += any(span >= threshold for span in spans[: int(len(rows) * part)])
    average_number = share * (float(num_read) / len(annotated))
    counts = ProposalRecall().update(truth, proposals).result().counts
    return ProposalScore(thresholds, average_number, recall / len(truth), counts)


@pytest.mark.parametrize(("seed", "largest"), [(0, 100.0), (1, 20.0), (2, 5.0)])
def test_agrees_with_the_definition_video_by_video(seed: int, largest: float) -> None:
    truth, proposals = cases(seed)
    thresholds = (0.3, 0.5, 0.8)
    got = ProposalRecall(thresholds, largest).update(truth, proposals).result()
    expected = direct(truth, proposals, thresholds, largest)
    np.testing.assert_allclose(got.average_number, expected.average_number, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.recall, expected.recall, rtol=0, atol=1e-12)
    assert got.area == pytest.approx(expected.area, abs=1e-12)


def test_any_cut_by_video_gives_the_identical_number() -> None:
    truth, proposals = cases(3)
    whole = ProposalRecall().update(truth, proposals).result()
    names = sorted({*truth.video_ids, *proposals.video_ids})
    merged = ProposalRecall()
    for part in (names[2::3], names[::3], names[1::3]):
        merged = merged.merge(ProposalRecall().update(truth.of_videos(part), proposals.of_videos(part)))
    assert merged.result().recall.tobytes() == whole.recall.tobytes()
    assert merged.result().average_number.tobytes() == whole.average_number.tobytes()
    assert merged.result().counts == whole.counts


def test_recall_is_over_instances_and_a_video_without_proposals_counts() -> None:
    truth = segments_from_columns(["v", "v", "v", "w"], [0, 20, 40, 0], [10, 30, 50, 10])
    proposals = segments_from_columns(["v", "v", "v"], [0, 20, 40], [10, 30, 50], score=[3, 2, 1])
    got = ProposalRecall((0.5,), None).update(truth, proposals).result()
    assert got.average_recall[-1] == 0.75
    assert (got.counts.num_missing_videos, got.average_number[-1]) == (1, 1.5)


def test_one_proposal_may_serve_several_ground_truths() -> None:
    truth = segments_from_columns(["v", "v"], [0, 0.5], [10, 10])
    proposals = segments_from_columns(["v"], [0], [10], score=[1])
    assert ProposalRecall((0.5,), None).update(truth, proposals).result().average_recall[-1] == 1.0


def test_proposals_are_read_best_first() -> None:
    truth = segments_from_columns(["v"], [0], [10])
    proposals = segments_from_columns(["v"] * 4, [0, 50, 50, 50], [10, 60, 60, 60], score=[4, 3, 2, 1])
    worst = segments_from_columns(["v"] * 4, [0, 50, 50, 50], [10, 60, 60, 60], score=[1, 2, 3, 4])
    assert ProposalRecall((0.5,), None).update(truth, proposals).result().at(1.0) == 1.0
    assert ProposalRecall((0.5,), None).update(truth, worst).result().at(1.0) == 0.0


def test_area_of_a_perfect_first_proposal_is_known() -> None:
    truth = segments_from_columns(["v"], [0], [10])
    proposals = segments_from_columns(["v"] * 2, [0, 50], [10, 60], score=[2, 1])
    got = ProposalRecall((0.5,), None).update(truth, proposals).result()
    # Recall is 0 below half of the proposals and 1 from there on: 49 steps of 0, half a step, 50 steps of 1, of 100.
    assert got.area == pytest.approx((0.5 + 50) / 100)
    assert "area" in got.line


def test_no_proposals_gives_nan_and_not_an_error() -> None:
    empty = segments_from_columns([], [], [])
    assert np.isnan(ProposalRecall().update(segments_from_columns(["v"], [0], [1]), empty).result().area)


def test_a_blocked_video_leaves_both_sides() -> None:
    truth = segments_from_columns(["v", "w"], [0, 0], [10, 10])
    proposals = segments_from_columns(["v", "w"], [0, 50], [10, 60], score=[1, 1])
    got = ProposalRecall((0.5,), None, frozenset({"w"})).update(truth, proposals).result()
    assert got.average_recall[-1] == 1.0


def test_a_video_in_two_updates_is_refused() -> None:
    truth, proposals = cases(0)
    with pytest.raises(UsageError, match="expected all its segments in one update"):
        ProposalRecall().update(truth, proposals).update(truth, proposals).result()


def test_overlap_equal_to_the_threshold_is_found() -> None:
    truth = segments_from_columns(["v"], [0], [10])
    half = segments_from_columns(["v"], [0], [5], score=[1])
    assert ProposalRecall((0.5,), None).update(truth, half).result().average_recall[-1] == 1.0


def test_average_recall_is_the_mean_over_thresholds() -> None:
    truth = segments_from_columns(["v"], [0], [10])
    half = segments_from_columns(["v"], [0], [5], score=[1])
    assert ProposalRecall((0.4, 0.5, 0.6, 0.7), None).update(truth, half).result().average_recall[-1] == 0.5


def test_equal_scores_do_not_depend_on_the_order_of_the_file() -> None:
    truth = segments_from_columns(["v"], [0], [10])
    for start, stop in (([50, 0], [60, 10]), ([0, 50], [10, 60])):
        either = segments_from_columns(["v"] * 2, start, stop, score=[1, 1])
        assert ProposalRecall((0.5,), None).update(truth, either).result().at(1.0) == 1.0


def test_segments_apart_overlap_by_zero_not_less() -> None:
    assert tiou(np.array([0.0]), np.array([1.0]), np.array([5.0]), np.array([6.0])).tolist() == [0.0]
