"""R-C3D from recipe to rows: proposals and detections over one window and over many, and what is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from clipmill.extractors import registry
from clipmill.extractors.rc3d import network as networks
from clipmill.extractors.rc3d.build import RC3DExtractor
from clipmill.extractors.rc3d.layouts import layouts
from clipmill.extractors.rc3d.network import RC3D
from clipmill.extractors.rc3d.options import RC3DOptions
from clipmill.extractors.rc3d.releases import RELEASES
from clipmill.extractors.rc3d.rows import DETECTIONS_POOL, DetectionRows, ProposalRows, SegmentPool
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.torch_extractor import seeded
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.errors import ConfigError, UsageError, WeightsError
from clipmill.schemas.recipe import ClipRule, Recipe, Sampling
from clipmill.schemas.records import Clip, Window

Arrays = Mapping[str, npt.NDArray[np.generic]]
SMALL = {"form": "pytorch-thumos14", "buffer_frames": 32}


def recipe(options: Mapping[str, Any], layer: str | None = None, file: Path | None = None, **more: Any) -> Recipe:
    weights = WeightsConfig(file=str(file)) if file is not None else WeightsConfig(random=0)
    feature = FeatureConfig(layer=layer, options=dict(options), weights=weights, **more)
    return resolve_recipe("rc3d", feature, ClipRule(), DecodeConfig())


@pytest.mark.parametrize(
    ("form", "frames", "every", "step", "tail", "layers"),
    [
        ("pytorch-activitynet", 768, 8, 1536, "overlap", ["fc6", "detections"]),
        ("pytorch-thumos14", 768, 1, 192, "overlap", ["fc6", "detections"]),
        ("caffe-activitynet", 768, 8, 1536, "overlap", ["fc6", "detections"]),
        ("caffe-thumos14", 512, 1, 128, "drop", ["fc6", "fc7", "detections"]),
        ("caffe-charades", 768, 5, 960, "overlap", ["fc6", "fc7", "detections"]),
    ],
)
def test_windows_are_the_published(form: str, frames: int, every: int, step: int, tail: str, layers: list[str]) -> None:
    found = recipe({"form": form})
    assert found.sampling == Sampling(fps=25, frames=frames, every=every, step=step, tail=tail)  # type: ignore[arg-type]
    assert (found.preprocess.size, found.preprocess.crop_offset) == ((128, 171), (8, 29))
    assert (found.preprocess.colour, found.preprocess.mean) == ("bgr", (90.0, 98.0, 102.0))
    for layer in layers:
        dim = 4096 if layer.startswith("fc") else RELEASES[form].num_classes
        assert recipe({"form": form}, layer).dim == dim


def test_short_buffers_keep_the_quarter_step() -> None:
    found = recipe({"form": "pytorch-activitynet", "buffer_frames": 64})
    assert (found.sampling.frames, found.sampling.every, found.sampling.step) == (64, 8, 128)


REFUSED = [
    ({"buffer_frames": 60}, None, {}, "multiple of 8"),
    ({"pooled": [1, 4, 2]}, None, {}, "16 cells"),
    ({"top": 64, "pool": 32}, None, {}, "at least top"),
    ({"max_detections": 5}, None, {}, "set top instead"),
    ({"score_threshold": 0.1}, None, {}, "options score_threshold: expected layer: detections, got layer: fc6"),
    ({"nms": 0.5}, None, {}, "options nms: expected layer: detections"),
    ({"nms_video": 0.5}, None, {}, "options nms_video: expected layer: detections"),
    ({}, None, {"sampling": Sampling(frames=60)}, "a multiple of 8"),
    ({}, "fc7", {}, "expected one of fc6, detections"),
    ({}, "detections", {"pooling": "mean"}, "none for detections"),
]


@pytest.mark.parametrize(("options", "layer", "more", "message"), REFUSED)
def test_what_cannot_run_is_refused(options: Any, layer: str | None, more: dict[str, Any], message: str) -> None:
    with pytest.raises((UsageError, ConfigError), match=message):
        recipe(options, layer, **more)


@pytest.fixture(scope="module")
def extractor() -> RC3DExtractor:
    found = registry.build(recipe(SMALL), "cpu")
    assert isinstance(found, RC3DExtractor)
    return found


@pytest.fixture(scope="module")
def detector() -> RC3DExtractor:
    found = registry.build(recipe(SMALL, "detections"), "cpu")
    assert isinstance(found, RC3DExtractor)
    return found


FRAMES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def proposed(extractor: RC3DExtractor) -> Arrays:
    return extractor.forward(FRAMES)


def test_proposals_carry_the_features_of_their_regions(proposed: Arrays) -> None:
    network = seeded(0, lambda: RC3D(RELEASES["pytorch-thumos14"])).eval()
    network.initialise_heads(torch.Generator().manual_seed(0))
    mean = np.array([90.0, 98.0, 102.0])
    # Frames are RGB; the weights expect BGR without its mean, and random ones are a 64th.
    clip = (FRAMES[1][..., ::-1] - mean) / 64
    with torch.inference_mode():
        # Without biases scale passes through the first ReLU, so the input is scaled in the weights' stead.
        maps = network.trunk(torch.from_numpy(clip.astype(np.float32)).permute(3, 0, 1, 2)[None])
        num_valid = int(np.asarray(proposed["num_valid"])[1])
        segments = np.asarray(proposed["segments"])[1, :num_valid]
        fc6, last = network.hidden(maps[0], torch.from_numpy(segments))
        probabilities = network.classify(last)[0].softmax(1).numpy()
    values = np.asarray(proposed["values"])[1, :num_valid]
    np.testing.assert_allclose(values, fc6.numpy(), rtol=0, atol=1e-3 * float(fc6.max()))
    assert float(values.min()) == 0.0
    np.testing.assert_array_equal(
        np.asarray(proposed["class_index"])[1, :num_valid], probabilities[:, 1:].argmax(1) + 1
    )
    scores = np.asarray(proposed["score"])[1, :num_valid]
    assert (np.diff(scores) <= 0).all()
    assert ((scores > 0) & (scores < 1)).all()


def test_a_batch_gives_what_single_buffers_give(extractor: RC3DExtractor, proposed: Arrays) -> None:
    alone = extractor.forward(FRAMES[1:])
    num_valid = int(np.asarray(alone["num_valid"])[0])
    assert num_valid == int(np.asarray(proposed["num_valid"])[1])
    for name, array in alone.items():
        np.testing.assert_array_equal(array[0], proposed[name][1], err_msg=name)


def test_a_video_of_one_window_keeps_the_proposal_layers_order(extractor: RC3DExtractor, proposed: Arrays) -> None:
    reducer = extractor.reducer(Clip(2, 10.0, 11.28))
    assert isinstance(reducer, ProposalRows)
    reducer.add(window(10.0), {name: array[0] for name, array in proposed.items()})
    rows = reducer.rows()
    num_valid = int(np.asarray(proposed["num_valid"])[0])
    assert len(rows) == 64
    num_real = int(rows.mask.sum())
    assert 0 < num_real <= num_valid
    assert rows.mask.tolist() == [True] * num_real + [False] * (64 - num_real)
    segments = np.asarray(proposed["segments"])[0, :num_real]
    np.testing.assert_allclose(rows.start_seconds[:num_real], 10.0 + segments[:, 0] / 25)
    np.testing.assert_allclose(rows.stop_seconds[:num_real], np.minimum(10.0 + segments[:, 1] / 25, 11.28))
    # What fills up repeats the last real one.
    assert (rows.values[num_real:] == rows.values[num_real - 1]).all()
    assert (rows.clip == 2).all()
    assert {name: column.dtype.name for name, column in rows.extras.items()} == {
        "score": "float32",
        "class_index": "int32",
        "class_score": "float32",
    }


def window(start: float, num_frames: int = 32, real: int | None = None) -> Window:
    real = num_frames if real is None else real
    frames = tuple(min(index, real - 1) for index in range(num_frames))
    return Window(0, frames, start, start + real / 25, num_frames - real)


def outputs(*segments: tuple[float, float, float, int]) -> dict[str, npt.NDArray[np.generic]]:
    """Outputs of one window from (start, end, score, class); the value of a row is its score a thousandfold."""
    score = np.array([segment[2] for segment in segments])
    return {
        "segments": np.array([segment[:2] for segment in segments]).reshape(-1, 2),
        "score": score,
        "class_score": score / 2,
        "class_index": np.array([segment[3] for segment in segments], dtype=np.int64),
        "values": np.repeat((score * 1000).astype(np.float32)[:, None], 4096, axis=1),
        "num_valid": np.array(len(segments)),
    }


def proposals_of(top: int, *windows: tuple[Window, dict[str, npt.NDArray[np.generic]]], **options: Any) -> Any:
    found = recipe(SMALL | {"top": top} | options)
    reducer = ProposalRows(Clip(0, 0.0, 9.0), found, RC3DOptions(**found.options), RELEASES["pytorch-thumos14"])
    for item, output in windows:
        reducer.add(item, output)
    return reducer.rows()


def test_doubles_of_overlapping_windows_are_merged() -> None:
    # Both windows see the event at 0.4 to 1.2 s; the second has it better.
    first = (window(0.0), outputs((10, 30, 0.7, 1), (0, 5, 0.6, 2)))
    second = (window(0.2), outputs((5, 25, 0.9, 1), (25, 31, 0.5, 3)))
    rows = proposals_of(3, first, second)
    np.testing.assert_allclose(rows.values[:, 0], [900, 600, 500], rtol=1e-6)
    np.testing.assert_allclose(rows.start_seconds, [0.4, 0.0, 1.2])
    np.testing.assert_allclose(rows.stop_seconds, [1.2, 0.2, 1.44])
    assert rows.extras["class_index"].tolist() == [1, 2, 3]
    assert rows.mask.all()
    # A threshold of one merges nothing.
    apart = proposals_of(3, first, second, merge_nms=1.0)
    np.testing.assert_allclose(apart.values[:, 0], [900, 700, 600], rtol=1e-6)


def test_what_lies_in_repeated_frames_is_no_proposal() -> None:
    short = (window(0.0, real=16), outputs((20, 30, 0.9, 1), (4, 30, 0.8, 1)))
    rows = proposals_of(2, short)
    assert rows.mask.tolist() == [True, False]
    np.testing.assert_allclose([rows.start_seconds[0], rows.stop_seconds[0]], [0.16, 0.64])


def test_one_window_is_thinned_only_when_asked() -> None:
    # Cut at the end of a short video, two proposals become one stretch of time.
    short = (window(0.0, real=16), outputs((4, 20, 0.9, 1), (4, 30, 0.8, 1)))
    assert proposals_of(2, short).mask.tolist() == [True, True]
    assert proposals_of(2, short, merge_nms=0.9).mask.tolist() == [True, False]


def test_a_video_without_any_real_proposal_has_masked_zeros() -> None:
    rows = proposals_of(2, (window(0.0, real=16), outputs((20, 30, 0.9, 1))))
    assert rows.mask.tolist() == [False, False]
    assert not rows.values.any()
    assert (rows.start_seconds[0], rows.stop_seconds[0]) == (0.0, 9.0)
    assert rows.values.shape == (2, 4096)
    none = proposals_of(2)
    assert none.values.shape == (0, 4096)


def test_memory_is_bounded_and_the_pool_is_that_of_all_segments() -> None:
    generator = np.random.default_rng(0)
    pool = SegmentPool(50, Sampling(fps=25, frames=32))
    scores = []
    for index in range(40):
        found = generator.random(30).round(2)
        scores.append(found)
        pool.add(window(index * 0.3), outputs(*((0.0, 8.0, float(score), 1) for score in found)))
        assert len(pool.seconds) <= 50
        assert pool.columns["values"].base is None
    # The best of all 1200, equal scores in the order they came: exactly what one sort would keep.
    everything = np.concatenate(scores)
    order = np.argsort(-everything, kind="stable")[:50]
    np.testing.assert_allclose(pool.columns["score"].astype(float), everything[order])
    np.testing.assert_allclose(pool.seconds[:, 0], (order // 30) * 0.3)


def test_sampling_by_eights_counts_seconds_by_eights() -> None:
    pool = SegmentPool(5, Sampling(fps=25, frames=32, every=8))
    long = Window(0, tuple(range(0, 256, 8)), 100.0, 100.0 + 249 / 25)
    pool.add(long, outputs((10, 20, 0.5, 1)))
    np.testing.assert_allclose(pool.seconds, [[100 + 80 / 25, 100 + 160 / 25]])


def test_detections_are_thresholded_moved_and_suppressed_per_class(detector: RC3DExtractor) -> None:
    found = {name: array[0] for name, array in detector.forward(FRAMES[:1]).items()}
    num_valid = int(found["num_valid"])
    classes = np.asarray(found["class_index"])[:num_valid]
    probabilities = np.asarray(found["values"])[:num_valid]
    assert probabilities.shape[1] == 21
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(found["score"])[:num_valid], probabilities[np.arange(num_valid), classes])
    assert classes.min() >= 1
    assert float(np.asarray(found["score"])[:num_valid].min()) > 0.005
    segments = np.asarray(found["segments"])[:num_valid]
    for index in np.unique(classes):
        own = segments[classes == index]
        for first in range(len(own)):
            for second in range(first + 1, len(own)):
                common = min(own[first, 1], own[second, 1]) - max(own[first, 0], own[second, 0]) + 1
                union = np.ptp(own[first]) + np.ptp(own[second]) + 2 - max(common, 0)
                assert max(common, 0) / union <= 0.4 + 1e-9


def detections_of(*windows: tuple[Window, dict[str, npt.NDArray[np.generic]]], **options: Any) -> Any:
    found = recipe(SMALL | options, "detections")
    reducer = DetectionRows(Clip(0, 0.0, 9.0), found, RC3DOptions(**found.options), RELEASES["pytorch-thumos14"])
    for item, output in windows:
        reducer.add(item, {**output, "values": np.asarray(output["values"])[:, :21]})
    return reducer.rows()


def test_detections_of_all_windows_are_suppressed_per_class_by_plain_lengths() -> None:
    first = (window(0.0), outputs((10, 30, 0.7, 1), (10, 30, 0.65, 2)))
    second = (window(0.2), outputs((5, 25, 0.9, 1), (25, 31, 0.5, 1)))
    rows = detections_of(first, second)
    # The same seconds twice in class 1: one goes; class 2 stays; 25-31 only touches 5-25.
    np.testing.assert_allclose(rows.extras["score"], [0.9, 0.65, 0.5], rtol=1e-6)
    assert rows.extras["class_index"].tolist() == [1, 2, 1]
    assert rows.mask.all()
    assert detections_of(first, second, max_detections=1).extras["score"].tolist() == pytest.approx([0.9])
    assert len(detections_of(first, second, nms_video=1.0)) == 4
    assert DETECTIONS_POOL >= 200


def test_a_video_without_detections_has_one_masked_row() -> None:
    rows = detections_of((window(0.0), outputs()))
    assert rows.mask.tolist() == [False]
    assert rows.values.shape == (1, 21)
    assert (rows.start_seconds[0], rows.stop_seconds[0]) == (0.0, 9.0)


def test_class_confidence_orders_by_class(extractor: RC3DExtractor, proposed: Arrays) -> None:
    by_class = registry.build(recipe(SMALL | {"confidence": "class"}), "cpu").forward(FRAMES[:1])
    np.testing.assert_array_equal(by_class["score"], by_class["class_score"])
    num_valid = int(np.asarray(by_class["num_valid"])[0])
    assert num_valid == int(np.asarray(proposed["num_valid"])[0])
    np.testing.assert_allclose(by_class["class_score"][0], proposed["class_score"][0], rtol=1e-4)


def test_a_published_file_loads_with_its_wrapper_and_prefix(tmp_path: Path) -> None:
    form = RELEASES["pytorch-thumos14"]
    layout = next(layout for layout in layouts() if layout.name == "rc3d_pytorch_thumos14")
    network = seeded(5, lambda: RC3D(form))
    state = {f"module.{key}": network.state_dict()[ours] for key, (ours, _) in layout.keys.items()}
    path = tmp_path / "tdcnn_1_5_9388.pth"
    torch.save({"session": 1, "epoch": 5, "model": state, "optimizer": {"state": {}}, "pooling_mode": "pool"}, path)
    found = recipe(SMALL, file=path)
    assert (found.weights.layout, found.weights.card) == ("rc3d_pytorch_thumos14", "pytorch-thumos14")
    built = registry.build(found, "cpu")
    assert isinstance(built, RC3DExtractor)
    torch.testing.assert_close(built._network.fc6.weight, network.fc6.weight, rtol=0, atol=0)
    torch.testing.assert_close(
        built._network.get_submodule("conv1a").weight, network.get_submodule("conv1a").weight.flip(1)
    )
    with pytest.raises(WeightsError, match="rc3d_pytorch_activitynet"):
        recipe({"form": "pytorch-activitynet"}, file=path)


def test_a_buffer_takes_slabs_of_the_one_it_overlaps_with_the_bits_of_its_own(
    extractor: RC3DExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "SLAB_FRAMES", 2)
    num_slabs, slab = 0, networks._slab

    def counted(maps: Any, start: int) -> Any:
        nonlocal num_slabs
        num_slabs += 1
        return slab(maps, start)

    monkeypatch.setattr(networks, "_slab", counted)
    video = np.random.default_rng(0).integers(0, 256, (48, 32, 32, 3), dtype=np.uint8)
    buffers = [video[start : start + 32] for start in (0, 8, 16)]
    other = buffers[2].copy()
    other[30] ^= 1
    parts, memory = extractor._network.trunk_parts()[:2], networks.LastSlabs()
    counts = []
    with torch.inference_mode():
        for buffer in [*buffers, other, buffers[0]]:
            inputs = extractor.prepare(buffer)
            num_slabs = 0
            maps = networks.run_trunk(parts, inputs, frames=buffer, memory=memory)
            counts.append(num_slabs)
            assert torch.equal(maps, networks.run_trunk(parts, inputs))
    # Of 16 slabs in each of two layers, the second has 8 of the buffer before, and 6 of the first nobody looks at.
    assert counts == [32, 18, 18, 32, 32]


def test_an_extractor_remembers_the_slabs_of_its_last_buffer(extractor: RC3DExtractor) -> None:
    extractor.forward(FRAMES)
    assert extractor._last_slabs._frames is not None
    np.testing.assert_array_equal(extractor._last_slabs._frames, FRAMES[1])
