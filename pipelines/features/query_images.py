"""Images as queries: read from files or videos, and turned into rows by the very recipe stored rows were made by."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipmill.extractors.base import Extractor
from clipmill.extractors.preprocess import apply_geometry
from clipmill.pipelines.decode import images
from clipmill.pipelines.decode.scan import scan
from clipmill.pipelines.decode.session import DecodedFrame, DecodeRequest, DecodeSession, Failed, View
from clipmill.pipelines.features.pooling import pool
from clipmill.schemas.arrays import Pixels
from clipmill.schemas.errors import UsageError, VideoError, describe
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Clip, Window

IMAGE_SUFFIXES = frozenset(".avif .bmp .gif .jp2 .jpeg .jpg .jpe .pgm .png .pnm .ppm .tga .tif .tiff .webp".split())
"""ours: what a folder's queries are taken by, in lower case; its other files are left out and counted."""


class QueryError(Exception):
    """One query cannot be used: it is reported with this line, and the others go on."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The images of a folder: paths in order, and how many other files were left out."""

    paths: tuple[str, ...]
    num_left_out: int


def images_of(folder: str) -> Folder:
    """Returns the images below `folder`, sorted by path; links to folders are not followed.

    Raises:
        UsageError: there is no such folder, or no image in it.
    """
    root = os.path.expanduser(folder)
    if not os.path.isdir(root):
        got = "a file" if os.path.exists(root) else "nothing there"
        raise UsageError(describe("queries.folder", folder, "a folder of images", got, "correct the path"))
    paths, num_left_out = [], 0
    for place, _, names in os.walk(root):
        for name in names:
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith("."):
                paths.append(os.path.join(place, name))
            else:
                num_left_out += 1
    if not paths:
        got = f"none among {num_left_out} files" if num_left_out else "an empty folder"
        remedy = f"put images there ({' '.join(sorted(IMAGE_SUFFIXES))}), or name them under queries.files"
        raise UsageError(describe("queries.folder", folder, "at least one image", got, remedy))
    return Folder(tuple(sorted(paths)), num_left_out)


def read_image(path: str) -> Pixels:
    """Returns the image in the file at `path` as ``uint8[H, W, 3]``; see `pipelines.decode.images`.

    Raises:
        QueryError: no file, no image, a damaged one, or samples that are neither 8 nor 16 bits.
    """
    try:
        return images.read_image(os.path.expanduser(path))
    except images.ImageError as error:
        raise QueryError(describe("query", path, error.expected, error.got, error.remedy)) from None


def check_recipe(recipe: Recipe) -> None:
    """Makes sure that one image is all a row of `recipe` needs.

    Raises:
        UsageError: its windows have more frames, or nothing here can make a row of it.
    """
    if recipe.is_imported:
        raise UsageError(
            describe(
                "search",
                f"feature {recipe.name}",
                "a feature that clipmill computes, so that a query image can become a row of it",
                f"one imported from {recipe.files.get('source', 'a file')}",
                "search with a run trained on a built image feature, or rank stored clips by clipmill evaluate",
            )
        )
    if (recipe.sampling.frames or 1) != 1:
        raise UsageError(
            describe(
                "search",
                f"feature {recipe.name}",
                "windows of one frame, which an image can fill",
                f"windows of {recipe.sampling.frames} ({recipe.extractor})",
                "search with an image feature, such as sampling: {random_frames: 1}",
            )
        )


RowOf = Callable[[Extractor, Recipe, Pixels, str], npt.NDArray[np.generic]]
"""Makes what is searched with of one frame that is already resized and cropped: `frame_row`, `frame_codes`."""


def image_row(
    extractor: Extractor, recipe: Recipe, pixels: Pixels, name: str, row_of: RowOf | None = None
) -> npt.NDArray[np.generic]:
    """Returns what `row_of` (`frame_row`) makes of an image ``uint8[H, W, 3]``, brought to size as in a build.

    Raises:
        QueryError: the extractor cannot make a row of finite numbers of it.
    """
    try:
        return (row_of or frame_row)(extractor, recipe, apply_geometry(pixels, recipe.preprocess), name)
    except VideoError as error:
        raise QueryError(describe("query", name, "an image for this recipe", error.message, "crop it")) from None


def frame_row(extractor: Extractor, recipe: Recipe, prepared: Pixels, name: str) -> npt.NDArray[np.float32]:
    """Returns the row ``float32[D]`` of one frame ``uint8[h, w, C]`` that is already resized and cropped."""
    clip, window = Clip(0, 0.0, 1.0), Window(0, (0,), 0.0, 1.0)
    outputs = extractor.forward(prepared[np.newaxis, np.newaxis])
    reducer = extractor.reducer(clip)
    reducer.add(window, {key: values[0] for key, values in outputs.items()})
    rows = pool(reducer.rows(), recipe.pooling, clip)
    kept = np.flatnonzero(rows.mask)
    if not kept.size or not np.isfinite(rows.values[kept[0]]).all():
        got = "numbers that are not finite" if kept.size else "none"
        raise QueryError(describe("query", name, f"a row of {recipe.name}", got, "use another image"))
    return np.array(rows.values[kept[0]], np.float32)


def frame_codes(extractor: Extractor, recipe: Recipe, prepared: Pixels, name: str) -> npt.NDArray[np.uint8]:
    """Returns the descriptors ``uint8[K, 32]`` of one frame ``uint8[h, w, 1]`` of the extractor tracks.

    Raises:
        QueryError: the frame has no corner.
    """
    outputs = extractor.forward(prepared[np.newaxis, np.newaxis])
    found = np.asarray(outputs["values"][0][: int(outputs["num_valid"][0])], np.uint8)
    if not len(found):
        raise QueryError(describe("query", name, "an image with corners", "none", "use another image, or a larger one"))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class VideoFrame:
    """One frame of a video: its presentation time, and its pixels as the recipe prepares them."""

    seconds: float
    prepared: Pixels


def video_frames(path: str, seconds: Sequence[float], recipe: Recipe, session: DecodeSession) -> list[VideoFrame]:
    """Returns the frame on display at each of `seconds` (the last one after the end), decoded as a build decodes it.

    Raises:
        VideoError: the video cannot be read or decoded.
    """
    timeline = scan(path)
    shown = np.clip(
        np.searchsorted(timeline.pts_seconds, np.asarray(seconds) + 1e-6, side="right") - 1, 0, timeline.num_frames - 1
    )
    wanted = np.unique(shown).astype(np.int64)
    duration = timeline.stop_seconds - float(timeline.pts_seconds[0])
    request = DecodeRequest(path, timeline, (View(recipe.preprocess, wanted),), recipe.decoder, duration)
    found: dict[int, Pixels] = {}
    for event in session.run([request]):
        # After a restart, frames come again, and replace those of the first attempt.
        if isinstance(event, DecodedFrame):
            found[event.frame] = event.pixels
        elif isinstance(event, Failed):
            raise event.error
    return [VideoFrame(float(timeline.pts_seconds[index]), found[int(index)]) for index in shown]
