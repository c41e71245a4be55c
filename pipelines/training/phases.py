"""The phases of a training, laid over its epochs."""

import math
from collections.abc import Iterable, Sequence
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
    others: tuple[Step, ...] = ()

    def steps_of(self, turn: int) -> tuple[Step, ...]:
        """Returns the steps of a turn: every second one is the others'."""
        return self.others if self.others and turn % 2 else self.steps


class Turns:
    """Who learns, where parts of a model learn in turns: they change places when one has stopped to help.

    Args:
        patience: epochs without a value that is less than all before, after which they change: of the first change, of
            the second and so on; the last counts for all that follow. None: they never do.
        values: by which it is decided, of the epochs that are done.
    """

    def __init__(self, patience: Sequence[int] = (), values: Iterable[float] = ()) -> None:
        self._patience = patience
        self._best, self._waited = math.inf, 0
        self.number = 0
        for value in values:
            self.add(value)

    def add(self, value: float) -> None:
        """Takes note of an epoch."""
        self._waited = 0 if value < self._best else self._waited + 1
        self._best = min(self._best, value)
        if self._patience and self._waited >= self._patience[min(self.number, len(self._patience) - 1)]:
            self.number, self._waited = self.number + 1, 0


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
        planned.append(PlannedPhase(phase.name, start, phase.steps, phase.others))
    return tuple(planned)
