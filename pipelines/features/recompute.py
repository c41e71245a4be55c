"""Computing stored rows again, to check that they still come out."""

from clipmill.extractors import registry
from clipmill.extractors.base import Extractor
from clipmill.pipelines.decode.session import DecodedFrame, DecodeSession, Failed, Restarted
from clipmill.pipelines.features.extraction import RecipeExtraction
from clipmill.pipelines.features.prepare import prepare
from clipmill.schemas.errors import VideoError
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video
from clipmill.schemas.rows import Rows


def recompute(
    video: Video, recipe: Recipe, device: str, extractor: Extractor | None = None, batch_windows: int | None = None
) -> Rows:
    """Returns the rows of `video` under `recipe`, made from its file in this process; writes nothing.

    Args:
        extractor: the recipe's, where one is built already; None: built here.
        batch_windows: windows of a forward pass; None: by the extractor's hint.

    On the device, with the threads and the batch size that the stored rows were made with, their bits are the same.

    Raises:
        VideoError: the video can no longer be processed.
    """
    item = prepare(video, [recipe])
    try:
        if item.request is None:
            raise item.failures[0][1]
        extraction = RecipeExtraction(recipe, extractor or registry.build(recipe, device), batch_windows)
        key = recipe.fingerprint
        extraction.start_video(0, item.clips[key], item.windows[key], item.files.get(key))
        with DecodeSession() as session:
            for event in session.run([item.request]):
                if isinstance(event, DecodedFrame):
                    extraction.add_frame(0, event.frame, event.pixels)
                elif isinstance(event, Restarted):
                    extraction.restart_video(0)
                elif isinstance(event, Failed):
                    raise event.error
        extraction.flush()
        for _, error in extraction.failures():
            raise error
        finished = extraction.finished()
        if 0 not in finished:
            raise VideoError("decode", "incomplete", f"video {video.id}: expected all frames, got only some of them")
        return finished[0]
    finally:
        item.release()
