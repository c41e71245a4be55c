"""The contract of a model that is trained on stored features.

A model is one module of `clipmill.models` with a `REGISTRATION`: its card, which says what it is given and how it is
trained, and what builds its network. It is a `torch.nn.Module` that either learns by gradients (`Learns`) or is solved
in closed form (`Solves`), and, to be searched with, embeds queries and gallery items (`Embeds`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from clipmill.schemas.config import LoopConfig
from clipmill.schemas.inputs import Input, InputRows
from clipmill.schemas.model import Model, validate
from clipmill.schemas.spaces import Space

if TYPE_CHECKING:  # a card is data, and light
    from torch import Tensor

Side = Literal["query", "gallery"]

RETRIEVAL_SIDES: Mapping[Side, tuple[str, ...]] = {"query": ("image",), "gallery": ("video",)}


@dataclass(frozen=True, slots=True)
class Values:
    """One input of B items.

    Attributes:
        values: ``float32[B, D]`` of a vector, ``float32[B, L, D]`` of a bag or sequence, ``int64[B, L]`` of tokens.
        mask: ``bool[B, L]``, True where there is a row; None of a vector. What the mask leaves out is 0, and L is that
            of the longest item: no output may depend on it.
    """

    values: "Tensor"
    mask: "Tensor | None" = None


class Workers(Protocol):
    """The workers that share a global batch, as `losses` sees them: each has some of its items, in the batch's order.

    All must call the same methods in the same order. Gradients go back to the worker that a value came from.
    """

    @property
    def num_workers(self) -> int: ...

    def gather(self, values: "Tensor") -> "Tensor":
        """Returns ``[B, ...]`` of all items of the global batch, of which `values` ``[b, ...]`` are this worker's."""
        ...

    def add_up(self, values: "Tensor") -> "Tensor":
        """Returns the sum of `values` over the workers."""
        ...


class OneWorker:
    """A worker that has the whole batch."""

    num_workers = 1

    def gather(self, values: "Tensor") -> "Tensor":
        """Returns `values`."""
        return values

    def add_up(self, values: "Tensor") -> "Tensor":
        """Returns `values`."""
        return values


ALONE = OneWorker()


@dataclass(frozen=True, slots=True)
class Batch:
    """B items of the training split.

    Attributes:
        inputs: by the names of the card's inputs, scaled as the model's `scaling` says.
        label: ``int64[B]``, or None where the items have none.
        draws: standard normal noise ``float32[B, ...]`` by the names of the model's `draws`.
        progress: share of the training that is done, from 0 to 1.
        phase: name of the phase of the training.
        turn: of a training in which parts learn in turns, how often they have changed places; see `Phase.others`.
        workers: those that share the batch, for the losses of a card that `gathers`; for others a worker is alone.
        video: ``int64[B]``, equal where items are clips of one video; None: not told (only solutions are).
        targets: ``[B, ...]`` by name: what is to be found of each item. Of moments ``span int64[B, 2]``, the first and
            last step, both counted.
    """

    inputs: "Mapping[str, Values]"
    label: "Tensor | None" = None
    draws: "Mapping[str, Tensor]" = field(default_factory=dict)
    progress: float = 0.0
    phase: str = "main"
    turn: int = 0
    workers: Workers = ALONE
    video: "Tensor | None" = None
    targets: "Mapping[str, Tensor]" = field(default_factory=dict)

    def __getitem__(self, name: str) -> "Tensor":
        return self.inputs[name].values

    @property
    def labels(self) -> "Tensor":
        """`label`, for a model that needs labels."""
        if self.label is None:
            raise ValueError("expected a batch with labels, got none")
        return self.label


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model is, as plain data.

    Attributes:
        name: in the registry.
        summary: one line.
        source: publication and code.
        inputs: what it is given, by name; the names are the keys of the config's `data`.
        options: model of its own options.
        task: what it is trained for, a task of ``clipmill evaluate``.
        sides: of retrieval, the inputs of a query and of a gallery item.
        loop: keys of the config's `loop` as the publication has them; the job's own come before these.
        couples_batch: its losses compare the items of a batch, so they are scalars over the whole of it.
        gathers: then its `losses` take a share of the batch and gather what they compare by `Batch.workers`, so that
            several workers share the work; without, each of them computes the whole batch.
        needs_labels: whether each item must have a label.
        closed_form: it is solved for (`Solves`), not trained by gradients.
        variant: the card as given options make it; None where options change no part of it.
    """

    name: str
    summary: str
    source: str
    inputs: Mapping[str, Input]
    options: type[Model]
    task: str = "retrieval"
    sides: Mapping[Side, tuple[str, ...]] = field(default_factory=lambda: RETRIEVAL_SIDES)
    loop: Mapping[str, Any] = field(default_factory=dict)
    couples_batch: bool = False
    gathers: bool = False
    needs_labels: bool = True
    closed_form: bool = False
    variant: "Callable[[Any], ModelCard] | None" = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the data decide of a network's shape.

    Attributes:
        dims: by input, the length of a row; of tokens the size of the vocabulary.
        num_labels: 0 where items have none.
    """

    dims: Mapping[str, int]
    num_labels: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One update of the optimiser: the weights that move, and by which loss.

    Attributes:
        loss: name among those that `losses` returns.
        rates: by the beginning of a parameter's name, its learning rate over ``loop.learning_rate``; the longest
            beginning that fits counts, and parameters that none fits stand still.
    """

    loss: str = "total"
    rates: Mapping[str, float] = field(default_factory=lambda: {"": 1.0})


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the training.

    Attributes:
        name: given to `losses` in `Batch.phase`.
        epochs: how many; None: those that are left of ``loop.epochs``.
        steps: taken one after the other for every batch, each with a forward pass of its own.
        others: steps in place of those, whenever the turn is the others'; none: `steps` always.
    """

    name: str = "main"
    epochs: int | None = None
    steps: tuple[Step, ...] = (Step(),)
    others: tuple[Step, ...] = ()


class Learns(Protocol):
    """An ``nn.Module`` that is trained by gradients.

    Three members more are optional: ``scaling`` (how its float inputs are scaled, see `models.scaling`; ``none``),
    ``draws() -> Mapping[str, tuple[int, ...]]`` (shape, for one item, of the noise it takes; none) and
    ``phases(loop) -> Sequence[Phase]`` (one phase over all parameters).
    """

    def losses(self, batch: Batch) -> "Mapping[str, Tensor]":
        """Returns the losses of a batch, ``total`` among them: ``[B]`` each, or scalars where the card couples."""
        ...


class Solves(Protocol):
    """An ``nn.Module`` whose weights, kept in buffers, are solved for."""

    def solve(self, items: Batch) -> Iterator[Mapping[str, float]]:
        """Sets the buffers from all training items at once; yields what each iteration reached, at least once."""
        ...


@runtime_checkable
class Embeds(Protocol):
    """An ``nn.Module`` that retrieval can use."""

    def spaces(self) -> Mapping[str, Space]:
        """Returns the spaces it ranks in, by name; the last is the one to look at first."""
        ...

    def embed(self, side: Side, inputs: Mapping[str, Values]) -> "Mapping[str, Tensor]":
        """Returns the arrays that its spaces name, ``[B, ...]`` each, of B queries or gallery items.

        Args:
            inputs: those of the card's `sides`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Spans:
    """What a model finds in B items, K answers each, the best first.

    Attributes:
        steps: ``float32[B, K, 2]``: where each begins and ends, in steps; step i lasts from i to i + 1. Which seconds
            these are, the pipeline knows.
        score: ``float32[B, K]``, greater is better; -inf where an item has fewer answers.
    """

    steps: "Tensor"
    score: "Tensor"


@runtime_checkable
class Localises(Protocol):
    """An ``nn.Module`` that finds moments: its inputs are a sequence, the steps of a video, and tokens, a sentence."""

    def localise(self, inputs: Mapping[str, Values], num_answers: int) -> Spans:
        """Returns the moments it finds, at most `num_answers` of each item; what a mask leaves out is in none."""
        ...


@runtime_checkable
class BeginsWithWords(Protocol):
    """What a model has besides whose words may begin with given vectors (`schemas.inputs.Tokens.vector_dim`)."""

    def begin_with_words(self, name: str, vectors: "Tensor", known: "Tensor") -> None:
        """Sets the vectors of words, before the training.

        Args:
            name: of the input.
            vectors: ``float32[V, D]`` of all positions, those of padding and of unknown words among them.
            known: ``bool[V]``, which of them there are.
        """
        ...


@runtime_checkable
class Prepares(Protocol):
    """An ``nn.Module`` that looks at all training items before the training, such as for the weights of words."""

    def prepare(self, inputs: "Mapping[str, InputRows]", vocabularies: "Mapping[str, Sequence[str]]") -> None:
        """Sets its buffers.

        Args:
            inputs: of the training items by name, as they are stored.
            vocabularies: of inputs that read tokens, the words of the positions from 2 on.
        """
        ...


@runtime_checkable
class MeasuresValidation(Protocol):
    """An ``nn.Module`` that says more of the validation split than its mean losses: an epoch may be selected by it."""

    def measures(self, query: "Mapping[str, Tensor]", gallery: "Mapping[str, Tensor]") -> dict[str, float]:
        """Returns values by name, none of them a loss's; the least is best.

        Args:
            query, gallery: what `embed` gives of both sides of all its items, in one order.
        """
        ...


@runtime_checkable
class ScoresPairs(Protocol):
    """What a model with a space of kind `schemas.spaces.PairScore` or `Reranked` has besides."""

    def score(self, query: "Mapping[str, Tensor]", gallery: "Mapping[str, Tensor]") -> "Tensor":
        """Returns ``[Q, G]``, greater is better, of what `embed` gave for Q queries and G gallery items."""
        ...


Build = Callable[[Any, Sizes], Any]
"""Makes the ``nn.Module`` of the validated options and the sizes."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A model's card and what builds it."""

    card: ModelCard
    build: Build

    @property
    def name(self) -> str:
        """The name the model is registered under."""
        return self.card.name


def card_for(card: ModelCard, options: Any) -> ModelCard:
    """Returns the card as `options` (an instance of ``card.options``) make it."""
    return card.variant(options) if card.variant is not None else card


def resolved_loop(card: ModelCard, loop: LoopConfig) -> LoopConfig:
    """Returns `loop` with the card's values where the job gives none.

    Raises:
        ConfigError: they do not fit each other.
    """
    given = loop.model_dump(include=loop.model_fields_set)
    merged = validate(LoopConfig, {**card.loop, **given}, "loop")
    # With every key set, so that it is written down whole.
    return LoopConfig.model_validate(merged.model_dump())
