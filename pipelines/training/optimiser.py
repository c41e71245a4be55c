"""Adam, by the steps of a model: which weights move, how far, and what is made of their gradients before."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clipmill.models.base import Step
from clipmill.pipelines.training.phases import PlannedPhase
from clipmill.schemas.config import LoopConfig

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Optimiser:
    """Adam over a model's weights, which moves those of one step at the rates that step has for them.

    One fused kernel: on a CPU its step takes a tenth of the plain one's time, which outweighs forward and backward.

    In float16 losses are scaled, so that small gradients do not vanish: a step whose gradients overflow is left out and
    the scale halved (Micikevicius et al., Mixed Precision Training, ICLR 2018; `torch.amp.GradScaler`).
    """

    def __init__(self, model: nn.Module, config: LoopConfig, phases: Sequence[PlannedPhase]) -> None:
        steps = [step for phase in phases for step in (*phase.steps, *phase.others)]
        # Parameters that always move at one rate share a group, so a model of one phase and step has a single one.
        groups: dict[tuple[float | None, ...], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            groups.setdefault(tuple(rate_of(step, name) for step in steps), []).append(parameter)
        self._rates = [dict(zip(map(id, steps), rates, strict=True)) for rates in groups]
        self._learning_rate = config.learning_rate
        self._max_gradient_norm = config.max_gradient_norm
        self.adam = torch.optim.Adam(
            [{"params": parameters} for parameters in groups.values()],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=True,
        )
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self._scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")

    def begin(self) -> None:
        """Forgets the gradients of the step before."""
        self.adam.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of the scalar `loss`, scaled where losses are."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def moved(self, step: Step) -> list[nn.Parameter]:
        """Returns the parameters that `step` moves; the others lose their gradient, so that they stand still.

        Adam would take that gradient into its moments even where the learning rate is 0.
        """
        found: list[nn.Parameter] = []
        for group, rates in zip(self.adam.param_groups, self._rates, strict=True):
            if rates[id(step)] is not None:
                found.extend(group["params"])
                continue
            for parameter in group["params"]:
                parameter.grad = None
        return found

    def update(self, step: Step, factor: float) -> None:
        """Moves the parameters of `step`, whose learning rates are multiplied by `factor`.

        Gradients must be those of the global batch by now, so that all workers shorten or leave out the same step.
        """
        for group, rates in zip(self.adam.param_groups, self._rates, strict=True):
            group["lr"] = self._learning_rate * factor * (rates[id(step)] or 0.0)
        if self._max_gradient_norm is not None:
            self._scaler.unscale_(self.adam)
            moved = [parameter for group in self.adam.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(moved, self._max_gradient_norm)
        self._scaler.step(self.adam)
        self._scaler.update()

    def state(self) -> dict[str, Any]:
        """Returns what going on needs, by the names it has in a checkpoint."""
        scale = self._scaler.state_dict()
        return {"optimiser": self.adam.state_dict()} | ({"scaler": scale} if scale else {})

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` returned."""
        self.adam.load_state_dict(dict(state["optimiser"]))
        self._scaler.load_state_dict(dict(state.get("scaler", {})))


def rate_of(step: Step, name: str) -> float | None:
    """Returns the rate of the parameter `name` in `step`, or None where it stands still."""
    fitting = [beginning for beginning in step.rates if name.startswith(beginning)]
    return step.rates[max(fitting, key=len)] if fitting else None


def learning_rate_factor(config: LoopConfig, epoch: int, batch: int, num_batches: int) -> float:
    """Returns what the learning rate is multiplied by in batch `batch` of epoch `epoch`, both from 0.

    Args:
        num_batches: of an epoch.
    """
    position = epoch + batch / num_batches
    if config.schedule == "cosine":
        done = max(0.0, position - config.warmup_epochs) / max(1, config.epochs - config.warmup_epochs)
        factor = (1.0 + math.cos(math.pi * min(1.0, done))) / 2.0
    else:
        factor = config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    if epoch < config.warmup_epochs:
        factor *= (epoch * num_batches + batch + 1) / (config.warmup_epochs * num_batches)
    return factor


def autocast(config: LoopConfig, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Returns the context in which a forward pass has the precision of `config`."""
    if config.precision == "float32":
        return contextlib.nullcontext()
    # Without the cache of cast weights: one cast where gradients are off would serve, without any, where they are on.
    return torch.autocast(device.type, _AUTOCAST[config.precision], cache_enabled=False)
