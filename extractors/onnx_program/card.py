"""Any network as an ONNX file: frames or clips in, one row per window from one of its outputs."""

from typing import Any

from clipmill.extractors.exported.card import ProgramKind, program_card
from clipmill.extractors.exported.options import ProgramOptions
from clipmill.extractors.exported.program import Interface, Program
from clipmill.extractors.onnx_program.model import count_gmac, onnx_digest, read_onnx
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.recipe import Recipe


def _read(path: str) -> Interface:
    return read_onnx(path).interface


def _load(recipe: Recipe, device: str) -> Program:
    from clipmill.extractors.onnx_program.session import OnnxProgram

    return OnnxProgram(recipe.weights.file or "", device)


def _check(recipe: Recipe) -> None:
    if recipe.precision != "float32":
        remedy = "leave it out, and export the network in half precision instead"
        expected = "float32: an ONNX file has its own precision"
        raise UsageError(describe(f"features.{recipe.name}", "precision", expected, recipe.precision, remedy))


def _count(program: Program, frames: Any, recipe: Recipe) -> float:
    return count_gmac(recipe.weights.file or "", tuple(frames.shape), recipe.layer)


KIND = ProgramKind(
    name="onnx",
    layout="onnx",
    summary="any network as an ONNX file, run by onnxruntime, one row per window",
    options=ProgramOptions,
    read=_read,
    digest=onnx_digest,
    load=_load,
    resolve=lambda recipe: recipe,
    check=_check,
    count=_count,
)

CARD = program_card(KIND)
