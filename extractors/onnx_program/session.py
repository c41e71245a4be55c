"""Running an ONNX model with onnxruntime, on the CPU or a CUDA GPU."""

import torch
from torch import Tensor

from clipmill.extractors.exported.program import Interface, refused
from clipmill.extractors.onnx_program.model import EXPORT_AGAIN, INSTALL, read_onnx, require
from clipmill.schemas.errors import UsageError, describe

ERRORS_ONLY = 3
"""onnxruntime's warnings are for whoever exported the model."""


class OnnxProgram:
    """An ONNX model on a device.

    Args:
        device: such as ``cpu`` or ``cuda:0``.

    Raises:
        UsageError: onnxruntime is not installed, or has no support of that device.
        WeightsError: onnxruntime does not take the model.
    """

    def __init__(self, path: str, device: str) -> None:
        require("onnxruntime")
        import onnxruntime

        found = read_onnx(path)
        self._interface = found.interface
        self._device = torch.device(device)
        options = onnxruntime.SessionOptions()
        # As many threads as the worker gives PyTorch; waiting ones leave the cores to the decoders.
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.use_deterministic_compute = True
        options.log_severity_level = ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=_providers(self._device))
        # onnxruntime raises a class of its own for every kind of failure.
        except Exception as error:
            expected = f"a model onnxruntime {onnxruntime.__version__} takes"
            line = " ".join(str(error).split())
            got = f"opset {found.opset}: {line[:200]}"
            remedy = "export it with a lower opset_version, or raise onnxruntime"
            raise refused(
                path, expected, got, remedy if "pset" in line or "IR version" in line else EXPORT_AGAIN
            ) from None
        if self._device.type == "cuda" and self._session.get_providers()[0] != "CUDAExecutionProvider":
            raise _no_cuda("one that does not start (CUDA and cuDNN of its version are needed)")

    @property
    def interface(self) -> Interface:
        """Its input and outputs."""
        return self._interface

    def run(self, frames: Tensor, output: str) -> Tensor:
        """Returns the output of that name for ``float[N, ...]``, the axes in the model's order."""
        [found] = self._session.run([output], {self._interface.input.name: frames.cpu().numpy()})
        return torch.from_numpy(found).to(self._device)


def _providers(device: torch.device) -> list[str | tuple[str, dict[str, str]]]:
    import onnxruntime

    if device.type == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise _no_cuda("a build for the CPU")
    # Float32 is float32, and the algorithm is not the one that happens to be quicker.
    exact = {"device_id": str(device.index or 0), "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    return [("CUDAExecutionProvider", exact), "CPUExecutionProvider"]


def _no_cuda(got: str) -> UsageError:
    remedy = f"pip install onnxruntime-gpu in place of onnxruntime, or set engine.device=cpu (after {INSTALL})"
    return UsageError(describe("extractor", "onnx", "onnxruntime with CUDA for this device", got, remedy))
