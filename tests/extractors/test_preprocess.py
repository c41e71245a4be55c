"""Resize and crop against OpenCV, Pillow, PyTorch, and the numbers of the published preprocessings."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from clipmill.extractors.preprocess import (
    apply_geometry,
    centre_offset,
    geometry_key,
    output_shape,
    resized_shape,
    values_of,
)
from clipmill.schemas.errors import VideoError
from clipmill.schemas.recipe import Preprocess

ROOT = Path(__file__).resolve().parents[2]
SIZES = [(240, 320), (240, 426), (360, 640), (320, 240), (57, 91)]


def noise(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def coordinates(height: int, width: int) -> npt.NDArray[np.uint8]:
    """A frame whose pixels are (row mod 256, column mod 256, high bits)."""
    row, column = np.mgrid[:height, :width]
    return np.stack([row % 256, column % 256, (row // 256) * 16 + column // 256], axis=2).astype(np.uint8)


def corner(frame: npt.NDArray[np.uint8]) -> tuple[int, int]:
    row, column, high = (int(value) for value in frame[0, 0])
    return row + (high // 16) * 256, column + (high % 16) * 256


def torch_bilinear(frame: npt.NDArray[np.uint8], rows: int, columns: int, antialias: bool) -> npt.NDArray[np.float64]:
    """A second implementation: half-pixel centres, with or without a filter as wide as the reduction."""
    maps = torch.from_numpy(frame).permute(2, 0, 1)[None].double()
    found = torch.nn.functional.interpolate(
        maps, size=(rows, columns), mode="bilinear", align_corners=False, antialias=antialias
    )
    return np.asarray(found[0].permute(1, 2, 0))


@pytest.mark.parametrize("size", SIZES)
def test_bilinear_is_opencvs(size: tuple[int, int]) -> None:
    frame = noise(*size)
    found = apply_geometry(frame, Preprocess(resize="exact", size=(128, 171)))
    np.testing.assert_array_equal(found, cv2.resize(frame, (171, 128), interpolation=cv2.INTER_LINEAR))
    # OpenCV works with 11-bit weights: up to one level off the exact value, half a level of which is rounding.
    np.testing.assert_allclose(found, torch_bilinear(frame, 128, 171, False), rtol=0, atol=1.001)


@pytest.mark.parametrize("size", SIZES)
def test_antialias_is_pillows(size: tuple[int, int]) -> None:
    frame = noise(*size)
    preprocess = Preprocess(resize="short_side", size=(256,), interpolation="bilinear_antialias")
    rows, columns, _ = output_shape(preprocess, *size)
    found = apply_geometry(frame, preprocess)
    expected = np.asarray(Image.fromarray(frame).resize((columns, rows), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(found, expected)
    # Pillow rounds after each of its two passes.
    np.testing.assert_allclose(found, torch_bilinear(frame, rows, columns, True), rtol=0, atol=1.001)


def test_antialias_differs_from_opencv_where_it_shrinks() -> None:
    frame = noise(360, 640)
    plain, smooth = (
        apply_geometry(frame, Preprocess(resize="exact", size=(90, 160), interpolation=name))
        for name in ("bilinear", "bilinear_antialias")
    )
    assert float(plain.std()) > 2 * float(smooth.std())


@pytest.mark.parametrize(
    ("preprocess", "size", "expected"),
    [
        # Caffe: 171 x 128 whatever the aspect.
        ({"resize": "exact", "size": (128, 171)}, (240, 320), (128, 171)),
        # torchvision cuts the other side to whole pixels: 240 x 426 to 256 x 454.4.
        ({"resize": "short_side", "size": (256,)}, (240, 426), (256, 454)),
        ({"resize": "short_side", "size": (256,)}, (426, 240), (454, 256)),
        ({"resize": "short_side", "size": (256,)}, (256, 300), (256, 300)),
        # mmcv rounds half up: 320 x 128 / 240 = 170.67.
        ({"resize": "short_side", "size": (128,)}, (240, 320), (128, 170)),
        ({"resize": "short_side", "size": (128,), "resize_rounding": "nearest"}, (240, 320), (128, 171)),
        # CPNet cuts to an even number: 149.33 to 148.
        ({"resize": "short_side", "size": (112,), "resize_rounding": "even"}, (240, 320), (112, 148)),
        ({"resize": "short_side", "size": (112,), "resize_rounding": "even"}, (320, 240), (148, 112)),
        # By way of a stored 170 x 128: 148.75.
        (
            {"resize": "short_side", "size": (112,), "resize_rounding": "even", "stored_side": 128},
            (240, 320),
            (112, 148),
        ),
        ({"stored_side": 128}, (480, 854), (128, 227)),
        # By OpenCV's factor, both sides half to even: 113 x 1.2555 = 141.9, 226 / 180 x 321 = 403.03.
        (
            {"resize": "short_side", "size": (226,), "resize_when": "enlarge", "resize_rounding": "opencv_factor"},
            (180, 321),
            (226, 403),
        ),
        (
            {"resize": "short_side", "size": (224,), "resize_rounding": "opencv_factor"},
            (448, 641),
            (224, 320),
        ),
        # The longest-side rule rounds up: 240 x 100 / 319 = 75.24.
        ({"resize": "long_side", "size": (100,)}, (240, 319), (76, 100)),
        ({"resize": "long_side", "size": (100,), "resize_rounding": "nearest"}, (240, 319), (75, 100)),
        # Only one way.
        ({"resize": "short_side", "size": (226,), "resize_when": "enlarge"}, (240, 320), (240, 320)),
        ({"resize": "short_side", "size": (226,), "resize_when": "enlarge"}, (113, 200), (226, 400)),
        ({"resize": "long_side", "size": (300,), "resize_when": "shrink"}, (200, 250), (200, 250)),
        ({"resize": "width", "size": (720,)}, (240, 426), (405, 720)),
        ({"resize": "width", "size": (720,)}, (426, 240), (1278, 720)),
        ({"resize": "width", "size": (720,)}, (241, 426), (407, 720)),
        ({"resize": "width", "size": (720,), "resize_rounding": "nearest"}, (479, 854), (404, 720)),
        ({"resize": "width", "size": (720,), "resize_when": "shrink"}, (240, 426), (240, 426)),
        # A strip thinner than a pixel keeps one.
        ({"resize": "long_side", "size": (10,), "resize_rounding": "nearest"}, (1, 1000), (1, 10)),
        ({}, (13, 17), (13, 17)),
    ],
)
def test_resized_size(preprocess: dict[str, Any], size: tuple[int, int], expected: tuple[int, int]) -> None:
    made = Preprocess(**preprocess)
    assert resized_shape(made, *size) == expected
    assert apply_geometry(noise(*size), made).shape == (*expected, 3)


@pytest.mark.parametrize(
    ("crop", "rounding", "size", "expected"),
    [
        # C3D in Caffe: integer division puts the crop at column 29, not 30, of 171.
        ((112, 112), None, (128, 171), (8, 29)),
        # torchvision rounds halves to the even neighbour: 58.5 to 58, 115.5 to 116.
        ((224, 224), "half_even", (256, 341), (16, 58)),
        ((224, 224), "half_even", (256, 455), (16, 116)),
        ((224, 224), None, (256, 455), (16, 115)),
    ],
)
def test_centre_of_the_crop(
    crop: tuple[int, int], rounding: Any, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    preprocess = Preprocess(crop=crop, crop_rounding=rounding)
    found = apply_geometry(coordinates(*size), preprocess)
    assert found.shape == (*crop, 3)
    assert corner(found) == centre_offset(preprocess, *size) == expected


def test_a_given_corner_is_kept() -> None:
    found = apply_geometry(coordinates(128, 171), Preprocess(crop=(112, 112), crop_offset=(8, 30)))
    assert corner(found) == (8, 30)
    last = tuple(int(value) for value in found[-1, -1, :2])
    assert last == (119, 141)


def test_a_frame_smaller_than_the_crop_is_padded_with_its_border() -> None:
    found = apply_geometry(coordinates(5, 20), Preprocess(crop=(8, 8), crop_offset=(8, 30)))
    assert found.shape == (8, 8, 3)
    np.testing.assert_array_equal(found[:, :, 0], np.clip(np.arange(8) - 1, 0, 4)[:, None].repeat(8, axis=1))
    # The corner lies outside: the crop touches the far border instead.
    np.testing.assert_array_equal(found[0, :, 1], np.arange(12, 20))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 2), (2, 500), (500, 2)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bilinear_antialias"])
def test_tiny_and_elongated_frames_come_out_whole(size: tuple[int, int], interpolation: Any) -> None:
    preprocess = Preprocess(resize="short_side", size=(32,), crop=(24, 24), interpolation=interpolation)
    frame = np.full((*size, 3), (9, 90, 200), dtype=np.uint8)
    found = apply_geometry(frame, preprocess)
    assert found.shape == output_shape(preprocess, *size) == (24, 24, 3)
    assert (found == frame[0, 0]).all()


def test_a_frame_too_elongated_to_resize_is_refused_before_memory_is_asked_for() -> None:
    frame = np.zeros((1, 30_000, 3), dtype=np.uint8)
    with pytest.raises(
        VideoError, match="expected at most 67108864 pixels after the resize, got 7680000 x 256"
    ) as caught:
        apply_geometry(frame, Preprocess(resize="short_side", size=(256,), crop=(224, 224)))
    assert (caught.value.stage, caught.value.reason) == ("decode", "too_elongated")


def test_grey_is_one_channel() -> None:
    frame = noise(24, 32)
    found = apply_geometry(frame, Preprocess(colour="grey", resize="exact", size=(12, 16)))
    assert found.shape == (12, 16, 1)
    expected = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (16, 12), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(found[:, :, 0], expected)
    smooth = apply_geometry(
        frame, Preprocess(colour="grey", resize="exact", size=(12, 16), interpolation="bilinear_antialias")
    )
    assert smooth.shape == (12, 16, 1)


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(),
        Preprocess(crop=(8, 8)),
        Preprocess(resize="exact", size=(9, 9), crop=(4, 4)),
        Preprocess(colour="grey", crop=(8, 8)),
    ],
)
def test_frames_come_out_contiguous(preprocess: Preprocess) -> None:
    found = apply_geometry(noise(16, 24), preprocess)
    assert found.flags.c_contiguous
    assert found.dtype == np.uint8
    assert found.shape == output_shape(preprocess, 16, 24)


def test_recipes_share_a_view_only_when_the_geometry_is_the_same() -> None:
    first = Preprocess(resize="exact", size=(128, 171), crop=(112, 112), crop_offset=(8, 29), colour="bgr")
    same = first.model_copy(update={"colour": "rgb", "mean": (1.0, 2.0, 3.0), "scale": 2.0})
    assert geometry_key(first) == geometry_key(same)
    others = [
        {"crop_offset": (8, 30)},
        {"colour": "grey"},
        {"size": (128, 170)},
        {"interpolation": "bilinear_antialias"},
        {"crop_rounding": "half_even"},
        {"resize_rounding": "nearest"},
        {"stored_side": 128},
        {"resize_precision": "float32"},
        {"crops": "ten", "crop_offset": None},
    ]
    keys = {geometry_key(first.model_copy(update=change)) for change in others}
    assert len(keys | {geometry_key(first)}) == len(others) + 1


def test_the_decode_child_needs_no_torch() -> None:
    code = "import sys, clipmill.extractors.preprocess; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=280
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("name", "flag"), [("bilinear", cv2.INTER_LINEAR), ("bicubic", cv2.INTER_CUBIC), ("nearest", cv2.INTER_NEAREST)]
)
@pytest.mark.parametrize("size", SIZES)
def test_interpolations_of_opencv(name: Any, flag: int, size: tuple[int, int]) -> None:
    frame = noise(*size)
    found = apply_geometry(frame, Preprocess(resize="exact", size=(128, 171), interpolation=name))
    np.testing.assert_array_equal(found, cv2.resize(frame, (171, 128), interpolation=flag))


@pytest.mark.parametrize("name", ["nearest", "box", "hamming", "bicubic", "lanczos"])
def test_filters_of_pillow(name: str) -> None:
    frame = noise(360, 640)
    preprocess = Preprocess(resize="short_side", size=(100,), interpolation=f"pillow_{name}")  # type: ignore[arg-type]
    expected = Image.fromarray(frame).resize((177, 100), Image.Resampling[name.upper()])
    np.testing.assert_array_equal(apply_geometry(frame, preprocess), np.asarray(expected))


def test_nearest_takes_pixels_that_are_there() -> None:
    frame = coordinates(240, 320)
    for name in ("nearest", "pillow_nearest"):
        found = apply_geometry(frame, Preprocess(resize="exact", size=(60, 80), interpolation=name))
        there = {tuple(pixel) for pixel in frame.reshape(-1, 3)}
        assert {tuple(pixel) for pixel in found.reshape(-1, 3)} <= there


def charades_loader(frame: npt.NDArray[np.uint8], least: float, always: bool) -> npt.NDArray[np.uint8]:
    """A re-reading of pytorch-i3d's loader (always: VSLNet's), its centre crop included."""
    height, width = frame.shape[:2]
    if always or height < least or width < least:
        short = min(height, width)
        factor = 1 + (least - short) / short
        frame = np.asarray(cv2.resize(frame, dsize=(0, 0), fx=factor, fy=factor))
    top = int(np.round((frame.shape[0] - 224) / 2.0))
    left = int(np.round((frame.shape[1] - 224) / 2.0))
    return frame[top : top + 224, left : left + 224]


@pytest.mark.parametrize("size", [(180, 321), (113, 201), (225, 400), (240, 321), (321, 240), (227, 227), (360, 641)])
def test_charades_frames_are_the_loaders(size: tuple[int, int]) -> None:
    frame = noise(*size)
    keys: dict[str, Any] = {"crop": (224, 224), "crop_rounding": "half_even", "resize_rounding": "opencv_factor"}
    enlarged = Preprocess(resize="short_side", size=(226,), resize_when="enlarge", **keys)
    np.testing.assert_array_equal(apply_geometry(frame, enlarged), charades_loader(frame, 226.0, False))
    always = Preprocess(resize="short_side", size=(224,), **keys)
    np.testing.assert_array_equal(apply_geometry(frame, always), charades_loader(frame, 224.0, True))


def test_a_factor_places_pixels_otherwise_than_a_size() -> None:
    frame = noise(180, 321)
    keys: dict[str, Any] = {"resize": "short_side", "size": (226,)}
    by_factor = apply_geometry(frame, Preprocess(resize_rounding="opencv_factor", **keys))
    by_size = apply_geometry(frame, Preprocess(**keys))
    assert by_factor.shape == by_size.shape
    assert (by_factor != by_size).any()


@pytest.mark.parametrize("size", [(240, 320), (320, 240), (480, 854)])
def test_cpnets_frames_are_stored_first(size: tuple[int, int]) -> None:
    frame = noise(*size)
    height, width = size
    if height < width:
        stored = cv2.resize(frame, (int(128 * (width / float(height))), 128))
        made = cv2.resize(stored, (int(112.0 * stored.shape[1] / 128 / 2) * 2, 112), interpolation=cv2.INTER_LINEAR)
    else:
        stored = cv2.resize(frame, (128, int(128 * (height / float(width)))))
        made = cv2.resize(stored, (112, int(112.0 * stored.shape[0] / 128 / 2) * 2), interpolation=cv2.INTER_LINEAR)
    top, left = int(round((made.shape[0] - 112) / 2.0)), int(round((made.shape[1] - 112) / 2.0))
    preprocess = Preprocess(
        resize="short_side",
        size=(112,),
        stored_side=128,
        resize_rounding="even",
        crop=(112, 112),
        crop_rounding="half_even",
    )
    np.testing.assert_array_equal(apply_geometry(frame, preprocess), made[top : top + 112, left : left + 112])


def test_a_resize_in_float32_keeps_fractions() -> None:
    frame = noise(240, 320)
    preprocess = Preprocess(
        resize="exact", size=(128, 171), crop=(112, 112), crop_offset=(8, 29), resize_precision="float32"
    )
    found = apply_geometry(frame, preprocess)
    assert (found.dtype, found.shape) == (np.uint8, (112, 112, 12))
    assert output_shape(preprocess, 240, 320) == found.shape
    expected = cv2.resize(frame.astype(np.float32), (171, 128), interpolation=cv2.INTER_LINEAR)[8:120, 29:141]
    np.testing.assert_array_equal(values_of(found, preprocess), expected)
    assert (values_of(found, preprocess) % 1 != 0).any()
    # A batch of windows, as the pipeline stacks them.
    batch = np.stack([[found, found]])
    np.testing.assert_array_equal(values_of(batch, preprocess)[0, 1], expected)
    # Frames of a byte each are taken as they are.
    assert values_of(frame, preprocess) is frame


def test_several_crops_leave_the_frame_whole() -> None:
    preprocess = Preprocess(resize="exact", size=(30, 40), crop=(24, 48), crops="ten")
    found = apply_geometry(noise(60, 80), preprocess)
    assert found.shape == output_shape(preprocess, 60, 80) == (30, 48, 3)
