"""Sentences as queries: which of them a trained model can read, and what it reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from clipmill.jobs.search_queries import Failure
from clipmill.models.checkpoints import TrainedModel
from clipmill.pipelines.datasets.queries import sentence_words
from clipmill.pipelines.datasets.text import Vocabulary
from clipmill.pipelines.reports.search import SearchedQuery
from clipmill.schemas.errors import describe
from clipmill.schemas.inputs import InputRows, Tokens


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Queries that have found nothing yet, and what the inputs of the query's side read of them.

    Attributes:
        unknown_words: of each sentence, the words that the model was not trained with.
    """

    queries: tuple[SearchedQuery, ...]
    inputs: Mapping[str, InputRows]
    unknown_words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def finds_clips(trained: TrainedModel) -> bool:
    """Returns whether a model ranks clips by texts: all that it reads of a query are words."""
    card = trained.card
    if card.task != "retrieval":
        return False
    query, gallery = ([card.inputs.get(name) for name in card.sides[side]] for side in ("query", "gallery"))
    return all(isinstance(kind, Tokens) for kind in query) and not any(isinstance(kind, Tokens) for kind in gallery)


def known_sentences(
    trained: TrainedModel, sentences: Sequence[str]
) -> tuple[list[str], list[Failure], Mapping[str, tuple[str, ...]]]:
    """Returns the sentences that the model knows a word of, the others, and which words it does not know."""
    texts = {name: kind for name, kind in trained.card.inputs.items() if isinstance(kind, Tokens)}
    known = set[str]().union(*(trained.origin.vocabularies[name] for name in texts))
    usable, failures, unknown = list[str](), list[Failure](), dict[str, tuple[str, ...]]()
    for sentence in sentences:
        words = tuple(dict.fromkeys(word for kind in texts.values() for word in sentence_words([sentence], kind)[0]))
        unknown[sentence] = tuple(word for word in words if word not in known)
        if len(unknown[sentence]) < len(words):
            usable.append(sentence)
            continue
        got = "no word" if not words else f"only others ({', '.join(words[:5])})"
        expected = "words that the model was trained with"
        failures.append(Failure(sentence, describe("query", repr(sentence), expected, got, "say it in other words")))
    return usable, failures, unknown


def read_sentences(trained: TrainedModel, sentences: Sequence[str]) -> tuple[Asked, list[Failure]]:
    """Returns the sentences that the model knows a word of, as it reads them, and the others.

    A model of several texts, such as SemArt's of comment and title, reads the sentence as each of them (ours).
    """
    usable, failures, unknown = known_sentences(trained, sentences)
    inputs = {
        name: Vocabulary(trained.origin.vocabularies[name]).rows(sentence_words(usable, kind), kind.max_tokens)
        for name, kind in trained.card.inputs.items()
        if isinstance(kind, Tokens)
    }
    return Asked(tuple(SearchedQuery(sentence, "", b"", {}) for sentence in usable), inputs, unknown), failures
