"""Reading a file of ``torch.export.save`` (``.pt2``) as data: its graph, its signature, and the bytes of its tensors.

`torch.export.load` is not used, because a file can make it run code: it reads sample inputs and some tensors by an
unrestricted pickle, parses the expressions of open axes with SymPy's evaluator, and looks the names of operators up in
all of torch. What a network needs to run is plain data: JSON, and tensors as raw bytes. Only that is read here.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from clipmill.extractors.exported.program import Interface, TensorInterface, refused
from clipmill.schemas.errors import WeightsError

SCHEMA_MAJOR = 8
"""Of torch.export's serialised form since PyTorch 2.5; a higher one may mean something else by the same words."""

DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    12: "bool",
    13: "bfloat16",
}
"""Number of a scalar type in the file -> its name."""

MOST_GRAPH_BYTES = 256 << 20
"""ours: a graph of a thousand operators takes 2 MB of JSON."""

EXPORT_AGAIN = "export the network again with torch.export.save"

OTHER_KINDS = (
    (
        "serialized_exported_program.json",
        "a program of PyTorch 2.7 or older",
        "export it again with PyTorch 2.8 or later",
    ),
    ("constants.pkl", "a TorchScript program (not run)", EXPORT_AGAIN),
    ("data.pkl", "weights without their network", EXPORT_AGAIN),
)
"""Members by which other zip files of PyTorch are known."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor's numbers lie: a member of the archive, and how it is laid out in it."""

    member: str
    dtype: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Archive:
    """What a file of an exported program holds.

    Attributes:
        graph: as the file has it: ``inputs``, ``nodes``, ``outputs``.
        user_input: name of the one input that is frames.
        tensors: the graph's other inputs by their names in it.
        names: of these the names in the network's state dict.
        constants: inputs that were fixed when the program was exported.
        results: the names in the graph of the outputs, by the outputs' names.
    """

    path: str
    graph: Mapping[str, Any]
    interface: Interface
    user_input: str
    tensors: Mapping[str, StoredTensor]
    names: Mapping[str, str]
    results: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)


def read_archive(path: str) -> Archive:
    """Returns what is in the file at `path`, without running or unpickling any of it.

    Raises:
        WeightsError: no such file, no exported program, a damaged one, or one that is more than a network on frames:
            pickled objects, several inputs, changes to its own weights.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(path, archive)
    except WeightsError:
        raise
    except OSError as error:
        raise refused(path, "a readable file", error.strerror or str(error), "correct the path") from None
    except zipfile.BadZipFile:
        raise refused(path, "an exported program (.pt2)", _kind_of(path), EXPORT_AGAIN) from None
    # What a damaged or foreign JSON gives: a missing key, another type, text that is no number.
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        RecursionError,
        EOFError,
        NotImplementedError,
        zipfile.LargeZipFile,
    ) as error:
        got = f"damaged or foreign data ({type(error).__name__}: {str(error)[:80]})"
        raise refused(path, "an exported program (.pt2)", got, EXPORT_AGAIN) from None


def _kind_of(path: str) -> str:
    with open(path, "rb") as file:
        head = file.read(16)
    if not head:
        return "an empty file"
    if head[4:8] in (b"ET12", b"ET13"):
        return "an ExecuTorch program"
    if head[8:10] == b'{"':
        return "safetensors, which are weights without their network"
    if head.startswith(b"\x08") and b"\x12" in head:
        return "an ONNX model, by its first bytes (extractor: onnx takes it)"
    if head.startswith(b"PK"):
        return "a file that broke off"
    return "a file of another kind"


def _read(path: str, archive: zipfile.ZipFile) -> Archive:
    members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    whole = {info.filename: info for info in archive.infolist()}
    programs = [name for name in members if name.startswith("models/") and name.endswith(".json")]
    if not programs:
        for member, got, remedy in OTHER_KINDS:
            if member in members or member in whole:
                raise refused(path, "an exported program (.pt2)", got, remedy)
        got = "a zip file of another kind"
        if any(name.startswith("data/aotinductor") for name in members):
            got = "machine code of AOTInductor (not run)"
        raise refused(path, "an exported program (.pt2)", got, EXPORT_AGAIN)
    if len(programs) > 1:
        shown = ", ".join(name[len("models/") : -len(".json")] for name in sorted(programs)[:4])
        raise refused(path, "one program", f"{len(programs)} ({shown})", "save the one alone")
    name = programs[0][len("models/") : -len(".json")]
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise refused(path, "members as torch.export.save writes them", "compressed ones", EXPORT_AGAIN)
    if members[programs[0]].file_size > MOST_GRAPH_BYTES:
        raise refused(path, f"a graph of at most {MOST_GRAPH_BYTES >> 20} MiB", "a larger one", EXPORT_AGAIN)
    program = json.loads(archive.read(members[programs[0]]))
    major = program["schema_version"]["major"]
    if major != SCHEMA_MAJOR:
        got = f"schema {major} of PyTorch {program.get('torch_version')}"
        raise refused(
            path, f"schema {SCHEMA_MAJOR} of torch.export", got, "export it again with the PyTorch in use here"
        )
    stored = {
        kind: _stored(path, archive, members, f"data/{kind}/", f"data/{kind}/{name}_{kind}_config.json")
        for kind in ("weights", "constants")
    }
    return _archive(path, program, stored["weights"], stored["constants"])


def _stored(
    path: str, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], folder: str, config: str
) -> dict[str, StoredTensor]:
    if config not in members:
        raise refused(path, f"a member {config}", "none", EXPORT_AGAIN)
    found = {}
    for name, entry in json.loads(archive.read(members[config]))["config"].items():
        meta = entry["tensor_meta"]
        if entry["use_pickle"] or meta is None or "custom_obj" in entry["path_name"] or "opaque" in entry["path_name"]:
            remedy = "export a network of plain tensors (no quantised or wrapped weights, no script objects)"
            raise refused(path, "tensors as plain numbers", f"a pickled object for {name} (not read)", remedy)
        member = folder + entry["path_name"]
        if member not in members:
            raise refused(path, f"a member {member} for {name}", "none", "copy the file again")
        tensor = StoredTensor(
            members[member].filename,
            int(meta["dtype"]),
            tuple(_fixed(size) for size in meta["sizes"]),
            tuple(_fixed(stride) for stride in meta["strides"]),
            _fixed(meta["storage_offset"]),
        )
        if tensor.dtype not in DTYPES:
            got = f"{name} of scalar type {tensor.dtype}"
            raise refused(path, f"tensors of {', '.join(DTYPES.values())}", got, "export with other weights")
        if min((*tensor.sizes, *tensor.strides, tensor.offset), default=0) < 0:
            raise ValueError(f"negative size of {name}")
        found[name] = tensor
    return found


def _fixed(size: Mapping[str, Any]) -> int:
    return int(size["as_int"])


def _archive(
    path: str, program: Mapping[str, Any], weights: Mapping[str, StoredTensor], constants: Mapping[str, StoredTensor]
) -> Archive:
    module = program["graph_module"]
    graph, signature = module["graph"], module["signature"]
    inputs: list[str] = []
    fixed: dict[str, Any] = {}
    tensors: dict[str, StoredTensor] = {}
    names: dict[str, str] = {}
    for spec in signature["input_specs"]:
        [(kind, value)] = spec.items()
        if kind == "user_input":
            [(form, argument)] = value["arg"].items()
            if form == "as_tensor":
                inputs.append(argument["name"])
            elif form not in ("as_none", "as_int", "as_float", "as_bool", "as_string"):
                raise refused(path, "one input, a tensor", f"an input of kind {form}", "export with frames alone")
        elif kind == "constant_input":
            [(form, constant)] = value["value"].items()
            fixed[value["name"]] = None if form == "as_none" else constant
        elif kind in ("parameter", "buffer", "tensor_constant"):
            key = value[{"parameter": "parameter_name", "buffer": "buffer_name"}.get(kind, "tensor_constant_name")]
            found = weights.get(key) or constants.get(key)
            if found is None:
                raise refused(path, f"numbers for {key}", "none", EXPORT_AGAIN)
            tensors[value["arg"]["name"]] = found
            names[value["arg"]["name"]] = key
        else:
            remedy = "export a network of plain tensors"
            raise refused(path, "inputs that are tensors", f"one of kind {kind} (not read)", remedy)
    if len(inputs) != 1:
        shown = ", ".join(inputs[:4]) or "none"
        remedy = "export the part of the network that takes frames alone"
        raise refused(path, "one input, the frames", f"{len(inputs)} ({shown})", remedy)
    results = _results(path, module, signature)
    values = graph["tensor_values"]
    batch_symbol = _symbol(values[inputs[0]]["sizes"][0]) if values[inputs[0]]["sizes"] else None
    limits = program.get("range_constraints", {}).get(batch_symbol or "", {})
    interface = Interface(
        _interface(inputs[0], values[inputs[0]]),
        tuple(_interface(output, values[name]) for output, name in results.items()),
        most_windows=limits.get("max_val"),
        producer=f"PyTorch {program.get('torch_version')}",
        num_parameters=sum(prod(weights[key].sizes) for key in weights),
    )
    return Archive(path, graph, interface, inputs[0], tensors, names, results, fixed)


def _interface(name: str, meta: Mapping[str, Any]) -> TensorInterface:
    sizes = tuple(size.get("as_int") for size in meta["sizes"])
    return TensorInterface(name, sizes, DTYPES.get(int(meta["dtype"]), "another type"))


def _symbol(size: Mapping[str, Any]) -> str | None:
    """Returns the name of the symbol a size is, such as ``s77``, where it is one alone; nothing is evaluated."""
    text = str(size.get("as_expr", {}).get("expr_str", ""))
    return text.partition("'")[2].partition("'")[0] if text.startswith("Symbol(") else (text or None)


def _results(path: str, module: Mapping[str, Any], signature: Mapping[str, Any]) -> dict[str, str]:
    found: list[str | None] = []
    for spec in signature["output_specs"]:
        [(kind, value)] = spec.items()
        if kind != "user_output":
            what = value.get("buffer_name") or value.get("parameter_name") or kind
            remedy = "export it after model.eval()"
            raise refused(path, "a program that leaves its weights as they are", f"one that writes {what}", remedy)
        found.append(value["arg"].get("as_tensor", {}).get("name"))
    entry = next((item for item in module["module_call_graph"] if item["fqn"] == "" and item.get("signature")), None)
    names = output_names(entry["signature"]["out_spec"]) if entry is not None else []
    if len(names) != len(found):
        names = [str(index) for index in range(len(found))]
    return {name: node for name, node in zip(names, found, strict=True) if node is not None}


def output_names(out_spec: str) -> list[str]:
    """Returns the names of the outputs in their order, from PyTorch's description of what ``forward`` returned.

    The keys of a mapping (also of the model outputs of transformers), the index in a tuple or list, joined by dots; a
    tensor alone is ``output``.
    """
    version, tree = json.loads(out_spec)
    if version != 1:
        return []
    return list(_leaves(tree, "")) if tree["type"] is not None else ["output"]


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[str]:
    children = tree["children_spec"]
    if tree["type"] is None:
        yield prefix
        return
    for name, child in zip(_child_names(tree, len(children)), children, strict=True):
        yield from _leaves(child, f"{prefix}.{name}" if prefix else name)


def _child_names(tree: Mapping[str, Any], count: int) -> Sequence[str]:
    """Returns the keys that the description of a mapping lists; numbers, where it lists none."""
    context = tree["context"]
    found = json.loads(context) if isinstance(context, str) else context
    while isinstance(found, list) and len(found) == 1 and isinstance(found[0], list):
        found = found[0]
    if isinstance(found, Mapping):
        found = next((value for value in found.values() if isinstance(value, list)), None)
    if isinstance(found, list) and len(found) == count and all(isinstance(item, str) for item in found):
        return found
    return [str(index) for index in range(count)]
