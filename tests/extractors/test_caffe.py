"""Caffe's files: what Google's protocol buffers write, we read; and the real mean volume."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill.extractors.caffe import parse_blob, read_caffemodel
from clipmill.extractors.weights import read_state_dict
from clipmill.schemas.errors import WeightsError

FIELDS = {"int32": (5, 1), "float": (2, 3), "string": (9, 1), "int64": (3, 3)}


@pytest.fixture(scope="module")
def messages() -> dict[str, Any]:
    """Message classes of both dialects, made by Google's own library from the published field numbers."""
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    pool = pytest.importorskip("google.protobuf.descriptor_pool").DescriptorPool()
    factory = pytest.importorskip("google.protobuf.message_factory")
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="t", syntax="proto2")

    def message(message_name: str, /, **fields: tuple[int, str]) -> None:
        made = file.message_type.add(name=message_name)
        for field, (number, kind) in fields.items():
            added = made.field.add(name=field, number=number)
            if kind in FIELDS:
                added.type, added.label = FIELDS[kind]
                if added.label == 3:
                    added.options.packed = True
            else:
                added.type, added.label, added.type_name = 11, 1 if kind.endswith("!") else 3, f".t.{kind.strip('!')}"

    message("Shape", dim=(1, "int64"))
    message(
        "Volume",
        num=(1, "int32"),
        channels=(2, "int32"),
        length=(3, "int32"),
        height=(4, "int32"),
        width=(5, "int32"),
        data=(6, "float"),
        diff=(7, "float"),
    )
    message(
        "Blob",
        num=(1, "int32"),
        channels=(2, "int32"),
        height=(3, "int32"),
        width=(4, "int32"),
        data=(5, "float"),
        diff=(6, "float"),
        shape=(7, "Shape!"),
    )
    message("LayerV1", bottom=(2, "string"), name=(4, "string"), type=(5, "int32"), blobs=(6, "Volume"))
    message("LayerV2", name=(1, "string"), type=(2, "string"), blobs=(7, "Blob"))
    message("Net", name=(1, "string"), layers=(2, "LayerV1"), layer=(100, "LayerV2"))
    pool.Add(file)
    names = ("Volume", "Blob", "LayerV1", "LayerV2", "Net")
    return {name: factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}")) for name in names}


def test_volume_blobs_have_a_length_axis(messages: dict[str, Any]) -> None:
    values = np.random.default_rng(0).normal(size=(1, 3, 4, 5, 6)).astype(np.float32)
    blob = messages["Volume"](num=1, channels=3, length=4, height=5, width=6, data=values.ravel())
    np.testing.assert_array_equal(parse_blob(blob.SerializeToString()), values)


def test_image_blobs_have_none(messages: dict[str, Any]) -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    blob = messages["Blob"](num=2, channels=3, height=4, width=5, data=values.ravel())
    np.testing.assert_array_equal(parse_blob(blob.SerializeToString()), values)


def test_newer_blobs_say_their_shape(messages: dict[str, Any]) -> None:
    blob = messages["Blob"](data=np.arange(300, dtype=np.float32))
    blob.shape.dim.extend([3, 100])
    np.testing.assert_array_equal(parse_blob(blob.SerializeToString()), np.arange(300.0).reshape(3, 100))


def test_weights_of_both_layer_formats(messages: dict[str, Any], tmp_path: Path) -> None:
    net = messages["Net"](name="DeepConv3DNet")
    data = net.layers.add(name="data", type=33, bottom="nothing")
    assert not data.blobs
    convolution = net.layers.add(name="conv1a")
    convolution.blobs.add(num=4, channels=3, length=3, height=3, width=3, data=np.arange(4 * 81.0))
    convolution.blobs.add(num=1, channels=1, length=1, height=1, width=4, data=[1, 2, 3, 4])
    linear = net.layer.add(name="fc6", type="InnerProduct")
    linear.blobs.add(num=1, channels=1, height=2, width=8, data=np.arange(16.0))
    path = tmp_path / "conv3d_deepnetA_sport1m_iter_1900000"
    path.write_bytes(net.SerializeToString())
    found = read_caffemodel(str(path))
    assert {key: value.shape for key, value in found.items()} == {
        "conv1a[0]": (4, 3, 3, 3, 3),
        "conv1a[1]": (4,),
        "fc6[0]": (2, 8),
    }
    np.testing.assert_array_equal(found["conv1a[0]"].ravel(), np.arange(4 * 81.0))
    np.testing.assert_array_equal(found["fc6[0]"], np.arange(16.0).reshape(2, 8))


def test_the_real_mean_volume(shared_data: Path) -> None:
    data = (shared_data / "weights" / "c3d_sports1m_mean.binaryproto").read_bytes()
    cube = parse_blob(data)
    # Its own header: 128 columns, not the 171 of the Sports-1M cube, and other means (docs/extractors/c3d.md).
    assert cube.shape == (1, 3, 16, 128, 128)
    numbers = struct.unpack(f"<{cube.size}f", data[-4 * cube.size :])
    assert cube.ravel().tolist() == list(numbers)
    np.testing.assert_allclose(cube.mean(axis=(0, 2, 3, 4)), [105.70, 115.76, 127.54], atol=0.01)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 numbers"),
        (b"\x08\x01\x10\x03\x32\x08\x00\x00", "says 8 bytes, 2 are left"),
        (b"\x08", "cut off"),
        (b"\x08" + b"\xff" * 11, "more than 10 bytes"),
        (b"\x0b\x01", "wire type 3"),
        (b"\x00\x01", "field 0"),
        (b"\x08\x02\x2a\x04\x00\x00\x80\x3f", r"shape \[2, 1, 1, 1\] with 1 numbers"),
    ],
    ids=["empty", "short", "half a number", "endless", "group", "field 0", "too few"],
)
def test_damaged_blobs_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_blob(data)


@pytest.fixture(scope="module")
def small_model(messages: dict[str, Any]) -> bytes:
    """A model of both layer formats in under 200 bytes."""
    net = messages["Net"](name="small")
    net.layers.add(name="conv1a").blobs.add(num=2, channels=1, length=1, height=1, width=3, data=np.arange(6.0))
    linear = net.layer.add(name="fc6", type="InnerProduct")
    linear.blobs.add(data=np.arange(4.0)).shape.dim.extend([2, 2])
    content: bytes = net.SerializeToString()
    return content


def read_or_refuse(path: Path, data: bytes) -> dict[str, Any]:
    """Returns what is read of the bytes; an error of any other kind than the promised one fails the test."""
    path.write_bytes(data)
    try:
        return read_caffemodel(str(path))
    except ValueError:
        return {}


def test_a_model_cut_anywhere_gives_no_wrong_number(small_model: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model"
    whole = read_or_refuse(path, small_model)
    assert {key: value.shape for key, value in whole.items()} == {"conv1a[0]": (2, 1, 1, 1, 3), "fc6[0]": (2, 2)}
    num_refused = 0
    for stop in range(len(small_model)):
        found = read_or_refuse(path, small_model[:stop])
        num_refused += not found
        for key, value in found.items():
            np.testing.assert_array_equal(value, whole[key])
    # A cut between two layers leaves a well-formed shorter model, which its layout then refuses.
    assert num_refused > 0.5 * len(small_model)


def test_any_changed_byte_is_read_or_refused(small_model: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model"
    for position in range(len(small_model)):
        for value in (0x00, 0x7F, 0x80, 0xFF, small_model[position] ^ 1):
            data = small_model[:position] + bytes([value]) + small_model[position + 1 :]
            for blob in read_or_refuse(path, data).values():
                assert blob.nbytes <= len(data)


@pytest.mark.parametrize(
    "length",
    [b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\xff" * 9 + b"\x01"],
    ids=["2^32 - 1", "2^63 - 1", "2^64 - 1"],
)
def test_huge_lengths_and_sizes_take_no_memory(length: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"\x0a\x01x\x12" + length + b"abc")
    with pytest.raises(ValueError, match="says .* bytes, 3 are left"):
        read_caffemodel(str(path))
    four_axes = b"\x08" + length + b"\x10" + length + b"\x18\x01\x20\x01" + b"\x2a\x04\x00\x00\x80\x3f"
    with pytest.raises(ValueError, match="with 1 numbers"):
        parse_blob(four_axes)


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"\x3a\x83\x01\x0a\x80\x01" + b"\x01" * 128 + b"\x2a\x04\x00\x00\x80\x3f", "dimension|axes"),
        (b"\x08\x01\x10\x01\x18\x01\x20\x01\x2a\x03\x00\x00\x80", "multiple of element size"),
        (b"\x3a\x03\x0a\x01\xff\x2a\x04\x00\x00\x80\x3f", "cut off"),
        (b"\x3a\x04\x0a\x02\x00\x01\x2a\x04\x00\x00\x80\x3f", "with 1 numbers"),
    ],
    ids=["128 axes", "part of a number", "half a size", "no cells"],
)
def test_blobs_that_cannot_be(blob: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_blob(blob)


def test_a_damaged_model_is_told_in_one_line(small_model: bytes, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(small_model[:-3])
    with pytest.raises(
        WeightsError, match=r"expected a Caffe model, got truncated or foreign data \(truncated"
    ) as caught:
        read_state_dict(str(tmp_path / "model"))
    assert "\n" not in str(caught.value)
