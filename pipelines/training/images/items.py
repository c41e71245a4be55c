"""The images a model is trained on, as pixels: a manifest's image files, or frames of videos."""

from collections.abc import Sequence

import numpy as np

from clipmill.extractors.preprocess import values_of
from clipmill.models.base import ModelCard
from clipmill.pipelines.datasets.items import Items, check_trained_labels, clip_id, with_texts
from clipmill.pipelines.decode.scan import Timeline
from clipmill.pipelines.decode.session import DecodedFrame, DecodeRequest, DecodeSession, Failed, View
from clipmill.pipelines.training.videos.items import WindowsOf, scanned, split_of
from clipmill.schemas.arrays import Array, Ints
from clipmill.schemas.config import DecodeConfig
from clipmill.schemas.config_images import ImageDataConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.features import FeatureSource
from clipmill.schemas.inputs import InputRows, Tokens, Vector
from clipmill.schemas.recipe import Preprocess, Recipe
from clipmill.schemas.records import Clip, Video
from clipmill.stores.manifests import read_manifest

PIXELS = "image"
"""The input that holds an item's pixels; each vector that the model is given is what the network makes of them."""


def vectors_of(card: ModelCard) -> tuple[str, ...]:
    """Returns the inputs of a model that are vectors, which the image network is to give.

    Raises:
        UsageError: the model is none of retrieval, is given something else than vectors and texts, or is solved for.
    """
    others = [name for name, kind in card.inputs.items() if not isinstance(kind, Vector | Tokens)]
    found = tuple(name for name, kind in card.inputs.items() if isinstance(kind, Vector))
    if card.task != "retrieval" or card.closed_form or others or not found:
        got = "one that is solved in closed form" if card.closed_form else f"one of task {card.task}"
        if card.task == "retrieval" and others:
            got = f"one that reads {' and '.join(others)} otherwise"
        expected = "a model of retrieval that learns by gradients from vectors and texts"
        raise UsageError(describe("model", card.name, expected, got, "train it on stored features"))
    return found


def read_image_items(
    config: ImageDataConfig, recipe: Recipe, card: ModelCard, decode: DecodeConfig, windows_of: WindowsOf
) -> Items:
    """Returns the images of all parts of the split, with their pixels ``[n, H, W, C]`` as `uncropped` leaves them.

    Args:
        recipe: of the network, whose sampling says which frames of a video are images.
        windows_of: places windows on a clip (`pipelines.features.windows.clip_windows`).

    Raises:
        ManifestError: the images cannot be listed, or lack a part of the split or a text.
        UsageError: an image cannot be read, or is of another size than others; images without a label, where the model
            needs them; nothing to train on; texts of other inputs than the model has.
        MachineFaultError: no process could be started that reads images.
    """
    texts = {name: kind for name, kind in card.inputs.items() if isinstance(kind, Tokens)}
    if texts.keys() != config.inputs.keys():
        expected, got = (", ".join(names) or "none" for names in (texts, config.inputs))
        raise UsageError(describe("data", "inputs", f"the texts of {card.name} ({expected})", got, "correct them"))
    videos = read_manifest(config.images).videos
    label_names = _label_names(videos, card.needs_labels)
    part_of_video = split_of(videos, config.split, label_names)
    timelines = scanned(videos)
    frames = [_frames(video, timeline, recipe, windows_of) for video, timeline in zip(videos, timelines, strict=True)]
    pixels = _pixels(videos, timelines, frames, uncropped(recipe.preprocess), decode)
    owner = np.repeat(np.arange(len(videos)), [len(found) for found in frames])
    code = {name: number for number, name in enumerate(label_names)}
    num, ids = len(owner), [videos[number].id for number in owner.tolist()]
    items = Items(
        inputs={PIXELS: InputRows(pixels)},
        label=np.array([code.get(str(videos[number].label), -1) for number in owner.tolist()], np.int64),
        label_names=label_names,
        clip_ids=tuple(clip_id(name, 0) for name in ids),
        video_ids=tuple(ids),
        clips=np.zeros(num, np.int32),
        clip_seconds=np.zeros((num, 2)),
        part=np.array(part_of_video, dtype="<U10")[owner],
        sources={PIXELS: FeatureSource(recipe.name, recipe.fingerprint, recipe.dim)},
    )
    if card.needs_labels:
        check_trained_labels(items)
    return with_texts(items, config.inputs, texts, {})


def uncropped(preprocess: Preprocess) -> Preprocess:
    """Returns the geometry that leaves of an image what crops are cut from: as much as all images have.

    Of a resize of the short side that is the square in the middle (SemArt's code cuts it likewise).
    """
    if preprocess.crop is None or preprocess.crop_offset is not None:
        return preprocess
    rows, columns = preprocess.crop
    if preprocess.resize in ("exact", "short_side"):
        rows, columns = (max(pair) for pair in zip((preprocess.size * 2)[:2], (rows, columns), strict=True))
    return preprocess.model_copy(update={"crop": (rows, columns)})


def _label_names(videos: Sequence[Video], needs_labels: bool) -> tuple[str, ...]:
    bare = [video.id for video in videos if video.label is None]
    if bare and needs_labels:
        got = f"none for {len(bare)} of {len(videos)}, such as {bare[0]!r}"
        raise UsageError(describe("data", "labels", "one for every image", got, "give the manifest a column label"))
    return () if bare else tuple(sorted({str(video.label) for video in videos}))


def _frames(video: Video, timeline: Timeline, recipe: Recipe, windows_of: WindowsOf) -> Ints:
    whole = Clip(0, float(timeline.pts_seconds[0]), timeline.stop_seconds, video.label)
    windows = windows_of(timeline.pts_seconds, timeline.stop_seconds, whole, recipe.sampling, video.id).windows
    return np.unique(np.array([window.frames[0] for window in windows], np.int64))


def _pixels(
    videos: Sequence[Video],
    timelines: Sequence[Timeline],
    frames: Sequence[Ints],
    preprocess: Preprocess,
    decode: DecodeConfig,
) -> Array:
    """Returns the frames of all videos ``[n, H, W, C]``, one video after the other."""
    wanted = [number for number, found in enumerate(frames) if len(found)]
    if not wanted:
        raise UsageError(describe("data", "images", "at least one", "none", "check network.sampling"))
    requests = (
        DecodeRequest(
            videos[number].uri,
            timelines[number],
            (View(preprocess, frames[number]),),
            decode.decoder,
            timelines[number].stop_seconds - float(timelines[number].pts_seconds[0]),
        )
        for number in wanted
    )
    session = DecodeSession(
        deadline_seconds=decode.deadline_seconds,
        memory_bytes=int(decode.memory_gib * (1 << 30)),
        videos_per_child=decode.videos_per_child,
    )
    starts = np.cumsum([0, *(len(found) for found in frames)])
    pixels: Array | None = None
    with session:
        for event in session.run(requests):
            number = wanted[event.request]
            if isinstance(event, DecodedFrame):
                values = values_of(event.pixels, preprocess)
                if pixels is None:
                    pixels = np.empty((starts[-1], *values.shape), values.dtype)
                if values.shape != pixels.shape[1:]:
                    _refuse_size(videos[number], values.shape, pixels.shape[1:])
                # After a restart, frames come again, and replace those of the first attempt.
                pixels[starts[number] + np.searchsorted(frames[number], event.frame)] = values
            elif isinstance(event, Failed):
                remedy = "leave it out of the manifest; clipmill build lists all that do not decode"
                raise UsageError(describe("image", videos[number].id, "pixels", event.error.message, remedy))
    if pixels is None:
        raise UsageError(describe("data", "images", "pixels", "none", "check the manifest"))
    return pixels


def _refuse_size(video: Video, got: Sequence[int], expected: Sequence[int]) -> None:
    wanted = f"{expected[1]} x {expected[0]} pixels, as others have after network.preprocess"
    remedy = "set preprocess: {resize: exact, size: [rows, columns]}, or a crop"
    raise UsageError(describe("image", video.id, wanted, f"{got[1]} x {got[0]}", remedy))
