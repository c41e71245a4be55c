"""The phases of a training, laid over its epochs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clipmill.models.base import Phase, Step
from clipmill.schemas.config import LoopConfig
from clipmill.schemas.errors import UsageError, describe


@dataclass(frozen=True, slots=True)
class PlannedPhase:
    """A phase that ends before epoch `stop` (from 0)."""

    name: str
    stop: int
    steps: tuple[Step, ...]


def planned_phases(model: Any, loop: LoopConfig) -> tuple[PlannedPhase, ...]:
    """Returns the model's phases; a model that names none has a single one.

    Raises:
        UsageError: they are longer than the epochs of the training.
    """
    phases: Sequence[Phase] = model.phases(loop) if hasattr(model, "phases") else (Phase(),)
    fixed = sum(phase.epochs or 0 for phase in phases)
    open_ended = sum(phase.epochs is None for phase in phases)
    if open_ended > 1 or (not open_ended and fixed != loop.epochs) or fixed + open_ended > loop.epochs:
        lengths = ", ".join(f"{phase.name} {phase.epochs or 'the rest'}" for phase in phases)
        expected = f"epochs for the model's phases ({lengths})"
        raise UsageError(describe("loop.epochs", str(loop.epochs), expected, "another number", "change it or options"))
    planned, start = [], 0
    for phase in phases:
        start += loop.epochs - fixed if phase.epochs is None else phase.epochs
        planned.append(PlannedPhase(phase.name, start, phase.steps))
    return tuple(planned)
