"""The YAML file of ``clipmill whiten``."""

from pydantic import Field

from clipmill.schemas.model import LocalPath, Model


class WhitenConfig(Model):
    """``clipmill whiten FILE``: fit a PCA whitening to regional vectors.

    Attributes:
        store, feature: where the vectors are: layer regions of extractor rmac, without a whitening.
        out: path of the file to write (.npz).
        components: directions to keep, those of greatest variance; None: all.
        floor: least variance along a direction, as a share of the greatest; smaller ones are raised to it (ours).
        dask: address of a ``distributed`` scheduler; None: threads.
    """

    store: str = Field(min_length=1)
    feature: str = Field(min_length=1)
    out: LocalPath
    components: int | None = Field(default=None, ge=1)
    floor: float = Field(default=1e-6, gt=0, lt=1)
    dask: str | None = None
