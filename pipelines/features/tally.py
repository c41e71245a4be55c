"""What a worker counts of the part of a task that it is about to commit."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from clipmill.pipelines.decode.session import DecodeSummary
from clipmill.pipelines.features.prepare import PreparedVideo
from clipmill.schemas.errors import VideoError
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Quarantined


@dataclass(slots=True)
class Tally:
    """Counts since the last commit. `quarantined` is by video id, stage and reason."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    num_frames_decoded: int = 0
    num_frames_substituted: int = 0
    num_batches: int = 0
    num_batches_ahead: int = 0
    num_windows: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    quarantined: dict[tuple[str, str, str], Quarantined] = field(default_factory=dict)

    def quarantine(self, prepared: PreparedVideo, recipes: Sequence[Recipe], error: VideoError, attempts: int) -> None:
        """Books a video under these recipes."""
        video = prepared.video
        key = (video.id, error.stage, error.reason)
        before = self.quarantined[key].recipes if key in self.quarantined else ()
        named = tuple(dict.fromkeys([*before, *(recipe.fingerprint for recipe in recipes)]))
        self.quarantined[key] = Quarantined(
            video.id, video.fingerprint, video.uri, named, error.stage, error.reason, error.message, attempts
        )

    def count_shots(self, item: PreparedVideo) -> None:
        """Counts the decode pass that found a video's shots."""
        if item.shot_seconds:
            self.seconds["shots"] += item.shot_seconds
        for found in item.shot_passes.values():
            self.num_frames_decoded += found.summary.num_frames_decoded
            self.seconds["decode"] += found.summary.seconds

    def count_decoded(self, summary: DecodeSummary) -> None:
        """Counts the decode pass of a video."""
        self.num_frames_decoded += summary.num_frames_decoded
        self.num_frames_substituted += len(summary.substituted)
        self.seconds["decode"] += summary.seconds
