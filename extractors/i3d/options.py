"""Switches of I3D."""

from typing import Any, Literal

from pydantic import Field, model_validator

from clipmill.extractors.flow import FlowOptions
from clipmill.schemas.model import Model

MixedBlock = Literal[
    "Mixed_3b", "Mixed_3c", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f", "Mixed_5b", "Mixed_5c"
]


class I3DOptions(Model):
    """Switches of I3D.

    Attributes:
        stream: ``rgb``, ``flow``, or ``both``: features of the two streams side by side (2048), logits summed.
        steps: one row per 8 frames, with times of its own, instead of one per window.
        window_steps: one row per 8 frames of each window by itself, ``ceil(T / 8) - 1`` for T frames: windows are not
            joined, so steps at their ends see zeros (VSLNet's Charades features).
        flow: which optical flow, for ``flow`` and ``both``; a window then takes one frame more than it has flows.
        crop: side of the centre crop of ``flow`` and ``both``, which comes after the flow: flow at an image's border is
            poor, so it is computed on the whole resized frame.
        fold_batch_norm: fold batch norm into the convolutions: faster, the same up to rounding.
        batch_norm_epsilon: in place of TensorFlow's 1e-3; video_features' copy of the network has 1e-5.
        maps: the one layer is then the map after this block, flattened, channels of both streams one after another.
    """

    stream: Literal["rgb", "flow", "both"] = "rgb"
    steps: bool = False
    window_steps: bool = False
    flow: FlowOptions | None = None
    crop: int = Field(default=224, ge=32)
    fold_batch_norm: bool = True
    batch_norm_epsilon: float | None = Field(default=None, gt=0, le=0.1)
    maps: MixedBlock | None = None

    @model_validator(mode="after")
    def _maps_are_of_windows(self) -> "I3DOptions":
        if self.maps is not None and (self.steps or self.window_steps):
            given = "steps" if self.steps else "window_steps"
            raise ValueError(f"maps: expected windows, got {given}: true; remove one of them")
        return self

    @model_validator(mode="before")
    @classmethod
    def _flow_where_it_is_used(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if data.get("stream", "rgb") == "rgb":
            if data.get("flow") is not None:
                raise ValueError("stream rgb: flow belongs to stream: flow or both; remove it")
            return data
        return data | {"flow": data.get("flow") or {}}

    @model_validator(mode="after")
    def _one_way_of_steps(self) -> "I3DOptions":
        if self.steps and self.window_steps:
            raise ValueError("steps joins windows and window_steps does not: expected one of them, got both")
        return self
