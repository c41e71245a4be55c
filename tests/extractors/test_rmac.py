"""R-MAC by a second implementation in NumPy over the network's own maps, its variants, and its whitening's checks."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.decomposition import PCA

from clipmill.extractors import registry
from clipmill.extractors.base import Extractor
from clipmill.extractors.preprocess import resized_shape
from clipmill.extractors.resnet50.build import network_of as resnet50_of
from clipmill.extractors.resnet50.layouts import layouts as resnet50_layouts
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.rmac.build import RMACExtractor
from clipmill.extractors.rmac.card import network_identity
from clipmill.extractors.rmac.regions import grid
from clipmill.extractors.vgg16.build import network_of
from clipmill.extractors.vgg16.layouts import layouts as vgg16_layouts
from clipmill.extractors.weights import Layout
from clipmill.extractors.whitening import write_whitening
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.errors import UsageError, VideoError, WeightsError
from clipmill.schemas.recipe import ClipRule, Recipe
from clipmill.schemas.records import Video
from clipmill.schemas.whitening import Whitening
from tests.extractors.published_layouts import numbered_state

Floats = npt.NDArray[np.float64]
COMPONENTS = 12


def resolve(**written: Any) -> Recipe:
    written.setdefault("weights", {"random": 0})
    return resolve_recipe("rmac", FeatureConfig.model_validate(written), ClipRule(), DecodeConfig())


def build(recipe: Recipe) -> RMACExtractor:
    found: Extractor = registry.build(recipe, "cpu")
    assert isinstance(found, RMACExtractor)
    return found


def noise(num: int, height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Smooth random frames, of which every region is another."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (num, 1, -(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, axis=2).repeat(8, axis=3)[:, :, :height, :width])


FRAMES = noise(2, 64, 96)
FINE = {"last_pool": False}
"""With these, VGG-16's maps have 6 x 4 cells (width x height): not square, so that a transposed grid would show."""


def fine(layer: str = "descriptor", **options: Any) -> Recipe:
    return resolve(layer=layer, options=FINE | options)


@pytest.fixture(scope="module")
def extractor() -> RMACExtractor:
    return build(fine("regions"))


@pytest.fixture(scope="module")
def maps() -> Floats:
    """``[N, C, H, W]`` of the Caffe flavour, from the network's published arithmetic on BGR images."""
    network = network_of(resolve(), "conv5_3").eval()
    images = FRAMES[:, 0, :, :, ::-1] - np.array([103.939, 116.779, 123.68])
    with torch.inference_mode():
        found: Floats = network.features[:30](torch.from_numpy(images).float().permute(0, 3, 1, 2)).double().numpy()
    return found


def unit(vectors: Floats) -> Floats:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def regional(maps: Floats, with_whole: bool = False) -> Floats:
    """``[N, R, C]``: maxima over the regions of the maps, and over the whole."""
    found = [
        maps[:, :, top : top + height, left : left + width].max(axis=3).max(axis=2)
        for left, top, width, height in grid(maps.shape[3], maps.shape[2], 3, 0.4)
    ]
    found += [maps.max(axis=3).max(axis=2)] if with_whole else []
    return np.stack(found, axis=1)


def test_regional_vectors_are_maxima_of_unit_length(extractor: RMACExtractor, maps: Floats) -> None:
    assert maps.shape == (2, 512, 4, 6)
    values = extractor.forward(FRAMES)["values"]
    # (1 + 1) * 1 + (2 + 1) * 2 + (3 + 1) * 3 regions.
    assert values.shape == (2, 20, 512)
    np.testing.assert_allclose(values, unit(regional(maps)), rtol=0, atol=1e-5)


def test_the_descriptor_is_the_sum_of_regions_of_unit_length_over_pool5(maps: Floats) -> None:
    pooled = maps.reshape(2, 512, 2, 2, 3, 2).max(axis=(3, 5))
    values = build(resolve()).forward(FRAMES)["values"]
    np.testing.assert_allclose(values, unit(unit(regional(pooled)).sum(axis=1)), rtol=0, atol=1e-5)


def test_an_upright_frame_has_the_regions_of_the_turned_one(extractor: RMACExtractor) -> None:
    assert [region[:2] for region in extractor.regions(4, 6)] != [region[:2] for region in extractor.regions(6, 4)]
    assert {(left, top) for left, top, *_ in extractor.regions(4, 6)} == {
        (top, left) for left, top, *_ in extractor.regions(6, 4)
    }
    assert extractor.forward(FRAMES.transpose(0, 1, 3, 2, 4))["values"].shape == (2, 20, 512)


def test_cirs_variant_adds_the_whole_map_and_cuts_the_last_pooling(maps: Floats) -> None:
    values = build(resolve(options={"mac": True, "last_pool": False})).forward(FRAMES)["values"]
    np.testing.assert_allclose(values, unit(unit(regional(maps, True)).sum(axis=1)), rtol=0, atol=1e-5)


def test_rmac_pluss_grid_has_fourteen_regions_and_the_whole(extractor: RMACExtractor) -> None:
    values = build(fine("regions", grid="rmac_plus", mac=True)).forward(FRAMES[:1])["values"]
    assert values.shape == (1, 15, 512)
    # The first region is the left square of the map, as in the other grid.
    np.testing.assert_allclose(values[0, 0], extractor.forward(FRAMES[:1])["values"][0, 0], rtol=0, atol=1e-6)


def test_a_region_where_nothing_fires_stays_zero(extractor: RMACExtractor) -> None:
    dead = torch.zeros(1, 512, 4, 6)
    dead[0, :, :, :2] = 1.0
    vectors = extractor._regional(dead)
    norms = vectors.norm(dim=-1)
    assert bool(torch.isfinite(vectors).all())
    assert set(norms.round(decimals=5).flatten().tolist()) == {0.0, 1.0}


def test_resnet50s_maps() -> None:
    recipe = resolve(options={"network": "resnet50"})
    assert (recipe.dim, recipe.preprocess.colour) == (2048, "rgb")
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    images = torch.from_numpy((FRAMES[:1, 0] / 255 - mean) / std).float().permute(0, 3, 1, 2)
    with torch.inference_mode():
        maps = resnet50_of(recipe, "features", fold_batch_norm=False).eval().maps(images).double().numpy()
    assert maps.shape == (1, 2048, 2, 3)
    values = build(recipe).forward(FRAMES[:1])["values"]
    np.testing.assert_allclose(values, unit(unit(regional(maps)).sum(axis=1)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "layout", "card", "colour"),
    [
        ("vgg16", vgg16_layouts()[0], "imagenet-torchvision", "rgb"),
        ("vgg16", vgg16_layouts()[1], "imagenet-caffe", "bgr"),
        ("resnet50", resnet50_layouts()[0], "imagenet-v1", "rgb"),
    ],
)
def test_published_files_bring_their_arithmetic_but_not_their_geometry(
    network: str, layout: Layout, card: str, colour: str, tmp_path: Path
) -> None:
    keys = {key: [size or 1000 for size in shape] for key, (_, shape) in layout.keys.items()}
    torch.save(dict(numbered_state(keys)), tmp_path / "weights.pth")
    # resnet50's cards differ in a resize that R-MAC replaces, so none need be named there.
    named = {"card": card} if network == "vgg16" and layout.others else {}
    recipe = resolve(options={"network": network}, weights={"file": str(tmp_path / "weights.pth")} | named)
    assert (recipe.weights.layout, recipe.weights.card) == (layout.name, card)
    found = recipe.preprocess
    assert (found.colour, found.resize, found.size, found.crop) == (colour, "long_side", (1024,), None)
    other = {"vgg16": "resnet50", "resnet50": "vgg16"}[network]
    with pytest.raises(WeightsError, match=r"expected one of the layouts .*, got keys nearest to"):
        resolve(options={"network": other}, weights={"file": str(tmp_path / "weights.pth")})


def test_the_long_side_is_1024_and_the_other_rounded_up_or_frames_are_only_shrunk() -> None:
    always = resolve().preprocess
    assert resized_shape(always, 240, 426) == (577, 1024)
    assert resized_shape(always, 1080, 1920) == (576, 1024)
    assert resized_shape(always, 1921, 1080) == (1024, 576)
    shrink = resolve(preprocess={"resize_when": "shrink"}).preprocess
    assert (resized_shape(shrink, 240, 426), resized_shape(shrink, 1080, 1920)) == ((240, 426), (576, 1024))


def test_krmacs_means_are_red_and_blue_swapped(extractor: RMACExtractor) -> None:
    published = extractor.prepare(FRAMES[:1])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(published, FRAMES[0, 0] - np.array([123.68, 116.779, 103.939]), atol=1e-4)
    # In the order of the weights' channels, BGR.
    assert resolve().preprocess.mean == (103.939, 116.779, 123.68)
    assert resolve(options={"means": "krmac"}).preprocess.mean == (123.68, 116.779, 103.939)


def fitted(path: Path, recipe: Recipe, vectors: npt.NDArray[Any], components: int = COMPONENTS) -> PCA:
    """Writes a whitening made by scikit-learn's PCA, which it returns."""
    pca = PCA(components, whiten=True, svd_solver="full").fit(vectors)
    whitening = Whitening(
        mean=pca.mean_,
        components=pca.components_,
        eigenvalues=pca.explained_variance_,
        num_floored=0,
        num_vectors=len(vectors),
        feature=recipe.fingerprint,
        network=network_identity(recipe),
        videos=("a" * 32, "b" * 32),
    )
    write_whitening(str(path), whitening)
    return pca


@pytest.fixture(scope="module")
def whitening(extractor: RMACExtractor, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, PCA]:
    path = tmp_path_factory.mktemp("whitening") / "w.npz"
    others = extractor.forward(noise(4, 96, 64, seed=7))["values"].reshape(-1, 512).astype(np.float64)
    return str(path), fitted(path, fine("regions"), others)


@pytest.mark.parametrize("form", ["pca", "zca"])
def test_the_whitened_descriptor_is_that_of_scikit_learns_pca(
    form: str, whitening: tuple[str, PCA], maps: Floats
) -> None:
    path, pca = whitening
    recipe = fine(whitening=path, whitening_form=form)
    vectors = unit(regional(maps)).reshape(-1, 512)
    expected = unit(unit(pca.transform(vectors)).reshape(2, 20, COMPONENTS).sum(axis=1))
    values = build(recipe).forward(FRAMES)["values"]
    if form == "pca":
        assert recipe.dim == COMPONENTS
        np.testing.assert_allclose(values, expected, rtol=0, atol=2e-4)
    else:
        assert recipe.dim == 512
    # A rotation: every similarity is the same.
    np.testing.assert_allclose(values @ values.T, expected @ expected.T, rtol=0, atol=2e-4)


def test_layer_regions_gives_the_whitened_vectors_that_are_summed(whitening: tuple[str, PCA], maps: Floats) -> None:
    values = build(fine("regions", whitening=whitening[0])).forward(FRAMES[:1])["values"]
    expected = unit(whitening[1].transform(unit(regional(maps))[0]))
    np.testing.assert_allclose(values[0], expected, rtol=0, atol=2e-4)


def test_the_whitenings_content_not_its_path_is_in_the_fingerprint(
    whitening: tuple[str, PCA], extractor: RMACExtractor, tmp_path: Path
) -> None:
    recipe = resolve(options={"whitening": whitening[0]})
    moved = tmp_path / "elsewhere.npz"
    moved.write_bytes(Path(whitening[0]).read_bytes())
    assert resolve(options={"whitening": str(moved)}).fingerprint == recipe.fingerprint
    assert recipe.fingerprint != resolve().fingerprint
    assert len(recipe.options["whitening"]) == 32
    again = Recipe.model_validate_json(recipe.model_dump_json(by_alias=True))
    assert again.files == {"whitening": whitening[0]}
    other = extractor.forward(noise(4, 96, 64, seed=8))["values"].reshape(-1, 512)
    fitted(moved, resolve(layer="regions"), other)
    assert resolve(options={"whitening": str(moved)}).fingerprint != recipe.fingerprint


def test_a_whitening_replaced_since_planning_is_refused(
    whitening: tuple[str, PCA], extractor: RMACExtractor, tmp_path: Path
) -> None:
    path = tmp_path / "w.npz"
    path.write_bytes(Path(whitening[0]).read_bytes())
    recipe = resolve(options={"whitening": str(path)})
    fitted(path, resolve(layer="regions"), extractor.forward(noise(4, 96, 64, seed=8))["values"].reshape(-1, 512))
    with pytest.raises(WeightsError, match=r"whitening .*: expected whitening \w{8}, got \w{8}; put the file back"):
        build(recipe)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"weights": {"random": 1}}, r"this network \(weights random\(1\).*got .* of weights random\(0\)"),
        (
            {"weights": {"random": 0, "card": "imagenet-torchvision"}},
            r"\(weights random\(0\) imagenet-torchvision\), got",
        ),
        ({"preprocess": {"mean": [1, 2, 3]}}, r"this network \(mean \[1.0, 2.0, 3.0\]\)"),
        ({"options": {"network": "resnet50"}}, r"this network \(network resnet50\), got .* of network vgg16"),
    ],
)
def test_a_whitening_of_another_network_is_refused(
    written: dict[str, Any], words: str, whitening: tuple[str, PCA]
) -> None:
    options = written.pop("options", {}) | {"whitening": whitening[0]}
    with pytest.raises(WeightsError, match=words):
        resolve(options=options, **written)
    # Another size of frames, or another grid, is no other network.
    resolve(options={"whitening": whitening[0], "levels": 2, "mac": True}, preprocess={"size": [512]})


def test_a_whitening_of_other_channels_is_refused(tmp_path: Path) -> None:
    fitted(tmp_path / "w.npz", resolve(layer="regions"), np.random.default_rng(0).normal(size=(50, 20)))
    with pytest.raises(WeightsError, match=r"options whitening: expected one of 512 channels, got .* of 20; fit one"):
        resolve(options={"whitening": str(tmp_path / "w.npz")})


def test_a_file_that_is_no_whitening_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.npz").write_text("no whitening")
    with pytest.raises(WeightsError, match=r"whitening .*w.npz: expected a whitening of clipmill's"):
        resolve(options={"whitening": str(tmp_path / "w.npz")})


def test_videos_the_whitening_was_fitted_on_are_refused(whitening: tuple[str, PCA]) -> None:
    check = registry.card("rmac").check_videos
    assert check is not None
    recipe = resolve(options={"whitening": whitening[0]})
    videos = [Video("one", "one.mp4", "b" * 32), Video("two", "two.mp4", "c" * 32)]
    with pytest.raises(UsageError, match=r"fitted on 1 of these 2 videos, such as 'one'; fit it on an independent set"):
        check(recipe, videos)
    check(recipe, videos[1:])
    check(resolve(), videos)
    check(resolve(options={"whitening": whitening[0], "whitening_of_these_videos": True}), videos)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "resnet50", "last_pool": False}, r"last_pool: expected true for resnet50, which has none to cut"),
        (
            {"network": "resnet50", "means": "krmac"},
            r"means: expected published, but for weights imagenet-caffe, got kr",
        ),
        ({"grid": "rmac_plus", "levels": 4}, r"levels: expected at most 3 for grid rmac_plus, got 4"),
        ({"whitening_form": "zca"}, r"whitening_form: expected a whitening to give form to, got zca without a whiten"),
    ],
)
def test_switches_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(options=options)


def test_frames_too_small_for_a_cell_are_named(extractor: RMACExtractor) -> None:
    frames = noise(1, 15, 96)
    with pytest.raises(
        VideoError, match=r"frame size: expected at least 16 x 16 pixels .*, got 96 x 15; raise"
    ) as told:
        extractor.forward(frames)
    assert (told.value.stage, told.value.reason) == ("extract", "frame_too_small")
    assert extractor.forward(noise(1, 16, 96))["values"].shape[2] == 512
