"""What planning takes a window to cost and to make, against counts on the networks and the reducers themselves."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from clipmill.extractors import registry
from clipmill.extractors.base import Reducer, options_of
from clipmill.extractors.c3d.network import C3D
from clipmill.extractors.cpnet.network import CPNet
from clipmill.extractors.cpnet.options import CPNetOptions, stem_stride
from clipmill.extractors.i3d.network import InceptionI3D
from clipmill.extractors.i3d.steps import StepRows
from clipmill.extractors.rc3d.network import RC3D
from clipmill.extractors.rc3d.options import RC3DOptions
from clipmill.extractors.rc3d.rows import ProposalRows
from clipmill.extractors.resnet50.network import ResNet50
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.rmac.network import Maps
from clipmill.extractors.rmac.options import RMACOptions
from clipmill.extractors.rmac.regions import regions
from clipmill.extractors.squeezenet.network import SqueezeNet
from clipmill.extractors.vgg16.network import VGG16
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.recipe import ClipRule, Recipe, Sampling
from clipmill.schemas.records import Clip, Window

NUM_PROPOSALS = 300


def resolve(name: str, options: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    feature = FeatureConfig(weights=WeightsConfig(random=0), options=options or {}, **changes)
    return resolve_recipe(name, feature, ClipRule(), DecodeConfig())


def gmac(make: Callable[[], nn.Module], *shape: int, run: Callable[[Any, Tensor], object] | None = None) -> float:
    """Returns the multiply-accumulates of a forward pass, in 1e9: torch's own count, on tensors without numbers."""
    with torch.device("meta"):
        network, inputs = make().eval(), torch.empty(shape)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(inputs) if run is None else run(network, inputs)
    return float(counter.get_total_flops()) / 2e9


def count_c3d(recipe: Recipe) -> float:
    return gmac(lambda: C3D("logits"), 1, 3, 16, 112, 112)


@cache
def count_stream(stream: str, num_channels: int, num_frames: int, side: int) -> float:
    return gmac(lambda: InceptionI3D(stream), 1, num_channels, num_frames, side, side)


def count_i3d(recipe: Recipe) -> float:
    options = recipe.options
    with_flow = options["stream"] != "rgb"
    num_frames = (recipe.sampling.frames or 1) - with_flow
    side = options["crop"] if with_flow else 224
    streams = [(name, number) for name, number in (("rgb", 3), ("flow", 2)) if options["stream"] in (name, "both")]
    return sum(count_stream(name, number, num_frames, side) for name, number in streams)


def count_cpnet(recipe: Recipe) -> float:
    options: CPNetOptions = options_of(registry.card("cpnet"), recipe)
    side = (recipe.preprocess.crop or (0,))[0]
    return gmac(
        lambda: CPNet(options.depth, "logits", stem_stride=stem_stride(options)),
        *(1, recipe.sampling.frames or 1, 3, side, side),
    )


def count_rc3d(recipe: Recipe) -> float:
    options: RC3DOptions = options_of(registry.card("rc3d"), recipe)

    def run(network: RC3D, buffer: Tensor) -> None:
        maps = network.trunk(buffer)
        network.propose(maps)
        network.classify(network.head(torch.empty(NUM_PROPOSALS, maps.shape[1], *network.pooled))[1])

    return gmac(lambda: RC3D(options.release), 1, 3, recipe.sampling.frames or 1, 112, 112, run=run)


def count_rmac(recipe: Recipe) -> float:
    options: RMACOptions = options_of(registry.card("rmac"), recipe)
    make = VGG16 if options.network == "vgg16" else ResNet50
    return gmac(lambda: Maps(make(), options.last_pool), 1, 3, 768, 1024)


def count_resnet50(recipe: Recipe) -> float:
    return gmac(lambda: ResNet50("logits"), 1, 3, 224, 224)


def count_vgg16(recipe: Recipe) -> float:
    return gmac(lambda: VGG16("logits"), 1, 3, 224, 224)


def count_squeezenet(recipe: Recipe) -> float:
    return gmac(lambda: SqueezeNet("logits"), 1, 3, 227, 227)


COUNTS = {
    "c3d": count_c3d,
    "cpnet": count_cpnet,
    "i3d": count_i3d,
    "rc3d": count_rc3d,
    "resnet50": count_resnet50,
    "rmac": count_rmac,
    "squeezenet": count_squeezenet,
    "vgg16": count_vgg16,
}

COSTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *((name, {}, {}) for name in COUNTS),
    ("i3d", {"steps": True}, {}),
    ("i3d", {"stream": "flow"}, {}),
    ("i3d", {"stream": "both"}, {}),
    ("i3d", {"stream": "both", "steps": True}, {}),
    ("i3d", {"stream": "flow", "crop": 112}, {}),
    ("i3d", {}, {"sampling": {"frames": 16}}),
    ("i3d", {"stream": "both"}, {"sampling": {"frames": 33}}),
    ("cpnet", {"depth": 34}, {}),
    ("cpnet", {"depth": 101, "input_size": 224}, {}),
    ("cpnet", {"depth": 18, "input_size": 224}, {}),
    ("rc3d", {"form": "pytorch-thumos14"}, {}),
    ("rc3d", {"form": "caffe-thumos14"}, {}),
    ("rc3d", {"form": "caffe-charades"}, {}),
    ("rc3d", {"form": "pytorch-activitynet-resnet18"}, {}),
    ("rc3d", {"form": "pytorch-activitynet-resnet34"}, {}),
    ("rc3d", {"form": "pytorch-activitynet-resnet50"}, {}),
    ("rc3d", {"form": "pytorch-thumos14-resnet18"}, {}),
    ("rc3d", {"buffer_frames": 128}, {}),
    ("rmac", {"network": "resnet50"}, {}),
    ("rmac", {"last_pool": False}, {}),
]


@pytest.mark.parametrize(("name", "options", "changes"), COSTS)
def test_a_window_costs_what_its_network_computes(name: str, options: dict[str, Any], changes: dict[str, Any]) -> None:
    recipe = resolve(name, options, **changes)
    assert registry.card_of(recipe).gmac_of(recipe.sampling) == pytest.approx(COUNTS[name](recipe), rel=0.03)


def test_every_network_is_counted() -> None:
    """Key-feature tracks have no network: what they cost is a time, said in multiply-accumulates.

    Exported programs are counted when they are resolved (test_exported_programs.py).
    """
    assert sorted(COUNTS) == sorted(set(registry.BUILT_IN) - {"onnx", "torch", "tracks"})


def test_a_window_of_twice_the_frames_costs_little_more_than_twice() -> None:
    """CPNet's search grows with the square of the frames; it is a fifth of the whole."""
    recipe = resolve("cpnet", sampling={"frames": 24})
    assert registry.card_of(recipe).gmac_of(recipe.sampling) == pytest.approx(count_cpnet(recipe), rel=0.15)


def test_the_flow_of_raft_is_counted_and_counts_once_a_pair() -> None:
    digest = {"sha256": "0" * 64}
    card = registry.card("i3d")

    def cost(**options: Any) -> float:
        found = card.variant(card.options.model_validate({"stream": "flow", **options})) if card.variant else card
        return found.gmac_per_window

    # torch's count of torchvision 0.28's networks on two frames of 256 x 344, whose flow this is to within the border.
    for size, pair in (("large", 69.93), ("small", 15.53)):
        of_flow = cost(flow={"method": "raft", "raft": size, **digest}) - cost()
        assert of_flow == pytest.approx(64 * pair, rel=0.03)
    # With steps, windows of 256 frames overlap: 152 pairs are new in each.
    of_flow = cost(steps=True, flow={"method": "raft", **digest}) - cost(steps=True)
    assert of_flow == pytest.approx(152 * 69.93, rel=0.02)


def windows_of(recipe: Recipe, num_frames: int) -> list[Window]:
    """Returns the whole windows of a clip of so many sampled frames."""
    frames, step = recipe.sampling.frames or 1, recipe.sampling.step or recipe.sampling.frames or 1
    starts = range(0, num_frames - frames + 1, step)
    return [Window(0, tuple(range(start, start + frames)), start / 25, (start + frames) / 25) for start in starts]


def expected_rows(recipe: Recipe, num_windows: int) -> int:
    return registry.card_of(recipe).layer(recipe.layer).expected_rows(recipe.sampling, num_windows, num_clips=1)


@pytest.mark.parametrize("options", [{"steps": True}, {"steps": True, "stream": "both"}])
@pytest.mark.parametrize("sampling", [None, {"frames": 512, "step": 408}, {"frames": 64, "step": 40}])
def test_steps_make_as_many_rows_as_are_expected(options: dict[str, Any], sampling: dict[str, int] | None) -> None:
    if sampling is not None and "stream" in options:
        sampling = {**sampling, "frames": sampling["frames"] + 1}
    recipe = resolve("i3d", options, sampling=sampling and Sampling(fps=25, tail="repeat", **sampling))
    num_frames = (recipe.sampling.frames or 1) - (options.get("stream") == "both")
    windows = windows_of(recipe, 25 * 600)
    reducer: Reducer = StepRows(Clip(0, 0.0, 600.0), "float32", recipe.sampling)
    for window in windows:
        reducer.add(window, {"values": np.zeros((-(-num_frames // 8) - 1, 2))})
    # The last window's overlap makes rows too.
    assert len(reducer.rows()) == pytest.approx(expected_rows(recipe, len(windows)), rel=0.01)


def test_a_default_window_of_steps_makes_nineteen_rows() -> None:
    assert expected_rows(resolve("i3d", {"steps": True}), 10) == 190
    assert expected_rows(resolve("i3d"), 10) == 10


@pytest.mark.parametrize(("options", "num_rows"), [({}, 64), ({"top": 10}, 10)])
def test_proposals_of_a_clip_are_as_many_as_are_expected(options: dict[str, Any], num_rows: int) -> None:
    recipe = resolve("rc3d", {"form": "pytorch-thumos14", **options})
    card_options: RC3DOptions = options_of(registry.card("rc3d"), recipe)
    reducer = ProposalRows(Clip(0, 0.0, 60.0), recipe, card_options, card_options.release)
    windows = windows_of(recipe, 1500)
    assert len(windows) == 4
    for window in windows:
        blank = {name: np.zeros((1, 300)) for name in ("score", "class_index", "class_score")}
        values = {"segments": np.tile([0.0, 8.0], (1, 300, 1)), "values": np.zeros((1, 300, 4096), np.float32)}
        outputs = {name: array[0] for name, array in (blank | values).items()}
        reducer.add(window, outputs | {"num_valid": np.array(300)})
    assert len(reducer.rows()) == expected_rows(recipe, len(windows)) == num_rows


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 200),
        ({"max_detections": 30}, 30),
        # This release keeps them all: as many as another's are expected.
        ({"form": "caffe-thumos14"}, 200),
    ],
)
def test_detections_of_a_clip_are_bounded(options: dict[str, Any], most: int) -> None:
    assert expected_rows(resolve("rc3d", options, layer="detections"), 12) == most


@pytest.mark.parametrize(
    "options",
    [{}, {"levels": 5}, {"mac": True}, {"grid": "rmac_plus"}, {"last_pool": False}, {"network": "resnet50"}],
)
def test_regions_of_a_frame_are_as_many_as_are_expected(options: dict[str, Any]) -> None:
    recipe = resolve("rmac", options, layer="regions")
    card_options: RMACOptions = options_of(registry.card("rmac"), recipe)
    with torch.device("meta"):
        network = VGG16() if card_options.network == "vgg16" else ResNet50()
        maps = Maps(network, card_options.last_pool)(torch.empty(1, 3, 768, 1024))
    assert expected_rows(recipe, 7) == 7 * len(regions(maps.shape[3], maps.shape[2], card_options))


def test_keypoints_decide_how_many_descriptors_are_expected() -> None:
    recipes = [resolve("tracks", options, layer="frame_descriptors") for options in ({}, {"num_keypoints": 2000})]
    assert [expected_rows(recipe, 3) for recipe in recipes] == [1500, 6000]


def test_the_card_of_a_recipe_is_the_one_it_was_resolved_with() -> None:
    """A stored recipe has digests where options named files: it still gives its card."""
    recipe = resolve("i3d", {"stream": "both", "steps": True})
    again = Recipe.model_validate_json(recipe.model_dump_json(by_alias=True))
    card = registry.card_of(again)
    assert (card.sampling, card.layer("features").dim) == (recipe.sampling, recipe.dim) == (card.sampling, 2048)
    assert registry.card("i3d").layer("features").dim == 1024
    stored = recipe.model_copy(update={"options": recipe.options | {"flow": {"method": "raft", "sha256": "0" * 64}}})
    assert registry.card_of(stored).gmac_per_window > card.gmac_per_window
