"""The contract between the pipeline and an extractor.

A worker cuts windows, decodes their frames once for all recipes, applies the recipe's preprocessing geometry in the
decode child, and hands batches that span videos to `Extractor.forward`. What comes back is split by window and given,
in window order, to one `Reducer` per clip, which makes the clip's rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from clipmill.extractors.flow_files import FlowFiles
from clipmill.extractors.learner import Learner
from clipmill.extractors.published_sample import PublishedSample
from clipmill.extractors.weights import Layout
from clipmill.schemas.model import Model
from clipmill.schemas.recipe import Preprocess, Recipe, Sampling
from clipmill.schemas.records import Clip, Video, Window
from clipmill.schemas.rows import Rows

Outputs = Mapping[str, npt.NDArray[np.generic]]
"""What one forward pass gives, by name, each ``[N, ...]``; ``values`` is the one the default reducer stores."""


PIXEL_OPTIONS = frozenset({"crops", "resize_precision"})
NUM_CROPS = {"ten": 10, "six": 6}
"""Forward passes of a window, by `Preprocess.crops`."""

RUNTIMES = frozenset({"openvino", "onnxruntime"})
"""Of networks that both take: plain convolutions, pools and products."""


class NoOptions(Model):
    """The options of an extractor that has none."""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One published file, as far as its facts are known; None is "not known", never a guess.

    Attributes:
        name: under which it was published; no two known files share one.
        layout: its published layout (see `clipmill.extractors.weights`).
        source: the repository or page it is published in.
        url: from which it can be fetched as it is.
        num_bytes: of the file.
        sha256: of the file; may be its first digits only, as PyTorch's file names have them. A file with this digest
            gets this card, whatever card its layout has.
        git_blob: the id git gives its bytes, where a repository holds it.
        licence: where it differs from the card's.
    """

    name: str
    layout: str
    source: str
    url: str | None = None
    num_bytes: int | None = None
    sha256: str | None = None
    git_blob: str | None = None
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class WeightsCard:
    """Where weights come from and how frames must be prepared for them.

    Attributes:
        name: such as ``sports1m-caffe``; recorded in the recipe.
        layouts: published layouts (see `clipmill.extractors.weights`) that name this card first.
        source: where the file was published (repository or paper), in words.
        files: the published files that are known, for `clipmill weights`.
        licence: SPDX name, or what the publisher says.
        preprocess: what these weights expect.
        classes: name of the label list of the last layer, where it has one.
        options: values of the extractor's options that belong to these weights; they fill options left at None.
        sampling: keys of the extractor's default windows that are others for these weights.
        digests: of further files with this card, whole or their first digits: those another extractor lists.
    """

    name: str
    layouts: tuple[str, ...]
    source: str
    licence: str
    preprocess: Preprocess
    files: tuple[WeightsFile, ...] = ()
    classes: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    digests: tuple[str, ...] = ()

    def is_of(self, sha256: str) -> bool:
        """Whether a file with this SHA-256 is known to have this card."""
        known = (*self.digests, *(file.sha256 for file in self.files if file.sha256 is not None))
        return sha256.startswith(known)


@dataclass(frozen=True, slots=True)
class Layer:
    """One output one can ask for.

    Attributes:
        dim: length of a row's values.
        maps: the shape of a row before flattening.
        rows_per_window: how many rows a window is expected to make: it bounds planned shards.
        frames_per_row: of a layer whose rows lie this many frames apart, however its windows are cut.
        frames_per_step: of a layer that makes a row of each step of so many frames of a window, but for the last.
        rows_per_clip: of a layer that makes so many rows of a clip, however many windows that has.
        min_side_pixels: the shortest side of a prepared frame that leaves the layer a cell to compute.
        unused: beginnings of the network's tensors, by our keys, that the layer does without: a weights file need not
            hold them.
    """

    name: str
    dim: int
    dtype: str = "float32"
    maps: tuple[int, ...] = ()
    rows_per_window: float = 1.0
    frames_per_row: int | None = None
    frames_per_step: int | None = None
    rows_per_clip: int | None = None
    min_side_pixels: int = 1
    unused: tuple[str, ...] = ()

    def expected_rows(self, sampling: Sampling, num_windows: int, num_clips: int) -> int:
        """Returns how many rows are expected of so many windows of `num_clips` clips, cut as `sampling` says."""
        if self.rows_per_clip is not None:
            return self.rows_per_clip * num_clips
        per_window = self.rows_per_window
        if self.frames_per_row is not None:
            per_window = (sampling.step or sampling.frames or 1) / self.frames_per_row
        if self.frames_per_step is not None:
            per_window = -(-(sampling.frames or 1) // self.frames_per_step) - 1
        return round(num_windows * per_window)


@dataclass(frozen=True, slots=True)
class ProgramFile:
    """What an extractor does whose weights file is the network itself (an exported program): the file says what it is.

    Attributes:
        layout: name of that kind of file; recorded in the recipe.
        card: from the path of a file and an instance of the card's options, the card as they make it. Reads the file.
            The length of its layers may be left open (0) for `ExtractorCard.resolve_files` to find.
        of_recipe: the card of a resolved recipe, without its file.
        digest: of the file at a path, further files that belong to it included.
        describe: what is in the file at a path, in lines for people.
    """

    layout: str
    card: Callable[[str, Any], "ExtractorCard"]
    of_recipe: Callable[[Recipe], "ExtractorCard"]
    digest: Callable[[str], str]
    describe: Callable[[str], list[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class ExtractorCard:
    """What an extractor is, without loading it: all that planning needs.

    Attributes:
        name: registered name.
        version: raised whenever a change of code changes a number.
        layers: the outputs; the first is the default.
        sampling: default windows. `frames` is the number of frames a window has when the user gives none.
        frames_fixed: whether `sampling.frames` is the only number of frames the network takes.
        min_frames: fewest frames of a window.
        weights: the cards of the published weights; the first is also the preprocessing of random weights.
        options: model of the extractor's own switches.
        gmac_per_window: cost of one default window in 1e9 multiply-accumulates, for tasks of equal length.
        batch_windows: hint for a forward pass on a CPU.
        fills_batches: whether a batch that is not full is filled up before `Extractor.forward`, so that the network
            sees one shape and a window's row does not depend on how many others were at hand. False where it takes
            windows one by one anyway.
        extras: further per-row columns its reducer makes, name to numpy dtype name.
        variant: the card as given options make it (other windows, layers, costs, weights or preprocessing), from an
            instance of `options`; None where options change none of these. Planning resolves a recipe against the
            result, and `registry.card_of` is it again for a resolved recipe.
        resolve_files: returns the resolved recipe with what only files named in its options can tell (their digests),
            or what follows from all of it (the length of a row of maps).
        check: raises UsageError for a resolved recipe the extractor cannot run, before any work is done.
        check_videos: raises UsageError for videos a recipe must not be used on (its whitening was fitted on them).
        video_files: the flow images a resolved recipe reads of a video beside the video itself. Their digest is part of
            what identifies the video's rows. None: it reads nothing else.
        class_names: the names of the classes a recipe's ``class_index`` column or logits count, in their order and
            without a background class; none where the weights do not tell.
        option_files: published files that options name, by where (for `clipmill weights`).
        program: of an extractor whose weights file is the network itself.
        pixel_options: which of ``crops`` and ``resize_precision`` it may be given: the first where the mean of its rows
            over crops means something, the second where it reads frames with `preprocess.values_of`.
        shared_layers: layers that one pass of the network gives together, each with the same bits as in a pass of its
            own; those that need more of it come later. Its extractor is a `SharingExtractor`.
        shares_under_runtimes: whether they do so under another runtime than PyTorch too: where it runs a part of the
            network that is the same for all of them.
        runtimes: what else than PyTorch its network can be run by (`Recipe.runtime`).
        trained_options: of a network that can be trained on images: options that it is trained with. Its extractor is a
            `TorchExtractor` of single frames. None: it cannot.
    """

    name: str
    version: int
    summary: str
    layers: tuple[Layer, ...]
    sampling: Sampling
    weights: tuple[WeightsCard, ...]
    frames_fixed: bool = False
    min_frames: int = 1
    options: type[Model] = NoOptions
    gmac_per_window: float = 1.0
    batch_windows: int = 8
    fills_batches: bool = True
    extras: Mapping[str, str] = field(default_factory=dict)
    variant: "Callable[[Any], ExtractorCard] | None" = None
    resolve_files: Callable[[Recipe], Recipe] | None = None
    check: Callable[[Recipe], None] | None = None
    check_videos: Callable[[Recipe, Sequence[Video]], None] | None = None
    video_files: Callable[[Recipe, Video], FlowFiles] | None = None
    class_names: Callable[[Recipe], tuple[str, ...]] | None = None
    option_files: Mapping[str, WeightsFile] = field(default_factory=dict)
    program: ProgramFile | None = None
    pixel_options: frozenset[str] = frozenset()
    shared_layers: tuple[str, ...] = ()
    shares_under_runtimes: bool = False
    runtimes: frozenset[str] = frozenset()
    trained_options: Mapping[str, Any] | None = None

    def layer(self, name: str) -> Layer:
        """Returns the layer of that name.

        Raises:
            KeyError: there is none.
        """
        return {layer.name: layer for layer in self.layers}[name]

    def gmac_of(self, sampling: Sampling) -> float:
        """Returns the cost of a window as `sampling` has it: in proportion to its frames."""
        return self.gmac_per_window * (sampling.frames or 1) / (self.sampling.frames or 1)


def card_for(card: ExtractorCard, options: Any) -> ExtractorCard:
    """Returns the card as `options` (an instance of ``card.options``) make it."""
    return card.variant(options) if card.variant is not None else card


class Extractor(Protocol):
    """A network or descriptor, built for one recipe on one device."""

    def forward(self, frames: npt.NDArray[np.uint8]) -> Outputs:
        """Returns the outputs of N windows.

        Args:
            frames: ``uint8[N, T, H, W, C]``, RGB (or one grey channel), already resized and cropped as the recipe's
                `Preprocess` says. Colour order, scale, mean and std are applied here, on the device.

        N windows in one call give what N calls give, up to the last bits of the arithmetic. In two calls with the same
        N a window gives the same bits, whatever its place and whichever windows are beside it.
        """
        ...

    def reducer(self, clip: Clip) -> "Reducer":
        """Returns a fresh reducer for one clip."""
        ...


@runtime_checkable
class WindowExtractor(Extractor, Protocol):
    """An extractor whose outputs depend on where in its clip a window lies: the pipeline calls this, not `forward`."""

    def forward_windows(self, frames: npt.NDArray[np.uint8], windows: Sequence[Window]) -> Outputs:
        """Returns the outputs of N windows ``uint8[N, T, H, W, C]``, given which they are."""
        ...


@runtime_checkable
class FilesExtractor(Extractor, Protocol):
    """An extractor that can read files of each video (`ExtractorCard.video_files`); called where a recipe has them."""

    def forward_files(
        self, frames: npt.NDArray[np.uint8], windows: Sequence[Window], files: Sequence[FlowFiles]
    ) -> Outputs:
        """Returns the outputs of N windows ``uint8[N, T, H, W, C]``, given which they are, and their videos' files."""
        ...


@runtime_checkable
class QueueingExtractor(Extractor, Protocol):
    """An extractor on a device that works on its own: what it is given waits there while the next batch is made."""

    @property
    def queues(self) -> bool:
        """Whether it does: not on a CPU."""
        ...

    def submit(
        self,
        frames: npt.NDArray[np.uint8],
        windows: Sequence[Window] | None = None,
        files: Sequence[FlowFiles] | None = None,
    ) -> Callable[[], Outputs]:
        """Begins what `forward` does; what it returns waits for the end and gives the outputs, or raises.

        With `windows` what `forward_windows` does, and with `files` too `forward_files`, where there are these.
        """
        ...


@runtime_checkable
class ReadyExtractor(Extractor, Protocol):
    """An extractor whose network can be run by itself, for the ceiling of a machine."""

    def ready(self, frames: npt.NDArray[np.uint8]) -> Callable[[], None]:
        """Returns what runs the network alone, to its end, on `frames` that are on the device and normalised."""
        ...


@runtime_checkable
class SharingExtractor(Extractor, Protocol):
    """An extractor whose one pass gives several layers (`ExtractorCard.shared_layers`)."""

    def of_layers(self, recipes: Sequence[Recipe]) -> "list[Extractor]":
        """Returns an extractor of each recipe; all take what they read of this one's passes.

        Args:
            recipes: they differ from this one's in the layer, which needs no more of the network than this one's, and
                in what becomes of its rows.
        """
        ...


class Reducer(Protocol):
    """Turns the outputs of a clip's windows, in order, into the clip's rows, in bounded memory."""

    def add(self, window: Window, outputs: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Takes the outputs of one window, without the leading N."""
        ...

    def rows(self) -> Rows:
        """Returns the clip's rows; called once, after the last window."""
        ...


class Factory(Protocol):
    """Builds an extractor: loads its weights, moves it to the device."""

    def __call__(self, recipe: Recipe, device: str) -> Extractor: ...


@dataclass(frozen=True, slots=True)
class Registration:
    """A card with what is imported only when it is wanted, so that cards stay light.

    The registry makes one of each folder of an extractor; a single file from outside makes its own.

    Attributes:
        layouts: returns the published layouts its weights files may have; None: it reads no weights files.
        sample: returns the published sample its weights can be checked with; None: nothing is published.
        join: writes several weights files into the one path, for a network that takes its parts in one file.
        learner: returns how it is trained on videos; None: it is not.
    """

    card: ExtractorCard
    factory: Factory
    layouts: Callable[[], Sequence[Layout]] | None = None
    sample: Callable[[], PublishedSample] | None = None
    join: Callable[[Sequence[str], str], None] | None = None
    learner: Callable[[], Learner] | None = None


def options_of(card: ExtractorCard, recipe: Recipe) -> Any:
    """Returns the recipe's options as the card's options model."""
    return card.options.model_validate(recipe.options)


def frame_spacing_seconds(window: Window, sampling: Sampling) -> float:
    """Returns the time between two neighbouring frames of a window, for outputs that describe a part of it.

    Exact for resampled clips and for constant frame rates; the mean over the window where the rate varies.
    """
    if sampling.fps is not None:
        return sampling.every / sampling.fps
    num_spanned = max(window.frames) - window.frames[0] + 1
    return (window.stop_seconds - window.start_seconds) / num_spanned * sampling.every


class EachWindow:
    """One row per window: the default reducer.

    Args:
        clip: the clip whose rows these are.
        dtype: in which values are stored.
    """

    def __init__(self, clip: Clip, dtype: str) -> None:
        self._clip = clip
        self._dtype = np.dtype(dtype)
        self._values: list[npt.NDArray[np.generic]] = []
        self._windows: list[Window] = []

    def add(self, window: Window, outputs: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Keeps ``outputs["values"]``, ``[D]``."""
        self._values.append(np.asarray(outputs["values"], dtype=self._dtype).reshape(-1))
        self._windows.append(window)

    def rows(self) -> Rows:
        """Returns one row per window, in window order."""
        num_rows = len(self._windows)
        return Rows(
            values=np.stack(self._values) if num_rows else np.zeros((0, 0), dtype=self._dtype),
            clip=np.full(num_rows, self._clip.index, dtype=np.int32),
            start_seconds=np.array([window.start_seconds for window in self._windows], dtype=np.float64),
            stop_seconds=np.array([window.stop_seconds for window in self._windows], dtype=np.float64),
            mask=np.ones(num_rows, dtype=np.bool_),
        )
