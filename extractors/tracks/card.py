"""Key-feature tracks ("Dress like a Star", Garcia and Vogiatzis, ICCVW 2017): local binary features linked in time."""

from clipmill.extractors.base import ExtractorCard, Layer, WeightsCard
from clipmill.extractors.tracks.options import DESCRIPTOR_BYTES, TracksOptions
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.recipe import Preprocess, Recipe, Sampling

KEY_FEATURES_PER_KEYPOINT = 8 / 500
"""Tracks that end in a frame, per keypoint of it: 3 to 17 of 500 on real clips (ours; it bounds planned shards)."""


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


def _variant(options: TracksOptions) -> ExtractorCard:
    return ExtractorCard(
        name="tracks",
        version=1,
        summary="key features: ORB and BRIEF tracked over frames, one binary vector per track "
        "(image to video retrieval)",
        layers=(
            Layer(
                "key_features",
                DESCRIPTOR_BYTES,
                "uint8",
                rows_per_window=KEY_FEATURES_PER_KEYPOINT * options.num_keypoints,
            ),
            Layer("frame_descriptors", DESCRIPTOR_BYTES, "uint8", rows_per_window=options.num_keypoints),
        ),
        sampling=Sampling(frames=1),
        weights=(
            WeightsCard(
                name="grey-720",
                layouts=(),
                source="no weights: ORB's detector and BRIEF, of OpenCV",
                licence="Apache-2.0",
                # Published: grey, 720 px wide, aspect kept. ours: bilinear without antialias, rows rounded to the
                # nearest.
                preprocess=Preprocess(resize="width", size=(720,), resize_rounding="nearest", colour="grey"),
            ),
        ),
        frames_fixed=True,
        options=TracksOptions,
        variant=_variant,
        gmac_per_window=0.5,
        batch_windows=4,
        fills_batches=False,
        extras={"shot": "int32", "track_frames": "int32", "x": "float32", "y": "float32"},
        check=_check,
    )


CARD = _variant(TracksOptions())
