"""Which card a weights file has where its keys fit several, and which keys a layer needs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from clipmill.extractors import registry, resolve
from clipmill.extractors.c3d.network import C3D
from clipmill.extractors.i3d.layouts import layouts as i3d_layouts
from clipmill.extractors.i3d.network import InceptionI3D
from clipmill.extractors.resnet50.network import ResNet50
from clipmill.extractors.squeezenet.network import SqueezeNet
from clipmill.extractors.torch_extractor import seeded
from clipmill.extractors.vgg16.layouts import KERAS_NAMES
from clipmill.extractors.vgg16.layouts import layouts as vgg16_layouts
from clipmill.extractors.vgg16.network import VGG16
from clipmill.extractors.weights_report import report_weights
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.errors import UsageError, WeightsError
from clipmill.schemas.recipe import ClipRule, Recipe

State = dict[str, Tensor]
FRAMES: npt.NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (1, 1, 64, 64, 3), dtype=np.uint8)


def recipe(extractor: str, file: Path, card: str | None = None, **written: Any) -> Recipe:
    weights = {"file": str(file)} | ({"card": card} if card else {})
    feature = FeatureConfig.model_validate(written | {"weights": weights})
    return resolve.resolve_recipe(extractor, feature, ClipRule(), DecodeConfig())


def saved(path: Path, state: Mapping[str, Tensor]) -> Path:
    torch.save(dict(state), path)
    return path


@pytest.fixture(scope="module")
def vgg16() -> State:
    """Random convolutions; linear layers of ones, which take no room."""

    def make() -> VGG16:
        network = VGG16("pool5")
        network.drop_unused()
        return network

    with torch.device("meta"):
        whole = VGG16("logits").state_dict()
    return shapes_only(whole) | dict(seeded(3, make).state_dict())


def shapes_only(state: Mapping[str, Tensor]) -> State:
    """The same keys and shapes in a few bytes."""
    return {key: torch.ones(()).expand(value.shape) for key, value in state.items()}


SEVERAL: dict[str, tuple[Callable[[], torch.nn.Module], list[str]]] = {
    "squeezenet": (SqueezeNet, ["imagenet-caffe", "imagenet-torchvision"]),
    "vgg16": (VGG16, ["imagenet-torchvision", "imagenet-caffe", "imagenet-torchvision-features"]),
    "resnet50": (ResNet50, ["imagenet-v1", "imagenet-v2"]),
    "rmac": (VGG16, ["imagenet-torchvision", "imagenet-caffe", "imagenet-torchvision-features"]),
}


@pytest.mark.parametrize("extractor", SEVERAL)
def test_keys_that_several_cards_share_ask_for_one(extractor: str, tmp_path: Path) -> None:
    make, cards = SEVERAL[extractor]
    with torch.device("meta"):
        state = make().state_dict()
    path = saved(tmp_path / "resaved.pth", shapes_only(state))
    with pytest.raises(UsageError) as caught:
        recipe(extractor, path)
    line = str(caught.value)
    assert f"features.{extractor}.weights card: expected one of {', '.join(cards)}, as keys" in line
    assert line.endswith("got none; add card: NAME, by where the file is from (docs/weights.md)")
    layer = "pool5" if extractor == "vgg16" else None
    assert [recipe(extractor, path, card, layer=layer).weights.card for card in cards] == cards


# The digests are the ends of torchvision's file names; a digest is faked, as the files are not at hand.
KNOWN = [
    ("squeezenet", SqueezeNet, "b66bff10", "imagenet-torchvision", (256,)),
    ("squeezenet", SqueezeNet, "a815701f", "imagenet-torchvision", (256,)),
    ("vgg16", VGG16, "397923af", "imagenet-torchvision", (256,)),
    ("vgg16", VGG16, "88682ab5", "imagenet-torchvision-features", (256,)),
    ("resnet50", ResNet50, "0676ba61", "imagenet-v1", (256,)),
    ("resnet50", ResNet50, "19c8e357", "imagenet-v1", (256,)),
    ("resnet50", ResNet50, "11ad3fa6", "imagenet-v2", (232,)),
    ("rmac", VGG16, "397923af", "imagenet-torchvision", (1024,)),
    ("rmac", VGG16, "88682ab5", "imagenet-torchvision-features", (1024,)),
]


@pytest.mark.parametrize(("extractor", "make", "prefix", "card", "size"), KNOWN)
def test_torchvisions_own_files_are_told_by_their_digest(
    extractor: str,
    make: Callable[[], torch.nn.Module],
    prefix: str,
    card: str,
    size: tuple[int, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with torch.device("meta"):
        state = make().state_dict()
    path = saved(tmp_path / "w.pth", shapes_only(state))
    monkeypatch.setattr(resolve, "digest", lambda _: prefix + "0" * 56)
    layer = "pool5" if prefix == "88682ab5" and extractor == "vgg16" else None
    found = recipe(extractor, path, layer=layer)
    assert (found.weights.card, found.preprocess.size) == (card, size)
    assert found.weights.sha256 is not None
    assert found.weights.sha256.startswith(prefix)


def test_the_one_real_file_keeps_its_card(shared_data: Path) -> None:
    found = recipe("squeezenet", shared_data / "weights" / "squeezenet1_0_imagenet_decoded.pt")
    assert (found.weights.card, found.preprocess.colour) == ("imagenet-caffe", "bgr")


def test_torchvisions_features_only_file_gives_maps_and_no_linear_layer(vgg16: State, tmp_path: Path) -> None:
    """Its linear layers are filled with NaN, its pixels are 0 to 255 less (123, 117, 104), RGB."""
    path = saved(
        tmp_path / "vgg16_features.pth",
        {
            key: value if key.startswith("features") else torch.full_like(value, torch.nan)
            for key, value in vgg16.items()
        },
    )
    card = "imagenet-torchvision-features"
    found = recipe("vgg16", path, card, layer="pool5", preprocess={"resize": "none", "size": [], "crop": [64, 64]})
    values = registry.build(found, "cpu").forward(FRAMES)["values"]
    means = np.array([0.48235, 0.45882, 0.40784]) * 255
    images = torch.from_numpy((FRAMES[:, 0] - means).astype(np.float32)).permute(0, 3, 1, 2)
    with torch.device("meta"):
        network = VGG16("pool5")
    network.drop_unused()
    network.load_state_dict({key: vgg16[key] for key in network.state_dict()}, assign=True)
    with torch.inference_mode():
        expected = network(images).numpy()
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5 * float(expected.max()))
    with pytest.raises(WeightsError, match=r"expected one of conv5_3, pool5: weights of card .* no other, got fc7"):
        recipe("vgg16", path, card)
    report = report_weights("vgg16", str(path))
    assert (report.passed, report.layers) == (True, ("pool5", "conv5_3"))


def features_of(state: State, prefix: str) -> State:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith("features.")}


@pytest.mark.parametrize("prefix", ["features.", ""], ids=["children", "features."])
@pytest.mark.parametrize("extractor", ["vgg16", "rmac"])
def test_features_alone_are_enough_for_maps(extractor: str, prefix: str, vgg16: State, tmp_path: Path) -> None:
    """cnnimageretrieval's ``0.weight``, or ``features.0.weight`` without the linear layers."""
    whole = saved(tmp_path / "whole.pth", vgg16)
    part = saved(tmp_path / "part.pth", features_of(vgg16, prefix))
    layer = "pool5" if extractor == "vgg16" else "descriptor"
    card = "imagenet-caffe"
    values = [
        registry.build(recipe(extractor, path, card, layer=layer, preprocess=PLAIN), "cpu").forward(FRAMES)["values"]
        for path in (whole, part)
    ]
    np.testing.assert_array_equal(values[0], values[1])
    if extractor == "vgg16":
        with pytest.raises(
            WeightsError, match=r"features.vgg16 layer: expected one of pool5, conv5_3: a vgg16_\w+ file"
        ):
            recipe(extractor, part, card)


PLAIN = {"resize": "exact", "size": [64, 64], "crop": None}


def test_cnnimageretrieval_takes_rgb_with_torchvisions_mean_and_std(vgg16: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", features_of(vgg16, "features."))
    found = recipe("vgg16", path, "imagenet-cnnimageretrieval", layer="conv5_3")
    assert (found.weights.layout, found.preprocess.colour) == ("vgg16_features", "rgb")
    assert (found.preprocess.scale, found.preprocess.std) == (1 / 255, (0.229, 0.224, 0.225))
    with pytest.raises(
        UsageError, match="imagenet-torchvision, imagenet-caffe, imagenet-torchvision-features, as keys"
    ):
        # cnnimageretrieval's card prepares frames as torchvision's does, so naming either is the same to R-MAC.
        recipe("rmac", path)


def test_resnet50_needs_no_last_layer_for_features(tmp_path: Path) -> None:
    state = dict(seeded(3, lambda: ResNet50("logits")).state_dict())
    headless = {key: value for key, value in state.items() if not key.startswith("fc.")}
    places = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    children = {places[key.split(".")[0]] + key[key.index(".") :]: value for key, value in headless.items()}
    values = []
    for index, part in enumerate((state, headless, children)):
        path = saved(tmp_path / f"{index}.pth", part)
        values.append(registry.build(recipe("resnet50", path, "imagenet-v1"), "cpu").forward(FRAMES)["values"])
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[0], values[2])
    with pytest.raises(
        WeightsError, match=r"expected one of features: a resnet50_torchvision file without fc.bias, fc.w"
    ):
        recipe("resnet50", tmp_path / "1.pth", "imagenet-v1", layer="logits")
    found = recipe("resnet50", tmp_path / "2.pth", "imagenet-cnnimageretrieval")
    assert (found.weights.layout, found.dim) == ("resnet50_features", 2048)


@pytest.mark.parametrize("extractor", ["vgg16", "resnet50", "squeezenet", "c3d", "i3d", "cpnet", "rc3d"])
def test_no_layout_offers_a_layer_whose_tensors_it_has_not(extractor: str) -> None:
    """By its keys a layout holds a layer, or says that it lacks it: what planning lets through a worker can build."""
    card = registry.card(extractor)
    read = registry.registration(extractor).layouts
    assert read is not None
    names = {weights.name for weights in card.weights}
    known = [layout for layout in read() if names & set(layout.cards)]
    every = {key for layout in known for key, _ in layout.keys.values()}
    for layout in known:
        own = {key for key, _ in layout.keys.values()}
        # TensorFlow's I3D has no scales, which are ones.
        missing = {key for key in every - own if not key.endswith(".bn.weight")}
        for layer in card.layers:
            lacking = {key for key in missing if not key.startswith(layer.unused)}
            assert bool(lacking) == (layer.name in layout.lacks), (layout.name, layer.name, sorted(lacking)[:3])


def test_another_network_does_not_pass_for_one_with_keys_to_spare(tmp_path: Path) -> None:
    """ResNet-101 has every key of ResNet-50, in its shape."""
    with torch.device("meta"):
        state = shapes_only(ResNet50().state_dict())
    deeper = {key.replace("layer3.5", "layer3.6"): value for key, value in state.items() if "layer3.5" in key}
    path = saved(tmp_path / "resnet101.pth", state | deeper)
    with pytest.raises(WeightsError, match="unexpected: layer3.6"):
        recipe("resnet50", path, "imagenet-v1")


def test_c3d_needs_no_layer_after_the_wanted_one(tmp_path: Path) -> None:
    short = {"conv1a": "conv1", "conv2a": "conv2"}

    def make() -> C3D:
        network = C3D("pool5")
        network.drop_unused()
        return network

    with torch.device("meta"):
        c3d = C3D("logits").state_dict()
    c3d = shapes_only(c3d) | dict(seeded(3, make).state_dict())
    davidea = {short.get(key[:6], key[:6]) + key[6:] if key.startswith("conv") else key: c3d[key] for key in c3d}
    windows: npt.NDArray[np.uint8] = np.random.default_rng(1).integers(0, 256, (1, 16, 112, 112, 3), dtype=np.uint8)
    whole = recipe("c3d", saved(tmp_path / "whole.pth", davidea), layer="pool5")
    assert whole.weights.card == "sports1m-caffe"
    headless = saved(tmp_path / "fc6.pth", {key: davidea[key] for key in davidea if key[:3] not in ("fc7", "fc8")})
    # The port's UCF-101 files have the same names: without the last layer, nothing tells which it is.
    with pytest.raises(UsageError, match="expected one of sports1m-caffe, ucf101-jfzhang95, as keys and digest"):
        recipe("c3d", headless)
    assert recipe("c3d", headless, "sports1m-caffe").layer == "fc6"
    found = recipe("c3d", headless, "sports1m-caffe", layer="pool5")
    expected = registry.build(whole, "cpu").forward(windows)["values"]
    np.testing.assert_array_equal(registry.build(found, "cpu").forward(windows)["values"], expected)
    with pytest.raises(
        WeightsError, match="expected one of fc6, pool5, fc6_before_relu: a c3d_sports1m_davidea file without fc7.bias"
    ):
        recipe("c3d", headless, "sports1m-caffe", layer="fc7")


def i3d_file(path: Path, name: str, classes: int | None) -> tuple[Path, InceptionI3D]:
    """Writes a random network in a layout, without its last layer where `classes` is None."""
    layout = next(item for item in i3d_layouts("rgb") if item.name == name)
    network = seeded(5, lambda: InceptionI3D("rgb", classes or 400)).eval()
    ours = network.state_dict()
    state: State = {}
    for published, (key, shape) in layout.keys.items():
        if classes is None and key.startswith("logits"):
            continue
        value = ours[key]
        if "tf" in name:
            value = value.permute(2, 3, 4, 1, 0) if value.dim() == 5 else value.reshape([1] * (len(shape) - 1) + [-1])
        state[published] = value
    return saved(path, state), network


CLASSES = [
    ("i3d_tf_rgb_kinetics600", 600),
    ("i3d_tf_rgb_any", 51),
    ("i3d_hassony2_rgb_any", 101),
    ("i3d_rgb", 48),
]


@pytest.mark.parametrize(("name", "classes"), CLASSES)
def test_i3d_takes_any_number_of_classes_in_every_way_of_naming(name: str, classes: int, tmp_path: Path) -> None:
    path, network = i3d_file(tmp_path / "w.pt", name, classes)
    found = recipe("i3d", path, layer="logits", sampling={"frames": 9})
    assert (found.weights.layout, found.weights.card, found.dim) == (name, "kinetics-rgb", classes)
    frames: npt.NDArray[np.uint8] = np.random.default_rng(2).integers(0, 256, (1, 9, 32, 32, 3), dtype=np.uint8)
    clips = torch.from_numpy(frames.astype(np.float32) * (2 / 255) - 1).permute(0, 4, 1, 2, 3).contiguous()
    with torch.inference_mode():
        expected = network(clips).numpy()
    values = registry.build(found, "cpu").forward(frames)["values"]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4 * float(np.abs(expected).max()))


def test_what_tensorflows_optimiser_keeps_beside_a_variable_is_no_part_of_the_network(tmp_path: Path) -> None:
    path, _ = i3d_file(tmp_path / "w.pt", "i3d_tf_rgb_kinetics600", 600)
    state = torch.load(path, weights_only=True)
    kernel = "Conv3d_1a_7x7/conv_3d/w"
    slots = {f"{kernel}/Momentum": state[kernel], "global_step": torch.ones(())}
    assert recipe("i3d", saved(path, state | slots)).weights.layout == "i3d_tf_rgb_kinetics600"
    with pytest.raises(WeightsError, match="unexpected: other/Momentum"):
        recipe("i3d", saved(path, state | {"other/Momentum": state[kernel]}))


def test_i3d_features_need_no_last_layer(tmp_path: Path) -> None:
    path, network = i3d_file(tmp_path / "w.pt", "i3d_piergiaj_rgb_charades", None)
    with pytest.raises(UsageError, match="expected one of kinetics-rgb, charades-rgb, as keys"):
        recipe("i3d", path)
    found = recipe("i3d", path, "charades-rgb", sampling={"frames": 9})
    frames: npt.NDArray[np.uint8] = np.random.default_rng(2).integers(0, 256, (1, 9, 32, 32, 3), dtype=np.uint8)
    clips = torch.from_numpy(frames.astype(np.float32) * (2 / 255) - 1).permute(0, 4, 1, 2, 3).contiguous()
    with torch.inference_mode():
        expected = network.features(clips).mean(2).numpy()
    values = registry.build(found, "cpu").forward(frames)["values"]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4 * float(np.abs(expected).max()))
    with pytest.raises(WeightsError, match="features.i3d layer: expected one of features: a i3d_"):
        recipe("i3d", path, "charades-rgb", layer="logits")


def keras_file(path: Path, state: State, ordering: str, linear: bool) -> Path:
    """Writes weights as Keras 1 does: a group per layer, its arrays in the order its attribute has them."""
    keys = [key.removesuffix(".weight") for key in state if key.endswith(".weight")]
    with h5py.File(path, "w") as file:
        names = [name for name in KERAS_NAMES if linear or name.startswith("block")]
        file.attrs["layer_names"] = [name.encode() for name in ("input_1", *names)]
        file.create_group("input_1").attrs["weight_names"] = np.zeros(0, dtype="S1")
        for name, key in zip(names, keys, strict=False):
            weight, bias = (state[f"{key}.{kind}"].numpy() for kind in ("weight", "bias"))
            if weight.ndim == 4:
                # Theano turns a kernel by 180 degrees when it applies it.
                weight = {
                    "th_kernels": lambda value: value[:, :, ::-1, ::-1],
                    "tf_kernels": lambda value: value,
                    "tf": lambda value: value.transpose(2, 3, 1, 0),
                }[ordering](weight)
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}_W".encode(), f"{name}_b".encode()]
            if weight.ndim == 2:
                # Of ones, kept as a fill value: it takes no room.
                group.create_dataset(f"{name}_W", weight.shape[::-1], "f4", fillvalue=1)
            else:
                group[f"{name}_W"] = weight
            group[f"{name}_b"] = bias
    return path


KERAS = [
    pytest.param("th_kernels", "imagenet-caffe", "vgg16_keras_th_kernels", marks=pytest.mark.slow),
    ("tf_kernels", "imagenet-keras-tf-kernels", "vgg16_keras_th_ordering_tf_kernels"),
    ("tf", "imagenet-caffe", "vgg16_keras_tf"),
]


@pytest.mark.parametrize(("ordering", "card", "layout"), KERAS)
def test_keras_files_are_the_same_network(ordering: str, card: str, layout: str, vgg16: State, tmp_path: Path) -> None:
    path = keras_file(tmp_path / "vgg16.h5", vgg16, ordering, linear=True)
    found = recipe("vgg16", path, card, layer="pool5", preprocess=PLAIN)
    assert (found.weights.layout, found.preprocess.colour) == (layout, "bgr")
    torch_file = saved(tmp_path / "torch.pth", features_of(vgg16, ""))
    same = recipe("vgg16", torch_file, "imagenet-caffe", layer="pool5", preprocess=PLAIN)
    expected = registry.build(same, "cpu").forward(FRAMES)["values"]
    np.testing.assert_array_equal(registry.build(found, "cpu").forward(FRAMES)["values"], expected)
    if ordering == "tf":
        assert recipe("vgg16", path).weights.card == card
    else:
        with pytest.raises(UsageError, match="expected one of imagenet-caffe, imagenet-keras-tf-kernels"):
            recipe("vgg16", path)


def test_tensorflows_fc6_takes_its_map_row_column_channel() -> None:
    layout = next(item for item in vgg16_layouts() if item.name == "vgg16_keras_tf")
    maps, weight = torch.randn(2, 512, 7, 7), torch.randn(25088, 3)
    expected = maps.permute(0, 2, 3, 1).flatten(1) @ weight
    found = maps.flatten(1) @ layout.convert("classifier.0.weight", weight).T
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    other = torch.randn(4, 3)
    assert torch.equal(layout.convert("classifier.3.weight", other), other.T)


def test_keras_rmacs_file_of_convolutions_alone_makes_descriptors(vgg16: State, tmp_path: Path) -> None:
    path = keras_file(tmp_path / "vgg16.h5", vgg16, "th_kernels", linear=False)
    found = recipe("rmac", path, "imagenet-caffe", options={"means": "krmac"}, preprocess=PLAIN)
    assert found.weights.layout == "vgg16_keras_th_kernels"
    assert registry.build(found, "cpu").forward(FRAMES)["values"].shape == (1, 512)


def test_an_hdf5_file_of_something_else_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["values"] = np.zeros(3)
    with pytest.raises(WeightsError, match=r"expected weights saved by Keras \(HDF5\), got truncated or foreign"):
        recipe("vgg16", tmp_path / "other.h5")
