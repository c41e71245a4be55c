"""Switches of R-C3D."""

from dataclasses import replace
from math import prod
from typing import Literal

from pydantic import Field, model_validator

from clipmill.extractors.rc3d.releases import DEFAULT_RELEASE, FEATURE_STRIDE_FRAMES, RELEASES, Release, ReleaseName
from clipmill.schemas.model import Model


class RC3DOptions(Model):
    """Switches of R-C3D. None means: as the release has it.

    Attributes:
        form: which public release of the network; its weights fit no other.
        buffer_frames: frames of a buffer, a multiple of 8; windows then start every quarter of it.
        pooled: time, rows and columns of a pooled region; 16 cells in all. It is not written in weights files: one
            release's weights load into the other's shape and mean nothing.
        top: rows of a video under layers fc6 and fc7. Ours: 64, the number in APIVR's released features.
        confidence: what orders proposals: ``rpn``, the proposal subnet's foreground probability, or ``class``, the
            highest class probability. Ours: the papers do not say; ``rpn`` is the order the proposal layer emits.
        pool: candidates of a video that are kept while it is read, and from which doubles of overlapping windows are
            removed at the end (ours; it bounds memory).
        merge_nms: overlap above which a worse proposal counts as a double of a better one when windows are joined;
            None: the release's test NMS, and a video of one window is left as the proposal layer gave it.
        score_threshold, nms, nms_video, max_detections: of layer detections only, in place of the release's.
        classes: names of the classes, the background left out, of weights that were trained on one's own; in place of
            the release's.
        scales: lengths of the anchors in units of 8 sampled frames, in place of the release's; the weights' own.
        nms_equal: suppress also at an overlap equal to the threshold, as the PyTorch release does on a CPU.
    """

    form: ReleaseName = DEFAULT_RELEASE
    buffer_frames: int | None = Field(default=None, ge=16, multiple_of=FEATURE_STRIDE_FRAMES)
    pooled: tuple[int, int, int] | None = None
    top: int = Field(default=64, ge=1)
    confidence: Literal["rpn", "class"] = "rpn"
    pool: int = Field(default=512, ge=1)
    merge_nms: float | None = Field(default=None, gt=0, le=1)
    score_threshold: float | None = Field(default=None, ge=0, lt=1)
    nms: float | None = Field(default=None, gt=0, le=1)
    nms_video: float | None = Field(default=None, gt=0, le=1)
    max_detections: int | None = Field(default=None, ge=1)
    classes: tuple[str, ...] = ()
    scales: tuple[float, ...] = ()
    nms_equal: bool = False

    @property
    def release(self) -> Release:
        """The release that `form` names, with `classes` and `scales` where they are given."""
        release = RELEASES[self.form]
        if self.classes:
            names = ("background", *self.classes)
            release = replace(release, num_classes=len(names), class_names=names)
        return replace(release, scales=self.scales) if self.scales else release

    @model_validator(mode="after")
    def _fits(self) -> "RC3DOptions":
        if self.pooled is not None and min(self.pooled) < 1:
            raise ValueError("pooled: expected three sizes of at least 1, such as [1, 4, 4]")
        # fc6 takes 16 cells; the last stage of a ResNet any number.
        if self.pooled is not None and self.release.resnet is None and prod(self.pooled) != 16:
            raise ValueError("pooled: expected three sizes with 16 cells in all, such as [1, 4, 4] or [4, 2, 2]")
        if any(scale <= 0 for scale in self.scales):
            raise ValueError("scales: expected positive lengths, in units of 8 sampled frames")
        if self.pool < self.top:
            raise ValueError(f"pool: expected at least top ({self.top}), got {self.pool}; raise pool")
        return self
