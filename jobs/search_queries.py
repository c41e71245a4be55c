"""The queries of a search: read, and embedded by the recipe the store's image feature was made by."""

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipmill.extractors import registry
from clipmill.extractors.base import Extractor
from clipmill.pipelines.decode.session import DecodeSession
from clipmill.pipelines.decode.thumbnails import thumbnails
from clipmill.pipelines.features.query_images import (
    QueryError,
    RowOf,
    frame_row,
    image_row,
    images_of,
    read_image,
    video_frames,
)
from clipmill.schemas.config_search import QueriesConfig, VideoFramesConfig
from clipmill.schemas.errors import UsageError, VideoError, WeightsError, describe
from clipmill.schemas.recipe import Recipe

IMAGE_WIDTH = 320
DIGEST_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One query: its name, its file's digest, a JPEG of it and its row ``float32[D]`` or codes ``uint8[K, 32]``."""

    name: str
    sha256: str
    image: bytes
    row: npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Failure:
    """A query that cannot be used, and why."""

    name: str
    message: str


def build_extractor(recipe: Recipe, weights: str | None, device: str) -> Extractor:
    """Returns the extractor of the stored recipe.

    Args:
        weights: where its weights file is now; None: where it was.

    Raises:
        UsageError: the extractor has changed since the rows were made.
        WeightsError: the weights file is gone, or another one.
    """
    now = registry.card_of(recipe).version
    if now != recipe.extractor_version:
        raise UsageError(
            describe(
                "search",
                f"feature {recipe.name}",
                f"rows of {recipe.extractor} version {now}, which this clipmill computes",
                f"version {recipe.extractor_version}",
                "build the feature again",
            )
        )
    if weights is not None and recipe.weights.file is None:
        remedy = "leave weights out"
        raise UsageError(describe("search", "weights", f"none ({recipe.weights.source})", weights, remedy))
    if recipe.weights.file is not None:
        path = os.path.abspath(os.path.expanduser(weights)) if weights is not None else recipe.weights.file
        if not os.path.isfile(path):
            digest = (recipe.weights.sha256 or "")[:12]
            raise WeightsError(
                describe(
                    "search",
                    f"weights of {recipe.name}",
                    f"the file {path} (SHA-256 {digest}...)",
                    "nothing there",
                    "put it back, or say where it is now with weights: PATH",
                )
            )
        recipe = recipe.model_copy(update={"weights": recipe.weights.model_copy(update={"file": path})})
    return registry.build(recipe, device)


def read_queries(
    config: QueriesConfig, recipe: Recipe, extractor: Extractor, row_of: RowOf = frame_row
) -> Iterator[Query | Failure]:
    """Yields every query, embedded, or why it cannot be: files of the folder, then files, then frames.

    Raises:
        UsageError: the folder is missing or holds no image.
    """
    paths: list[str] = list(images_of(config.folder).paths) if config.folder is not None else []
    for path in [*paths, *config.files]:
        try:
            pixels = read_image(path)
            yield Query(path, _digest(path), _jpeg(pixels), image_row(extractor, recipe, pixels, path, row_of))
        except QueryError as error:
            yield Failure(path, str(error))
    # The child that decodes starts with the first request, so this costs nothing where no frames are asked for.
    with DecodeSession() as session:
        for frames in config.frames:
            yield from _of_video(frames, recipe, extractor, session, row_of)


def _of_video(
    config: VideoFramesConfig, recipe: Recipe, extractor: Extractor, session: DecodeSession, row_of: RowOf
) -> Iterable[Query | Failure]:
    path = os.path.expanduser(config.file)
    names = [f"{config.file}@{seconds:g} s" for seconds in config.seconds]
    try:
        decoded = video_frames(path, config.seconds, recipe, session)
        images = thumbnails(path, [frame.seconds for frame in decoded], IMAGE_WIDTH)
    except VideoError as error:
        got, remedy = error.reason.replace("_", " "), "correct the path, or re-encode it"
        return [Failure(name, describe("query", name, "a video that can be decoded", got, remedy)) for name in names]
    digest = _digest(path)
    queries: list[Query | Failure] = []
    for name, frame, image in zip(names, decoded, images, strict=True):
        try:
            queries.append(Query(name, digest, image, row_of(extractor, recipe, frame.prepared, name)))
        except QueryError as error:
            queries.append(Failure(name, str(error)))
    return queries


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(os.path.expanduser(path), "rb") as file:
        while chunk := file.read(DIGEST_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((IMAGE_WIDTH, IMAGE_WIDTH))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80, optimize=True)
    return buffer.getvalue()
