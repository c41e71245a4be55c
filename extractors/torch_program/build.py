"""An exported program of PyTorch as an extractor."""

from clipmill.extractors.base import options_of
from clipmill.extractors.exported.extractor import ProgramExtractor
from clipmill.extractors.torch_program.card import CARD, KIND
from clipmill.schemas.recipe import Recipe


def build(recipe: Recipe, device: str) -> ProgramExtractor:
    """Returns the extractor of the recipe's file, on `device`."""
    return ProgramExtractor(KIND.load(recipe, device), recipe, options_of(CARD, recipe), device)
