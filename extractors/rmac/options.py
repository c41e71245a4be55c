"""Switches of R-MAC."""

from typing import Annotated, Literal

from pydantic import Field

from clipmill.schemas.model import Model

NO_WHITENING = "none"


Factor = Annotated[float, Field(gt=0, le=4)]


class RMACOptions(Model):
    """Switches of R-MAC; the defaults are Garcia and Vogiatzis's, but for the whitening, which needs a file.

    Attributes:
        network: whose last maps are pooled; SqueezeNet's are ours, for CPUs.
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
        pool: one vector of the whole map in place of the regions', as cnnimageretrieval names them: ``mac`` (maximum),
            ``spoc`` (mean), ``gem`` (generalised mean).
        gem_power: of ``gem``; 3 where that code begins to train it.
        resolutions: factors by which the prepared frame is resized; the regions of all are in one sum, as in R-MAC+,
            whose factors are 1, 0.75 and 1.25. Empty: the frame alone.
        resolutions_filter: how: ``nearest``, what Pillow's resize did when R-MAC+ was made, or ``bicubic``, what it
            does now. None: ``nearest``.
        scales: factors by which the network's input is resized (bilinear); the descriptors of all are combined, as in
            cnnimageretrieval, whose factors are 1, 0.7071 and 0.5. Empty: the input alone.
        scale_power: descriptors are combined by a mean of this power; None: 1.
        keep_batch_norm: do not fold ResNet-50's batch norm into its convolutions, which is slower, and the same up to
            rounding: so it is trained.
    """

    network: Literal["vgg16", "resnet50", "squeezenet"] = "vgg16"
    grid: Literal["rmac", "rmac_plus"] = "rmac"
    levels: int = Field(default=3, ge=1, le=10)
    overlap: float = Field(default=0.4, ge=0, lt=1)
    mac: bool = False
    last_pool: bool = True
    means: Literal["published", "krmac"] = "published"
    whitening: str = Field(default=NO_WHITENING, min_length=1)
    whitening_form: Literal["pca", "zca"] = "pca"
    whitening_of_these_videos: bool = False
    pool: Literal["mac", "spoc", "gem"] | None = None
    gem_power: float | None = Field(default=None, gt=0)
    resolutions: tuple[Factor, ...] = ()
    resolutions_filter: Literal["nearest", "bicubic"] | None = None
    scales: tuple[Factor, ...] = ()
    scale_power: float | None = Field(default=None, gt=0)
    keep_batch_norm: bool = False
