"""What runs a recipe's network: PyTorch, or another library's compiled form of it (`Recipe.runtime`)."""

from dataclasses import dataclass
from importlib.util import find_spec

from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.recipe import Recipe

EXTRAS = {"openvino": "openvino", "onnxruntime": "onnx"}
"""Runtime -> the extra of clipmill that installs it."""

PRECISIONS = {"openvino": ("float32", "bfloat16"), "onnxruntime": ("float32",)}
"""Runtime -> the precisions it is offered in: those in which it was measured to be quicker than PyTorch."""

PROMISED_ERROR = {"float32": 1e-5, "bfloat16": 2e-2}
"""ours: by precision, how far a runtime's rows may be from those of PyTorch in float32: length of the difference over
that of the row. A runtime that is farther off on this machine is refused."""


@dataclass(frozen=True, slots=True)
class RuntimeUse:
    """A runtime that was built and held against PyTorch on this machine.

    Attributes:
        error: largest relative error over the networks of the extractor, to two digits, on the sample of
            `clipmill.extractors.compiled_network.sample_frames`.
    """

    name: str
    version: str
    error: float


def check_runtime(recipe: Recipe, supported: frozenset[str]) -> None:
    """Makes sure that a recipe's runtime can run its extractor, and is installed.

    Args:
        supported: runtimes of the extractor (`ExtractorCard.runtimes`).

    Raises:
        UsageError: it cannot, or is not installed.
    """
    runtime = recipe.runtime
    if runtime is None:
        return
    where = f"features.{recipe.name}"
    if runtime not in supported:
        others = ", ".join(("torch", *sorted(supported)))
        raise UsageError(describe(where, "runtime", f"{others} for {recipe.extractor}", runtime, "leave it out"))
    if recipe.precision not in PRECISIONS[runtime]:
        expected = f"{' or '.join(PRECISIONS[runtime])} under runtime {runtime}"
        raise UsageError(describe(where, "precision", expected, recipe.precision, "change one of them"))
    if find_spec(runtime) is None:
        remedy = f"pip install 'clipmill[{EXTRAS[runtime]}]', or use runtime: torch"
        raise UsageError(describe(where, "runtime", f"the package {runtime}", "none installed", remedy))


def check_device(recipe: Recipe, device: str) -> None:
    """Raises a `UsageError` where a recipe's runtime is to run on another device than a CPU."""
    if recipe.runtime is not None and device != "cpu":
        remedy = "use runtime: torch, or engine.device: cpu"
        raise UsageError(describe(f"features.{recipe.name}", "runtime", f"torch on {device}", recipe.runtime, remedy))


def runtime_use_of(extractor: object) -> RuntimeUse | None:
    """Returns what an extractor's runtime was measured to be; None under PyTorch."""
    found: RuntimeUse | None = getattr(extractor, "runtime_use", None)
    return found
