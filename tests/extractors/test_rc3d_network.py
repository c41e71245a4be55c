"""R-C3D's network: published layouts and sizes, 3D RoI pooling in plain numpy, and the traps of the two forms."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as functional

from clipmill.extractors.rc3d.layouts import layouts
from clipmill.extractors.rc3d.network import POOL_AFTER, RC3D, pool_regions, range_maxima, spatial_bins
from clipmill.extractors.rc3d.releases import RELEASES, TRUNK, Release
from clipmill.extractors.torch_extractor import seeded

Floats = npt.NDArray[np.float64]


SHEETS = [RELEASES[f"{code}-{data}"] for code in ("pytorch", "caffe") for data in ("activitynet", "thumos14")]


@pytest.mark.parametrize("release", SHEETS, ids=lambda release: release.name)
def test_layout_and_size_are_the_published(shared_data: Path, release: Release) -> None:
    name = "rc3d_" + release.name.replace("-", "_")
    published = json.loads((shared_data.parent / "reference" / "checkpoints" / f"{name}.json").read_text("utf-8"))
    layout = next(layout for layout in layouts() if layout.name == name)
    assert {key: list(shape) for key, (_, shape) in layout.keys.items()} == published["keys"]
    with torch.device("meta"):
        network = RC3D(release)
    assert sum(parameter.numel() for parameter in network.parameters()) == published["num_params"]
    assert release.offsets_normalised == published["twin_pred_normalised"]
    assert len(release.scales) == published["num_anchors"]
    assert release.num_classes == published["num_classes"]
    if "roi_pool_lhw_in_config" in published:
        assert list(release.pooled) == published["roi_pool_lhw_in_config"]


def test_a_buffer_of_768_has_the_published_shapes() -> None:
    with torch.device("meta"):
        for name, hidden in (("pytorch-activitynet", 37), ("caffe-thumos14", 28)):
            network = RC3D(RELEASES[name])
            maps = network.trunk(torch.zeros(1, 3, 768, 112, 112))
            assert tuple(maps.shape) == (1, 512, 96, 7, 7)
            scores, offsets = network.propose(maps)
            assert tuple(scores.shape) == (1, 2, 96 * hidden)
            assert tuple(offsets.shape) == (1, 96 * hidden, 2)


def round_half_away(value: float) -> int:
    return int(np.floor(value + 0.5)) if value >= 0 else int(np.ceil(value - 0.5))


def plain_pooling(maps: Floats, segment: Floats, pooled: tuple[int, int, int]) -> Floats:
    """Fast R-CNN's pooling written out: one bin after another, floor and ceiling in floating point."""
    channels, num_cells, height, width = maps.shape
    start, end = round_half_away(segment[0] / 8), round_half_away(segment[1] / 8)
    sizes = (max(end - start + 1, 1) / pooled[0], height / pooled[1], width / pooled[2])
    found = np.zeros((channels, *pooled))
    for t, y, x in np.ndindex(*pooled):
        times = [
            min(max(int(round(f)), 0), num_cells)
            for f in (np.floor(t * sizes[0]) + start, np.ceil((t + 1) * sizes[0]) + start)
        ]
        rows = int(np.floor(y * sizes[1])), min(int(np.ceil((y + 1) * sizes[1])), height)
        columns = int(np.floor(x * sizes[2])), min(int(np.ceil((x + 1) * sizes[2])), width)
        cells = maps[:, times[0] : times[1], rows[0] : rows[1], columns[0] : columns[1]]
        if cells.size:
            found[:, t, y, x] = cells.max(axis=(1, 2, 3))
    return found


def test_spatial_bins_over_seven_cells_overlap() -> None:
    assert spatial_bins(7, 4) == [(0, 2), (1, 4), (3, 6), (5, 7)]
    assert spatial_bins(7, 2) == [(0, 4), (3, 7)]


def regions() -> Iterator[list[float]]:
    """Regions at the edges of rounding, beyond the map, of no length, and at random."""
    yield from ([0, 0], [0, 3.9], [4, 4], [12, 20], [11.99, 19.99], [0, 103], [100, 103], [103, 103])
    generator = np.random.default_rng(0)
    for _ in range(40):
        start, end = np.sort(generator.random(2) * 103)
        yield [start, end]


@pytest.mark.parametrize("pooled", [(1, 4, 4), (4, 2, 2), (2, 4, 2)])
def test_region_pooling_is_plain_numpy(pooled: tuple[int, int, int]) -> None:
    maps = np.random.default_rng(1).normal(size=(3, 13, 7, 7))
    segments = np.array(list(regions()))
    got = pool_regions(torch.from_numpy(maps), torch.from_numpy(segments), pooled).numpy()
    expected = np.stack([plain_pooling(maps, segment, pooled) for segment in segments])
    np.testing.assert_array_equal(got, expected)


def test_an_empty_range_is_zero_and_the_rest_exact() -> None:
    maps = torch.randn(2, 5, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 9
    pairs = [(start, stop) for start in range(6) for stop in range(6)]
    start, stop = (torch.tensor(side) for side in zip(*pairs, strict=True))
    got = range_maxima(maps, start, stop)[:, :, 0, 0]
    for index, (first, last) in enumerate(pairs):
        expected = maps[:, first:last, 0, 0].amax(dim=1) if last > first else torch.zeros(2, dtype=torch.float64)
        torch.testing.assert_close(got[index], expected, rtol=0, atol=0)


def test_gradient_reaches_the_cell_of_each_maximum_once() -> None:
    maps = torch.arange(6.0).reshape(1, 6, 1, 1).requires_grad_()
    pool_regions(maps, torch.tensor([[0.0, 39.0], [8.0, 24.0]]), (1, 1, 1)).sum().backward()
    assert maps.grad is not None
    assert maps.grad.flatten().tolist() == [0, 0, 0, 1, 0, 1]


@pytest.fixture(scope="module")
def network() -> RC3D:
    found = seeded(0, lambda: RC3D(RELEASES["pytorch-thumos14"])).eval()
    found.initialise_heads(torch.Generator().manual_seed(0))
    return found


def test_the_trunk_in_slabs_is_the_trunk(network: RC3D) -> None:
    clips = torch.randn(1, 3, 136, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = clips
        for name in TRUNK:
            maps = functional.relu(network.get_submodule(name)(maps))
            if name in POOL_AFTER:
                maps = functional.max_pool3d(maps, POOL_AFTER[name])
        got = network.trunk(clips)
    assert tuple(got.shape) == (1, 512, 17, 1, 1)
    torch.testing.assert_close(got, maps, rtol=1e-4, atol=1e-4 * float(maps.abs().max()))


def test_scores_and_offsets_follow_the_published_channels(network: RC3D) -> None:
    num_anchors = len(network.release.scales)
    maps = torch.randn(1, 512, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        scores, offsets = network.propose(maps)
        hidden = functional.relu(network.rpn_conv1(maps))
        assert network.rpn_conv2 is not None
        hidden = functional.relu(network.rpn_conv2(hidden)).amax((3, 4), keepdim=True)
        score_maps = network.rpn_cls_score(hidden)[0, :, :, 0, 0]
        offset_maps = network.rpn_twin_pred(hidden)[0, :, :, 0, 0]
    for cell in range(3):
        for anchor in range(num_anchors):
            position = cell * num_anchors + anchor
            # The first A channels are background, the last A foreground; offsets interleave.
            assert scores[0, 0, position] == score_maps[anchor, cell]
            assert scores[0, 1, position] == score_maps[num_anchors + anchor, cell]
            assert offsets[0, position].tolist() == offset_maps[2 * anchor : 2 * anchor + 2, cell].tolist()


def test_offsets_mean_the_same_in_either_form(network: RC3D) -> None:
    last = torch.randn(3, 4096, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        raw = network.classify(last)[1]
        real = network.real_offsets(raw)
        torch.testing.assert_close(real, raw * torch.tensor([0.1, 0.2]))
    # As a Caffe snapshot: the deviations are folded into the weights, and must not be multiplied again.
    network.normalise_offsets(False)
    with torch.inference_mode():
        torch.testing.assert_close(network.real_offsets(network.classify(last)[1]), real)
        torch.testing.assert_close(network.classify(last)[1], real)
    network.normalise_offsets(True)
    with torch.inference_mode():
        torch.testing.assert_close(network.classify(last)[1], raw)


def test_hidden_layers_are_read_after_their_relu() -> None:
    network = seeded(0, lambda: RC3D(RELEASES["caffe-thumos14"])).eval()
    maps = torch.randn(512, 4, 7, 7, generator=torch.Generator().manual_seed(0))
    segments = torch.tensor([[0.0, 12.0], [8.0, 31.0]])
    with torch.inference_mode():
        fc6, fc7 = network.hidden(maps, segments)
        pooled = torch.stack(
            [
                torch.from_numpy(plain_pooling(maps.double().numpy(), np.array(segment), (1, 4, 4)))
                for segment in segments.tolist()
            ]
        )
        expected = torch.relu(pooled.float().flatten(1) @ network.fc6.weight.T + network.fc6.bias)
        torch.testing.assert_close(fc6, expected, rtol=1e-4, atol=1e-4)
        assert network.fc7 is not None
        torch.testing.assert_close(fc7, torch.relu(network.fc7(expected)), rtol=1e-4, atol=1e-3)
    assert float(fc6.min()) == 0.0
