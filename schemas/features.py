"""Which stored feature, or which other source, something was made from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FeatureSource:
    """What one input of a model was read from.

    Attributes:
        name: of the feature; of text its file's name.
        recipe_fingerprint: of the feature; of text the digest of its file.
        dim: length of a row; of tokens the size of the vocabulary.
    """

    name: str
    recipe_fingerprint: str
    dim: int
