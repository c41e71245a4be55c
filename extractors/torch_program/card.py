"""Any network as an exported program of PyTorch: frames or clips in, one row per window from one of its outputs."""

import os
from typing import TYPE_CHECKING, Any

from pydantic import Field

from clipmill.extractors.exported.card import ProgramKind, program_card
from clipmill.extractors.exported.options import ProgramOptions
from clipmill.extractors.exported.program import Interface, Program
from clipmill.extractors.torch_program.archive import read_archive
from clipmill.extractors.weights import check_digest, digest
from clipmill.schemas.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor


class TorchProgramOptions(ProgramOptions):
    """Switches of an exported program of PyTorch.

    Attributes:
        tensors: path of a weights file (``.safetensors`` or ``.pth``) whose tensors stand in place of the program's, by
            the names of its state dict: one program serves every checkpoint. Once resolved, the recipe has its SHA-256.
    """

    tensors: str | None = Field(default=None, min_length=1)


def _read(path: str) -> Interface:
    return read_archive(path).interface


def _resolve(recipe: Recipe) -> Recipe:
    tensors = recipe.options["tensors"]
    if tensors is None:
        return recipe
    path = os.path.abspath(os.path.expanduser(tensors))
    changes = {
        "options": recipe.options | {"tensors": digest(path)},
        "files": recipe.files | {"tensors": path},
    }
    return recipe.model_copy(update=changes)


def _load(recipe: Recipe, device: str) -> Program:
    from clipmill.extractors.torch_program.graph import TorchProgram
    from clipmill.extractors.torch_program.tensors import read_tensors

    archive = read_archive(recipe.weights.file or "")
    replaced: dict[str, Tensor] = {}
    if "tensors" in recipe.files:
        check_digest(recipe.files["tensors"], recipe.options["tensors"])
        replaced = read_tensors(recipe.files["tensors"], archive)
    return TorchProgram(archive, device, replaced)


def _count(program: Program, frames: Any, recipe: Recipe) -> float:
    """Returns the multiply-accumulates of one window, in 1e9: PyTorch's own count of a run."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        program.run(frames, recipe.layer)
    return float(counter.get_total_flops()) / 2e9


KIND = ProgramKind(
    name="torch",
    layout="exported_program",
    summary="any network as an exported program of PyTorch (torch.export), one row per window",
    options=TorchProgramOptions,
    read=_read,
    digest=digest,
    load=_load,
    resolve=_resolve,
    check=lambda recipe: None,
    count=_count,
)

CARD = program_card(KIND)
