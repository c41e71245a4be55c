"""``clipmill search``: the config of one's own query images against a store."""

from typing import Literal

from pydantic import Field, model_validator

from clipmill.schemas.model import LocalPath, Model


class SearchDataConfig(Model):
    """Which stored features are searched: `image` says how a query becomes a vector, `video` what finds a clip.

    Sentences need no `image`.
    """

    store: str = Field(min_length=1)
    image: str | None = Field(default=None, min_length=1)
    video: str = Field(min_length=1)


class VideoFramesConfig(Model):
    """Frames of a video as queries: the ones on display at `seconds`."""

    file: str = Field(min_length=1)
    seconds: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _no_negative_time(self) -> "VideoFramesConfig":
        if min(self.seconds) < 0:
            raise ValueError("expected times of zero or more in seconds")
        return self


class QueriesConfig(Model):
    """What is searched with: the images of a folder (searched recursively), single image files, frames of videos.

    Or, with a run of a model of moments or of texts and clips, sentences (`texts`).
    """

    folder: str | None = Field(default=None, min_length=1)
    files: tuple[str, ...] = ()
    frames: tuple[VideoFramesConfig, ...] = ()
    texts: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _something(self) -> "QueriesConfig":
        images = self.folder is not None or bool(self.files) or bool(self.frames)
        if not images and not self.texts:
            raise ValueError("expected folder, files, frames or texts, such as {folder: my/images}")
        if images and self.texts:
            raise ValueError("expected images or texts, got both; search with one after the other")
        return self


class TrackSearchConfig(Model):
    """How key features are searched (`docs/search.md`), where `data` names features of the extractor tracks.

    Attributes:
        index: ``exact`` compares with all, ``flat`` is faiss's, as exact, ``ivf`` looks into `probes` of its lists.
        max_distance: only descriptors whose nearest key feature is at most so many bits away vote; None: all.
        normalise: divide votes by the square root of the number of a shot's key features.
    """

    index: Literal["exact", "flat", "ivf"] = "exact"
    probes: int = Field(default=8, ge=1)
    max_distance: int | None = Field(default=None, ge=0, le=256)
    normalise: bool = False


class SearchConfig(Model):
    """``clipmill search FILE``: a trained run (`run`), or plain cosine over features of one network (`data`).

    Attributes:
        data: with `run`: another store than the one it was trained on, with the same recipes.
        checkpoint: of the run; default: its newest.
        k: clips retrieved per query and space.
        spaces: of the model; default: all.
        rerank: how many of the best are scored again in spaces that re-rank; default: as many as the model says.
        videos: ids of those in which moments are searched; default: all.
        tracks: how key features are searched, where `data` names such.
        weights: where the image feature's weights file is now, if it was moved since the build; its digest must agree.
        device: for the network that embeds the queries.
    """

    queries: QueriesConfig
    run: str | None = Field(default=None, min_length=1)
    data: SearchDataConfig | None = None
    checkpoint: str | None = None
    k: int = Field(default=10, ge=1, le=1000)
    spaces: tuple[str, ...] = ()
    rerank: int | None = Field(default=None, ge=1)
    videos: tuple[str, ...] = ()
    tracks: TrackSearchConfig | None = None
    weights: str | None = Field(default=None, min_length=1)
    device: str = Field(default="cpu", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    out: LocalPath = "out/search"

    @model_validator(mode="after")
    def _run_or_data(self) -> "SearchConfig":
        if self.run is None and self.data is None:
            raise ValueError("expected run (a folder made by clipmill train) or data (for plain cosine retrieval)")
        if self.videos and not self.queries.texts:
            raise ValueError("videos belongs to texts: leave it out")
        return self
