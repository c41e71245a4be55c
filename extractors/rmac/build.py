"""R-MAC as an extractor: frames to descriptors, or to their regional parts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional
from PIL import Image
from torch import Tensor

from clipmill.extractors.base import Reducer, options_of
from clipmill.extractors.resnet50.build import network_of as resnet50_of
from clipmill.extractors.resnet50.network import ResNet50
from clipmill.extractors.rmac.card import CARD
from clipmill.extractors.rmac.network import Maps, unit
from clipmill.extractors.rmac.options import RMACOptions
from clipmill.extractors.rmac.regions import Region, regions
from clipmill.extractors.squeezenet.build import network_of as squeezenet_of
from clipmill.extractors.squeezenet.network import SqueezeNet
from clipmill.extractors.torch_extractor import TorchExtractor
from clipmill.extractors.vgg16.build import network_of as vgg16_of
from clipmill.extractors.vgg16.network import VGG16
from clipmill.extractors.whitening import read_whitening
from clipmill.schemas.errors import VideoError, WeightsError, describe
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Clip, Window
from clipmill.schemas.rows import Rows

GEM_POWER, GEM_LEAST = 3.0, 1e-6
"""Of the generalised mean (Radenovic et al., TPAMI 2019): what cnnimageretrieval begins to train with."""


class RMACExtractor(TorchExtractor):
    """Pools maps over regions; regional vectors, and all that follows, are float32 whatever the network's precision."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        options: RMACOptions = options_of(CARD, recipe)
        network: VGG16 | ResNet50 | SqueezeNet
        if options.network == "vgg16":
            network = vgg16_of(recipe, "pool5")
            first = network.features[0]
        elif options.network == "squeezenet":
            network = squeezenet_of(recipe, "features")
            first = network.features[0]
        else:
            network = resnet50_of(recipe, "features", fold_batch_norm=not options.keep_batch_norm)
            first = network.conv1
        super().__init__(Maps(network, options.last_pool), recipe, device, first, single_frames=True)
        self._options = options
        self._mean: Tensor | None = None
        if "whitening" in recipe.files:
            whitening = read_whitening(recipe.files["whitening"])
            if whitening.fingerprint != options.whitening:
                path = recipe.files["whitening"]
                expected, got = f"whitening {options.whitening[:8]}", whitening.fingerprint[:8]
                remedy = "put the file back, or build again with the new one"
                raise WeightsError(describe("whitening", path, expected, got, remedy))
            projection = whitening.projection(rotate_back=options.whitening_form == "zca")
            self._mean = torch.from_numpy(whitening.mean).float().to(self._device)
            self._projection = torch.from_numpy(projection.T.copy()).float().to(self._device)

    def rows(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """Returns descriptors ``float32[N, D]``, or for layer regions their parts ``float32[N, R, D]``.

        R is a function of the frames' size alone (`regions`).

        Raises:
            VideoError: ``frame_too_small``: VGG-16's maps of these frames would have no cell.
        """
        if not self._options.resolutions:
            return self.rows_of(self.prepare(frames))
        vectors = torch.cat([self._vectors(self.prepare(resized)) for resized in self._resolutions(frames)], dim=1)
        return vectors if self._recipe.layer == "regions" else unit(vectors.sum(dim=1))

    def rows_of(self, inputs: Tensor) -> Tensor:
        """Returns what `rows` does of the network's input, at its one resolution."""
        if self._options.scales:
            return self._of_scales(inputs)
        vectors = self._vectors(inputs)
        return vectors if self._recipe.layer == "regions" else unit(vectors.sum(dim=1))

    def _resolutions(self, frames: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
        """Returns the frames at each resolution, sides rounded half to even, as Pillow resizes."""
        kind = Image.Resampling.BICUBIC if self._options.resolutions_filter == "bicubic" else Image.Resampling.NEAREST
        found = []
        for factor in self._options.resolutions:
            rows, columns = (round(side * factor) for side in frames.shape[2:4])
            if (rows, columns) == frames.shape[2:4]:
                found.append(frames)
                continue
            images = [Image.fromarray(window[0]).resize((columns, rows), kind) for window in frames]
            found.append(np.stack([np.asarray(image) for image in images])[:, np.newaxis])
        return found

    def _of_scales(self, images: Tensor) -> Tensor:
        """Returns the power mean of the descriptors at each scale, of unit length, ``[N, D]``."""
        power = self._options.scale_power or 1.0
        total: Tensor | None = None
        for scale in self._options.scales:
            resized = images
            if scale != 1:
                resized = functional.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
            descriptors = unit(self._vectors(resized).sum(dim=1)) ** power
            total = descriptors if total is None else total + descriptors
        if total is None:
            raise ValueError("R-MAC: expected scales, got none")
        return unit((total / len(self._options.scales)) ** (1 / power))

    def _vectors(self, images: Tensor) -> Tensor:
        """Returns the vectors that are summed, ``[N, R, D]``: of regions, or of the whole map."""
        self._check_size(images.shape[2], images.shape[3])
        maps = self._network(images).float()
        return self._regional(maps) if self._options.pool is None else self._whole(maps)

    def _whole(self, maps: Tensor) -> Tensor:
        """Returns one vector of the whole map, of unit length, ``[N, 1, D]``."""
        if self._options.pool == "mac":
            pooled = maps.amax((2, 3))
        elif self._options.pool == "spoc":
            pooled = maps.mean((2, 3))
        else:
            power = self._options.gem_power or GEM_POWER
            pooled = maps.clamp(min=GEM_LEAST).pow(power).mean((2, 3)).pow(1 / power)
        return unit(pooled)[:, None]

    def _check_size(self, rows: int, columns: int) -> None:
        stride = 32 if self._options.last_pool else 16
        if self._options.network == "vgg16" and min(rows, columns) < stride:
            expected = f"at least {stride} x {stride} pixels after the resize"
            remedy = "raise preprocess.size, or leave the video out"
            raise VideoError(
                "extract", "frame_too_small", describe("frame", "size", expected, f"{columns} x {rows}", remedy)
            )

    def _regional(self, maps: Tensor) -> Tensor:
        """Returns the vectors that are summed, ``[N, R, D]``: regional maxima of unit length, whitened, so again."""
        found = [
            maps[:, :, region.top : region.top + region.height, region.left : region.left + region.width].amax((2, 3))
            for region in self.regions(maps.shape[3], maps.shape[2])
        ]
        # Both networks' maps are clamped at zero already, by their last ReLU.
        vectors = unit(torch.stack(found, dim=1))
        if self._mean is None:
            return vectors
        return unit((vectors - self._mean) @ self._projection)

    def regions(self, width: int, height: int) -> list[Region]:
        """Returns the regions of a map of `width` x `height` cells, as layer regions has them; last the whole map."""
        return regions(width, height, self._options)

    def reducer(self, clip: Clip) -> Reducer:
        """Returns a reducer that makes one row per frame, or one per region of each frame."""
        return RegionRows(clip, self._recipe) if self._recipe.layer == "regions" else super().reducer(clip)


class RegionRows:
    """One row per region of each frame: by frame, then in the order of the regions, with the frame's times."""

    def __init__(self, clip: Clip, recipe: Recipe) -> None:
        self._clip, self._recipe = clip, recipe
        self._values: list[npt.NDArray[Any]] = []
        self._times: list[tuple[float, float]] = []

    def add(self, window: Window, outputs: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Keeps ``outputs["values"]``, ``[R, D]``."""
        values = np.asarray(outputs["values"], dtype=self._recipe.dtype)
        self._values.append(values)
        self._times += [(window.start_seconds, window.stop_seconds)] * len(values)

    def rows(self) -> Rows:
        """Returns the rows of all frames."""
        times = np.array(self._times, dtype=np.float64).reshape(-1, 2)
        values = self._values or [np.zeros((0, self._recipe.dim), dtype=self._recipe.dtype)]
        return Rows(
            values=np.concatenate(values),
            clip=np.full(len(times), self._clip.index, dtype=np.int32),
            start_seconds=times[:, 0],
            stop_seconds=times[:, 1],
            mask=np.ones(len(times), dtype=np.bool_),
        )


def build(recipe: Recipe, device: str) -> RMACExtractor:
    """Returns the extractor with the recipe's weights and whitening.

    Raises:
        WeightsError: a file is no longer the one the recipe was resolved with.
    """
    return RMACExtractor(recipe, device)
