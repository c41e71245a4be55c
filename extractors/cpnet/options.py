"""Switches of CPNet, and what follows from them alone."""

from pydantic import Field, model_validator

from clipmill.extractors.cpnet.releases import RELEASES, Depth, InputSize, Release
from clipmill.schemas.model import Model


class CPNetOptions(Model):
    """Switches of CPNet. None means: as published for the depth, or for the weights.

    Attributes:
        depth: of the ResNet.
        input_size: side of the square crop. The stem's stride is 2 for 224 and 1 for 112, so the maps are 56, 28, 14
            and 7 either way.
        num_classes: of random weights; a file tells its own.
        k: neighbours of a point. Weights are good for the k they were trained with: the authors lost up to 16 points
            of accuracy with another.
        cp_blocks: of res3, res4 and res5, how many of the last blocks have a CP module (random weights only).
        mlp_divisors: widths of a CP module's layers, as divisors of the map's channels (random weights only). The
            published models' parameter counts do not fit the released code's widths, which are the default.
        chunk_queries: rows of the score matrix held at a time; None: as many as 64 MiB hold. It bounds memory and
            changes no number.
        fold_batch_norm: fold batch norm into the convolutions: faster, the same up to rounding.
        classes: names of the classes of the last layer, in its order, where the weights were trained on one's own.
        batch_norm_epsilon: in place of TensorFlow's 1e-3.
    """

    depth: Depth = 18
    input_size: InputSize | None = None
    num_classes: int | None = Field(default=None, ge=1)
    k: int | None = Field(default=None, ge=1)
    cp_blocks: tuple[int, int, int] | None = None
    mlp_divisors: tuple[int, ...] | None = None
    chunk_queries: int | None = Field(default=None, ge=1)
    fold_batch_norm: bool = True
    classes: tuple[str, ...] = ()
    batch_norm_epsilon: float | None = Field(default=None, gt=0, le=0.1)

    @model_validator(mode="after")
    def _fits_the_depth(self) -> "CPNetOptions":
        blocks = RELEASES[self.depth].blocks[1:]
        if self.cp_blocks is not None and any(
            not 0 <= wanted <= there for wanted, there in zip(self.cp_blocks, blocks, strict=True)
        ):
            raise ValueError(f"cp_blocks: expected at most {list(blocks)} for depth {self.depth}")
        if self.mlp_divisors is not None and not (
            self.mlp_divisors and all(divisor in (1, 2, 4, 8, 16, 32, 64) for divisor in self.mlp_divisors)
        ):
            raise ValueError("mlp_divisors: expected one or more powers of two from 1 to 64")
        return self

    @property
    def release(self) -> Release:
        """What is published for the depth."""
        return RELEASES[self.depth]

    @property
    def placed(self) -> tuple[int, int, int]:
        """`cp_blocks`, or the published ones."""
        return self.release.cp_blocks if self.cp_blocks is None else self.cp_blocks

    @property
    def neighbours(self) -> int:
        """`k`, or the published one."""
        return self.k or self.release.k


def fewest_points(options: CPNetOptions, height: int, width: int) -> int:
    """Returns the points of a frame in the smallest map that is searched; a large number where none is."""
    # res3 searches on maps shrunk to res4's size; before that come the stem, the max-pool and two halvings.
    res4 = 8 * stem_stride(options)
    res5 = 2 * res4
    strides = [stride for stride, count in zip((res4, res4, res5), options.placed, strict=True) if count]
    return min((-(-height // stride) * -(-width // stride) for stride in strides), default=1 << 30)


def stem_stride(options: CPNetOptions) -> int:
    """Returns the stride of the first convolution: 2 for 224 pixels, 1 for 112."""
    return 2 if options.input_size == 224 else 1
