"""R-C3D's arithmetic on the time axis, against brute force and numbers worked out by hand."""

import numpy as np
import numpy.typing as npt
import pytest

from clipmill.extractors.rc3d.releases import PAPER_ACTIVITYNET_SCALES, RELEASES, ProposalFilter
from clipmill.extractors.rc3d.segments import anchors, decode, encode, nms, overlaps, propose

Floats = npt.NDArray[np.float64]


def test_anchors_of_the_first_cells_by_hand() -> None:
    found = anchors((1.0, 2.0, 1.25), 2)
    # Length 8, 16 and 10 around 3.5; the next cell's 8 frames later.
    expected = [[0, 7], [-4, 11], [-1, 8], [8, 15], [4, 19], [7, 16]]
    np.testing.assert_array_equal(found, expected)


def test_forms_have_the_published_numbers_of_anchors() -> None:
    activitynet, thumos14 = ["pytorch-activitynet", "caffe-activitynet"], ["pytorch-thumos14"]
    activitynet += [f"pytorch-activitynet-resnet{depth}" for depth in (18, 34, 50)]
    thumos14 += [f"pytorch-thumos14-resnet{depth}" for depth in (18, 34)]
    assert {name: len(release.scales) for name, release in RELEASES.items()} == {
        **dict.fromkeys(activitynet, 37),
        **dict.fromkeys(thumos14, 10),
        "caffe-thumos14": 28,
        "caffe-charades": 18,
    }
    assert len(PAPER_ACTIVITYNET_SCALES) == 20
    assert {release.num_classes for release in RELEASES.values()} == {21, 158, 201}
    assert {name: release.step_frames for name, release in RELEASES.items()} == {
        **dict.fromkeys(activitynet, 1536),
        **dict.fromkeys(thumos14, 192),
        "caffe-thumos14": 128,
        "caffe-charades": 960,
    }


def test_coding_by_hand_and_the_frame_it_ends_late() -> None:
    anchor, truth = np.array([[0.0, 7.0]]), np.array([[4.0, 19.0]])
    # Lengths 8 and 16, centres 4 and 12: shift of one length, ratio 2.
    np.testing.assert_allclose(encode(anchor, truth), [[1.0, np.log(2.0)]])
    np.testing.assert_allclose(decode(anchor, encode(anchor, truth), 64), [[4.0, 20.0]])
    np.testing.assert_allclose(decode(anchor, np.array([[-3.0, 2.0]]), 64), [[0.0, 9.556224395722602]])
    np.testing.assert_allclose(decode(anchor, np.array([[0.0, 900.0]]), 64), [[0.0, 63.0]])


def brute_overlap(first: Floats, second: Floats, one: float) -> float:
    common = max(min(first[1], second[1]) - max(first[0], second[0]) + one, 0.0)
    union = (first[1] - first[0] + one) + (second[1] - second[0] + one) - common
    return float(common / union) if union > 0 else 0.0


def test_overlap_counts_both_ends() -> None:
    assert overlaps(np.array([[0.0, 9.0]]), np.array([[5.0, 14.0], [10.0, 12.0], [9.0, 9.0]])).tolist() == [
        [5 / 15, 0.0, 0.1]
    ]
    generator = np.random.default_rng(0)
    first, second = np.sort(generator.integers(0, 40, (9, 2)), 1), np.sort(generator.integers(0, 40, (7, 2)), 1)
    expected = [[brute_overlap(a, b, 1.0) for b in second] for a in first]
    np.testing.assert_allclose(overlaps(first.astype(float), second.astype(float)), expected)


def brute_nms(segments: Floats, threshold: float, one: float, equal: bool) -> list[int]:
    kept: list[int] = []
    for index, segment in enumerate(segments):
        found = [brute_overlap(segments[other], segment, one) for other in kept]
        if not any(value > threshold or (equal and value == threshold) for value in found):
            kept.append(index)
    return kept


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_nms_is_brute_force(inclusive: bool, equal: bool, threshold: float) -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        # Whole numbers, so that overlaps of exactly one half occur.
        segments = np.sort(generator.integers(0, 12, (60, 2)), axis=1).astype(np.float64)
        expected = brute_nms(segments, threshold, 1.0 if inclusive else 0.0, equal)
        assert nms(segments, threshold, inclusive, equal).tolist() == expected
        assert nms(segments, threshold, inclusive, equal, most=3).tolist() == expected[:3]


def test_the_two_nms_variants_differ_at_equality_only() -> None:
    segments = np.array([[0.0, 9.0], [0.0, 4.0]])
    assert nms(segments, 0.5).tolist() == [0, 1]
    assert nms(segments, 0.5, suppress_equal=True).tolist() == [0]
    assert nms(np.zeros((0, 2)), 0.5).tolist() == []


def test_proposals_are_the_best_anchors_after_filtering() -> None:
    scores = np.array([0.2, 0.9, 0.9, 0.1, 0.5, 0.8])
    offsets = np.zeros((6, 2))
    # Two cells of three anchors; decoded (a frame late, cut to 16): 0-8, 0-9, 0-15 and 8-15, 7-15, 0-15.
    segments, confidence = propose(scores, offsets, (1.0, 1.25, 3.0), ProposalFilter(0.7, 5, 3))
    # 0-15 overlaps 0-9 by 10/16 and stays, its double goes, 7-15 overlaps 0-15 by 9/16; 0-8 is the fourth.
    np.testing.assert_allclose(confidence, [0.9, 0.9, 0.5])
    np.testing.assert_allclose(segments, [[0.0, 9.0], [0.0, 15.0], [7.0, 15.0]])
    long_only, _ = propose(scores, offsets, (1.0, 1.25, 3.0), ProposalFilter(1.0, 6000, 300, min_length_frames=11))
    assert all(stop - start + 1 >= 11 for start, stop in long_only)
    assert len(long_only) == 2


def test_proposals_are_brute_force_on_random_input() -> None:
    release = RELEASES["caffe-thumos14"]
    generator = np.random.default_rng(3)
    num_cells = 12
    scores = generator.random(num_cells * len(release.scales))
    offsets = generator.normal(0, 0.3, (len(scores), 2))
    boxes = anchors(release.scales, num_cells)
    candidates = []
    for box, offset, score in zip(boxes, offsets, scores, strict=True):
        length = box[1] - box[0] + 1
        centre = box[0] + length / 2 + offset[0] * length
        half = length * np.exp(offset[1]) / 2
        start, end = max(centre - half, 0), min(centre + half, 95)
        start, end = min(start, 95), max(end, 0)
        if end - start + 1 >= 8:
            candidates.append((score, start, end))
    candidates.sort(reverse=True)
    ordered = np.array([candidate[1:] for candidate in candidates])
    expected = ordered[brute_nms(ordered, 0.7, 1.0, False)][:300]
    segments, confidence = propose(scores, offsets, release.scales, release.test_filter)
    np.testing.assert_allclose(segments, expected)
    assert (np.diff(confidence) <= 0).all()
