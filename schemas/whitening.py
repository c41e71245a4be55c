"""A PCA whitening: what was fitted, on what, and its fingerprint."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from clipmill.schemas.arrays import Floats
from clipmill.schemas.fingerprint import fingerprint


@dataclass(frozen=True)
class Whitening:
    """``y = diag(eigenvalues ** -0.5) . components . (x - mean)``.

    Attributes:
        mean: ``float64[D]``.
        components: ``float64[C, D]``, orthonormal rows, the direction of greatest variance first.
        eigenvalues: ``float64[C]``, the variance along each, not less than the floor of the fit.
        num_floored: how many of them were raised to that floor.
        num_vectors: that it was fitted on.
        feature: fingerprint of the recipe those vectors were made with.
        network: what made the vectors' numbers; descriptors of another network must not be whitened with it.
        videos: fingerprints of the videos it was fitted on, sorted: it must not be judged on those.
    """

    mean: Floats
    components: Floats
    eigenvalues: Floats
    num_floored: int
    num_vectors: int
    feature: str
    network: Mapping[str, Any]
    videos: tuple[str, ...]

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits over the numbers and where they come from."""
        arrays = hashlib.sha256()
        for array in (self.mean, self.components, self.eigenvalues):
            arrays.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return fingerprint(self.about() | {"arrays": arrays.hexdigest(), "videos": list(self.videos)})

    def about(self) -> dict[str, Any]:
        """Returns all but the arrays and the list of videos, as JSON values."""
        return {
            "num_vectors": self.num_vectors,
            "num_components": len(self.eigenvalues),
            "num_floored": self.num_floored,
            "feature": self.feature,
            "network": dict(self.network),
        }

    def projection(self, rotate_back: bool) -> Floats:
        """Returns ``float64[C, D]``, what centred vectors are multiplied with.

        Args:
            rotate_back: the ZCA form ``float64[D, D]``: rotated back to the channels. It changes no distance.
        """
        scaled = self.components / np.sqrt(self.eigenvalues)[:, None]
        return self.components.T @ scaled if rotate_back else scaled
