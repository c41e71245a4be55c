"""Running the graph of an exported program, operator by operator, with the operators of PyTorch itself.

An operator is taken when it computes tensors from tensors: those of ATen, a few functions on sizes, and the blocks that
switch gradients or autocast. Whatever else a file names (operators of other packages, files, random numbers, anything
of Python) is refused by its name when the program is read, before a frame is.
"""

import math
import operator
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipmill.extractors.exported.program import Interface, refused
from clipmill.extractors.torch_program.archive import DTYPES, Archive, StoredTensor
from clipmill.schemas.errors import WeightsError

SIZE_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in "add and_ eq floordiv ge getitem gt le lt mod mul ne neg not_ or_ pow pos sub truediv".split()
    },
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc", "sqrt")},
    "torch.sym_float": float,
    "torch.sym_int": int,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_not": operator.not_,
    "torch.sym_sum": sum,
    "torch._sym_sqrt": math.sqrt,
}
"""What a graph may compute of sizes, by the names the file has for them."""

TEXT_OPERATORS = frozenset(
    "conv1d conv2d conv3d div div_ einsum gelu gelu_ linalg_matrix_norm linalg_norm linalg_vector_norm meshgrid pad "
    "index_reduce scatter_reduce searchsorted fft_fft fft_fft2 fft_fftn fft_rfft fft_rfft2 fft_rfftn fft_irfft "
    "fft_irfft2 fft_irfftn fft_ifft fft_ifft2 fft_ifftn _assert_scalar".split()
)
"""Operators of ATen to which a word says how; the others that take text (``from_file``, ``save``) are no arithmetic."""

CHECKS = frozenset(
    (
        "aten._assert_tensor_metadata",
        "aten._assert_async",
        "aten.sym_constrain_range",
        "aten.sym_constrain_range_for_size",
    )
)
"""Which dtype and device a tensor had where it was exported, and ranges of sizes: nothing to compute."""

BLOCKS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")

LAYOUTS = {7: torch.strided}
MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}


@dataclass(frozen=True, slots=True)
class Name:
    """An argument that is a value of the graph."""

    name: str


@dataclass(frozen=True, slots=True)
class Step:
    """One operator: what it is called with, what it gives, and which values nothing asks for after it."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    results: tuple[Any, ...]
    done_with: tuple[str, ...]


class Graph:
    """A graph that is ready to run on one device.

    Args:
        graph: as the file has it.
        device: where its tensors lie; stands for every device that the file names.

    Raises:
        WeightsError: it has an operator that is not taken.
    """

    def __init__(self, path: str, graph: Mapping[str, Any], device: torch.device) -> None:
        self._path, self._device = path, device
        self._inputs = tuple(self._named(value) for value in graph["inputs"])
        self._outputs = tuple(self._argument(value) for value in graph["outputs"])
        self._steps = self._compiled(graph["nodes"])

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._device

    def run(self, given: Mapping[str, Any], wanted: str) -> Any:
        """Returns the value named `wanted`, with the graph's inputs as `given` by name."""
        values = dict(given)
        for step in self._steps:
            self._run(step, values, keep=wanted)
            if wanted in values:
                break
        return values[wanted]

    def __call__(self, *arguments: Any) -> tuple[Any, ...]:
        values = dict(zip(self._inputs, arguments, strict=True))
        for step in self._steps:
            self._run(step, values, keep=None)
        return tuple(_filled(output, values) for output in self._outputs)

    def _run(self, step: Step, values: dict[str, Any], keep: str | None) -> None:
        found = step.function(*_filled(step.arguments, values), **_filled(step.keywords, values))
        if len(step.results) == 1 and not isinstance(step.results[0], tuple):
            found = (found,)
        elif len(step.results) == 1:
            found = (tuple(found),)
        for name, value in zip(step.results, found if step.results else (), strict=False):
            if isinstance(name, tuple):
                values.update(zip(name, value, strict=True))
            elif name:
                values[name] = value
        for name in step.done_with:
            if name != keep:
                values.pop(name, None)

    def _compiled(self, nodes: Sequence[Mapping[str, Any]]) -> list[Step]:
        steps = []
        for node in nodes:
            function = self._function(node)
            if function is None:
                continue
            arguments = [(item, self._argument(item["arg"])) for item in node["inputs"]]
            if node["target"].startswith("torch.ops.higher_order."):
                results: tuple[Any, ...] = self._block_results(node)
            else:
                results = tuple(self._result(value) for value in node["outputs"])
            positional = tuple(value for item, value in arguments if item.get("kind") != 2)
            keywords = {item["name"]: value for item, value in arguments if item.get("kind") == 2}
            self._check_deterministic(node["target"], function, positional, keywords)
            steps.append(Step(function, positional, keywords, results, ()))
        return _with_lifetimes(steps, _names(self._outputs))

    def _block_results(self, node: Mapping[str, Any]) -> tuple[Any, ...]:
        results = tuple(self._result(value) for value in node["outputs"])
        single = len(results) == 1 and not isinstance(results[0], tuple)
        # A block returns a tuple, also of one.
        return ((results[0],),) if single else results

    def _function(self, node: Mapping[str, Any]) -> Callable[..., Any] | None:
        target = node["target"]
        if target in SIZE_FUNCTIONS:
            return SIZE_FUNCTIONS[target]
        parts = target.split(".")
        if parts[:2] != ["torch", "ops"] or len(parts) not in (4, 5):
            raise self._unknown(target, "an operator of PyTorch")
        namespace, name = parts[2:4]
        if namespace == "higher_order" and name in BLOCKS:
            return partial(_block, name)
        if namespace not in ("aten", "prims"):
            raise self._unknown(target, "operators of ATen")
        if f"{namespace}.{name}" in CHECKS:
            return None
        packet = getattr(getattr(torch.ops, namespace), name, None)
        found = getattr(packet, parts[4] if len(parts) == 5 else "default", None)
        if not isinstance(found, torch._ops.OpOverload):
            raise self._unknown(target, f"an operator PyTorch {torch.__version__} has")
        schema = found._schema
        types = [str(argument.type) for argument in (*schema.arguments, *schema.returns)]
        if any("str" in kind for kind in types) and name not in TEXT_OPERATORS:
            raise self._unknown(target, "operators that compute tensors")
        if not any("Tensor" in kind for kind in types) and name not in ("_assert_scalar", "scalar_tensor"):
            raise self._unknown(target, "operators that compute tensors")
        return found

    def _check_deterministic(
        self, target: str, function: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]
    ) -> None:
        """Refuses random numbers and batch norm's training form: rows of a window would depend on others."""
        if not isinstance(function, torch._ops.OpOverload):
            return
        names = [argument.name for argument in function._schema.arguments]
        given = dict(zip(names, arguments, strict=False)) | dict(keywords)
        defaults = {argument.name: argument.default_value for argument in function._schema.arguments}
        is_random = torch.Tag.nondeterministic_seeded in function.tags
        trains = given.get("train", given.get("training", given.get("use_input_stats", False)))
        if "dropout_p" in names:
            is_random = bool(given.get("dropout_p", defaults["dropout_p"]))
        elif is_random and "train" in names:
            is_random = trains is not False
        if is_random or (trains is True and "norm" in target):
            raise refused(
                self._path,
                "a network as it is used",
                f"{target}, which only training needs",
                "export it after model.eval()",
            )

    def _unknown(self, target: str, expected: str) -> Exception:
        remedy = (
            "export the network without it (custom operators are not run); such as by decomposing it to PyTorch's own"
        )
        return refused(self._path, expected, target[:120], remedy)

    def _result(self, value: Mapping[str, Any]) -> Any:
        [(kind, content)] = value.items()
        if kind == "as_tensors":
            return tuple(item["name"] for item in content)
        if kind == "as_none":
            return ""
        return self._named(value)

    def _named(self, value: Mapping[str, Any]) -> str:
        [(kind, content)] = value.items()
        if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
            return str(content["as_name"])
        if kind == "as_optional_tensor":
            return str(content["as_tensor"]["name"]) if "as_tensor" in content else ""
        if kind == "as_tensor":
            return str(content["name"])
        if kind in ("as_none", "as_int", "as_float", "as_bool", "as_string"):
            return ""
        raise self._unknown(kind, "values that are tensors or sizes")

    def _argument(self, value: Mapping[str, Any]) -> Any:
        [(kind, content)] = value.items()
        if kind in ("as_int", "as_bool", "as_string", "as_ints", "as_bools", "as_strings", "as_int_lists"):
            return content
        if kind in ("as_float", "as_floats", "as_float_lists"):
            return _floats(content)
        if kind == "as_none":
            return None
        if kind == "as_tensor":
            return Name(content["name"])
        if kind == "as_tensors":
            return [Name(item["name"]) for item in content]
        if kind == "as_nested_tensors":
            return [[Name(item["name"]) for item in items] for items in content]
        if kind in ("as_sym_int", "as_sym_float", "as_sym_bool", "as_optional_tensor"):
            return self._symbol(content)
        if kind in ("as_sym_ints", "as_sym_floats", "as_sym_bools", "as_optional_tensors"):
            return [self._symbol(item) for item in content]
        if kind == "as_scalar_type":
            return getattr(torch, DTYPES[content])
        if kind == "as_layout":
            return LAYOUTS[content]
        if kind == "as_memory_format":
            return MEMORY_FORMATS[content]
        if kind == "as_device":
            return self._device
        if kind == "as_complex":
            return complex(content["real"], content["imag"])
        if kind == "as_graph":
            return Graph(self._path, content["graph"], self._device)
        raise self._unknown(kind, "arguments that are numbers or tensors")

    def _symbol(self, value: Mapping[str, Any]) -> Any:
        [(kind, content)] = value.items()
        return (
            Name(content["name"])
            if kind == "as_tensor"
            else Name(content)
            if kind == "as_name"
            else (None if kind == "as_none" else content)
        )


def _floats(content: Any) -> Any:
    """Returns numbers; those that JSON has no form for (infinity) are words in the file."""
    return [_floats(item) for item in content] if isinstance(content, list) else float(content)


def _block(kind: str, *arguments: Any) -> Any:
    if kind == "wrap_with_set_grad_enabled":
        # Nothing here asks for gradients.
        _, graph, *given = arguments
        return graph(*given)
    _, dtype, enabled, _, graph, *given = arguments
    # The device is the one in use here, not the one of the export.
    with torch.autocast(graph.device.type, dtype=dtype, enabled=enabled):
        return graph(*given)


def _filled(argument: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(argument, Name):
        return values[argument.name]
    if isinstance(argument, list):
        return [_filled(item, values) for item in argument]
    if isinstance(argument, tuple):
        return tuple(_filled(item, values) for item in argument)
    if isinstance(argument, dict):
        return {name: _filled(item, values) for name, item in argument.items()}
    return argument


def _names(argument: Any) -> set[str]:
    if isinstance(argument, Name):
        return {argument.name}
    if isinstance(argument, dict):
        return _names(list(argument.values()))
    if isinstance(argument, list | tuple):
        return set().union(*(_names(item) for item in argument))
    return set()


def _with_lifetimes(steps: Sequence[Step], outputs: set[str]) -> list[Step]:
    """Returns the steps, each with the values that it is the last to ask for: memory is that of a forward pass."""
    seen = set(outputs)
    found = []
    for step in reversed(steps):
        asked = _names(list(step.arguments)) | _names(dict(step.keywords))
        given = {name for result in step.results for name in (result if isinstance(result, tuple) else (result,))}
        done = tuple(sorted((asked | given) - seen))
        seen |= asked
        found.append(Step(step.function, step.arguments, step.keywords, step.results, done))
    return found[::-1]


class TorchProgram:
    """An exported program on a device.

    Args:
        archive: what the file holds.
        device: such as ``cpu`` or ``cuda:0``.
        replaced: tensors by their names in the network's state dict, in place of the file's.

    Raises:
        WeightsError: an operator is not taken, or a tensor's numbers are not all there or not finite; in `run`: the
            program writes to its weights, so that a row would depend on those before it.
    """

    def __init__(self, archive: Archive, device: str, replaced: Mapping[str, Tensor] | None = None) -> None:
        self._archive = archive
        self._device = torch.device(device)
        try:
            self._graph = Graph(archive.path, archive.graph, self._device)
        except WeightsError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
            got = f"damaged or foreign data ({type(error).__name__}: {str(error)[:80]})"
            raise refused(archive.path, "the graph of a network", got, "export it again") from None
        # Whoever calls this: tensors made in inference mode do not count how often they are written to.
        with torch.inference_mode(False):
            loaded = [(name, tensor.to(self._device)) for name, tensor in self._tensors(replaced or {})]
        self._values: dict[str, Any] = dict(loaded)
        self._written = self._num_written()
        self._values |= archive.constants

    @property
    def interface(self) -> Interface:
        """Its input and outputs."""
        return self._archive.interface

    def run(self, frames: Tensor, output: str) -> Tensor:
        """Returns the output of that name for ``float[N, ...]``, the axes in the program's order."""
        given = self._values | {self._archive.user_input: frames}
        found: Tensor = self._graph.run(given, self._archive.results[output])
        if self._num_written() != self._written:
            # Also through a view of them, which no look at the graph would tell.
            expected, got = "a program that leaves its weights as they are", "one that writes to them"
            raise refused(self._archive.path, expected, got, "export it after model.eval()")
        return found

    def _num_written(self) -> int:
        """Returns how often the weights have been written to: PyTorch counts it on each tensor."""
        return sum(self._values[name]._version for name in self._archive.tensors)

    def _tensors(self, replaced: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
        path = self._archive.path
        found = []
        loaded: dict[tuple[str, int], Tensor] = {}
        with zipfile.ZipFile(path) as file:
            for name, stored in self._archive.tensors.items():
                key = self._archive.names[name]
                tensor = replaced[key].to(_dtype(stored)) if key in replaced else _read(path, file, stored, key, loaded)
                if tensor.is_floating_point() and not tensor.isfinite().all() and "mask" not in key:
                    raise refused(path, "finite numbers", f"NaN or infinity in {key}", "export it again")
                found.append((name, tensor.clone() if tensor.is_inference() else tensor))
        return found


def _dtype(stored: StoredTensor) -> torch.dtype:
    found: torch.dtype = getattr(torch, DTYPES[stored.dtype])
    return found


def _read(
    path: str, file: zipfile.ZipFile, stored: StoredTensor, key: str, loaded: dict[tuple[str, int], Tensor]
) -> Tensor:
    place = stored.member, stored.dtype
    try:
        if place not in loaded:
            numbers = np.frombuffer(bytearray(file.read(stored.member)), np.uint8)
            loaded[place] = torch.from_numpy(numbers).view(_dtype(stored))
        # Checks that the layout stays within the bytes that are there.
        return torch.as_strided(loaded[place], stored.sizes, stored.strides, stored.offset)
    except (RuntimeError, zipfile.BadZipFile, EOFError) as error:
        got = f"fewer or damaged bytes ({str(error).splitlines()[0][:80]})"
        raise refused(path, f"the numbers of {key}", got, "copy the file again") from None
