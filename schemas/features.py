"""Which stored feature, or which other source, something was made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FeatureSource:
    """What one input of a model was read from.

    Attributes:
        name: of the feature; of text its file's name.
        recipe_fingerprint: of the feature; of text the digest of its file.
        dim: length of a row; of tokens the size of the vocabulary.
        videos: by video id, the beginnings of its bytes' fingerprint and of its values' digest: ``1a2b3c4d:5e6f7a8b``.
        passports: by field of the passport, its different values over those videos, sorted.
    """

    name: str
    recipe_fingerprint: str
    dim: int
    videos: Mapping[str, str] = field(default_factory=dict)
    passports: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
