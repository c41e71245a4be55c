"""Reading Caffe's files without Caffe: mean volumes (``.binaryproto``) and weights (``.caffemodel``).

Both are protocol buffers, of which only the few fields that hold numbers are read: from facebookarchive/C3D's
``caffe.proto`` (blobs with a length axis) and from BVLC's (blobs without one, V1 and V2 layers).
"""

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import numpy as np

from clipmill.schemas.arrays import Singles

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# NetParameter: the field of a layer, and within it the fields of its name and of its blobs.
V1_LAYERS, V1_NAME, V1_BLOBS = 2, 4, 6
V2_LAYER, V2_NAME, V2_BLOBS = 100, 1, 7
BLOB_SHAPE = 7
SHAPE_DIM = 1


class _Field(NamedTuple):
    number: int
    kind: int
    value: int
    content: memoryview


def read_caffemodel(path: str) -> dict[str, Singles]:
    """Returns the blobs of a Caffe model by ``<layer>[<index>]``: ``[0]`` is the weight, ``[1]`` the bias.

    Leading axes of length one are dropped, so a fully connected weight is ``[out, in]`` and a bias ``[out]``.

    Raises:
        ValueError: the bytes are no Caffe model.
    """
    with open(path, "rb") as file:
        data = memoryview(file.read())
    found: dict[str, Singles] = {}
    for layer in _fields(data):
        if (layer.number, layer.kind) not in {(V1_LAYERS, BYTES), (V2_LAYER, BYTES)}:
            continue
        name_field, blobs_field = (V1_NAME, V1_BLOBS) if layer.number == V1_LAYERS else (V2_NAME, V2_BLOBS)
        parts = [part for part in _fields(layer.content) if part.kind == BYTES]
        name = next((bytes(part.content).decode("utf-8") for part in parts if part.number == name_field), "")
        blobs = [parse_blob(part.content) for part in parts if part.number == blobs_field]
        for index, blob in enumerate(blobs):
            found[f"{name}[{index}]"] = blob.reshape(_without_leading_ones(blob.shape))
    return found


def parse_blob(data: bytes | memoryview) -> Singles:
    """Returns one serialised blob, ``float32[num, channels, length, height, width]`` or without the length axis.

    Raises:
        ValueError: the bytes are no blob, or hold another count of numbers than its axes say.
    """
    axes: dict[int, int] = {}
    dims: list[int] = []
    packed: dict[int, memoryview] = {}
    for part in _fields(memoryview(data)):
        if part.kind == VARINT:
            axes[part.number] = part.value
        elif part.kind == BYTES:
            packed[part.number] = part.content
            if part.number == BLOB_SHAPE and 5 not in axes:
                dims = _dims(part.content)
    # C3D's blobs have five axes, so that their numbers are field 6; elsewhere there are four and numbers are field 5.
    has_length = 5 in axes
    values = np.frombuffer(packed.get(6 if has_length else 5, b""), dtype="<f4")
    shape = tuple(dims) or tuple(axes.get(number, 1) for number in range(1, 6 if has_length else 5))
    if values.size == 0 or values.size != prod(shape):
        raise ValueError(f"a blob of shape {list(shape)} with {values.size} numbers")
    return values.reshape(shape).astype(np.float32, copy=False)


def _dims(content: memoryview) -> list[int]:
    """Returns the axes of a BlobShape, packed or not."""
    found: list[int] = []
    for part in _fields(content):
        if part.number == SHAPE_DIM and part.kind == VARINT:
            found.append(part.value)
        elif part.number == SHAPE_DIM and part.kind == BYTES:
            position = 0
            while position < len(part.content):
                value, position = _varint(part.content, position)
                found.append(value)
    return found


def _fields(data: memoryview) -> Iterator[_Field]:
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("no protocol buffer (field 0)")
        value, content = 0, data[:0]
        if kind == VARINT:
            value, position = _varint(data, position)
        elif kind in (BYTES, FIXED32, FIXED64):
            size = {FIXED32: 4, FIXED64: 8}.get(kind)
            if size is None:
                size, position = _varint(data, position)
            if position + size > len(data):
                raise ValueError(f"truncated: field {number} says {size} bytes, {len(data) - position} are left")
            content = data[position : position + size]
            position += size
        else:
            raise ValueError(f"no protocol buffer (wire type {kind})")
        yield _Field(number, kind, value, content)


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("truncated: a number is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("no protocol buffer (a number of more than 10 bytes)")


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape
