"""A torch network as OpenVINO or onnxruntime runs it on a CPU, held against PyTorch before it is used."""

import io
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from clipmill.extractors.preprocess import output_shape
from clipmill.extractors.runtime import PROMISED_ERROR, RuntimeUse
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.recipe import Recipe

MOST_SHAPES = 4
"""ours: so many shapes of inputs are kept compiled, each with its own copy of the weights."""

SAMPLE_SIZE = (240, 320)
"""ours: of the video whose frames are the sample, where the recipe does not fix their size."""
SAMPLE_CELL = 8
"""ours: the sample's frames are noise of squares of so many pixels, since a network averages finer noise away."""

_Run = Callable[[Tensor], Tensor]


def sample_frames(recipe: Recipe) -> npt.NDArray[np.uint8]:
    """Returns one window ``uint8[1, T, H, W, C]`` as the recipe's extractor is given it; the same on every machine."""
    preprocess = recipe.preprocess
    rows, columns, channels = output_shape(preprocess.model_copy(update={"crops": None}), *SAMPLE_SIZE)
    num_channels = channels if preprocess.resize_precision is None else channels // 4
    num_frames = recipe.sampling.frames or 1
    cells = (num_frames, -(-rows // SAMPLE_CELL), -(-columns // SAMPLE_CELL), num_channels)
    coarse = np.random.default_rng(0).integers(0, 256, cells, dtype=np.uint8)
    frames = coarse.repeat(SAMPLE_CELL, axis=1).repeat(SAMPLE_CELL, axis=2)[:, :rows, :columns]
    if preprocess.resize_precision is not None:
        frames = np.ascontiguousarray(frames, dtype=np.float32).view(np.uint8)
    return np.ascontiguousarray(frames)[None]


class CompiledNetwork:
    """Runs `network` with the recipe's runtime; each shape of inputs is compiled when it first comes.

    Args:
        network: one tensor in, one out; in float32 on the CPU, in evaluation.
        example: an input of one window, on which the runtime is held against PyTorch.

    Raises:
        UsageError: the runtime is farther off than `PROMISED_ERROR`, or does not take the network.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, example: Tensor) -> None:
        self._network, self._recipe = network, recipe
        self._compiled: OrderedDict[tuple[int, ...], _Run] = OrderedDict()
        with torch.inference_mode():
            expected = network(example).double()
            error = relative_error(self(example).double(), expected)
        promised = PROMISED_ERROR[recipe.precision]
        # Not `>`: a NaN is refused too.
        if not error <= promised:
            got = f"{recipe.runtime} {version(str(recipe.runtime))} off by {error:.1e} on this machine"
            remedy = "use runtime: torch"
            raise UsageError(
                describe(f"features.{recipe.name}", "runtime", f"an error of at most {promised:g}", got, remedy)
            )
        # Batches have another size, and each size has its own copy of the weights.
        self._compiled.clear()
        # Two digits: what is stored of it must not depend on how a library orders a sum.
        self.use = RuntimeUse(str(recipe.runtime), version(str(recipe.runtime)), float(f"{error:.1e}"))

    def __call__(self, inputs: Tensor) -> Tensor:
        """Returns ``network(inputs)``."""
        shape = tuple(inputs.shape)
        run = self._compiled.get(shape)
        if run is None:
            if len(self._compiled) >= MOST_SHAPES:
                self._compiled.popitem(last=False)
            run = self._compile(inputs)
            self._compiled[shape] = run
        self._compiled.move_to_end(shape)
        return run(inputs)

    def _compile(self, inputs: Tensor) -> _Run:
        make = _openvino if self._recipe.runtime == "openvino" else _onnxruntime
        try:
            return make(self._network, inputs, self._recipe.precision)
        # Each library raises classes of its own.
        except Exception as error:
            got = " ".join(str(error).split())[:200]
            where = f"features.{self._recipe.name}"
            expected = f"a network that {self._recipe.runtime} takes"
            raise UsageError(describe(where, "runtime", expected, got, "use runtime: torch")) from error


def relative_error(values: Tensor, expected: Tensor) -> float:
    """Returns the length of the difference over that of `expected`."""
    return float(torch.linalg.vector_norm(values - expected) / torch.linalg.vector_norm(expected))


def _openvino(network: nn.Module, inputs: Tensor, precision: str) -> _Run:
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # By its parts: `openvino.convert_model` would report its use over the network.
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(_traced(network, inputs))
    model = frontend.convert(frontend.load(decoder))
    model.reshape(list(inputs.shape))
    last = tuple(range(2, inputs.dim()))
    steps = openvino.preprocess.PrePostProcessor(model)
    # Channels last, as frames lie in memory: no copy is made for the sake of the order.
    steps.input().tensor().set_element_type(openvino.Type.f32)
    steps.input().tensor().set_layout(openvino.Layout("NHWC" if len(last) == 2 else "NDHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW" if len(last) == 2 else "NCDHW"))
    compiled = _openvino_core().compile_model(
        steps.build(),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            # Decoders run beside it.
            "ENABLE_CPU_PINNING": False,
        },
    )
    request = compiled.create_infer_request()

    def run(tensor: Tensor, _owner_of_weights: object = decoder) -> Tensor:
        request.infer([tensor.permute(0, *last, 1).contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(request.get_output_tensor(0).data.astype(np.float32))

    return run


@cache
def _openvino_core() -> Any:
    """OpenVINO's `Core`, one for the life of the process.

    Where a processor has AMX, its plugin gives the thread that loads it another stack for signals, and frees that stack
    when the last network is dropped. Dropped by another thread, the first one would die of its next signal.
    """
    import openvino

    return openvino.Core()


def _onnxruntime(network: nn.Module, inputs: Tensor, precision: str) -> _Run:
    import onnxruntime

    exported = io.BytesIO()
    # Its types name paths alone; files in memory are documented.
    export: Any = torch.onnx.export
    with warnings.catch_warnings():
        # The exporter by tracing needs no further package; PyTorch recommends its other one.
        warnings.simplefilter("ignore")
        export(network, (inputs,), exported, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.use_deterministic_compute = True
    session = onnxruntime.InferenceSession(exported.getvalue(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(tensor: Tensor) -> Tensor:
        [found] = session.run(None, {name: tensor.contiguous().numpy()})
        return torch.from_numpy(found)

    return run


def _traced(network: nn.Module, inputs: Tensor) -> Any:
    trace: Any = torch.jit.trace
    with warnings.catch_warnings():
        # That sizes become constants of the trace, which is meant, and that PyTorch has newer exporters, which take
        # seconds for each network.
        warnings.simplefilter("ignore")
        return trace(network, inputs[:1].contiguous(), check_trace=False)
