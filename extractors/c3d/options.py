"""Switches of C3D, and the one size of its windows."""

from typing import Literal

from pydantic import Field, model_validator

from clipmill.schemas.model import Model

NUM_FRAMES = 16
CROP = (112, 112)
"""Rows and columns: fc6 takes no other."""


class C3DOptions(Model):
    """Switches of C3D.

    Attributes:
        pool5: ``caffe`` pools 7 to 4 without padding, rounding up; ``port`` pads by one and rounds down, as the PyTorch
            ports do. Both give 4 x 4 but different numbers. None: what the weights were trained or published with.
        mean_cube: path of a mean volume to subtract instead of the channel means: Caffe's ``.binaryproto`` or ``.npy``.
            Once resolved, the recipe has it as ``preprocess.mean_cube``.
        pca: path of ``PCA_activitynet_v1-3.hdf5`` (or one of its layout), to project fc7 or fc6 with. Once resolved,
            the recipe has the SHA-256 of its bytes.
        pca_orientation: whether its principal directions are ``columns`` or ``rows`` of U; ``clipmill orient`` tells.
        pca_dim: how many of them; None: 500, as published.
        classes: names of the classes of the last layer, in its order, where the weights were trained on one's own.
    """

    pool5: Literal["caffe", "port"] | None = None
    mean_cube: str | None = None
    pca: str | None = Field(default=None, min_length=1)
    pca_orientation: Literal["columns", "rows"] | None = None
    pca_dim: int | None = Field(default=None, ge=1, le=4096)
    classes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _of_pca(self) -> "C3DOptions":
        if self.pca is None and (self.pca_orientation is not None or self.pca_dim is not None):
            raise ValueError("pca_orientation and pca_dim belong to pca: expected pca: FILE, got none")
        return self
