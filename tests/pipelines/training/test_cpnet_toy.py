"""CPNet's toy experiment: what its clips hold, what its borders give away, what its networks can and cannot see."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as functional
from sklearn.linear_model import LogisticRegression

from clipmill.extractors.cpnet.correspondence import CorrespondenceProposal
from clipmill.pipelines.reproductions.cpnet_toy.data import (
    CLASSES,
    VARIANTS,
    Clips,
    Variant,
    border_leak,
    border_touches,
    draw,
)
from clipmill.pipelines.reproductions.cpnet_toy.experiment import (
    CHANCE,
    LEARNED,
    CPNetToyConfig,
    ToyRun,
    accuracy_on,
    reproduce,
    standard_error,
)
from clipmill.pipelines.reproductions.cpnet_toy.networks import NetName, NonLocal, ToyNet, make_net
from clipmill.schemas.config import parse_config
from clipmill.schemas.errors import ConfigError


def clips_of(variant: str, num_clips: int = 1000, seed: int = 0) -> Clips:
    return draw(VARIANTS[variant], num_clips, np.random.default_rng(seed))


def centres(frames: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Returns the centre of the white pixels of every frame, ``[N, T, 2]``: read from the pixels alone."""
    row, column = np.arange(frames.shape[2]), np.arange(frames.shape[3])
    total = frames.sum(axis=(2, 3))
    return np.stack([(frames.sum(axis=3) @ row) / total, (frames.sum(axis=2) @ column) / total], axis=2)


@pytest.mark.parametrize(("variant", "num_frames", "margin"), [("published", 4, 0), ("leak-free", 3, 3)])
def test_a_block_moves_7_to_9_pixels_a_frame_in_the_direction_of_its_class(
    variant: str, num_frames: int, margin: int
) -> None:
    clips = clips_of(variant)
    frames = clips.frames()
    assert frames.shape == (1000, num_frames, 32, 32)
    assert set(np.unique(frames)) == {0.0, 1.0}
    assert (frames.sum(axis=(2, 3)) == 4).all()
    assert (frames.max(axis=3).sum(axis=2) == 2).all()
    steps = np.diff(centres(frames), axis=1)
    way = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
    directions = np.array([way[name] for name in CLASSES])[clips.label]
    along = (steps * directions[:, None]).sum(axis=2)
    assert set(np.unique(along)) == {7.0, 8.0, 9.0}
    np.testing.assert_array_equal(steps, along[:, :, None] * directions[:, None])
    np.testing.assert_array_equal(np.bincount(clips.label), [250] * 4)
    # The block comes as near to every border as the margin allows, and no nearer.
    inner = frames[:, :, margin : 32 - margin, margin : 32 - margin]
    assert inner.sum() == frames.sum()
    assert all(edge.sum() > 0 for edge in (inner[:, :, 0], inner[:, :, -1], inner[:, :, :, 0], inner[:, :, :, -1]))


def test_clips_are_a_function_of_the_seed() -> None:
    first, again, other = (clips_of("leak-free", 100, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.corners, again.corners)
    np.testing.assert_array_equal(first.label, again.label)
    assert not np.array_equal(first.corners, other.corners)


def test_no_test_clip_is_a_training_clip() -> None:
    rng = np.random.default_rng(0)
    train = draw(VARIANTS["leak-free"], 2000, rng)
    apart = draw(VARIANTS["leak-free"], 1000, rng, apart_from=train)
    assert not train.keys() & apart.keys()
    assert train.keys() & draw(VARIANTS["leak-free"], 1000, rng).keys()


def test_the_border_tells_most_directions_of_the_published_clips() -> None:
    train, test = clips_of("published", 2000, 0), clips_of("published", 1000, 1)
    # The reference sheet's simulation has 69 %, without the row that only the second convolution's padding reaches.
    assert abs(border_leak(train, test, ordered=True, reach=2) - 0.69) < 4 * (0.69 * 0.31 / 1000) ** 0.5
    assert border_leak(train, test, ordered=True) > 0.85
    for ordered in (True, False):
        probe = LogisticRegression(max_iter=1000).fit(border_touches(train, ordered), train.label)
        expected = probe.score(border_touches(test, ordered), test.label)
        assert border_leak(train, test, ordered) == pytest.approx(expected, abs=0.02)


def test_a_margin_of_two_pixels_is_one_too_few() -> None:
    narrow = Variant("narrow", 3, 2, "")
    train, test = draw(narrow, 2000, np.random.default_rng(0)), draw(narrow, 1000, np.random.default_rng(1))
    assert border_leak(train, test, ordered=True, reach=2) == 0.25
    assert border_leak(train, test, ordered=True) > 0.35
    assert spread(touched_net("C3D"), test) > 1e-6


def test_the_border_tells_nothing_of_the_leak_free_clips() -> None:
    train, test = clips_of("leak-free", 2000, 0), clips_of("leak-free", 1000, 1)
    assert border_touches(train, ordered=True).sum() == 0
    assert border_leak(train, test, ordered=True) == border_leak(train, test, ordered=False) == 0.25


def touched_net(name: NetName, seed: int = 0) -> ToyNet:
    """A network whose batch norms are not the identity, nor its module."""
    net = make_net(name, 4, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for key, value in net.state_dict().items():
        if key.endswith("running_var") or ("bn" in key and key.endswith("weight")):
            value.uniform_(0.5, 1.5, generator=generator)
        elif key.endswith(("running_mean", "bias")):
            value.normal_(0.0, 0.2, generator=generator)
    return net


@pytest.mark.parametrize(("name", "frames_seen"), [("C2D", [2]), ("C3D", [0, 1, 2, 3, 4])])
def test_two_convolutions_see_five_pixels(name: NetName, frames_seen: list[int]) -> None:
    net = touched_net(name)
    frames = torch.randn(1, 5, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    maps = net.conv2(net.conv1(frames[:, None]))
    gradient = torch.autograd.grad(maps[0, :, 2, 15, 20].sum(), frames)[0][0]
    time, row, column = (sorted(set(axis.tolist())) for axis in gradient.nonzero(as_tuple=True))
    assert (time, row, column) == (frames_seen, [13, 14, 15, 16, 17], [18, 19, 20, 21, 22])


def spread(net: ToyNet, clips: Clips) -> float:
    """Returns how much the answers to clips differ, relative to their size; in double precision."""
    with torch.inference_mode():
        logits = net.double()(torch.from_numpy(clips.frames()[:40]).double())
    return float((logits - logits[0]).abs().max() / logits.abs().max())


@pytest.mark.parametrize("name", ["C2D", "C3D", "C2D+NL"])
def test_all_but_correspondences_give_every_leak_free_clip_the_same_answer(name: NetName) -> None:
    # So they are at chance whatever their weights: no training could show more.
    net = touched_net(name)
    assert spread(net, clips_of("leak-free", 100)) < 1e-12
    assert spread(net, clips_of("published", 100)) > 1e-6


def test_correspondences_tell_leak_free_clips_apart() -> None:
    assert spread(touched_net("C2D+CP"), clips_of("leak-free", 20)) > 1e-6


def test_the_nearest_neighbour_of_a_block_point_is_the_same_point_of_the_moved_block() -> None:
    clips = clips_of("leak-free", 8)
    net = touched_net("C2D")
    frames = torch.from_numpy(clips.frames())[:, :2]
    with torch.inference_mode():
        maps = functional.relu(net.bn2(net.conv2(functional.relu(net.bn1(net.conv1(frames[:, None]))))))
    found = CorrespondenceProposal(16, 1, (16,)).neighbours(maps.transpose(1, 2))[:, :, 0]
    for clip, corners in enumerate(clips.corners):
        moved = corners[1] - corners[0]
        for row in range(2):
            for column in range(2):
                at = corners[0] + (row, column)
                nearest = divmod(int(found[clip, at[0] * 32 + at[1]]) - 32 * 32, 32)
                assert nearest == tuple(at + moved)
        assert 7 <= np.abs(moved).sum() <= 9


def test_non_local_attention_is_its_definition() -> None:
    block = NonLocal(6).eval()
    maps = torch.randn(2, 3, 6, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(maps), maps)
    torch.nn.init.ones_(block.bn.weight)
    points = maps.permute(0, 1, 3, 4, 2).reshape(2, -1, 6)
    weights = torch.einsum("nic,njc->nij", block.query(points), block.key(points))
    mixed = weights @ block.value(points) / points.shape[1]
    expected = (points + block.out(mixed) / (1 + 1e-5) ** 0.5).reshape(2, 3, 4, 6, 6).permute(0, 1, 4, 2, 3)
    torch.testing.assert_close(block(maps), expected)


def test_networks_are_a_function_of_the_seed_and_leave_torchs_own_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    states = [make_net("C2D+CP", 4, seed).state_dict() for seed in (1, 1, 2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["conv1.weight"], states[2]["conv1.weight"])


def test_accuracy_counts_right_answers() -> None:
    frames, label = torch.zeros(130, 3, 32, 32), torch.arange(130) % 4
    net = make_net("C2D", 4, 0).eval()
    with torch.inference_mode():
        answer = int(net(frames[:1]).argmax())
    assert accuracy_on(net, frames, label) == float((label == answer).double().mean())
    assert standard_error(1000) == pytest.approx(0.0137, abs=1e-4)


SMALL = {"variants": ("leak-free",), "nets": ("C2D", "C2D+CP"), "seeds": (1, 0), "num_train": 100, "num_test": 100}


@pytest.fixture(scope="module")
def small() -> tuple[dict[str, Any], list[tuple[int, int, ToyRun]]]:
    runs: list[tuple[int, int, ToyRun]] = []
    config = CPNetToyConfig(epochs=1, **SMALL)  # type: ignore[arg-type]
    return reproduce(config, 2, lambda *event: runs.append(event)), runs


def test_every_run_is_told_and_stands_in_the_result(
    small: tuple[dict[str, Any], list[tuple[int, int, ToyRun]]],
) -> None:
    result, runs = small
    assert [(done, all_runs) for done, all_runs, _ in runs] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    nets = result["variants"]["leak-free"]["nets"]
    assert list(nets) == ["C2D", "C2D+CP"]
    for name, values in nets.items():
        told = {run.seed: run for _, _, run in runs if run.net == name}
        assert values["test_accuracy"] == [told[1].test_accuracy, told[0].test_accuracy]
        assert values["mean"] == pytest.approx(np.mean(values["test_accuracy"]))
    assert nets["C2D"]["found"] == "chance"
    assert nets["C2D"]["holds"]
    assert result["variants"]["leak-free"]["border_leak"] == {"in_order": [0.25] * 2, "without_order": [0.25] * 2}
    # Without all four networks there is nothing to say.
    assert result["reproduced"] is None


def test_numbers_do_not_depend_on_how_many_run_at_once(
    small: tuple[dict[str, Any], list[tuple[int, int, ToyRun]]],
) -> None:
    threads = torch.get_num_threads()
    config = CPNetToyConfig(epochs=1, **SMALL)  # type: ignore[arg-type]
    assert reproduce(config, 1, lambda *_: None) == small[0]
    assert torch.get_num_threads() == threads


REFUSED = [
    ("epochs=0", "epochs: Input should be greater than or equal to 1"),
    ("num_train=1001", "num_train: Input should be a multiple of 4"),
    ("num_test=4", "num_test: Input should be greater than or equal to 100"),
    ("seeds=[0,0]", r"seeds: expected each once, got \[0, 0\]"),
    ("seeds=[-1]", "seeds: expected zero or more"),
    ("seeds=[]", "seeds: Tuple should have at least 1 item"),
    ("nets=[C4D]", "nets.0: Input should be 'C2D', 'C3D', 'C2D.NL' or 'C2D.CP'"),
    ("variants=[leaky]", "variants.0: Input should be 'published' or 'leak-free'"),
    ("batch=27", "batch: expected no last batch of a single clip, got 27 of 1000"),
    ("epoch=3", "epoch: unknown key; did you mean 'epochs'"),
]


@pytest.mark.parametrize(("override", "message"), REFUSED)
def test_settings_that_do_not_fit_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(CPNetToyConfig, "", [override], "reproduce cpnet-toy")


def test_a_run_that_fails_ends_the_reproduction() -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce(CPNetToyConfig(epochs=1, **(SMALL | {"nets": ("C2D",)})), 1, fail)  # type: ignore[arg-type]


@pytest.mark.slow
def test_correspondences_learn_what_convolutions_cannot() -> None:
    config = CPNetToyConfig(variants=("leak-free",), nets=("C2D", "C2D+CP"), seeds=(0,))
    nets = reproduce(config, 1, lambda *_: None)["variants"]["leak-free"]["nets"]
    assert nets["C2D+CP"]["mean"] >= LEARNED
    assert abs(nets["C2D"]["mean"] - CHANCE) <= 3 * standard_error(1000)
