"""The published depths of CPNet, and the weights there are of each."""

from dataclasses import dataclass
from typing import Literal

Depth = Literal[18, 34, 101]
InputSize = Literal[112, 224]


@dataclass(frozen=True, slots=True)
class Release:
    """One published depth.

    Attributes:
        blocks: residual blocks of res2 to res5.
        bottleneck: blocks of 1x1, 3x3 and 1x1 convolutions (ResNet-101) instead of two 3x3 ones. CP modules then search
            on an eighth of the channels.
        cp_blocks: of res3, res4 and res5, how many of the last blocks have a CP module.
        k: neighbours of a point.
        mlp_divisors: widths of a CP module's layers are the map's channels divided by these.
        num_features: length of the pooled features.
        published: data, classes and input side of published weights; the first is the default.
        gmac: of a window of 12 frames at 112 or 224 pixels (the stem's stride makes them equal), search included.
        gmac_quadratic: the part of it that grows with the square of the frames: all points meet all others.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool
    cp_blocks: tuple[int, int, int]
    k: int
    mlp_divisors: tuple[int, ...]
    num_features: int
    published: tuple[tuple[str, int, InputSize], ...]
    gmac: float
    gmac_quadratic: float

    def gmac_of(self, num_frames: int) -> float:
        """Returns the cost of a window of so many frames."""
        times = num_frames / 12
        return (self.gmac - self.gmac_quadratic) * times + self.gmac_quadratic * times**2


SOMETHING: tuple[str, int, InputSize] = ("something", 174, 224)

RELEASES: dict[int, Release] = {
    18: Release((2, 2, 2, 2), False, (2, 2, 0), 8, (4, 2), 512, (("kinetics", 400, 112), SOMETHING), 26.8, 4.25),
    34: Release((3, 4, 6, 3), False, (2, 3, 0), 8, (4, 2), 512, (("jester", 27, 112), SOMETHING), 50.7, 5.66),
    101: Release((3, 4, 23, 3), True, (2, 3, 0), 4, (8,), 2048, (("kinetics", 400, 224),), 96.5, 2.83),
}


def layout_name(depth: int, data: str | None) -> str:
    """Returns the name of the layout of weights trained on `data`, or of weights with any number of classes."""
    default = RELEASES[depth].published[0][0]
    suffix = "" if data == default else f"_{data or 'any'}"
    return f"cpnet_c2d_resnet{depth}_tf{suffix}"


def card_name(depth: int, data: str) -> str:
    """Returns the name of the weights card of weights trained on `data`."""
    return f"{data}-resnet{depth}"
