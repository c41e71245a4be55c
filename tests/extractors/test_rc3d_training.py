"""R-C3D's targets and losses on examples small enough to work out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from clipmill.extractors.learner import Annotated
from clipmill.extractors.rc3d.network import RC3D
from clipmill.extractors.rc3d.releases import RELEASES, Release
from clipmill.extractors.rc3d.segments import anchors, encode
from clipmill.extractors.rc3d.training import (
    anchor_targets,
    head_losses,
    losses,
    parameter_groups,
    region_targets,
    rpn_losses,
    smooth_l1,
    truth_of_buffer,
)
from clipmill.extractors.torch_extractor import seeded
from clipmill.schemas.errors import UsageError

PYTORCH, CAFFE = RELEASES["pytorch-thumos14"], RELEASES["caffe-thumos14"]


def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def truth(*segments: tuple[float, float, int]) -> Annotated:
    return Annotated(
        np.array([segment[:2] for segment in segments]).reshape(-1, 2),
        np.array([segment[2] for segment in segments], dtype=np.int64),
    )


ANNOTATIONS = [
    (12.0, 14.0, 3),  # wholly inside
    (9.0, 11.0, 4),  # half of it inside
    (9.5, 12.0, 5),  # four fifths inside
    (20.0, 20.1, 6),  # 2.5 frames
    (100.0, 110.0, 7),  # elsewhere
]


@pytest.mark.parametrize(("release", "classes"), [(PYTORCH, [3, 5]), (CAFFE, [3])])
def test_a_buffer_keeps_the_annotations_that_lie_in_it(release: Release, classes: list[int]) -> None:
    found = truth_of_buffer(ANNOTATIONS, 10.0, release)
    assert found is not None
    assert found.classes.tolist() == classes
    np.testing.assert_allclose(found.segments[0], [50.0, 100.0])
    if len(classes) > 1:
        np.testing.assert_allclose(found.segments[1], [0.0, 50.0])
    assert truth_of_buffer(ANNOTATIONS, 60.0, release) is None


def test_annotations_are_in_sampled_frames_and_cut_at_the_end() -> None:
    release = RELEASES["pytorch-activitynet"]
    found = truth_of_buffer([(100.0, 260.0, 9)], 0.0, release)
    assert found is not None
    # 25 fps, every eighth: 100 s is frame 312.5; the buffer ends at 767.
    np.testing.assert_allclose(found.segments, [[312.5, 767.0]])


def test_anchor_labels_by_hand() -> None:
    # Anchors of length 8 and 16 in four cells; the annotation is the third cell exactly.
    labels, targets = anchor_targets((1.0, 2.0), 32, truth((16.0, 23.0, 1)), draw())
    boxes = anchors((1.0, 2.0), 4)
    assert boxes.tolist() == [[0, 7], [-4, 11], [8, 15], [4, 19], [16, 23], [12, 27], [24, 31], [20, 35]]
    # The 16-long of cells 0 and 3 leave the buffer. That of cell 2 overlaps by 8/16: neither. That of cell 1 by 4/20.
    assert labels.tolist() == [0, -1, 0, 0, 1, -1, 0, -1]
    np.testing.assert_allclose(targets[4], [0.0, 0.0])
    np.testing.assert_allclose(targets[3], [8 / 16, np.log(8 / 16)])


def test_the_best_anchor_of_an_annotation_is_foreground_however_little_it_overlaps() -> None:
    labels, targets = anchor_targets((1.0,), 32, truth((0.0, 1.0, 1)), draw())
    # The best overlap is 2/8.
    assert labels.tolist() == [1, 0, 0, 0]
    np.testing.assert_allclose(targets[0], [(1.0 - 4.0) / 8, np.log(2 / 8)])
    nothing, _ = anchor_targets((1.0,), 32, truth((40.0, 41.0, 1)), draw())
    assert nothing.tolist() == [0, 0, 0, 0]


def test_at_most_64_anchors_are_sampled_half_of_them_foreground() -> None:
    segments = [(float(start), float(start + 7), 1) for start in range(0, 768, 8)]
    labels, _ = anchor_targets((1.0, 4.0), 768, truth(*segments), draw())
    assert ((labels == 1).sum(), (labels == 0).sum()) == (32, 32)
    again, _ = anchor_targets((1.0, 4.0), 768, truth(*segments), draw())
    np.testing.assert_array_equal(labels, again)
    few, _ = anchor_targets((1.0,), 768, truth((0.0, 7.0, 1)), draw())
    assert ((few == 1).sum(), (few == 0).sum()) == (1, 63)


def test_region_classes_and_targets_by_hand() -> None:
    proposals = np.array([[0.0, 9.0], [5.0, 14.0], [40.0, 49.0], [0.0, 1.0]])
    regions, classes, targets = region_targets(proposals, truth((0.0, 9.0, 7)), PYTORCH, draw())
    assert len(regions) == 128
    # Overlaps: 1 (and the annotation itself), 1/3, 0 (below 0.1: never drawn), 1/5.
    kinds = {tuple(region): int(index) for region, index in zip(regions, classes, strict=True)}
    assert kinds == {(0.0, 9.0): 7, (5.0, 14.0): 0, (0.0, 1.0): 0}
    assert int((classes == 7).sum()) == 2
    foreground = targets[classes == 7]
    np.testing.assert_allclose(foreground, 0.0, atol=1e-12)
    expected = encode(np.array([[5.0, 14.0]]), np.array([[0.0, 9.0]])) / [0.1, 0.2]
    np.testing.assert_allclose(targets[(regions == [5.0, 14.0]).all(axis=1)][0], expected[0])
    np.testing.assert_allclose(expected, [[-5.0, 0.0]])


def test_the_caffe_form_takes_fewer_regions_and_any_background() -> None:
    proposals = np.array([[0.0, 9.0], [5.0, 14.0], [40.0, 49.0]])
    regions, classes, _ = region_targets(proposals, truth((0.0, 9.0, 7)), CAFFE, draw())
    assert sorted(map(tuple, regions)) == [(0.0, 9.0), (0.0, 9.0), (5.0, 14.0), (40.0, 49.0)]
    assert sorted(classes.tolist()) == [0, 0, 7, 7]


def test_shares_of_foreground_are_the_forms() -> None:
    generator = draw()
    start = generator.uniform(0, 20, 400)
    proposals = np.stack([start, start + 100.0], axis=1)
    everything = truth((10.0, 110.0, 2))
    background = np.array([[200.0 + index, 300.0] for index in range(40)] + [[60.0, 200.0]] * 200)
    for release, share in ((PYTORCH, 64), (CAFFE, 32)):
        _, classes, _ = region_targets(np.concatenate([proposals, background]), everything, release, draw())
        assert int((classes == 2).sum()) == share
        assert len(classes) == 128
    _, classes, _ = region_targets(proposals, everything, PYTORCH, draw())
    assert (classes == 2).all()


def test_smooth_l1_by_hand() -> None:
    got = smooth_l1(torch.tensor([0.0, 0.1, -0.5, 2.0]), 1.0)
    torch.testing.assert_close(got, torch.tensor([0.0, 0.005, 0.125, 1.5]))
    # Sigma 3 is quadratic up to 1/9.
    got = smooth_l1(torch.tensor([0.1, 1 / 9, -1.0]), 3.0)
    torch.testing.assert_close(got, torch.tensor([0.045, 1 / 18, 1 - 1 / 18]))


def test_rpn_losses_by_hand() -> None:
    scores = torch.tensor([[0.0, 0.0, 5.0], [0.0, np.log(3.0), 5.0]])
    labels = torch.tensor([0, 1, -1])
    offsets = torch.tensor([[9.0, 9.0], [1.0, 0.0], [9.0, 9.0]])
    targets = torch.tensor([[0.0, 0.0], [0.0, 0.1], [0.0, 0.0]])
    class_loss, offset_loss = rpn_losses(scores, offsets, labels, targets)
    # Background at probability 1/2, foreground at 3/4; the ignored anchor counts nowhere.
    assert float(class_loss) == pytest.approx((np.log(2) + np.log(4 / 3)) / 2)
    assert float(offset_loss) == pytest.approx(((1 - 1 / 18) + 0.045) / 2)


def test_head_losses_by_hand() -> None:
    scores = torch.zeros(2, 3)
    offsets = torch.zeros(2, 3, 2)
    offsets[0, 2] = torch.tensor([0.5, 3.0])
    offsets[1, 1] = 99.0
    class_loss, offset_loss = head_losses(scores, offsets, torch.tensor([2, 0]), torch.zeros(2, 2))
    assert float(class_loss) == pytest.approx(np.log(3))
    # Only the foreground region, at its own class: 0.125 and 2.5, over both regions.
    assert float(offset_loss) == pytest.approx((0.125 + 2.5) / 2)


@pytest.fixture(scope="module")
def network() -> RC3D:
    release = replace(PYTORCH, buffer_frames=32)
    found = seeded(0, lambda: RC3D(release))
    found.initialise_heads(torch.Generator().manual_seed(0))
    return found.train()


def test_a_step_of_training_lowers_the_losses_of_its_buffer(network: RC3D) -> None:
    clip = torch.randn(3, 32, 16, 16, generator=torch.Generator().manual_seed(0))
    annotated = truth((4.0, 19.0, 5))
    frozen = network.get_submodule("conv1a").weight.detach().clone()  # type: ignore[union-attr,operator]
    optimiser = torch.optim.SGD(parameter_groups(network, 1e-3), lr=1e-3, momentum=0.9)
    totals = []
    for _ in range(3):
        torch.manual_seed(0)
        found = losses(network, clip, annotated, draw())
        assert set(found) == {"rpn_class", "rpn_offset", "head_class", "head_offset"}
        total = sum(found.values(), torch.zeros(()))
        totals.append(float(total.detach()))
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    assert np.isfinite(totals).all()
    assert totals[2] < totals[1] < totals[0]
    assert torch.equal(network.get_submodule("conv1a").weight, frozen)  # type: ignore[arg-type]


def test_biases_learn_twice_as_fast_without_decay(network: RC3D) -> None:
    weights, biases = parameter_groups(network)
    assert (weights["lr"], weights["weight_decay"]) == (1e-4, 5e-4)
    assert (biases["lr"], biases["weight_decay"]) == (2e-4, 0.0)
    assert len(weights["params"]) == len(biases["params"]) == 13  # type: ignore[arg-type]


def test_what_cannot_be_trained_on_is_refused(network: RC3D) -> None:
    clip = torch.zeros(3, 32, 16, 16)
    with pytest.raises(UsageError, match="at least one annotation"):
        losses(network, clip, truth(), draw())
    with torch.device("meta"):
        caffe = RC3D(CAFFE)
    with pytest.raises(UsageError, match="normalise_offsets"):
        losses(caffe, clip, truth((0.0, 9.0, 1)), draw())
