"""``clipmill import``: the config of features made elsewhere that become a store."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from clipmill.schemas.config import StoreConfig
from clipmill.schemas.config_evaluate import IdsConfig
from clipmill.schemas.model import Model
from clipmill.schemas.recipe import ClipRule

RowsOf = Literal["item", "video", "steps", "bag"]


class ItemTableConfig(Model):
    """One file of the manifest: a line for each item, or for each segment of one.

    Attributes:
        file: ``.csv`` with a header and commas, ``.parquet``, or, with `columns` as a list, text without a header.
        columns: a list names the columns of text without a header (separated by tabs, else commas, else spaces); a
            mapping gives the file's name of a column for each of ours that differs, such as ``{id: video-name}``.
        constants: columns that have one value in all lines of this file, such as ``{split: train}``.
    """

    file: str = Field(min_length=1)
    columns: tuple[str, ...] | dict[str, str] = ()
    constants: dict[str, str] = Field(default_factory=dict)


class RowIdsConfig(IdsConfig):
    """The array (or column) that has the id of each row, and how those become the ids of the manifest."""

    dataset: str = Field(min_length=1)


class StepsConfig(Model):
    """When the rows of a video are, in one of four ways: in frames, in seconds, by arrays of times, or evenly.

    Attributes:
        fps: frames a second; default: the manifest's column ``fps``.
        frames: frames a row was made of.
        step: frames from the start of a row to that of the next; default: `frames`.
        step_seconds: the same in seconds.
        window_seconds: how long a row is; default: `step_seconds`.
        offset_seconds: when the first row starts.
        start, stop: arrays (or columns) with the seconds of each row; `window_seconds` can stand for `stop`.
        evenly: the rows share the video's duration (the manifest's column ``duration_seconds``) evenly.
    """

    fps: float | None = Field(default=None, gt=0, le=1000)
    frames: int | None = Field(default=None, ge=1)
    step: int | None = Field(default=None, ge=1)
    step_seconds: float | None = Field(default=None, gt=0)
    window_seconds: float | None = Field(default=None, gt=0)
    offset_seconds: float = 0.0
    start: str | None = Field(default=None, min_length=1)
    stop: str | None = Field(default=None, min_length=1)
    evenly: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> "StepsConfig":
        if sum([self.frames is not None, self.step_seconds is not None, self.start is not None, self.evenly]) != 1:
            raise ValueError("expected exactly one of frames (with step, fps), step_seconds, start and evenly")
        if self.frames is None and (self.fps is not None or self.step is not None):
            raise ValueError("fps and step belong to frames, such as {fps: 25, frames: 16, step: 8}")
        if (self.frames is not None or self.evenly) and self.window_seconds is not None:
            raise ValueError("window_seconds belongs to step_seconds or start")
        if self.start is not None and (self.stop is None) == (self.window_seconds is None):
            raise ValueError("start: expected exactly one of stop and window_seconds beside it")
        if self.start is None and self.stop is not None:
            raise ValueError("stop belongs to start")
        return self


class ImportedFeatureConfig(Model):
    """One feature: where its rows lie. ``{column}`` in `file` and `dataset` stands for a column of the manifest.

    An array that belongs to one item (``{id}`` in `file` or `dataset`) has that item's rows. One that belongs to
    several has a row for each line of the manifest, in its order, unless `ids` or `position` say which row is whose.

    Attributes:
        file: path, such as ``features/{id}.npy``.
        dataset: HDF5 path, variable of a ``.mat`` or ``.npz``, column of a table; ``f*`` takes all columns so named, in
            their order. Default: the only one there is.
        format: of the file; default: by its suffix.
        ids: array or column with the id of each row.
        position: column of the manifest with the number of the item's row, from 0.
        rows: ``item``: one for each clip, or for the video where clips are whole; ``video``: one for the video;
            ``steps``: one for each step of time; ``bag``: several whose times are not known.
        steps: when steps are; given, `rows` is ``steps``.
        transpose: arrays are ``[D, T]`` instead of ``[T, D]``.
        extras: further numbers of each row by name, such as ``score``, and the array that has them.
        made_by: what made the rows, in words. Two features made by the same can be compared by plain cosine.
        dtype: how values are kept; default: as in the file, where that is float16, float32 or uint8, else float32.
    """

    file: str = Field(min_length=1)
    dataset: str | None = Field(default=None, min_length=1)
    format: str | None = None
    ids: RowIdsConfig | None = None
    position: str | None = None
    rows: RowsOf = "item"
    steps: StepsConfig | None = None
    transpose: bool = False
    extras: dict[str, str] = Field(default_factory=dict)
    made_by: str | None = Field(default=None, min_length=1)
    dtype: Literal["float32", "float16", "uint8"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        found = dict(data)
        if isinstance(found.get("ids"), str):
            found["ids"] = {"dataset": found["ids"]}
        if found.get("steps") is not None:
            found.setdefault("rows", "steps")
        return found

    @model_validator(mode="after")
    def _fits(self) -> "ImportedFeatureConfig":
        if (self.rows == "steps") != (self.steps is not None):
            raise ValueError(
                "rows: steps and steps: {...} go together; rows: bag is for rows whose times are not known"
            )
        if self.ids is not None and self.position is not None:
            raise ValueError("expected ids or position, got both; leave one out")
        return self

    @field_validator("extras")
    @classmethod
    def _new_names(cls, value: dict[str, str]) -> dict[str, str]:
        taken = sorted({"values", "clip", "start_seconds", "stop_seconds", "mask", "video_id"}.intersection(value))
        if taken:
            raise ValueError(f"{taken[0]} is a column of every feature; give it another name")
        return value


class ImportConfig(Model):
    """``clipmill import FILE``.

    Attributes:
        manifest: the files whose lines are the items, one after the other. Columns: ``id``; and ``label``, ``split``,
            ``start_seconds``, ``stop_seconds``, ``segment_label``, ``duration_seconds``, ``fps``, ``path`` where they
            are known; others serve as ``{column}``.
        clips: ``whole``: an item is a clip; ``annotations``: each segment of the manifest is.
        missing: what becomes of items that a feature has no rows of: the import is refused, or they are skipped and
            counted.
    """

    store: StoreConfig
    manifest: tuple[ItemTableConfig, ...] = Field(min_length=1)
    clips: ClipRule = Field(default_factory=ClipRule)
    features: dict[str, ImportedFeatureConfig] = Field(min_length=1)
    missing: Literal["refuse", "skip"] = "refuse"

    @field_validator("manifest", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        tables = value if isinstance(value, list | tuple) else [value]
        return [{"file": table} if isinstance(table, str) else table for table in tables]

    @model_validator(mode="after")
    def _rows_fit_clips(self) -> "ImportConfig":
        if self.clips.from_ not in ("whole", "annotations"):
            raise ValueError(
                f"clips: expected from: whole or annotations, got {self.clips.from_}; no video is cut here"
            )
        if self.clips.from_ == "annotations":
            wrong = [name for name, feature in self.features.items() if feature.rows in ("video", "bag")]
            if wrong:
                raise ValueError(
                    f"features.{wrong[0]}: rows: {self.features[wrong[0]].rows} belongs to clips: {{from: whole}}; of "
                    "annotated clips give rows: item or steps"
                )
        return self
