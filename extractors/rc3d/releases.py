"""The public releases of R-C3D (Xu et al., ICCV 2017): the Caffe code and a PyTorch code, each on several data sets.

The first is the authors' (VisionLearningGroup/R-C3D), the second sunnyxiaohu/R-C3D.pytorch.

They differ in ways that change which weights fit and what the numbers are. The released Caffe models follow their
prototxts, not the paper; where the paper differs, that is said here.
"""

from dataclasses import dataclass, replace
from typing import Literal

ReleaseName = Literal[
    "pytorch-activitynet",
    "pytorch-thumos14",
    "caffe-activitynet",
    "caffe-thumos14",
    "caffe-charades",
    "pytorch-activitynet-resnet18",
    "pytorch-activitynet-resnet34",
    "pytorch-activitynet-resnet50",
    "pytorch-thumos14-resnet18",
    "pytorch-thumos14-resnet34",
]

CAFFE_THUMOS_SCALES = tuple(float(scale) for scale in range(2, 57, 2))
# Also the paper's, for THUMOS14.
PYTORCH_THUMOS_SCALES = (2.0, 4.0, 5.0, 6.0, 8.0, 9.0, 10.0, 12.0, 14.0, 16.0)
# fmt: off
ACTIVITYNET_SCALES = (
    1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 14.0, 16.0,
    18.0, 20.0, 22.0, 24.0, 28.0, 32.0, 36.0, 40.0, 44.0, 52.0, 60.0, 68.0, 76.0, 84.0, 92.0, 100.0,
)
CHARADES_SCALES = (
    1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 14.0, 16.0, 20.0, 24.0, 28.0, 32.0, 40.0, 48.0,
)
# The paper's list, which no released model uses.
PAPER_ACTIVITYNET_SCALES = (
    1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 14.0, 16.0, 20.0, 24.0, 28.0, 32.0, 40.0, 48.0, 56.0, 64.0,
)
# fmt: on

FEATURE_STRIDE_FRAMES = 8
"""Frames per cell of the trunk's map; also the length of the base anchor."""
OFFSET_STD = (0.1, 0.2)
"""Targets of the head's offsets are divided by these in training (centre, log length)."""

THUMOS14_CLASSES = (
    "background",
    "BaseballPitch",
    "BasketballDunk",
    "Billiards",
    "CleanAndJerk",
    "CliffDiving",
    "CricketBowling",
    "CricketShot",
    "Diving",
    "FrisbeeCatch",
    "GolfSwing",
    "HammerThrow",
    "HighJump",
    "JavelinThrow",
    "LongJump",
    "PoleVault",
    "Shotput",
    "SoccerPenalty",
    "TennisSwing",
    "ThrowDiscus",
    "VolleyballSpiking",
)
"""In the order of the class list file, which both codes follow."""


@dataclass(frozen=True, slots=True)
class ProposalFilter:
    """How scored anchors become proposals: the best `num_before`, NMS, the best `num_after`.

    Attributes:
        nms: a proposal that overlaps a better one by more than this is dropped.
        min_length_frames: shorter ones are dropped first.
    """

    nms: float
    num_before: int
    num_after: int
    min_length_frames: float = 0.0


@dataclass(frozen=True, slots=True)
class Release:
    """One public release of the network with the settings it is trained and tested with.

    Attributes:
        name: such as ``pytorch-activitynet``.
        num_classes: with background as class 0.
        class_names: in class order, where it is known. The Caffe ActivityNet model numbers its classes by iterating an
            unordered set, the PyTorch one sorts the names: class c of one is not class c of the other.
        scales: anchor lengths in units of 8 frames.
        rpn_strided: two proposal convolutions of spatial stride 2 (then a 2x2 pool), or one without stride (a 7x7
            pool).
        pooled: time, rows and columns of a pooled region. 1x4x4 and 4x2x2 both flatten to 8192, so the weights of one
            load into the other without a word.
        has_fc7: whether a second hidden layer follows fc6.
        dropout: of the hidden layers in training.
        offsets_normalised: whether the head's weights give offsets divided by `OFFSET_STD` (PyTorch), to be multiplied
            back at test, or real ones (Caffe folds the division in when it saves).
        buffer_frames: frames of a buffer; `every`: each of so many 25-fps frames is taken.
        score_threshold, nms: per class, within a buffer. nms_video: again over all buffers of a video.
        max_detections: best per video; None: all.
        tail: of a video's windows: ``overlap`` is the pass from the start and the end of the video; the Caffe THUMOS14
            code passes from the start only, and drops the tail and videos shorter than a buffer.
        background_low: least overlap of a sampled background region. foreground_share: of the sampled regions.
        resampled: whether regions are drawn with replacement, to always reach their number.
        min_inside: share of an annotation that must lie in a training buffer.
        frozen: trunk layers that are not trained.
        resnet: depth of the 3D ResNet in place of C3D, whose last stage is the head and takes regions of any size.
    """

    name: str
    num_classes: int
    scales: tuple[float, ...]
    rpn_strided: bool
    pooled: tuple[int, int, int]
    has_fc7: bool
    dropout: float
    offsets_normalised: bool
    buffer_frames: int
    every: int
    train_filter: ProposalFilter
    test_filter: ProposalFilter
    score_threshold: float
    nms: float
    nms_video: float
    max_detections: int | None
    tail: Literal["drop", "overlap"]
    background_low: float
    foreground_share: float
    resampled: bool
    min_inside: float
    frozen: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    resnet: Literal[18, 34, 50] | None = None

    @property
    def num_features(self) -> int:
        """Length of the last hidden layer."""
        return {None: 4096, 18: 512, 34: 512, 50: 2048}[self.resnet]

    @property
    def step_frames(self) -> int:
        """Source frames between the starts of two test windows: a quarter of a window."""
        return self.buffer_frames * self.every // 4


RELEASES = {
    release.name: release
    for release in (
        Release(
            name="pytorch-activitynet",
            num_classes=201,
            scales=ACTIVITYNET_SCALES,
            rpn_strided=True,
            pooled=(1, 4, 4),
            has_fc7=False,
            dropout=0.5,
            offsets_normalised=True,
            buffer_frames=768,
            every=8,
            train_filter=ProposalFilter(0.8, 12000, 2000),
            test_filter=ProposalFilter(0.9, 6000, 300),
            score_threshold=0.005,
            nms=0.4,
            nms_video=0.3,
            max_detections=200,
            tail="overlap",
            background_low=0.1,
            foreground_share=0.5,
            resampled=True,
            min_inside=0.7,
            frozen=("conv1a", "conv2a"),
        ),
        Release(
            name="pytorch-thumos14",
            num_classes=21,
            scales=PYTORCH_THUMOS_SCALES,
            rpn_strided=True,
            pooled=(4, 2, 2),
            has_fc7=False,
            dropout=0.5,
            offsets_normalised=True,
            buffer_frames=768,
            every=1,
            train_filter=ProposalFilter(0.8, 12000, 2000),
            test_filter=ProposalFilter(0.9, 6000, 300),
            score_threshold=0.005,
            nms=0.4,
            nms_video=0.4,
            max_detections=200,
            tail="overlap",
            background_low=0.1,
            foreground_share=0.5,
            resampled=True,
            min_inside=0.7,
            frozen=("conv1a", "conv2a"),
            class_names=THUMOS14_CLASSES,
        ),
        Release(
            name="caffe-activitynet",
            num_classes=201,
            scales=ACTIVITYNET_SCALES,
            rpn_strided=True,
            pooled=(1, 4, 4),
            has_fc7=False,
            dropout=0.5,
            offsets_normalised=False,
            buffer_frames=768,
            every=8,
            train_filter=ProposalFilter(0.8, 12000, 2000),
            test_filter=ProposalFilter(0.9, 6000, 300),
            score_threshold=0.005,
            nms=0.4,
            nms_video=0.99999,
            max_detections=None,
            tail="overlap",
            background_low=0.1,
            foreground_share=0.5,
            resampled=False,
            min_inside=0.7,
            frozen=("conv1a", "conv2a"),
        ),
        Release(
            name="caffe-thumos14",
            num_classes=21,
            scales=CAFFE_THUMOS_SCALES,
            rpn_strided=False,
            pooled=(1, 4, 4),
            has_fc7=True,
            dropout=0.0,
            offsets_normalised=False,
            # The paper's length too; the PyTorch release has 768.
            buffer_frames=512,
            every=1,
            train_filter=ProposalFilter(0.7, 12000, 2000, min_length_frames=8),
            test_filter=ProposalFilter(0.7, 6000, 300, min_length_frames=8),
            score_threshold=0.05,
            nms=0.3,
            nms_video=0.4,
            max_detections=None,
            tail="drop",
            background_low=0.0,
            foreground_share=0.25,
            resampled=False,
            min_inside=1.0,
            class_names=THUMOS14_CLASSES,
        ),
    )
}

_RESNETS: tuple[tuple[str, Literal[18, 34, 50], tuple[int, int, int]], ...] = (
    ("activitynet", 18, (16, 4, 4)),
    ("activitynet", 34, (16, 4, 4)),
    ("activitynet", 50, (16, 4, 4)),
    ("thumos14", 18, (4, 2, 2)),
    ("thumos14", 34, (4, 2, 2)),
)
"""Data, depth and pooled region: the files res<depth>_<data>.yml of the PyTorch code."""
_RESNET_FROZEN = ("base.conv1", "base.bn1")
RELEASES |= {
    release.name: release
    for release in (
        # The authors' third data set: experiments/charades of their code. The prototxt has one proposal convolution and
        # fc7, as THUMOS14's; frames are every 5th of 25 a second.
        replace(
            RELEASES["caffe-thumos14"],
            name="caffe-charades",
            num_classes=158,
            scales=CHARADES_SCALES,
            buffer_frames=768,
            every=5,
            train_filter=ProposalFilter(0.7, 12000, 2000),
            test_filter=ProposalFilter(0.7, 6000, 300),
            score_threshold=0.0064,
            tail="overlap",
            min_inside=0.8,
            frozen=("conv1a", "conv2a"),
            class_names=(),
        ),
        *(
            replace(
                RELEASES[f"pytorch-{data}"],
                name=f"pytorch-{data}-resnet{depth}",
                pooled=pooled,
                frozen=_RESNET_FROZEN,
                resnet=depth,
            )
            for data, depth, pooled in _RESNETS
        ),
    )
}

DEFAULT_RELEASE: ReleaseName = "pytorch-activitynet"
"""ActivityNet is what MAP-IVR takes its proposals from; of the two, the one with a known class order (ours)."""

TRUNK = ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
