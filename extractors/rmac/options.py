"""Switches of R-MAC."""

from typing import Literal

from pydantic import Field

from clipmill.schemas.model import Model

NO_WHITENING = "none"


class RMACOptions(Model):
    """Switches of R-MAC; the defaults are Garcia and Vogiatzis's, but for the whitening, which needs a file.

    Attributes:
        network: whose last maps are pooled.
        grid: ``rmac``, the published regions; ``rmac_plus``, the fixed ones of R-MAC+.
        levels: scales of regions.
        overlap: wanted of neighbouring regions at the first scale, as a share of their side (grid ``rmac``).
        mac: also add the maximum over the whole map, as one more region.
        last_pool: pool VGG-16's last maps (stride 32); False: cut that pooling off (stride 16).
        means: ``krmac``: the channel means of red and blue swapped, as keras_rmac subtracts them (Caffe flavour only).
        whitening: file made by ``clipmill whiten``, applied to each regional vector; ``none``: no whitening. Once
            resolved, the recipe has the fingerprint of what is in the file.
        whitening_form: ``pca``; ``zca``: rotated back to the channels, which changes no distance.
        whitening_of_these_videos: let videos be described with a whitening that was fitted on them.
    """

    network: Literal["vgg16", "resnet50"] = "vgg16"
    grid: Literal["rmac", "rmac_plus"] = "rmac"
    levels: int = Field(default=3, ge=1, le=10)
    overlap: float = Field(default=0.4, ge=0, lt=1)
    mac: bool = False
    last_pool: bool = True
    means: Literal["published", "krmac"] = "published"
    whitening: str = Field(default=NO_WHITENING, min_length=1)
    whitening_form: Literal["pca", "zca"] = "pca"
    whitening_of_these_videos: bool = False
