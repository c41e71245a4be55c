"""Stanford I2V's scene retrieval: against hand-computed lists, each of which a usual mistake would change."""

import pytest

from clipmill.pipelines.evaluation.metrics.retrieval_scenes import SceneMap, refinement, scenes_of
from clipmill.schemas.errors import UsageError


def ap(ranked: list[str], relevant: set[str], most: int = 100) -> float:
    return SceneMap(most).update({"q": relevant}, {"q": ranked}).result().mean_average_precision


def test_hits_count_the_precision_at_their_rank_over_all_relevant_scenes() -> None:
    # 1/1 and 2/3 of 3 relevant scenes: neither the hits found nor the length of the list is the denominator.
    assert ap(["a", "x", "b", "y"], {"a", "b", "c"}) == pytest.approx((1 + 2 / 3) / 3)


def test_the_denominator_is_not_bounded_by_the_short_list() -> None:
    relevant = {f"r{n}" for n in range(4)}
    assert ap(["r0", "r1", "r2", "r3"], relevant, most=2) == pytest.approx(2 / 4)


def test_the_hundredth_scene_counts_and_the_next_does_not() -> None:
    others = [f"x{n}" for n in range(100)]
    assert ap([*others[:99], "a"], {"a"}) == pytest.approx(1 / 100)
    assert ap([*others, "a"], {"a"}) == 0


def test_repeated_scenes_take_one_place() -> None:
    assert ap(["x", "x", "x", "a"], {"a"}) == pytest.approx(1 / 2)
    assert ap(["a", "a", "b"], {"a", "b"}) == 1
    frames = ["x_3", "a_9", "x_1", "a_2", "b_1"]
    assert scenes_of(frames, {frame: frame[0] for frame in frames}) == ["x", "a", "b"]


def test_names_are_compared_whole() -> None:
    assert ap(["1.mp4"], {"01.mp4"}) == 0


def test_first_places_are_averaged_over_queries() -> None:
    truth = {"p": {"a"}, "q": {"a"}, "r": {"a", "b"}}
    score = SceneMap().update(truth, {"p": ["a"], "q": ["x", "a"], "r": ["b", "a"]}).result()
    assert score.precision_at_1 == pytest.approx(2 / 3)
    assert score.mean_average_precision == pytest.approx((1 + 1 / 2 + 1) / 3)


def test_queries_without_a_list_count_zero_and_lists_without_judgement_are_left_out() -> None:
    score = SceneMap().update({"p": {"a"}, "q": {"a"}}, {"p": ["a"], "z": ["a"]}).result()
    assert score.mean_average_precision == 0.5
    assert score.line == ("scene mAP 0.5000, mP@1 0.5000; 2 queries; 1 without a list; 1 lists not judged")


def test_any_cut_by_query_gives_the_same_score() -> None:
    truth = {f"q{n}": {f"s{n}", f"s{n + 1}"} for n in range(7)}
    ranked = {f"q{n}": [f"s{m}" for m in range(n % 3, 9)] for n in range(7)}
    whole = SceneMap().update(truth, ranked).result()
    parts = SceneMap()
    for name in reversed(truth):
        parts = SceneMap().update({name: truth[name]}, {name: ranked[name]}).merge(parts)
    assert parts.result() == whole


def test_seconds_are_compared_with_one_second_of_tolerance() -> None:
    # Annotated 10 to 12: 9 to 13 count.
    assert refinement([("a", 10, 12)], {"a": [9, 10, 11, 12, 13]}) == 1
    assert refinement([("a", 10, 12)], {"a": [8, 9]}) == pytest.approx(1 / 6)
    assert refinement([("a", 0, 1)], {"a": [0, 1, 2]}) == 1, "there is no second before the first"


def test_scenes_without_a_report_count_zero_and_stretches_are_joined() -> None:
    truth = [("a", 10, 11), ("a", 20, 20), ("b", 5, 5)]
    seconds = [9, 10, 11, 12, 19, 20, 21]
    assert refinement(truth, {"a": seconds, "z": [1]}) == pytest.approx(1 / 2)
    assert refinement(truth, {"a": seconds, "b": [4, 5, 6]}) == 1


def test_only_the_first_fifty_frames_count_and_repeats_once() -> None:
    truth = [("a", 100, 157)]
    assert refinement(truth, {"a": list(range(99, 159))}) == pytest.approx(50 / 60)
    assert refinement(truth, {"a": [100] * 49 + [101, 102]}) == pytest.approx(2 / 60)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(UsageError, match="query q: expected at least one scene, got none"):
        SceneMap().update({"q": set()}, {"q": ["a"]})
    state = SceneMap().update({"q": {"a"}}, {"q": ["a"]})
    for again in (lambda: state.update({"q": {"a"}}, {}), lambda: state.merge(state)):
        with pytest.raises(UsageError, match="query q: expected it in one update, got two"):
            again()
    with pytest.raises(ValueError, match="expected lists cut at 100, got 10"):
        state.merge(SceneMap(10))
    with pytest.raises(UsageError, match="expected at least one judged query"):
        SceneMap().result()
    with pytest.raises(UsageError, match="frame f: expected one with a scene, got none"):
        scenes_of(["f"], {})


def test_repeated_scenes_are_dropped_before_the_list_is_cut() -> None:
    assert ap(["x", "x", "a"], {"a"}, most=2) == 1 / 2


def test_a_scene_stands_where_its_first_frame_does_not_its_last() -> None:
    assert scenes_of(["x_3", "a_9", "x_1"], {"x_3": "x", "a_9": "a", "x_1": "x"}) == ["x", "a"]
