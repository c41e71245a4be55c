"""A recipe: everything that decides a row's value."""

from functools import cached_property
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from clipmill.schemas.fingerprint import fingerprint, short
from clipmill.schemas.model import Model

Tail = Literal["drop", "repeat", "overlap", "loop", "before_last", "both_ways"]
Pooling = Literal["none", "mean", "mean_l2", "l2", "l2_mean", "max", "max_l2", "gem", "gem_l2"]
Interpolation = Literal[
    "bilinear",
    "bicubic",
    "nearest",
    "bilinear_antialias",
    "pillow_nearest",
    "pillow_box",
    "pillow_hamming",
    "pillow_bicubic",
    "pillow_lanczos",
]

IMPORTED = "imported"
"""The extractor of rows that were made elsewhere: no registered one, so nothing can compute them again."""

UNKNOWN_MAKE = "of unknown make"
"""The layer of an imported recipe where nobody said what made its rows."""


class Sampling(Model):
    """Which frames of a clip go into which windows.

    Attributes:
        fps: resample the clip to this constant rate first; None: every frame.
        rounding: which frame a tick of `fps` shows. ``display``, or None: the one on display at it. ``nearest``: as
            ffmpeg's ``fps`` filter. ``ffmpeg_r``: as ffmpeg's ``-r`` before an output. The last two resample the whole
            video from its first frame, whatever clip is wanted of it (`clipmill.pipelines.features.resampling`).
        frames: frames in one window; None: what the extractor needs.
        step: frames between the starts of two windows; None: `frames` (no overlap).
        every: take every n-th frame inside a window.
        random_frames: instead of a grid, this many seeded random frames of each clip, one window each.
        seed: of `random_frames`; the draw is a function of (seed, video id, clip index) alone.
        tail: what becomes of the last, incomplete window of a clip: ``drop`` it; ``repeat`` its last frame; or
            ``overlap``: shift it back so that it ends with the clip (a clip shorter than one window is then repeated);
            ``loop``: repeat its own frames from its first; ``before_last``: as VSLNet's scripts, a window for every
            step of the clip, shifted back so that it ends before the clip's last frame, which no window has (a clip too
            short for one has one shorter window); ``both_ways``: as R-C3D, a grid from the start and another from the
            end, for windows that count `frames` x `every` frames; a shorter clip is one window and repeats its last.
        first_frame: the first window starts at this frame of the clip, counted from 0; None: at its first.
        frames_after: so many frames must follow a window in the clip, although they are not in it; a window that lacks
            them is an incomplete one (video_features reads one more, for its flow).
        block_frames: cut the clip into blocks of so many frames first, and place windows in each by itself; a last
            block of one frame is left out, one shorter than a window is extended backwards (VSLNet's scripts).
        uniform_windows: instead of a grid, so many windows spread evenly from the clip's start to its end; one lies in
            its middle. A window counts `frames` x `every` frames (CPNet).
        centred: instead of a grid, a window centred on each frame, or each `step` frames; what lies beyond the clip's
            ends is its first or last frame.
    """

    fps: float | None = Field(default=None, gt=0, le=1000)
    frames: int | None = Field(default=None, ge=1)
    step: int | None = Field(default=None, ge=1)
    every: int = Field(default=1, ge=1)
    random_frames: int | None = Field(default=None, ge=1)
    seed: int = 0
    tail: Tail = "drop"
    rounding: Literal["display", "nearest", "ffmpeg_r"] | None = None
    first_frame: int | None = Field(default=None, ge=1)
    frames_after: int | None = Field(default=None, ge=1)
    block_frames: int | None = Field(default=None, ge=1)
    uniform_windows: int | None = Field(default=None, ge=1)
    centred: bool = False

    @field_validator("rounding", mode="after")
    @classmethod
    def _default_is_off(cls, rounding: str | None) -> str | None:
        # So that writing the default leaves a fingerprint alone.
        return None if rounding == "display" else rounding

    @model_validator(mode="after")
    def _one_mode(self) -> "Sampling":
        if self.random_frames is not None and (self.fps is not None or self.step is not None):
            raise ValueError("expected either random_frames or a grid (fps, step), got both; remove one")
        modes = {
            "random_frames": self.random_frames is not None,
            "uniform_windows": self.uniform_windows is not None,
            "centred": self.centred,
        }
        given = [name for name, is_given in modes.items() if is_given]
        if len(given) > 1:
            raise ValueError(f"expected one of random_frames, uniform_windows and centred, got {' and '.join(given)}")
        if self.uniform_windows is not None and self.step is not None:
            raise ValueError("uniform_windows has no step: windows are spread evenly; remove one of them")
        of_grid = {
            "first_frame": self.first_frame,
            "frames_after": self.frames_after,
            "block_frames": self.block_frames,
            f"tail: {self.tail}": None if self.tail in ("drop", "repeat", "overlap", "loop") else self.tail,
        }
        unused = [name for name, value in of_grid.items() if value is not None]
        if given and unused and not (given == ["uniform_windows"] and unused[0] in ("first_frame", "frames_after")):
            raise ValueError(f"{unused[0]} belongs to a grid of windows, got {given[0]} too; remove one")
        if self.tail in ("before_last", "both_ways") and (self.first_frame or self.frames_after):
            raise ValueError(f"tail: {self.tail} starts at the clip's first frame; remove first_frame and frames_after")
        if self.tail == "before_last" and self.every != 1:
            raise ValueError(f"tail: before_last takes every frame, got every: {self.every}; remove one of them")
        return self


class Preprocess(Model):
    """How a decoded frame becomes the network's input: a property of the weights (part of their card).

    The first group is geometry, done on ``uint8`` in the decode child; the second is arithmetic, done on the device.

    Attributes:
        resize: ``exact`` to `size` (rows, columns) ignoring the aspect; ``short_side``, ``long_side`` or ``width`` to
            ``size[0]`` keeping it; ``none``.
        size: rows and columns for ``exact``; one number for ``short_side``, ``long_side`` and ``width``.
        resize_when: resize ``always``, or only to ``shrink`` or only to ``enlarge``.
        interpolation: ``bilinear``, ``bicubic`` and ``nearest`` as OpenCV does them (no antialias), or a filter of
            Pillow's: ``bilinear_antialias`` (torchvision's on PIL images), ``pillow_nearest``, ``pillow_box``,
            ``pillow_hamming``, ``pillow_bicubic``, ``pillow_lanczos``.
        crop: rows and columns of the crop; None: no crop.
        crop_offset: row and column of its top left corner; None: centred with integer division.
        colour: channel order the weights expect, or ``grey`` (one channel).
        scale: multiplies the 0-255 values.
        mean, std: per channel in the order of `colour`, applied after `scale`.
        mean_cube: SHA-256 of the file of a mean volume to subtract instead of `mean` (C3D), cut at the crop.
        mean_cube_file: path of that file; not part of the fingerprint (the digest is).
        resize_rounding: how the other side of a resize becomes whole pixels: None cuts ``short_side`` and ``width`` and
            rounds ``long_side`` up; ``nearest`` rounds half up, as mmcv does; ``even`` cuts to an even number, as CPNet
            does; ``opencv_factor`` is ``cv2.resize`` by a factor in place of a size: half to even, and pixels are taken
            from where the factor itself places them (the Charades loader of pytorch-i3d, VSLNet).
        crop_rounding: how the corner of a centred crop becomes whole pixels: None cuts, as Caffe does (column 29, not
            30, of 171 columns cropped to 112); ``half_even`` as torchvision does.
        stored_side: the short side frames are brought to first, with `interpolation`, the other side cut to whole
            pixels: that of the frames some code stored and then read again.
        resize_precision: None rounds what `resize` makes to whole grey levels; ``float32`` keeps the fractions, as a
            resize of float pixels does (R-C3D).
        crops: more crops of the size of `crop` than one, whose rows are averaged. ``ten``: corners and centre, of the
            frame and of its mirror image. ``six``: spread along the long side, as CPNet is evaluated. Geometry then
            ends with the resize, and `clipmill.extractors.crops` cuts.
    """

    resize: Literal["exact", "short_side", "long_side", "width", "none"] = "none"
    size: tuple[int, ...] = ()
    resize_when: Literal["always", "shrink", "enlarge"] = "always"
    interpolation: Interpolation = "bilinear"
    crop: tuple[int, int] | None = None
    crop_offset: tuple[int, int] | None = None
    colour: Literal["rgb", "bgr", "grey"] = "rgb"
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    mean_cube: str | None = None
    mean_cube_file: str | None = None
    resize_rounding: Literal["nearest", "even", "opencv_factor"] | None = None
    crop_rounding: Literal["half_even"] | None = None
    stored_side: int | None = Field(default=None, ge=1)
    resize_precision: Literal["float32"] | None = None
    crops: Literal["ten", "six"] | None = None

    @model_validator(mode="after")
    def _size_fits_resize(self) -> "Preprocess":
        wanted = {"exact": 2, "short_side": 1, "long_side": 1, "width": 1, "none": 0}[self.resize]
        if len(self.size) != wanted:
            raise ValueError(f"resize {self.resize}: expected {wanted} numbers in size, got {list(self.size)}")
        if any(number < 1 for number in (*self.size, *(self.crop or ()))):
            raise ValueError(f"expected positive numbers in size {list(self.size)} and crop {list(self.crop or ())}")
        if any(number < 0 for number in self.crop_offset or ()):
            raise ValueError(f"expected crop_offset of zero or more, got {list(self.crop_offset or ())}")
        return self

    @model_validator(mode="after")
    def _as_its_libraries_can(self) -> "Preprocess":
        of_opencv = self.interpolation in ("bilinear", "bicubic", "nearest")
        for key in ("resize_precision", "resize_rounding"):
            if getattr(self, key) in ("float32", "opencv_factor") and not of_opencv:
                raise ValueError(
                    f"{key} {getattr(self, key)}: expected an interpolation of OpenCV, got {self.interpolation}; set "
                    "interpolation: bilinear, bicubic or nearest"
                )
        if self.resize_rounding == "opencv_factor" and self.resize == "exact":
            raise ValueError("resize_rounding opencv_factor: expected a resize that keeps the aspect, got exact")
        if self.crops is not None and (self.crop is None or self.crop_offset is not None):
            raise ValueError(f"crops {self.crops}: expected the size of a crop and no crop_offset")
        return self


class Weights(Model):
    """Which weights, as resolved: a seed or a file, the layout it was recognised as, and its digest.

    Attributes:
        source: ``random(<seed>)`` or ``file`` or ``none`` (a descriptor without weights); what passports show.
        seed: of random weights.
        file: path of the file; not part of the fingerprint (the digest is).
        sha256: of the file's bytes.
        layout: name of the published layout the keys match, such as ``c3d_sports1m_jfzhang95``.
        card: name of the weights card whose preprocessing applies.
        licence: of the weights, for the passport; not part of the fingerprint.
    """

    source: str
    seed: int | None = None
    file: str | None = None
    sha256: str | None = None
    layout: str | None = None
    card: str
    licence: str | None = None


SHOTS_VERSION = 1
"""Raised whenever a change of code moves a shot boundary."""

SHOT_THRESHOLDS = {"histogram": 0.4, "tracks": 1}


class ShotOptions(Model):
    """How a video is cut into shots (see docs/shots.md).

    Attributes:
        detector: ``histogram``: by the distance of consecutive frames' HSV histograms; ``tracks``: by the key-feature
            tracks two frames share.
        threshold: there is a boundary between two frames, under ``histogram``, where their distance (0 to 1) is above
            it (ours: 0.4); under ``tracks``, where they share at most so many tracks (the reference's: 1).
        min_shot_seconds: a boundary this near after the last one, or before the end, is passed over (ours).
        max_shot_seconds: longer shots are cut into equal parts; None: they are not.
        version: of the code that detects; part of the recipe, not for users.
    """

    detector: Literal["histogram", "tracks"] = "histogram"
    threshold: float | None = Field(default=None, ge=0)
    min_shot_seconds: float = Field(default=0.5, ge=0)
    max_shot_seconds: float | None = Field(default=None, gt=0)
    version: int = Field(default=SHOTS_VERSION, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _threshold_of_detector(cls, data: Any) -> Any:
        # Written into the recipe, so that another default gives another fingerprint.
        if isinstance(data, dict) and data.get("threshold") is None:
            found = SHOT_THRESHOLDS.get(str(data.get("detector", "histogram")))
            return data if found is None else data | {"threshold": found}
        return data

    @model_validator(mode="after")
    def _fits_detector(self) -> "ShotOptions":
        threshold = self.threshold or 0.0
        if self.detector == "histogram" and threshold >= 1:
            raise ValueError(f"threshold: expected a distance from 0 to less than 1, got {threshold:g}; such as 0.4")
        if self.detector == "tracks" and threshold != int(threshold):
            raise ValueError(f"threshold: expected a number of tracks, got {threshold:g}; such as 1")
        longest = self.max_shot_seconds
        if longest is not None and longest < 2 * self.min_shot_seconds:
            raise ValueError(
                f"max_shot_seconds: expected at least twice min_shot_seconds ({self.min_shot_seconds:g}), "
                f"got {longest:g}; raise it"
            )
        return self


class ClipRule(Model):
    """How clips are cut from a video.

    Attributes:
        from_: ``whole``; ``windows`` of `length_seconds` each `step_seconds`; ``annotations`` of the manifest; or
            ``shots``.
        tail: what becomes of the incomplete last window clip: ``drop`` or ``keep`` it (shorter).
        options: of the shot detector; filled in for ``shots``, None otherwise.
        origin: what the times of ``annotations`` count from: None: the first frame that is shown; ``container``: the
            zero of the container's clock. A build file has it as `annotations.origin`.
    """

    from_: Literal["whole", "windows", "annotations", "shots"] = Field(default="whole", alias="from")
    length_seconds: float | None = Field(default=None, ge=0.01)
    step_seconds: float | None = Field(default=None, ge=0.01)
    tail: Literal["drop", "keep"] | None = None
    options: ShotOptions | None = None
    origin: Literal["container"] | None = None

    model_config = Model.model_config | {"populate_by_name": True}

    @model_validator(mode="before")
    @classmethod
    def _shots_have_options(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("options") in (None, {}):
            from_ = data.get("from", data.get("from_"))
            return data | {"options": {} if from_ == "shots" else None}
        return data

    @model_validator(mode="after")
    def _windows_have_length(self) -> "ClipRule":
        if self.from_ == "windows" and self.length_seconds is None:
            raise ValueError("clips from windows: expected length_seconds, got none; add length_seconds: 10")
        if self.from_ != "windows" and (self.length_seconds or self.step_seconds or self.tail):
            raise ValueError(f"clips from {self.from_}: length_seconds, step_seconds and tail belong to from: windows")
        if self.from_ != "annotations" and self.origin is not None:
            raise ValueError(f"clips from {self.from_}: origin belongs to from: annotations; remove it")
        if self.from_ != "shots" and self.options is not None:
            raise ValueError(f"clips from {self.from_}: options belong to from: shots; remove them")
        return self


class Recipe(Model):
    """One feature as it will be computed, fully resolved. `name` is what the user calls it, not part of its identity.

    Attributes:
        extractor_version: raised whenever the extractor's code changes a number.
        layer: which output of the network.
        dim, dtype: of one row's values; `dtype` is how they are stored.
        options: the extractor's own switches, as validated by its options model. One that names a file holds, once
            resolved, the digest or fingerprint of what is in it.
        files: paths of those files, by option; not part of the fingerprint (what is in them is).
        pooling: ``none``: one row per window; ``l2``: the same, each of unit length. One row per clip: ``mean``,
            ``max`` or ``gem`` of its rows, with ``_l2`` of unit length then; ``l2_mean``: the mean of rows of unit
            length.
        precision: arithmetic of the forward pass.
        runtime: what runs the network in place of PyTorch; it changes the last bits, so it is part of the identity.
        decoder: ``auto`` is decord with PyAV as fallback.
    """

    name: str
    extractor: str
    extractor_version: int
    layer: str
    dim: int
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    weights: Weights
    sampling: Sampling
    preprocess: Preprocess
    clips: ClipRule
    options: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)
    pooling: Pooling = "none"
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    runtime: Literal["openvino", "onnxruntime"] | None = None
    decoder: Literal["auto", "decord", "pyav"] = "auto"

    def identity(self) -> dict[str, Any]:
        """Returns the part of the recipe that decides a number: what the fingerprint covers."""
        data = self.model_dump(mode="json", by_alias=True)
        del data["name"], data["files"]
        for key in ("file", "licence"):
            data["weights"].pop(key)
        data["preprocess"].pop("mean_cube_file")
        return data

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits over `identity`; computed once, since planning asks for it with every video."""
        return fingerprint(self.identity())

    def __copy__(self) -> Self:
        copied = super().__copy__()
        # `model_copy` puts its changes into such a copy, which then has a fingerprint of its own.
        copied.__dict__.pop("fingerprint", None)
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        copied = super().__deepcopy__(memo)
        copied.__dict__.pop("fingerprint", None)
        return copied

    @property
    def is_imported(self) -> bool:
        """Whether the rows were made elsewhere and came by ``clipmill import``."""
        return self.extractor == IMPORTED

    @property
    def key(self) -> str:
        """``<name>-<fp8>``: the folder of its shards and commits."""
        return f"{self.name}-{short(self.fingerprint)}"
