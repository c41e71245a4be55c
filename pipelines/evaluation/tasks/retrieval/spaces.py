"""Which spaces a retrieval scores: a model's, and plain cosine where the vectors come from one network."""

from collections.abc import Sequence
from dataclasses import replace

from clipmill.pipelines.evaluation.retrieval.rerank import Reranked
from clipmill.pipelines.evaluation.retrieval.scorers import Combined, Scorer
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.inputs import Input, Vector
from clipmill.schemas.recipe import Recipe, Weights

COSINE = "cosine"
"""The baseline's space: stored vectors as they are."""

COSINE_INPUTS: dict[str, Input] = {"image": Vector("first"), "video": Vector("mean")}
"""What is compared where there is no model."""

Spaces = dict[str, Scorer | Combined | Reranked]


def comparable(image: Recipe, video: Recipe) -> bool:
    """Returns whether both vectors are outputs of one network: same extractor, layer, weights and length."""
    return _network(image) == _network(video)


def _network(recipe: Recipe) -> tuple[str, str, Weights, int]:
    return recipe.extractor, recipe.layer, _weights(recipe), recipe.dim


def _weights(recipe: Recipe) -> Weights:
    """Returns the recipe's weights without the path they were read from."""
    return recipe.weights.model_copy(update={"file": None})


def chosen_spaces(scorers: Spaces, names: Sequence[str], thing: str = "evaluation") -> Spaces:
    """Returns the named spaces, and those a combined or re-ranked one among them is made of.

    Raises:
        UsageError: there is no space of that name.
    """
    for name in names:
        if name not in scorers:
            raise UsageError(describe(thing, "spaces", ", ".join(scorers) or "none here", name, "correct the name"))
    chosen = {name: scorers[name] for name in names}
    for scorer in list(chosen.values()):
        if isinstance(scorer, Combined | Reranked):
            parts = scorer.weights if isinstance(scorer, Combined) else [scorer.first]
            chosen = {name: scorers[name] for name in parts if name not in chosen} | chosen
    return chosen


def check_recipe_trained_on(run: str, role: str, name: str, trained_on: str, now: str) -> None:
    """Makes sure that a feature is still of the recipe a run was trained on.

    Raises:
        UsageError: it is another one.
    """
    if trained_on != now:
        raise UsageError(
            describe(
                "run",
                run,
                f"{role} feature {name} of recipe {trained_on[:8]}, which it was trained on",
                f"{name} of recipe {now[:8]}",
                "train again, or evaluate with the old recipe's key as the feature name",
            )
        )


def with_rerank(scorers: Spaces, k: int | None, thing: str = "evaluation") -> Spaces:
    """Returns the spaces with `k` items of each re-ranked one scored again; None: as many as the model says.

    Raises:
        UsageError: `k` is given and nothing is re-ranked.
    """
    if k is None:
        return scorers
    if not any(isinstance(scorer, Reranked) for scorer in scorers.values()):
        got, remedy = ", ".join(scorers) or "none", "leave rerank out"
        raise UsageError(describe(thing, "rerank", "a model with a re-ranked space", got, remedy))
    return {name: replace(scorer, k=k) if isinstance(scorer, Reranked) else scorer for name, scorer in scorers.items()}
