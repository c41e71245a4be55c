"""Switches of key-feature tracks."""

from typing import Literal

from pydantic import Field

from clipmill.schemas.model import Model

DESCRIPTOR_BYTES = 32
NUM_KEYPOINTS = 500


class TracksOptions(Model):
    """Switches of the tracks. Defaults are the reference's, for every frame of a video at a width of 720 px.

    Attributes:
        num_keypoints: ORB keeps about so many of a frame, the strongest ones.
        fast_threshold: of ORB's corner detector, in grey levels.
        max_distance: two descriptors match below this Hamming distance, in bits of 256.
        max_displacement: and where their keypoints lie less than this apart, in pixels of the resized frame. Of frames
            sub-sampled n to 1, things move n times as far.
        max_shared_tracks: there is a shot boundary between two frames that share at most so many tracks.
        min_track_frames: shorter tracks are dropped. Of frames sub-sampled n to 1, the same track has an n-th of them.
        vote: how a track's descriptors become one: ``majority`` sets a bit that more than half of them have;
            ``two_members`` sets one that two of them have, as the reference's code does (for comparison only: under
            noise it sets most bits of a long track).
        ties: under ``majority``, a bit that exactly half of the descriptors have is ``zero``, or as in the ``first`` of
            them (ours: the reference has no such case).
    """

    num_keypoints: int = Field(default=NUM_KEYPOINTS, ge=1, le=10_000)
    fast_threshold: int = Field(default=20, ge=1, le=255)
    max_distance: int = Field(default=20, ge=1, le=257)
    max_displacement: float = Field(default=100.0, gt=0)
    max_shared_tracks: int = Field(default=1, ge=0)
    min_track_frames: int = Field(default=8, ge=1)
    vote: Literal["majority", "two_members"] = "majority"
    ties: Literal["zero", "first"] = "zero"
