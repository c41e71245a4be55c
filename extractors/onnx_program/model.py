"""Reading an ONNX file as data: its input, its outputs, the operators it names and the files its weights lie in.

onnx and onnxruntime are an optional extra, imported when a file is read.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from math import prod
from typing import Any

from clipmill.extractors.exported.program import Interface, TensorInterface, refused
from clipmill.extractors.weights import digest
from clipmill.schemas.errors import UsageError, describe

INSTALL = "pip install 'clipmill[onnx]'"

DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft"))
"""Whose operators onnxruntime itself brings."""

NOT_RUN = frozenset(("EPContext", "PythonOp", "PythonOpGrad"))
"""Of com.microsoft: machine code of an accelerator, and Python."""

RANDOM = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)

EXPORT_AGAIN = "export the network again with torch.onnx.export"

DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    16: "bfloat16",
}
"""Number of an element type in the file -> its name."""

MOST_BYTES = 1 << 31
"""A protocol buffer has no more."""


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What is in an ONNX file.

    Attributes:
        opset: version of ONNX's own operators it asks for.
        external: names of further files, in its folder, that hold weights.
    """

    interface: Interface
    opset: int
    external: tuple[str, ...]


def require(package: str) -> None:
    """Makes sure that an optional package is installed.

    Raises:
        UsageError: it is not; the line says how to install it.
    """
    if find_spec(package) is None:
        raise UsageError(describe("extractor", "onnx", f"the package {package}", "none installed", INSTALL))


def read_onnx(path: str) -> OnnxFile:
    """Returns what is in the file at `path`, without running any of it.

    Raises:
        UsageError: onnx is not installed.
        WeightsError: no such file, no ONNX model, a damaged one, or one with operators or weights from elsewhere.
    """
    try:
        status = os.stat(path)
        found = _read(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise refused(path, "a readable file", error.strerror or str(error), "correct the path") from None
    for name in found.external:
        place = os.path.join(os.path.dirname(path), name)
        if os.path.islink(place):
            raise refused(path, "weights in files of its folder", f"a link, {name}", "put the file itself there")
        if not os.path.isfile(place):
            raise refused(path, f"its weights in {name}, in its folder", "no such file", "copy both files")
    return found


def onnx_digest(path: str) -> str:
    """Returns the SHA-256 of a model: of the file, or where its weights lie in others, of the list of all digests.

    The list is a line of the model's digest alone, then for each further file one of digest, two spaces and name, in
    the order of the model's tensors.
    """
    found = read_onnx(path)
    if not found.external:
        return digest(path)
    folder = os.path.dirname(path)
    # The model's own name may change without changing a number.
    lines = [digest(path), *(f"{digest(os.path.join(folder, name))}  {name}" for name in found.external)]
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


@lru_cache(maxsize=16)
def _read(path: str, num_bytes: int, modified_ns: int) -> OnnxFile:
    require("onnx")
    model = _parsed(path, num_bytes)
    own = {(function.domain, function.name) for function in model.functions}
    for node in _nodes(model):
        name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        if (node.domain, node.op_type) in own:
            continue
        if node.domain not in DOMAINS or node.op_type in NOT_RUN:
            remedy = "export the network without custom operators"
            raise refused(path, "operators of ONNX", f"{name} (not run)", remedy)
        if node.op_type in RANDOM:
            raise refused(path, "a network as it is used", f"random numbers by {name}", "export it after model.eval()")
    external = tuple(dict.fromkeys(_location(path, tensor) for tensor in _tensors(model) if tensor.data_location == 1))
    initial = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initial]
    if len(inputs) != 1:
        shown = ", ".join(value.name for value in inputs[:4]) or "none"
        remedy = "export the part of the network that takes frames alone"
        raise refused(path, "one input, the frames", f"{len(inputs)} ({shown})", remedy)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    interface = Interface(
        _interface(path, inputs[0]),
        tuple(_interface(path, value) for value in model.graph.output),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        num_parameters=sum(prod(tensor.dims) for tensor in model.graph.initializer),
    )
    return OnnxFile(interface, opsets.get("", opsets.get("ai.onnx", 0)), external)


def _parsed(path: str, num_bytes: int) -> Any:
    import onnx

    with open(path, "rb") as file:
        head = file.read(16)
    if num_bytes == 0:
        raise refused(path, "an ONNX model", "an empty file", EXPORT_AGAIN)
    if head.startswith(b"PK"):
        got = "a zip file, as PyTorch writes (extractor: torch takes an exported program)"
        raise refused(path, "an ONNX model", got, EXPORT_AGAIN)
    if head[4:8] == b"ORTM":
        raise refused(path, "an ONNX model", "one in onnxruntime's own form", "give the .onnx file it was made from")
    if num_bytes >= MOST_BYTES:
        raise refused(path, "a file below 2 GiB", f"{num_bytes} bytes", "export it with external data")
    try:
        with open(path, "rb") as file:
            model = onnx.load_model_from_string(file.read())
    # protobuf's own error is no ValueError, and not part of what onnx offers.
    except Exception as error:
        got = f"damaged or foreign data ({' '.join(str(error).split())[:80]})"
        raise refused(path, "an ONNX model", got, EXPORT_AGAIN) from None
    if not model.ir_version or not model.graph.output:
        raise refused(path, "an ONNX model", "a file of another kind", EXPORT_AGAIN)
    return model


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _nodes(model: Any) -> Iterator[Any]:
    for part in (model.graph, *model.functions):
        for graph in _graphs(part):
            yield from graph.node


def _tensors(model: Any) -> Iterator[Any]:
    for graph in _graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)


def _location(path: str, tensor: Any) -> str:
    """Returns the name of the file a tensor's numbers lie in, which must be in the model's folder."""
    name = str({entry.key: entry.value for entry in tensor.external_data}.get("location", ""))
    parts = name.split("/")
    if not name or os.path.isabs(name) or ".." in parts or "\\" in name:
        raise refused(path, "weights in files of its folder", f"{name or 'no name'} for {tensor.name}", "put it there")
    return name


def _interface(path: str, value: Any) -> TensorInterface:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise refused(path, "inputs and outputs that are tensors", f"another kind for {value.name}", EXPORT_AGAIN)
    sizes = tuple(size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim)
    return TensorInterface(value.name, sizes, DTYPES.get(kind.elem_type, "another type"))


def count_gmac(path: str, shape: tuple[int, ...], output: str) -> float:
    """Returns the multiply-accumulates of one window, in 1e9: those of convolutions and matrix products.

    Args:
        shape: of the input, for one window.
        output: is what is asked for; operators that only others need are counted too.
    """
    import onnx

    model = onnx.load_model(path, load_external_data=False)
    initial = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    given = next(value for value in model.graph.input if value.name not in initial)
    for axis, size in zip(given.type.tensor_type.shape.dim, shape, strict=True):
        axis.dim_value = size
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # what cannot be inferred is not counted: this only decides how long a task is
        return 0.0
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    sizes = {
        value.name: tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
        for value in values
        if all(axis.HasField("dim_value") for axis in value.type.tensor_type.shape.dim)
    } | initial
    total = 0
    for node in inferred.graph.node:
        first, second = (sizes.get(name, ()) for name in (*node.input[:2], "", "")[:2])
        result = sizes.get(node.output[0], ()) if node.output else ()
        if node.op_type == "Conv" and second and result:
            total += prod(result) * prod(second[1:])
        elif node.op_type == "MatMul" and first and result:
            total += prod(result) * first[-1]
        elif node.op_type == "Gemm" and first and result:
            total += prod(result) * (prod(first) // result[0])
    return total / 1e9
