"""The CP module against brute force, OpenCV's block matching, its definition read again, and finite differences."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from clipmill.extractors.cpnet.correspondence import CorrespondenceProposal, nearest_in_other_frames, resize_legacy


def random_maps(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def unsettled(module: CorrespondenceProposal, seed: int = 0) -> CorrespondenceProposal:
    """Gives every weight and batch norm a value of its own, so that none of them is the identity."""
    generator = torch.Generator().manual_seed(seed)
    for key, value in module.state_dict().items():
        if key.endswith("running_var") or key.endswith("bn.weight"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.dtype.is_floating_point:
            value.normal_(0.0, 0.5, generator=generator)
    return module.eval()


@pytest.mark.parametrize(("given", "wanted"), [(28, 14), (14, 28), (7, 14), (9, 5), (5, 9), (3, 3), (1, 2)])
def test_resize_is_tensorflow_1s_by_its_definition(given: int, wanted: int) -> None:
    maps = random_maps(2, 3, given, 6, dtype=torch.float64)
    expected = torch.empty(2, 3, wanted, 6, dtype=torch.float64)
    for row in range(wanted):
        position = row * given / wanted
        low = int(np.floor(position + 1e-12))
        high, share = min(low + 1, given - 1), position - low
        expected[:, :, row] = maps[:, :, low] * (1 - share) + maps[:, :, high] * share
    torch.testing.assert_close(resize_legacy(maps, wanted, 6), expected)
    torch.testing.assert_close(resize_legacy(maps.transpose(2, 3), 6, wanted), expected.transpose(2, 3))


def test_half_the_size_is_every_second_row_and_twice_the_size_is_aligned_corners_of_a_repeated_border() -> None:
    maps = random_maps(1, 2, 6, 4)
    torch.testing.assert_close(resize_legacy(maps, 3, 2), maps[:, :, ::2, ::2], rtol=0, atol=0)
    repeated = functional.pad(maps, (0, 1, 0, 1), mode="replicate")
    expected = functional.interpolate(repeated, size=(13, 9), mode="bilinear", align_corners=True)[:, :, :-1, :-1]
    torch.testing.assert_close(resize_legacy(maps, 12, 8), expected)


def brute_force(points: npt.NDArray[np.float64], num_frames: int, k: int) -> npt.NDArray[np.int64]:
    per_frame = len(points) // num_frames
    found = []
    for query, point in enumerate(points):
        distances = ((points - point) ** 2).sum(axis=1)
        frame = query // per_frame
        distances[frame * per_frame : (frame + 1) * per_frame] = np.inf
        found.append(np.argsort(distances)[:k])
    return np.array(found)


@pytest.mark.parametrize("k", [1, 4, 2 * 15])
def test_neighbours_are_the_nearest_of_other_frames_for_every_k(k: int) -> None:
    num_frames, per_frame = 3, 15
    points = random_maps(2, num_frames * per_frame, 6)
    found = nearest_in_other_frames(points, num_frames, k)
    assert found.shape == (2, num_frames * per_frame, k)
    own = torch.arange(num_frames * per_frame) // per_frame
    assert (found // per_frame != own[None, :, None]).all()
    for clip in range(2):
        np.testing.assert_array_equal(found[clip].numpy(), brute_force(points[clip].double().numpy(), num_frames, k))


def test_what_all_points_have_in_common_costs_no_precision() -> None:
    points = random_maps(1, 60, 6)
    found = nearest_in_other_frames(points + 1000.0, 3, 1)
    # 1000 rounds the values to 6e-5, and squares of 1e6 would round the distances to whole tenths.
    np.testing.assert_array_equal(found[0].numpy(), brute_force((points[0] + 1000.0).double().numpy(), 3, 1))


def test_scores_far_below_zero_still_lose_to_no_point_of_the_same_frame() -> None:
    # Squared distances of 1e10: a mask of -1e8, as the released code has it, would win against them.
    points = random_maps(1, 20, 4) * 1e5
    found = nearest_in_other_frames(points, 2, 10)
    assert (found // 10 != (torch.arange(20) // 10)[None, :, None]).all()


@pytest.mark.parametrize("chunk_queries", [1, 7, 24, 1000])
def test_chunks_change_nothing(chunk_queries: int) -> None:
    maps = random_maps(2, 3, 8, 4, 6)
    dense = unsettled(CorrespondenceProposal(8, 3, (5, 4)))
    chunked = CorrespondenceProposal(8, 3, (5, 4), chunk_queries=chunk_queries).eval()
    chunked.load_state_dict(dense.state_dict())
    assert torch.equal(chunked.neighbours(maps), dense.neighbours(maps))
    with torch.inference_mode():
        torch.testing.assert_close(chunked(maps), dense(maps))


class LargestTensor(TorchDispatchMode):
    """Remembers the most values any operation's result had."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numel = max(self.numel, result.numel())
        return result


def test_memory_is_bounded_by_the_chunk_not_by_the_square_of_the_points() -> None:
    maps = random_maps(1, 8, 4, 16, 16)
    num_points = 8 * 16 * 16
    module = unsettled(CorrespondenceProposal(4, 4, (8, 8), chunk_queries=32))
    with torch.inference_mode(), LargestTensor() as largest:
        module(maps)
    assert num_points * 8 <= largest.numel <= num_points * 32
    dense = unsettled(CorrespondenceProposal(4, 4, (8, 8), chunk_queries=num_points))
    with torch.inference_mode(), LargestTensor() as whole:
        dense(maps)
    assert whole.numel == num_points**2


def test_the_module_starts_as_the_identity() -> None:
    maps = random_maps(2, 3, 16, 4, 4)
    for module in (
        CorrespondenceProposal(16, 4, (4, 8)),
        CorrespondenceProposal(16, 4, (2,), bottleneck=2, shrink=True),
    ):
        assert torch.equal(module.train()(maps), maps)
        assert torch.equal(module.eval()(maps), maps)


def by_definition(module: CorrespondenceProposal, maps: Tensor) -> Tensor:
    """The nine steps of the reference sheet, pair by pair, from the state dict alone; inference only."""
    state = module.state_dict()

    def dense(name: str, values: Tensor) -> Tensor:
        values = values @ state[f"{name}.linear.weight"].T + state[f"{name}.linear.bias"]
        scale = state[f"{name}.bn.weight"] / (state[f"{name}.bn.running_var"] + 1e-3).sqrt()
        return (values - state[f"{name}.bn.running_mean"]) * scale + state[f"{name}.bn.bias"]

    result = []
    for clip in maps:
        grid = clip.permute(0, 2, 3, 1)
        if "conv_bottle0.linear.weight" in state:
            grid = dense("conv_bottle0", grid)
        if module.shrink:
            grid = grid[:, ::2, ::2]
        num_frames, height, width, channels = grid.shape
        points = grid.reshape(-1, channels)
        places = torch.tensor(
            [
                (t / num_frames, h / height, w / width)
                for t in range(num_frames)
                for h in range(height)
                for w in range(width)
            ],
            dtype=maps.dtype,
        )
        rows = []
        for query, nearest in enumerate(brute_force(points.double().numpy(), num_frames, module.k)):
            pairs = torch.stack([torch.cat([places[j] - places[query], points[query], points[j]]) for j in nearest])
            for layer in range(module.num_layers):
                pairs = dense(f"conv{layer}", pairs).clamp(min=0)
            rows.append(dense("conv_final", pairs.max(dim=0).values))
        update = torch.stack(rows).reshape(num_frames, height, width, -1).permute(0, 3, 1, 2)
        if module.shrink:
            repeated = functional.pad(update, (0, 1, 0, 1), mode="replicate")
            size = (2 * height + 1, 2 * width + 1)
            update = functional.interpolate(repeated, size=size, mode="bilinear", align_corners=True)[:, :, :-1, :-1]
        result.append(clip + update)
    return torch.stack(result)


VARIANTS = {
    "resnet18 res4": {"widths": (4, 8)},
    "resnet18 res3": {"widths": (4, 8), "shrink": True},
    "resnet101 res3": {"widths": (2,), "bottleneck": 2, "shrink": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_module_is_its_definition(variant: str) -> None:
    module = unsettled(CorrespondenceProposal(16, 3, **VARIANTS[variant])).double()  # type: ignore[arg-type]
    maps = random_maps(2, 3, 16, 4, 6, dtype=torch.float64)
    with torch.inference_mode():
        expected = by_definition(module, maps)
        got = module(maps)
    assert float((expected - maps).abs().max()) > 0.1
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_folding_batch_norm_changes_nothing_but_rounding(variant: str) -> None:
    module = unsettled(CorrespondenceProposal(16, 3, **VARIANTS[variant])).double()  # type: ignore[arg-type]
    maps = random_maps(2, 3, 16, 4, 6, dtype=torch.float64)
    with torch.inference_mode():
        expected = module(maps)
        module.fold_batch_norm()
        assert not any(isinstance(part, torch.nn.BatchNorm1d) for part in module.modules())
        torch.testing.assert_close(module(maps), expected)


def test_batch_statistics_of_training_are_those_of_all_pairs() -> None:
    # In training a chunk must not normalise by itself.
    maps = random_maps(2, 3, 8, 4, 4)
    results = []
    for chunk_queries in (5, None):
        module = unsettled(CorrespondenceProposal(8, 3, (5, 4), chunk_queries=chunk_queries)).train()
        results.append((module(maps), module.get_submodule("conv1.bn").running_mean))
    torch.testing.assert_close(results[0], results[1])


def test_reversing_the_frames_reverses_the_result_when_dt_changes_sign() -> None:
    module = unsettled(CorrespondenceProposal(8, 3, (5, 4))).double()
    maps = random_maps(1, 4, 8, 3, 3, dtype=torch.float64)
    with torch.inference_mode():
        expected = module(maps)
        assert not torch.allclose(module(maps.flip(1)), expected.flip(1))
        module.get_submodule("conv0.linear").weight[:, 0] *= -1
        torch.testing.assert_close(module(maps.flip(1)), expected.flip(1))


def test_permuting_the_frames_permutes_neighbours_and_without_dt_the_result() -> None:
    module = unsettled(CorrespondenceProposal(8, 3, (5, 4))).double()
    maps = random_maps(1, 4, 8, 3, 3, dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    places = torch.arange(4 * 9).view(4, 9)
    # Where each point of the permuted clip was.
    was = places[order].flatten()
    assert torch.equal(was[module.neighbours(maps[:, order])[0]], module.neighbours(maps)[0][was])
    with torch.inference_mode():
        module.get_submodule("conv0.linear").weight[:, 0] = 0.0
        torch.testing.assert_close(module(maps[:, order]), module(maps)[:, order])


def test_gradient_reaches_both_members_of_a_pair() -> None:
    module = unsettled(CorrespondenceProposal(6, 1, (4, 5))).double()
    maps = random_maps(1, 2, 6, 2, 3, dtype=torch.float64).requires_grad_()
    query = 4
    neighbour = int(module.neighbours(maps)[0, query, 0])
    update = (module(maps) - maps).permute(0, 1, 3, 4, 2).reshape(12, 6)
    gradient = torch.autograd.grad(update[query].sum(), maps)[0].permute(0, 1, 3, 4, 2).reshape(12, 6)
    reached = {int(point) for point in gradient.abs().sum(dim=1).nonzero()}
    assert reached == {query, neighbour}


def test_gradients_are_those_of_finite_differences() -> None:
    module = unsettled(CorrespondenceProposal(4, 2, (3, 4), bottleneck=2, shrink=True)).double()
    maps = random_maps(1, 2, 4, 4, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(module, (maps,))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_one_frame_has_nothing_to_look_up(mode: str) -> None:
    module = CorrespondenceProposal(8, 4, (4, 4)).train(mode == "train")
    with pytest.raises(ValueError, match=r"at least k = 4 points in other frames, got 0 \(1 frames of 9 points\)"):
        module(random_maps(1, 1, 8, 3, 3))


def test_more_neighbours_than_points_are_refused() -> None:
    with pytest.raises(ValueError, match="at least k = 7 points in other frames, got 6"):
        nearest_in_other_frames(random_maps(1, 9, 2), 3, 7)


def texture(height: int, width: int, seed: int = 0) -> npt.NDArray[np.float32]:
    noise = np.random.default_rng(seed).random((height, width), dtype=np.float32)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.5), dtype=np.float32)


def test_neighbours_of_patches_are_opencvs_block_matching_of_a_translated_texture() -> None:
    side, patch, shift = 24, 5, (3, -2)
    canvas = texture(side + 16, side + 16)
    frames = [canvas[8 - t * shift[0] :, 8 - t * shift[1] :][:side, :side] for t in range(2)]
    grid = side - patch + 1
    points = torch.stack([torch.from_numpy(frame.copy()).unfold(0, patch, 1).unfold(1, patch, 1) for frame in frames])
    found = nearest_in_other_frames(points.reshape(1, 2 * grid * grid, patch * patch), 2, 1)[0, :, 0].numpy()
    moved = 0
    for row in range(grid):
        for column in range(grid):
            block = np.ascontiguousarray(frames[0][row : row + patch, column : column + patch])
            _, _, (x, y), _ = cv2.minMaxLoc(cv2.matchTemplate(frames[1], block, cv2.TM_SQDIFF))
            got = found[row * grid + column] - grid * grid
            target = row + shift[0], column + shift[1]
            if 0 <= target[0] < grid and 0 <= target[1] < grid:
                assert divmod(int(got), grid) == (y, x) == target
                moved += 1
    assert moved == (grid - 3) * (grid - 2)
