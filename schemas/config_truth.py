"""A file of annotations: the ground truth of an evaluation, or what a model of moments is trained on."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from clipmill.schemas.model import Model


class IdsConfig(Model):
    """How the ids of a file become those of the other side.

    Attributes:
        drop_prefix: taken off the beginning of each id that has it, such as ``v_``.
        drop_ending: drop what follows the last dot of each id (``.mp4``).
    """

    drop_prefix: str = ""
    drop_ending: bool = False

    def id_of(self, name: str) -> str:
        """Returns the id that `name` stands for."""
        name = name.removeprefix(self.drop_prefix)
        return name.rpartition(".")[0] or name if self.drop_ending else name


class TruthConfig(IdsConfig):
    """The ground truth.

    Attributes:
        format: a name of `stores/formats/registry`; None: found out from the content.
        subset: ``activitynet``: ``validation`` and so on (None: all videos); ``thumos14``: ``test`` or ``val``.
        durations: JSON or CSV of video to seconds, where the ground truth has none: baselines need them.
        inverted: ``charades_sta``: what to do with lines whose start is after their end.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"backwards": "inverted"}

    file: str = Field(min_length=1)
    format: str | None = None
    subset: str | None = None
    durations: str | None = None
    inverted: Literal["refuse", "drop", "swap"] = "refuse"
