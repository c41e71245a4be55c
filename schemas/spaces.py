"""Spaces that queries are ranked in, as data: a model names them, evaluation and search compute them.

The names in a space are those of the arrays that a model's `embed` gives for queries and for gallery items.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cosine:
    """Cosine of the queries' vectors ``[Q, D]`` and the gallery's ``[G, D]``."""

    query: str
    gallery: str


@dataclass(frozen=True, slots=True)
class BestOfSamples:
    """The greatest cosine over the samples of a query, ``[Q, h, D]``, with the gallery's vectors ``[G, D]``."""

    query: str
    gallery: str


@dataclass(frozen=True, slots=True)
class Hamming:
    """Minus the number of differing bits of packed codes, ``uint8[Q, D / 8]`` and ``uint8[G, D / 8]``."""

    query: str
    gallery: str


@dataclass(frozen=True, slots=True)
class Combined:
    """The weighted sum of the scores of other spaces of the same model.

    Attributes:
        weights: by name of a space.
    """

    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PairScore:
    """What the model's own `score` says of each pair of a query and a gallery item."""


@dataclass(frozen=True, slots=True)
class Reranked:
    """The best of another space of the same model, in the order of the model's own `score`; the rest as they were.

    Attributes:
        first: name of that space.
        k: how many are scored again.
    """

    first: str
    k: int


Space = Cosine | BestOfSamples | Hamming | Combined | PairScore | Reranked
