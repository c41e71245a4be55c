"""Key-feature tracks ("Dress like a Star", Garcia and Vogiatzis, ICCVW 2017): local binary features linked in time."""

from typing import Literal

from pydantic import Field

from clipmill.extractors.base import Extractor, ExtractorCard, Layer, Registration, WeightsCard
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.model import Model
from clipmill.schemas.recipe import Preprocess, Recipe, Sampling

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


def _check(recipe: Recipe) -> None:
    where = f"features.{recipe.name}"
    if recipe.sampling.random_frames is not None:
        got = f"random_frames: {recipe.sampling.random_frames}"
        remedy = "leave it out, or give fps or step"
        raise UsageError(describe(f"{where}.sampling", "random_frames", "none (tracks need a sequence)", got, remedy))
    if recipe.pooling != "none":
        got = f"pooling: {recipe.pooling}"
        raise UsageError(describe(where, "pooling", "none for binary descriptors", got, "leave it out"))
    if recipe.precision != "float32":
        expected = "float32 (no network runs here, so no other changes a number)"
        raise UsageError(describe(where, "precision", expected, recipe.precision, "leave it out"))


CARD = ExtractorCard(
    name="tracks",
    version=1,
    summary="key features: ORB and BRIEF tracked over frames, one binary vector per track (image to video retrieval)",
    layers=(
        Layer("key_features", DESCRIPTOR_BYTES, "uint8", rows_per_window=8),
        Layer("frame_descriptors", DESCRIPTOR_BYTES, "uint8", rows_per_window=NUM_KEYPOINTS),
    ),
    sampling=Sampling(frames=1),
    weights=(
        WeightsCard(
            name="grey-720",
            layouts=(),
            source="no weights: ORB's detector and BRIEF, of OpenCV",
            licence="Apache-2.0",
            # Published: grey, 720 px wide, aspect kept. ours: bilinear without antialias, rows rounded to the nearest.
            preprocess=Preprocess(resize="width", size=(720,), resize_rounding="nearest", colour="grey"),
        ),
    ),
    frames_fixed=True,
    options=TracksOptions,
    gmac_per_window=0.5,
    batch_windows=4,
    extras={"shot": "int32", "track_frames": "int32", "x": "float32", "y": "float32"},
    check=_check,
)


def _build(recipe: Recipe, device: str) -> Extractor:
    from clipmill.extractors.tracks.build import build

    return build(recipe)


REGISTRATION = Registration(CARD, _build)
