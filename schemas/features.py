"""Which stored feature something was made from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FeatureSource:
    """One stored feature a model was trained on."""

    name: str
    recipe_fingerprint: str
    dim: int
