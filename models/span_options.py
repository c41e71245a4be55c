"""What all models that localise by steps have in common: how videos and sentences are read, and their card."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from clipmill.models.base import ModelCard, Values
from clipmill.models.query_words import UNKNOWN
from clipmill.schemas.inputs import Input, Sequence, Tokens
from clipmill.schemas.model import Model


class SpanOptions(Model):
    """How a model is given a video and a sentence.

    Attributes:
        max_steps: steps of a video; longer ones are shortened.
        reduce: how: see `schemas.inputs.Sequence`.
        normalise: each step by its norm, or as it is.
        max_words: words of a sentence that are read. LGI reads 25 of ActivityNet's, 10 of Charades-STA's.
        tokeniser, vocabulary, min_count: see `schemas.inputs.Tokens`.
        word_dim: length of a word's vector.
        word_vectors: whether those of a file are trained, too, or stay as they are.
        blind: what is kept from the model, to see what it knows without it: ``video`` (its steps are zeros, their
            number stays), ``query`` (its words are unknown, their number stays), or ``both``.
    """

    max_steps: int = Field(default=128, ge=1)
    reduce: Literal["mean", "pick", "sample"] = "mean"
    normalise: Literal["none", "l2"] = "none"
    max_words: int = Field(default=25, ge=1)
    tokeniser: Literal["words", "lgi", "treebank"] = "lgi"
    vocabulary: Literal["train", "lgi", "vslnet"] = "lgi"
    min_count: int = Field(default=1, ge=1)
    word_dim: int = Field(default=300, ge=1)
    word_vectors: Literal["trained", "frozen"] = "trained"
    blind: Literal["none", "video", "query", "both"] = "none"


def span_inputs(options: SpanOptions) -> Mapping[str, Input]:
    """Returns the inputs of a card, as options make them."""
    o = options
    return {
        "video": Sequence(o.max_steps, o.reduce),
        "query": Tokens(o.max_words, o.min_count, o.tokeniser, o.vocabulary, o.word_dim),
    }


def span_card(options: type[SpanOptions], name: str, summary: str, source: str, loop: Mapping[str, Any]) -> ModelCard:
    """Returns the card of a model that is given a video's steps and a sentence's words, and localises."""

    def card(given: SpanOptions) -> ModelCard:
        return ModelCard(
            name=name,
            summary=summary,
            source=source,
            inputs=span_inputs(given),
            options=options,
            task="moments",
            sides={},
            loop=loop,
            needs_labels=False,
            variant=card,
        )

    return card(options())


def seen(options: SpanOptions, inputs: Mapping[str, Values]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns a video's steps and their mask, a sentence's words and theirs, as much as the model may see of them."""
    (steps, step_mask), (words, word_mask) = ((inputs[name].values, inputs[name].mask) for name in ("video", "query"))
    if step_mask is None or word_mask is None:
        raise ValueError("steps and words: expected masks, got none")
    if options.normalise == "l2":
        steps = functional.normalize(steps, dim=-1)
    if options.blind in ("video", "both"):
        steps = torch.zeros_like(steps)
    if options.blind in ("query", "both"):
        words = word_mask * UNKNOWN
    return steps, step_mask, words, word_mask
