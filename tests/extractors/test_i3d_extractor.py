"""I3D from recipe to rows: streams, steps over long clips, weights in every layout, refusals."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from clipmill.extractors import registry
from clipmill.extractors.base import Extractor
from clipmill.extractors.i3d.layouts import layouts
from clipmill.extractors.i3d.network import InceptionI3D
from clipmill.extractors.i3d.steps import FRAMES_AFTER, FRAMES_BEFORE, StepRows
from clipmill.extractors.i3d.weights import join_streams, load_stream, read_streams
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.torch_extractor import seeded
from clipmill.pipelines.features.extraction import RecipeExtraction
from clipmill.pipelines.features.windows import clip_windows
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.errors import ConfigError, UsageError, VideoError, WeightsError
from clipmill.schemas.recipe import ClipRule, Recipe, Sampling
from clipmill.schemas.records import Clip, Window
from clipmill.schemas.rows import Rows

Pixels = npt.NDArray[np.uint8]


def recipe(
    options: Mapping[str, Any] | None = None,
    sampling: Sampling | None = None,
    layer: str | None = None,
    file: Path | None = None,
) -> Recipe:
    weights = WeightsConfig(file=str(file)) if file is not None else WeightsConfig(random=0)
    feature = FeatureConfig(layer=layer, sampling=sampling, options=dict(options or {}), weights=weights)
    return resolve_recipe("i3d", feature, ClipRule(), DecodeConfig())


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_defaults_are_the_published_input() -> None:
    found = recipe()
    assert (found.layer, found.dim, found.weights.card) == ("features", 1024, "kinetics-rgb")
    assert found.sampling == Sampling(fps=25, frames=64, step=64, tail="repeat")
    preprocess = found.preprocess
    assert (preprocess.resize, preprocess.size, preprocess.crop) == ("short_side", (256,), (224, 224))
    # 0 becomes -1 and 255 becomes 1.
    assert (preprocess.scale * 0 - preprocess.mean[0], preprocess.scale * 255 - preprocess.mean[0]) == (-1.0, 1.0)


def test_pixels_reach_the_network_between_minus_one_and_one_in_rgb_order() -> None:
    found = recipe(sampling=Sampling(frames=16))
    extractor = registry.build(found, "cpu")
    network = seeded(0, lambda: InceptionI3D("rgb")).eval()
    assert isinstance(network, InceptionI3D)
    frames = noise(2, 16, 48, 32, 3)
    clips = torch.from_numpy(frames.astype(np.float32) * (2 / 255) - 1).permute(0, 4, 1, 2, 3)
    with torch.inference_mode():
        expected = network.features(clips.contiguous()).mean(2).numpy()
    got = extractor.forward(frames)["values"]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * float(np.abs(expected).max()))


@pytest.fixture(scope="module")
def both_streams() -> dict[str, npt.NDArray[np.generic]]:
    """Values of one window by stream and layer: 17 frames of 40 x 48, cropped to 32."""
    frames = noise(1, 17, 40, 48, 3)
    found = {}
    for layer in ("features", "logits"):
        for stream in ("rgb", "flow", "both"):
            if stream == "rgb":
                cropped = np.ascontiguousarray(frames[:, :-1, 4:36, 8:40])
                extractor = registry.build(recipe(sampling=Sampling(frames=16), layer=layer), "cpu")
                found[f"{stream} {layer}"] = extractor.forward(cropped)["values"]
            else:
                options = {"stream": stream, "crop": 32}
                extractor = registry.build(recipe(options, Sampling(frames=17), layer), "cpu")
                found[f"{stream} {layer}"] = extractor.forward(frames)["values"]
    return found


def test_two_stream_features_stand_side_by_side(both_streams: Mapping[str, npt.NDArray[np.float32]]) -> None:
    assert both_streams["both features"].shape == (1, 2048)
    expected = np.concatenate([both_streams["rgb features"], both_streams["flow features"]], axis=1)
    np.testing.assert_allclose(both_streams["both features"], expected, rtol=1e-4, atol=1e-4)


def test_two_stream_logits_are_summed(both_streams: Mapping[str, npt.NDArray[np.float32]]) -> None:
    assert both_streams["both logits"].shape == (1, 400)
    expected = both_streams["rgb logits"] + both_streams["flow logits"]
    np.testing.assert_allclose(both_streams["both logits"], expected, rtol=1e-3, atol=1e-3)


def test_a_frame_smaller_than_the_crop_is_named() -> None:
    extractor = registry.build(recipe({"stream": "flow", "crop": 64}, Sampling(frames=10)), "cpu")
    with pytest.raises(VideoError, match="at least 64 pixels a side, got 80x48") as caught:
        extractor.forward(noise(1, 10, 48, 80, 3))
    assert (caught.value.stage, caught.value.reason) == ("extract", "frame_too_small")


@cache
def network_of_seed_0() -> InceptionI3D:
    network = seeded(0, lambda: InceptionI3D("rgb")).eval()
    network.fold_batch_norm()
    return network


BUILT: dict[str, Extractor] = {}


def built(found: Recipe) -> Extractor:
    """The extractor of a recipe, built once: an extractor has no memory of what it was given."""
    return BUILT.get(found.fingerprint) or BUILT.setdefault(found.fingerprint, registry.build(found, "cpu"))


def long_pass(values: Pixels) -> npt.NDArray[np.float32]:
    """One pass of the network over a whole clip, ``float32[S, 1024]``: what piergiaj's extract_features saves."""
    network = network_of_seed_0()
    clip = torch.from_numpy(values.astype(np.float32) * (2 / 255) - 1).permute(3, 0, 1, 2)[None]
    with torch.inference_mode():
        return network.features(clip.contiguous())[0].T.numpy()


def rows_of(found: Recipe, values: Pixels, batch_windows: int = 2) -> Rows:
    """The rows of a video that shows `values` at 25 fps: windows, batches and reducer are the pipeline's own."""
    times = np.arange(len(values)) / 25
    clip = Clip(3, 0.0, len(values) / 25)
    group = clip_windows(times, clip.stop_seconds, clip, found.sampling, "video")
    extraction = RecipeExtraction(found, built(found), batch_windows)
    extraction.start_video(0, [clip], [group])
    for index, frame in enumerate(values):
        extraction.add_frame(0, index, frame)
    extraction.flush()
    assert extraction.failures() == []
    return extraction.finished()[0]


def relative_error(rows: Rows, expected: npt.NDArray[np.float32]) -> float:
    assert len(rows) == len(expected)
    return float(np.abs(np.asarray(rows.values) - expected).max() / np.abs(expected).max())


# Of one window and of several, with every remainder by 4: what SAME pads in front depends on it.
LENGTHS = [9, 10, 11, 16, 17, 18, 19, 63, 64, 253, 254, 255, 256, 257, 258, 259, 260, 301, 302, 303, 410]


@pytest.mark.parametrize("num_frames", LENGTHS)
def test_steps_are_those_of_one_pass_over_the_whole_clip(num_frames: int) -> None:
    values = noise(num_frames, 16, 16, 3, seed=num_frames)
    found = recipe({"steps": True})
    rows = rows_of(found, values)
    assert len(rows) == -(-num_frames // 8) - 1
    # 16 pixels a side keep it quick.
    assert relative_error(rows, long_pass(values)) < 1e-5


def test_a_cut_sees_neither_zeros_nor_repeated_frames() -> None:
    # Small windows with the overlap that every row needs, so that most rows lie near a cut.
    values = noise(170, 16, 16, 3)
    found = recipe({"steps": True}, Sampling(frames=112, step=8))
    assert relative_error(rows_of(found, values, batch_windows=3), long_pass(values)) < 1e-5


def test_a_clip_of_up_to_eight_frames_repeats_its_last_one_up_to_nine() -> None:
    values = noise(5, 16, 16, 3)
    found = recipe({"steps": True})
    filled = values[np.minimum(np.arange(9), 4)]
    assert relative_error(rows_of(found, values), long_pass(filled)) < 1e-5


def test_steps_take_every_nth_frame() -> None:
    values = noise(171, 16, 16, 3)
    found = recipe({"steps": True}, Sampling(frames=112, step=16, every=2))
    rows = rows_of(found, values)
    assert relative_error(rows, long_pass(values[::2])) < 1e-5
    np.testing.assert_allclose(rows.start_seconds, np.arange(len(rows)) * 16 / 25)


def test_a_dropped_tail_leaves_the_pass_over_what_is_covered() -> None:
    values = noise(127, 16, 16, 3)
    found = recipe({"steps": True}, Sampling(frames=112, step=8, tail="drop"))
    assert relative_error(rows_of(found, values), long_pass(values[:120])) < 1e-5


def test_steps_of_both_streams_are_those_of_one_pass() -> None:
    values = noise(123, 40, 40, 3)
    options = {"stream": "both", "steps": True, "crop": 32}
    whole = registry.build(recipe(options, Sampling(frames=len(values) - 2 + 8, step=8)), "cpu")
    expected = np.asarray(whole.forward(values[None])["values"][0], dtype=np.float32)
    rows = rows_of(recipe(options, Sampling(frames=113, step=8)), values)
    assert (len(rows), rows.values.shape[1]) == (-(-122 // 8) - 1, 2048)
    assert relative_error(rows, expected) < 1e-5


def test_less_overlap_is_close_but_not_exact() -> None:
    values = noise(200, 16, 16, 3)
    found = recipe({"steps": True}, Sampling(frames=128, step=80))
    rows, expected = rows_of(found, values), long_pass(values)
    error = np.linalg.norm(np.asarray(rows.values) - expected, axis=1) / np.linalg.norm(expected, axis=1)
    cut = 10 + (15 - 10) // 2
    assert error.max() == error[cut - 2 : cut + 2].max() > 1e-5
    assert error[:3].max() < 1e-5
    assert error.max() < 0.2


def test_rows_of_windows_keep_their_version_and_steps_have_a_new_one() -> None:
    assert (recipe().extractor_version, recipe({"steps": True}).extractor_version) == (1, 2)


def test_the_stated_receptive_field_is_exact() -> None:
    values = noise(160, 16, 16, 3)
    before = long_pass(values)
    step = 8
    for frame, changes in (
        (8 * step - FRAMES_BEFORE - 1, False),
        (8 * step - FRAMES_BEFORE, True),
        (8 * step + FRAMES_AFTER, True),
        (8 * step + FRAMES_AFTER + 1, False),
    ):
        changed = values.copy()
        changed[frame] = 255 - changed[frame]
        assert (not np.array_equal(long_pass(changed)[step], before[step])) == changes


def test_each_step_has_its_own_times_and_the_clip_its_end() -> None:
    reducer = StepRows(Clip(0, 0.0, 2.0), "float32", Sampling(fps=25, frames=32, step=16, tail="repeat"))
    for start, padded in ((0, 0), (16, 0), (32, 14)):
        frames = tuple(range(start, start + 32 - padded)) + (49,) * padded
        window = Window(0, frames, start / 25, min(start + 32, 50) / 25, padded)
        reducer.add(window, {"values": np.full((3, 2), start, dtype=np.float32)})
    rows = reducer.rows()
    # 50 frames: ceil(50 / 8) - 1 steps.
    np.testing.assert_allclose(rows.start_seconds, np.arange(6) * 8 / 25)
    np.testing.assert_allclose(rows.stop_seconds, np.minimum(np.arange(6) * 8 / 25 + 16 / 25, 2.0))
    # Windows share one step: the later window gives it.
    assert rows.values[:, 0].tolist() == [0, 0, 16, 16, 32, 32]
    assert rows.mask.all()


REFUSED = [
    (Sampling(frames=60, step=8), "multiples of 8"),
    (Sampling(frames=64, step=12), "multiples of 8"),
    (Sampling(frames=64, step=40, every=2), "multiples of 8 and of 16"),
    (Sampling(frames=64, step=64), "a step of at most 56"),
    (Sampling(frames=64, step=8, tail="overlap"), "tail: repeat"),
    (Sampling(frames=64, random_frames=2), "at most 56"),
]


@pytest.mark.parametrize(("sampling", "message"), REFUSED)
def test_steps_refuse_windows_that_do_not_join(sampling: Sampling, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe({"steps": True}, sampling)


def test_too_few_frames_are_refused_per_stream() -> None:
    with pytest.raises(UsageError, match="at least 9"):
        recipe(sampling=Sampling(frames=8))
    with pytest.raises(UsageError, match="at least 10"):
        recipe({"stream": "flow"}, sampling=Sampling(frames=9))


def test_flow_options_belong_to_a_flow_stream() -> None:
    with pytest.raises(ConfigError, match="flow belongs to stream"):
        recipe({"flow": {"method": "dis"}})
    assert recipe({"stream": "flow"}).options["flow"]["method"] == "dis"
    assert recipe({"stream": "flow"}).fingerprint != recipe({"stream": "flow", "flow": {"method": "tvl1"}}).fingerprint


def published_file(
    folder: Path, stream: str, name: str, classes: int | None = None
) -> tuple[Path, dict[str, torch.Tensor]]:
    """Writes a random network's weights as the layout `name` publishes them; returns the path and our own tensors."""
    layout = {layout.name: layout for layout in layouts(stream)}[name]
    network = seeded(7, lambda: InceptionI3D(stream, classes or layout.num_classes or 400))
    ours = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    published = {}
    for key, (our_key, _) in layout.keys.items():
        value = ours[our_key]
        published[key] = value.permute(2, 3, 4, 1, 0) if key.endswith("conv_3d/w") else value
    path = folder / f"{name}.pt"
    # PyTorch 0.3 wrote legacy pickles, not zip files.
    torch.save(published, path, _use_new_zipfile_serialization=False)
    return path, ours


@pytest.mark.parametrize(
    ("stream", "name"),
    [
        ("rgb", "i3d_piergiaj_rgb_imagenet"),
        ("flow", "i3d_piergiaj_flow_charades"),
        ("flow", "i3d_hassony2_flow"),
        ("rgb", "i3d_tf_rgb_imagenet"),
    ],
)
def test_each_published_layout_loads_into_the_same_network(tmp_path: Path, stream: str, name: str) -> None:
    path, ours = published_file(tmp_path, stream, name)
    state = read_streams(str(path), stream)[stream]
    assert state.keys() == ours.keys()
    network = load_stream(state, stream)
    for key, value in ours.items():
        torch.testing.assert_close(network.state_dict()[key], value, rtol=0, atol=0)
    found = recipe({"stream": stream}, layer="logits", file=path)
    assert (found.weights.layout, found.dim) == (name, 157 if "charades" in name else 400)
    assert found.weights.card == ("charades-" if "charades" in name else "kinetics-") + stream


def test_a_fine_tuned_file_has_its_own_number_of_classes(tmp_path: Path) -> None:
    path, _ = published_file(tmp_path, "rgb", "i3d_rgb", classes=11)
    found = recipe(layer="logits", file=path, sampling=Sampling(frames=9))
    assert (found.weights.layout, found.dim) == ("i3d_rgb", 11)
    values = registry.build(found, "cpu").forward(noise(1, 9, 32, 32, 3))["values"]
    assert values.shape == (1, 11)


def test_a_flow_file_does_not_pass_for_rgb(tmp_path: Path) -> None:
    path, _ = published_file(tmp_path, "flow", "i3d_piergiaj_flow_imagenet")
    with pytest.raises(WeightsError, match=r"mis-shaped: Conv3d_1a_7x7.conv3d.weight \[64, 2, 7, 7, 7\]"):
        recipe(file=path)


def test_two_files_join_into_one_of_both_streams(tmp_path: Path) -> None:
    rgb, rgb_tensors = published_file(tmp_path, "rgb", "i3d_tf_rgb_imagenet")
    flow, flow_tensors = published_file(tmp_path, "flow", "i3d_hassony2_flow")
    joined = tmp_path / "both.pt"
    join_streams(str(rgb), str(flow), str(joined))
    found = recipe({"stream": "both"}, file=joined)
    assert (found.weights.layout, found.weights.card, found.dim) == ("i3d_two_stream", "kinetics-both", 2048)
    states = read_streams(str(joined), "both")
    for tensors, state in ((rgb_tensors, states["rgb"]), (flow_tensors, states["flow"])):
        assert tensors.keys() == state.keys()
        assert all(torch.equal(value, state[key]) for key, value in tensors.items())
