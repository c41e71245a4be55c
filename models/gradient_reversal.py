"""An adversary in one pass: a classifier of modalities behind a layer that turns its gradient round.

What comes before the layer moves so that the classifier fails, the classifier itself so that it succeeds (Ganin and
Lempitsky, ICML 2015).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipmill.models.perceptron import Activation, perceptron


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -context.factor * gradients[0], None


def reverse_gradient(values: Tensor, factor: float) -> Tensor:
    """Returns `values`, whose gradient is that of what comes after, times minus `factor`."""
    reversed_: Tensor = _Reversal.apply(values, factor)  # type: ignore[no-untyped-call]
    return reversed_


def reversal_factor(progress: float, steepness: float = 10.0) -> float:
    """Returns 2 / (1 + exp(-steepness p)) - 1 at p = `progress`: 0 at the start of a training, nearly 1 at its end."""
    return 2.0 / (1.0 + math.exp(-steepness * progress)) - 1.0


class ModalityClassifier(nn.Module):
    """Tells vectors of images from vectors of videos, behind a reversal of the gradient.

    Args:
        widths: length of the vectors, then of each hidden layer's output.
        activation: of the hidden layers.
    """

    def __init__(self, widths: Sequence[int], activation: Activation) -> None:
        super().__init__()
        self.layers = perceptron((*widths, 2), activation)

    def forward(self, image: Tensor, video: Tensor, factor: float) -> Tensor:
        """Returns the mean over pairs of -log p(image is an image) - log p(video is a video), a scalar.

        Args:
            image, video: ``[B, D]``; they receive minus `factor` times the gradient.
        """
        logits = self.layers(reverse_gradient(torch.cat([image, video]), factor))
        modality = torch.arange(2, device=logits.device).repeat_interleave(len(image))
        return 2 * functional.cross_entropy(logits, modality)
