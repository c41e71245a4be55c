"""An image network and a model that is given its vectors, trained as one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from clipmill.extractors.preprocess import centre_offset
from clipmill.extractors.torch_extractor import TorchExtractor
from clipmill.models.base import Batch, MeasuresValidation, Phase, Side, Step, Values
from clipmill.models.scaling import Kind
from clipmill.pipelines.training.images.items import PIXELS
from clipmill.schemas.config import LoopConfig
from clipmill.schemas.config_images import ImageNetworkConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.recipe import Preprocess

VIEW = "view"
"""Name of the noise that crops and mirrors an image."""


class EndToEnd(nn.Module):
    """The network, then the model; each vector of the model is what the network makes of an item's pixels.

    The network stays in evaluation mode: batch norm takes the statistics it began with, of which it learns scale and
    shift alone, and nothing is dropped out (ours; SemArt's code lets its statistics move). So an image's vector depends
    on no other image, and is the one that a build makes.

    Args:
        extractor: of the network.
        model: of `vectors`, its inputs that the network gives.
        scaling: of these, as the model has it; ``none`` or ``l2``.
    """

    def __init__(
        self,
        extractor: TorchExtractor,
        model: Any,
        preprocess: Preprocess,
        config: ImageNetworkConfig,
        vectors: Sequence[str],
        scaling: Kind,
    ) -> None:
        super().__init__()
        self.network, self.model = extractor.network, model
        self._extractor, self._preprocess, self._config = extractor, preprocess, config
        self._vectors, self._scaling = tuple(vectors), scaling
        self._last: tuple[Tensor, Tensor] | None = None

    @property
    def published(self) -> dict[str, Tensor]:
        """The network's weights, as the extractor reads them."""
        return self._extractor.published

    def train(self, mode: bool = True) -> "EndToEnd":
        """Sets the model's mode; the network's is evaluation."""
        super().train(mode)
        self.network.eval()
        self._last = None
        return self

    def draws(self) -> Mapping[str, tuple[int, ...]]:
        """Returns the model's noise, and an image's: where its crop lies, and whether it is mirrored."""
        drawn = dict(self.model.draws()) if hasattr(self.model, "draws") else {}
        return drawn | {VIEW: (3,)}

    def phases(self, loop: LoopConfig) -> Sequence[Phase]:
        """Returns the model's phases, in which the network learns too, or each in its turn.

        Raises:
            UsageError: a phase has several steps, of which nobody has said in which the network learns.
        """
        phases: Sequence[Phase] = self.model.phases(loop) if hasattr(self.model, "phases") else (Phase(),)
        return [self._with_network(phase) for phase in phases]

    def _with_network(self, phase: Phase) -> Phase:
        if len(phase.steps) != 1:
            got = f"{len(phase.steps)} in phase {phase.name}"
            raise UsageError(describe("model", "steps", "one step of a batch", got, "train it on stored features"))
        (step,) = phase.steps
        rates = {f"model.{name}": rate for name, rate in (step.rates or {"": 1.0}).items()}
        network = {"network.": self._config.learning_rate}
        if self._config.swap_patience:
            return replace(phase, steps=(Step(step.loss, rates),), others=(Step(step.loss, network),))
        return replace(phase, steps=(Step(step.loss, rates | network),))

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Returns the model's losses of ``batch.inputs``, the pixels ``[B, H, W, C]`` and the texts."""
        stands_still = bool(self._config.swap_patience) and batch.turn % 2 == 0
        inputs = _Inputs(self, batch.inputs, batch.draws.get(VIEW), not stands_still)
        losses: Mapping[str, Tensor] = self.model.losses(replace(batch, inputs=inputs))
        return losses

    def embed(self, side: Side, inputs: Mapping[str, Values]) -> Mapping[str, Tensor]:
        """Returns what the model embeds of pixels, or of texts."""
        found: Mapping[str, Tensor] = self.model.embed(side, _Inputs(self, inputs, None, False))
        return found

    def measures(self, query: Mapping[str, Tensor], gallery: Mapping[str, Tensor]) -> dict[str, float]:
        """Returns what the model says of the validation split, if it does."""
        return self.model.measures(query, gallery) if isinstance(self.model, MeasuresValidation) else {}

    def vectors(self, pixels: Tensor, view: Tensor | None, learns: bool) -> Values:
        """Returns the vectors ``[B, D]`` of pixels, as the model takes them.

        Args:
            view: standard normal noise ``[B, 3]`` by which each is cropped and mirrored; only in training.
            learns: whether gradients go into the network.
        """
        if not self.training and self._last is not None and self._last[0] is pixels:
            return Values(self._last[1])
        cut = self._cut(pixels, view if self.training else None)
        size = self._config.at_once or max(1, len(cut))
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            parts = [self._of_part(cut[start : start + size]) for start in range(0, max(1, len(cut)), size)]
        vectors = torch.cat(parts)
        if self._scaling == "l2":
            vectors = functional.normalize(vectors, dim=1)
        self._last = (pixels, vectors) if not self.training else None
        return Values(vectors)

    def _of_part(self, part: Tensor) -> Tensor:
        inputs = self._extractor.scaled(part.permute(0, 3, 1, 2))
        if self._config.at_once is None or not torch.is_grad_enabled():
            return self._extractor.rows_of(inputs)
        rows: Tensor = checkpoint(self._extractor.rows_of, inputs, use_reentrant=False)
        return rows

    def _cut(self, pixels: Tensor, view: Tensor | None) -> Tensor:
        """Returns the crops ``[B, h, w, C]``: those of the recipe, or, by noise, others, mirrored or not."""
        height, width = pixels.shape[1:3]
        rows, columns = self._preprocess.crop or (height, width)
        # Pixels of a fixed corner are cut already.
        has_room = (rows, columns) != (height, width)
        top, left = centre_offset(self._preprocess, height, width) if has_room else (0, 0)
        if view is None:
            return pixels[:, top : top + rows, left : left + columns]
        drawn = (1 + torch.erf(view.double().cpu() / 2**0.5)) / 2
        cut = []
        for image, (down, right, coin) in zip(pixels, drawn.tolist(), strict=True):
            if self._config.random_crop:
                top = min(int(down * (height - rows + 1)), height - rows)
                left = min(int(right * (width - columns + 1)), width - columns)
            part = image[top : top + rows, left : left + columns]
            cut.append(part.flip(1) if self._config.flip and coin < 0.5 else part)
        return torch.stack(cut) if cut else pixels[:, :rows, :columns]


class _Inputs(Mapping[str, Values]):
    """What the model is given of a batch; the network runs when a vector is first asked for, and once."""

    def __init__(self, owner: EndToEnd, given: Mapping[str, Values], view: Tensor | None, learns: bool) -> None:
        self._owner, self._given, self._view, self._learns = owner, given, view, learns
        self._found: Values | None = None

    def __getitem__(self, name: str) -> Values:
        if name not in self._owner._vectors:
            return self._given[name]
        if self._found is None:
            self._found = self._owner.vectors(self._given[PIXELS].values, self._view, self._learns)
        return self._found

    def __iter__(self) -> Iterator[str]:
        texts = (name for name in self._given if name != PIXELS)
        return iter((*self._owner._vectors, *texts))

    def __len__(self) -> int:
        return len(tuple(iter(self)))
