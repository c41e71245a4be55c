"""``preprocessor_config.json`` of Hugging Face, as the image processors of transformers read it.

Its resize is the one of their Pillow backend: Pillow's filters, which shrink with antialias, the other side cut to
whole pixels, the crop's corner cut likewise (transformers 5.24.0, ``image_processing_backends.py``).
"""

import json
from collections.abc import Mapping
from typing import Any

from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.recipe import Preprocess

FILE_NAME = "preprocessor_config.json"

MOST_BYTES = 1 << 20

INTERPOLATIONS = {
    0: "pillow_nearest",
    1: "pillow_lanczos",
    2: "bilinear_antialias",
    3: "pillow_bicubic",
    4: "pillow_box",
    5: "pillow_hamming",
}
"""Pillow's codes of its filters."""

WITHOUT_EFFECT = frozenset(
    (
        "feature_extractor_type",
        "image_processor_type",
        "video_processor_type",
        "processor_class",
        "auto_map",
        "do_convert_rgb",
        "default_to_square",
        "data_format",
        "input_data_format",
        "return_tensors",
        "return_metadata",
        "device",
        "disable_grouping",
        "image_seq_length",
        "_valid_processor_keys",
        "do_sample_frames",
        "num_frames",
        "num_channels",
        "patch_size",
    )
)
"""Keys that change no number of a frame here: names of classes, where tensors go, and colours, which are RGB anyway.

``default_to_square`` is looked at together with ``size``.
"""

USED = frozenset(
    (
        "do_resize",
        "size",
        "resample",
        "do_center_crop",
        "crop_size",
        "do_rescale",
        "rescale_factor",
        "do_normalize",
        "image_mean",
        "image_std",
    )
)

MUST_BE_OFF = frozenset(
    (
        "do_pad",
        "do_thumbnail",
        "do_align_long_axis",
        "do_flip_channel_order",
        "do_reduce_labels",
        "do_color_quantize",
        "do_split_image",
        "do_image_splitting",
        "offset",
    )
)
"""Steps that are refused where they are asked for."""

LEFT_OUT_VALUES: tuple[Any, ...] = (None, False, {}, [])

# What the processors take where a file leaves a key out: ViT's, which is also the oldest files'.
DEFAULT_RESAMPLE = 2
DEFAULT_RESCALE = 1 / 255
CROPPING = ("CLIP", "Bit", "DeiT", "VideoMAE", "Vivit", "ConvNext", "LeViT", "Levit", "ChineseCLIP")


def read_preprocessor(path: str) -> Preprocess:
    """Returns what the file at `path` does to a frame.

    Raises:
        UsageError: it cannot be read, or asks for something that is not done here; the key is named.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES >> 20} MiB")
        given = json.loads(content)
    except OSError as error:
        raise _refused(path, "a readable file", error.strerror or str(error), "correct options.preprocessor") from None
    except (ValueError, RecursionError) as error:
        got = (str(error).splitlines() or ["too deeply nested"])[0][:80]
        raise _refused(path, "JSON", got, "fetch it again, or write preprocess in the recipe") from None
    if not isinstance(given, Mapping):
        raise _refused(path, "a mapping", type(given).__name__, "give the preprocessor_config.json of the network")
    return preprocess_of(given, path)


def preprocess_of(given: Mapping[str, Any], path: str = FILE_NAME) -> Preprocess:
    """Returns what a processor of these settings does to a frame.

    Raises:
        UsageError: a setting is unknown, missing, or asks for something that is not done here.
    """
    for key, value in given.items():
        asks = value not in LEFT_OUT_VALUES
        if key in MUST_BE_OFF and asks:
            raise _refused(path, f"{key} off", json.dumps(value)[:60], _BY_HAND)
        if asks and key not in USED | WITHOUT_EFFECT | MUST_BE_OFF and not _is_of_padding(key):
            raise _refused(path, f"keys of {', '.join(sorted(USED))}", f"{key}: {json.dumps(value)[:60]}", _BY_HAND)
    found: dict[str, Any] = {"colour": "rgb"}
    if _flag(given, "do_resize", True, path):
        found |= _resize(given, path)
    if _flag(given, "do_center_crop", "crop_size" in given and given["crop_size"] is not None, path):
        found["crop"] = _sides(given, "crop_size", path)
        _check_crop(found, path)
    if _flag(given, "do_rescale", True, path):
        found["scale"] = _number(given, "rescale_factor", DEFAULT_RESCALE, path)
    if _flag(given, "do_normalize", "image_mean" in given, path):
        found |= {"mean": _channels(given, "image_mean", path), "std": _channels(given, "image_std", path)}
        if 0.0 in found["std"]:
            raise _refused(path, "image_std without zeros", json.dumps(given["image_std"]), _BY_HAND)
    return Preprocess.model_validate(found)


_BY_HAND = "write preprocess in the recipe and options: {preprocessor: none}"


def _is_of_padding(key: str) -> bool:
    """Returns whether a key only says how to pad, which is refused by ``do_pad``."""
    return key in ("pad_size", "size_divisor", "padding_mode")


def _refused(path: str, expected: str, got: str, remedy: str) -> UsageError:
    return UsageError(describe("preprocessor", path, expected, got, remedy))


def _flag(given: Mapping[str, Any], key: str, default: bool, path: str) -> bool:
    value = given.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _refused(path, f"{key} true or false", json.dumps(value)[:60], _BY_HAND)
    return value


def _number(given: Mapping[str, Any], key: str, default: float, path: str) -> float:
    value = given.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise _refused(path, f"a positive number for {key}", json.dumps(value)[:60], _BY_HAND)
    return float(value)


def _channels(given: Mapping[str, Any], key: str, path: str) -> tuple[float, ...]:
    value = given.get(key)
    values = [value] * 3 if isinstance(value, int | float) and not isinstance(value, bool) else value
    if (
        not isinstance(values, list)
        or len(values) not in (1, 3)
        or not all(isinstance(item, int | float) and not isinstance(item, bool) and abs(item) < 1e6 for item in values)
    ):
        raise _refused(path, f"three numbers for {key}", json.dumps(value)[:60], _BY_HAND)
    return tuple(float(item) for item in (values * 3 if len(values) == 1 else values))


def _resize(given: Mapping[str, Any], path: str) -> dict[str, Any]:
    code = given.get("resample")
    code = DEFAULT_RESAMPLE if code is None else code
    if isinstance(code, bool) or code not in INTERPOLATIONS:
        raise _refused(path, "resample 0 to 5 (Pillow's filters)", json.dumps(code)[:60], _BY_HAND)
    size = given.get("size")
    found: dict[str, Any] = {"interpolation": INTERPOLATIONS[code]}
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        return found | {"resize": "short_side", "size": (_pixels(size["shortest_edge"], "size.shortest_edge", path),)}
    if isinstance(size, int) and not isinstance(size, bool):
        square = given.get("default_to_square")
        if square is None:
            kind = str(given.get("image_processor_type") or given.get("feature_extractor_type") or "")
            # The old form of a size: processors that crop take it as the short side, the others as both.
            square = not (kind.startswith(CROPPING) or given.get("do_center_crop"))
        side = _pixels(size, "size", path)
        return found | (
            {"resize": "exact", "size": (side, side)} if square else {"resize": "short_side", "size": (side,)}
        )
    return found | {"resize": "exact", "size": _sides(given, "size", path)}


def _sides(given: Mapping[str, Any], key: str, path: str) -> tuple[int, int]:
    value = given.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        side = _pixels(value, key, path)
        return side, side
    if isinstance(value, Mapping) and set(value) == {"height", "width"}:
        return _pixels(value["height"], f"{key}.height", path), _pixels(value["width"], f"{key}.width", path)
    if isinstance(value, list) and len(value) == 2:
        return _pixels(value[0], key, path), _pixels(value[1], key, path)
    expected = f"{key} of height and width" + (", or of shortest_edge" if key == "size" else "")
    raise _refused(path, expected, json.dumps(value)[:80], _BY_HAND)


def _pixels(value: Any, key: str, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 8192:
        raise _refused(path, f"a number of pixels for {key}", json.dumps(value)[:60], _BY_HAND)
    return value


def _check_crop(found: Mapping[str, Any], path: str) -> None:
    rows, columns = found["crop"]
    sides = found.get("size", ())
    least = (sides * 2)[:2] if len(sides) == 1 else sides
    if least and (rows > least[0] or columns > least[1]):
        got = f"{columns} x {rows} of frames of {' x '.join(map(str, sides))}"
        # transformers pads with black there, and this pads with the frame's border.
        raise _refused(path, "a crop_size within size", got, _BY_HAND)
