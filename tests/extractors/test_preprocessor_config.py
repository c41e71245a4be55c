"""``preprocessor_config.json``: what it does to a frame, against Pillow, and transformers where it is installed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from clipmill.extractors.exported.preprocessor import preprocess_of, read_preprocessor
from clipmill.extractors.preprocess import apply_geometry
from clipmill.extractors.torch_extractor import affine
from clipmill.schemas.errors import UsageError
from clipmill.schemas.recipe import Preprocess

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

# As the published repositories have them, their order of keys included.
CLIP = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": CLIP_MEAN,
    "image_processor_type": "CLIPImageProcessor",
    "image_std": CLIP_STD,
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 224},
}
OLD_CLIP = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
    "resample": 3,
    "size": 224,
}
VIT = {
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "size": 224,
}
DINOV2 = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": IMAGENET_MEAN,
    "image_processor_type": "BitImageProcessor",
    "image_std": IMAGENET_STD,
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 256},
}
VIDEOMAE = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": IMAGENET_MEAN,
    "image_processor_type": "VideoMAEImageProcessor",
    "image_std": IMAGENET_STD,
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 224},
}
SIGLIP = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "SiglipProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 224, "width": 224},
}
PUBLISHED = {
    "CLIPImageProcessor": CLIP,
    "ViTImageProcessor": VIT,
    "BitImageProcessor": DINOV2,
    "VideoMAEImageProcessor": VIDEOMAE,
    "SiglipImageProcessor": SIGLIP,
}
SIZES = ((240, 320), (321, 241), (225, 600), (100, 90))


def picture(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def prepared(preprocess: Preprocess, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Returns ``float32[3, H, W]``, as the pipeline prepares a frame."""
    scale, shift = affine(preprocess, 4)
    pixels = apply_geometry(frame, preprocess).astype(np.float32).transpose(2, 0, 1)
    return pixels * scale.numpy()[0] + shift.numpy()[0]


@pytest.mark.parametrize("size", SIZES)
def test_clip_by_hand(size: tuple[int, int]) -> None:
    frame = picture(*size)
    height, width = size
    short = min(size)
    resized = Image.fromarray(frame).resize(
        (int(224 * width / short), int(224 * height / short)), Image.Resampling.BICUBIC
    )
    left, top = (resized.width - 224) // 2, (resized.height - 224) // 2
    pixels = np.asarray(resized.crop((left, top, left + 224, top + 224))).astype(np.float64) / 255
    expected = (pixels - CLIP_MEAN) / CLIP_STD
    for config in (CLIP, OLD_CLIP):
        np.testing.assert_allclose(prepared(preprocess_of(config), frame), expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("size", SIZES)
def test_frames_are_what_transformers_makes_of_them(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, f"{name}Pil")(**{key: value for key, value in PUBLISHED[name].items() if value})
    frame = picture(*size)
    given = [Image.fromarray(frame)]
    expected = np.asarray(processor(given, return_tensors="np")["pixel_values"])
    # What it writes out itself, with all that it knows of itself, is read as well as what is published.
    processor.save_pretrained(tmp_path)
    for preprocess in (preprocess_of(PUBLISHED[name]), read_preprocessor(str(tmp_path / "preprocessor_config.json"))):
        found = prepared(preprocess, frame)
        np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-5)


@pytest.mark.parametrize("code", range(6))
def test_codes_of_filters_are_pillows(code: int) -> None:
    frame = picture(120, 90)
    preprocess = preprocess_of({"size": {"height": 33, "width": 47}, "resample": code, "do_rescale": False})
    expected = np.asarray(Image.fromarray(frame).resize((47, 33), Image.Resampling(code)))
    np.testing.assert_array_equal(apply_geometry(frame, preprocess), expected)
    assert (preprocess.scale, preprocess.mean) == (1.0, ())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"do_resize": False}, {"resize": "none", "size": (), "interpolation": "bilinear"}),
        ({"do_center_crop": False}, {"crop": None}),
        ({"do_rescale": False}, {"scale": 1.0}),
        ({"do_normalize": False}, {"mean": (), "std": ()}),
        ({"rescale_factor": 0.5}, {"scale": 0.5}),
        ({"image_mean": 0.5}, {"mean": (0.5, 0.5, 0.5)}),
        ({"do_pad": False, "pad_size": None, "_valid_processor_keys": ["images"]}, {}),
    ],
)
def test_each_flag_switches_its_own_step(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    base = preprocess_of(CLIP)
    assert preprocess_of(CLIP | changes) == base.model_copy(update=expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop_pct": 0.875}, "crop_pct: 0.875"),
        ({"do_pad": True}, "expected do_pad off, got true"),
        ({"size": {"longest_edge": 224}}, "expected size of height and width, or of shortest_edge, got"),
        ({"size": {"shortest_edge": 224, "longest_edge": 300}}, "or of shortest_edge, got"),
        ({"size": {"shortest_edge": "224"}}, "expected a number of pixels for size.shortest_edge"),
        ({"size": None}, "expected size of height and width"),
        ({"resample": 9}, "expected resample 0 to 5"),
        ({"resample": "bicubic"}, "expected resample 0 to 5"),
        ({"do_resize": "yes"}, 'expected do_resize true or false, got "yes"'),
        ({"image_mean": [0.5, 0.5]}, "expected three numbers for image_mean"),
        ({"image_std": [0.5, 0.0, 0.5]}, "expected image_std without zeros"),
        ({"image_std": None}, "expected three numbers for image_std, got null"),
        ({"rescale_factor": -1}, "expected a positive number for rescale_factor"),
        (
            {"crop_size": {"height": 256, "width": 256}},
            "expected a crop_size within size, got 256 x 256 of frames of 224",
        ),
        ({"crop_size": {"shortest_edge": 224}}, "expected crop_size of height and width, got"),
        ({"min_pixels": 3136}, "got min_pixels: 3136"),
    ],
)
def test_what_is_not_done_here_is_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        preprocess_of(CLIP | changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("write preprocess in the recipe and options: {preprocessor: none}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "expected JSON, got Expecting property name"),
        (b"[1]", "expected a mapping, got list"),
        (b"[" * 100_000, "expected JSON, got "),
        (b"\xff\xfe\x00", "expected JSON, got "),
        (b'"' + b"a" * (2 << 20) + b'"', "expected JSON, got more than 1 MiB"),
        (None, "expected a readable file, got No such file"),
    ],
)
def test_a_file_that_is_none_is_one_line(content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=words) as caught:
        read_preprocessor(str(path))
    assert "\n" not in str(caught.value)


def test_a_written_file_reads_as_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(DINOV2))
    assert read_preprocessor(str(path)) == Preprocess(
        resize="short_side",
        size=(256,),
        interpolation="pillow_bicubic",
        crop=(224, 224),
        scale=0.00392156862745098,
        mean=tuple(IMAGENET_MEAN),
        std=tuple(IMAGENET_STD),
    )
