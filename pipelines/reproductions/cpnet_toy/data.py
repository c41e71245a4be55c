"""The moving block of CPNet's toy experiment (Liu, Lee and Jin, CVPR 2019), and what its border gives away.

A white 2 x 2 block moves 7 to 9 pixels a frame on a black 32 x 32 canvas; the class is its direction. Two 3 x 3
convolutions see 5 pixels, so no local feature ever holds the block twice. But where a block touches the border, zero
padding tells a network which border it is, and with an order in time that is the direction: `border_leak` measures it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional

SIDE, BLOCK = 32, 2
"""Pixels of the canvas and of the block."""
STEPS = (7, 9)
"""Least and most pixels from one frame to the next, drawn for each frame."""
CLASSES = ("up", "down", "left", "right")
DIRECTIONS = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])
"""Rows and columns."""
REACH = 3
"""A block with fewer pixels than this between it and a border is told from one that is further in: the second
convolution's outermost row sees its own padding, which is no background (the first has a bias), and a block that begins
in the third row of pixels."""

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Variant:
    """One set of clips.

    Attributes:
        num_frames: of a clip.
        margin: least distance of the block from every border, in pixels.
    """

    name: str
    num_frames: int
    margin: int
    summary: str


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("published", 4, 0, "4 frames, the block anywhere on the canvas"),
        # ours. With three frames as with four, no output of two convolutions then depends on both block and border.
        Variant("leak-free", 3, REACH, "3 frames, the block at least 3 pixels from every border"),
    )
}


@dataclass(frozen=True, slots=True)
class Clips:
    """Clips of one variant: top left corner of the block per frame, ``int64[N, T, 2]``, and class, ``int64[N]``."""

    corners: Positions
    label: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)

    def frames(self) -> npt.NDArray[np.float32]:
        """Returns ``float32[N, T, 32, 32]``: 1 in the block, 0 elsewhere."""
        num_clips, num_frames, _ = self.corners.shape
        canvas = np.zeros((num_clips, num_frames, SIDE, SIDE), dtype=np.float32)
        clip, frame = np.ogrid[:num_clips, :num_frames]
        for row in range(BLOCK):
            for column in range(BLOCK):
                canvas[clip, frame, self.corners[:, :, 0] + row, self.corners[:, :, 1] + column] = 1.0
        return canvas

    def keys(self) -> set[bytes]:
        """Returns what tells clips apart."""
        return {corners.tobytes() for corners in self.corners}


def draw(variant: Variant, num_clips: int, rng: np.random.Generator, apart_from: Clips | None = None) -> Clips:
    """Returns `num_clips` random clips, as many of each class, in random order.

    Args:
        num_clips: a multiple of four.
        apart_from: none of these clips is drawn (clips are short, and one in some ten would come twice).
    """
    known = apart_from.keys() if apart_from is not None else set()
    corners: list[Positions] = []
    for direction in range(len(CLASSES)):
        kept: list[Positions] = []
        while len(kept) < num_clips // len(CLASSES):
            drawn = _draw_class(variant, direction, num_clips, rng)
            kept += [one for one in drawn if one.tobytes() not in known]
        corners += kept[: num_clips // len(CLASSES)]
    label = np.repeat(np.arange(len(CLASSES)), num_clips // len(CLASSES))
    order = rng.permutation(len(label))
    return Clips(np.stack(corners)[order], label[order])


def _draw_class(variant: Variant, direction: int, num_clips: int, rng: np.random.Generator) -> Positions:
    low, high = variant.margin, SIDE - BLOCK - variant.margin
    steps = rng.integers(STEPS[0], STEPS[1] + 1, (num_clips, variant.num_frames - 1))
    way = np.concatenate([np.zeros((num_clips, 1), dtype=np.int64), steps.cumsum(axis=1)], axis=1)
    start = rng.integers(low, high + 1 - way[:, -1])
    across = rng.integers(low, high + 1, num_clips)
    along = start[:, None] + way
    sign, axis = DIRECTIONS[direction].sum(), int(np.abs(DIRECTIONS[direction]).argmax())
    corners = np.empty((num_clips, variant.num_frames, 2), dtype=np.int64)
    corners[:, :, axis] = along if sign > 0 else low + high - along
    corners[:, :, 1 - axis] = across[:, None]
    return corners


def border_touches(clips: Clips, ordered: bool, reach: int = REACH) -> npt.NDArray[np.float32]:
    """Returns which borders (top, bottom, left, right) the block touches: all that padding can tell.

    A border is touched where less than `reach` pixels lie between it and the block.

    Args:
        ordered: ``[N, T * 4]``, frame by frame, as a network with zero padding in time can see it; or ``[N, 4]``, the
            mean over frames, as a network that sees frames one by one.
    """
    low = clips.corners < reach
    high = clips.corners > SIDE - BLOCK - reach
    touches = np.stack([low[:, :, 0], high[:, :, 0], low[:, :, 1], high[:, :, 1]], axis=2).astype(np.float32)
    return touches.reshape(len(clips), -1) if ordered else touches.mean(axis=1)


def border_leak(train: Clips, test: Clips, ordered: bool, reach: int = REACH) -> float:
    """Returns the accuracy on `test` of a linear classifier that knows only `border_touches` of `train`."""
    inputs, held_out = (torch.from_numpy(border_touches(clips, ordered, reach)) for clips in (train, test))
    label = torch.from_numpy(train.label)
    weight = torch.zeros(inputs.shape[1], len(CLASSES), requires_grad=True)
    bias = torch.zeros(len(CLASSES), requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        # A little weight decay: some touches decide, and their weights would grow without end.
        value = functional.cross_entropy(inputs @ weight + bias, label) + 1e-4 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        predicted = (held_out @ weight + bias).argmax(dim=1).numpy()
    return float((predicted == test.label).mean())
