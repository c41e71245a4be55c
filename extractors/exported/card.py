"""What the extractors of exported programs share before anything runs: their card is what the file says."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from clipmill.extractors.base import ExtractorCard, Layer, ProgramFile, WeightsCard
from clipmill.extractors.exported.options import NO_PREPROCESSOR, ProgramOptions
from clipmill.extractors.exported.preprocessor import FILE_NAME, read_preprocessor
from clipmill.extractors.exported.program import FrameAxes, Interface, Program, TensorInterface, frame_axes, refused
from clipmill.schemas.errors import ClipmillError, UsageError, describe
from clipmill.schemas.recipe import Preprocess, Recipe, Sampling

CARD_NAME = "as-exported"

GMAC_PER_FRAME = 18.0
"""ours: ViT-B/16's, where a program has not been counted: it only decides how long a task is."""

UNPROBED_SIDE = (240, 320)
"""ours: rows and columns of the frame a program is tried on where it and the recipe leave the size to the video."""

BATCH_FRAMES = 16
"""ours: frames of one forward pass on a CPU."""

_counted: dict[tuple[str, str], float] = {}
"""GMAC of a window of the programs this process has tried, by digest and layer: planning asks after resolving."""


@dataclass(frozen=True, slots=True)
class ProgramKind:
    """What differs between the files programs come in.

    Attributes:
        read: the interface of the file at a path; runs nothing.
        digest: of all its bytes, those of further files that belong to it included.
        load: the program of a recipe on a device.
        resolve: further options that name files -> the recipe with their digests.
        check: refuses a recipe that this kind cannot run.
    """

    name: str
    layout: str
    summary: str
    options: type[ProgramOptions]
    read: Callable[[str], Interface]
    digest: Callable[[str], str]
    load: Callable[[Recipe, str], Program]
    resolve: Callable[[Recipe], Recipe]
    check: Callable[[Recipe], None]
    count: Callable[[Program, Any, Recipe], float]


def program_card(kind: ProgramKind) -> ExtractorCard:
    """Returns the card of an extractor of this kind of file, as far as it is known without one."""

    def of_file(path: str, options: ProgramOptions) -> ExtractorCard:
        interface = kind.read(path)
        axes = frame_axes(path, interface, options.axes)
        preprocess = _preprocess(path, options, axes)
        frames = axes.num_frames
        sampling = Sampling(fps=1, frames=1) if axes.axes == "nchw" else Sampling(frames=frames, step=frames)
        return replace(
            card,
            layers=tuple(Layer(output.name, 0) for output in interface.outputs),
            sampling=sampling,
            frames_fixed=frames is not None,
            weights=(replace(card.weights[0], preprocess=preprocess),),
        )

    def of_recipe(recipe: Recipe) -> ExtractorCard:
        frames = recipe.sampling.frames or 1
        gmac = _counted.get((recipe.weights.sha256 or "", recipe.layer), GMAC_PER_FRAME * frames)
        return replace(
            card,
            layers=(Layer(recipe.layer, recipe.dim),),
            sampling=recipe.sampling,
            gmac_per_window=gmac,
            batch_windows=max(BATCH_FRAMES // frames, 1),
        )

    card = ExtractorCard(
        name=kind.name,
        version=1,
        summary=kind.summary,
        # Which layers there are, the file says.
        layers=(Layer("output", 0),),
        sampling=Sampling(fps=1, frames=1),
        weights=(
            WeightsCard(
                name=CARD_NAME,
                layouts=(),
                source="the program's own, whoever exported it",
                licence="the network's",
                preprocess=Preprocess(),
            ),
        ),
        options=kind.options,
        gmac_per_window=GMAC_PER_FRAME,
        batch_windows=BATCH_FRAMES,
        resolve_files=lambda recipe: _resolve(kind, recipe),
        program=ProgramFile(kind.layout, of_file, of_recipe, kind.digest, lambda path: _described(kind.read(path))),
    )
    return card


def _described(interface: Interface) -> list[tuple[str, str]]:
    outputs = [("output", output.shown) for output in interface.outputs]
    written = [("written by", interface.producer)] if interface.producer else []
    return [*written, ("parameters", f"{interface.num_parameters:,}"), ("input", interface.input.shown), *outputs]


def _preprocess(path: str, options: ProgramOptions, axes: FrameAxes) -> Preprocess:
    colour: Any = "grey" if axes.num_channels == 1 else "rgb"
    found = preprocessor_path(path, options)
    if found is None:
        return Preprocess(colour=colour)
    preprocess = read_preprocessor(found)
    if colour == "grey":
        preprocess = preprocess.model_copy(
            update={"colour": colour, "mean": preprocess.mean[:1], "std": preprocess.std[:1]}
        )
    return preprocess


def preprocessor_path(path: str, options: ProgramOptions) -> str | None:
    """Returns the ``preprocessor_config.json`` that belongs to the program at `path`, or None."""
    if options.preprocessor == NO_PREPROCESSOR:
        return None
    if options.preprocessor is not None:
        return os.path.abspath(os.path.expanduser(options.preprocessor))
    beside = os.path.join(os.path.dirname(path), FILE_NAME)
    return beside if os.path.exists(beside) else None


def _resolve(kind: ProgramKind, recipe: Recipe) -> Recipe:
    """Tries the program once and returns the recipe with the length of a row.

    Raises:
        UsageError: frames as the recipe prepares them are not what the program takes, or its output is no row.
    """
    path = recipe.weights.file or ""
    where = f"features.{recipe.name}"
    options: ProgramOptions = kind.options.model_validate(recipe.options)
    interface = kind.read(path)
    axes = frame_axes(path, interface, options.axes)
    named = preprocessor_path(path, options)
    if named is not None:
        recipe = recipe.model_copy(update={"files": recipe.files | {"preprocessor": named}})
    # What the file says is in the preprocessing: the same rows, whoever wrote it down.
    recipe = recipe.model_copy(update={"options": recipe.options | {"preprocessor": None}})
    recipe = kind.resolve(recipe)
    kind.check(recipe)
    return _tried(kind, recipe, interface, _window_shape(recipe, axes, where))


def _window_shape(recipe: Recipe, axes: FrameAxes, where: str) -> tuple[int, int, int]:
    """Returns frames, rows and columns of a window as the recipe prepares it."""
    from clipmill.extractors.preprocess import output_shape

    preprocess = recipe.preprocess
    if preprocess == Preprocess(colour=preprocess.colour):
        wanted = _shown(axes)
        expected = f"how frames become the program's input{wanted}"
        remedy = f"write preprocess: {{...}}, or put the network's {FILE_NAME} beside it (docs/extractors/torch.md)"
        raise UsageError(describe(where, "preprocess", expected, "nothing", remedy))
    if recipe.sampling.frames is None or (axes.axes == "nchw" and recipe.sampling.frames != 1):
        expected = "1 for a program of single frames" if axes.axes == "nchw" else "a number: the program takes any"
        raise UsageError(
            describe(
                f"{where}.sampling", "frames", expected, str(recipe.sampling.frames), "write sampling: {frames: 16}"
            )
        )
    fixed = preprocess.crop or (
        preprocess.size if preprocess.resize == "exact" and preprocess.resize_when == "always" else None
    )
    rows, columns, _ = output_shape(preprocess, *UNPROBED_SIDE)
    for side, want, have in (("rows", axes.rows, rows), ("columns", axes.columns, columns)):
        if want is None or (fixed is not None and want == have):
            continue
        got = f"frames of {have} {side}" if fixed is not None else "frames of whatever size a video has"
        remedy = (
            f"set preprocess: {{crop: [{axes.rows or 'rows'}, {axes.columns or 'columns'}]}}, or resize: exact to it"
        )
        raise UsageError(describe(f"{where}.preprocess", "crop", f"{want} {side} (the program's input)", got, remedy))
    return recipe.sampling.frames, rows, columns


def _shown(axes: FrameAxes) -> str:
    return f" of {axes.rows} x {axes.columns}" if axes.rows and axes.columns else ""


def _check_pool(output: TensorInterface, interface: Interface, options: ProgramOptions, where: str) -> None:
    rank = len(output.shape)
    if rank == 2:
        if options.pool not in (None, "none"):
            got = f"{options.pool} for {output.shown}, which is one vector already"
            raise UsageError(describe(f"{where}.options", "pool", "none", got, "leave it out"))
        return
    if rank not in (3, 4, 5):
        raise UsageError(describe(where, "layer", "an output of 2 to 5 axes", output.shown, "choose another output"))
    if rank > 3 and options.pool is None and all(size == 1 for size in output.shape[2:]):
        # Maps of one position, as a global average pooling leaves them: there is nothing to choose.
        return
    allowed = ("cls", "mean", "max", "none") if rank == 3 else ("mean", "max", "none")
    if options.pool not in allowed:
        expected = f"{', '.join(allowed)} for {'tokens' if rank == 3 else 'maps'}"
        got = f"{options.pool or 'nothing'} for {output.shown}"
        vectors = [f"layer: {other.name}" for other in interface.outputs if len(other.shape) == 2]
        remedy = " or ".join(["write options: {pool: mean}", *vectors])
        raise UsageError(describe(f"{where}.options", "pool", expected, got, remedy))
    most = (output.shape[1] or 1) - 1 if rank == 3 else 0
    if options.skip_tokens > most:
        got = f"{options.skip_tokens} for {output.shown}"
        raise UsageError(describe(f"{where}.options", "skip_tokens", f"at most {most}", got, "lower it"))


def _tried(kind: ProgramKind, recipe: Recipe, interface: Interface, shape: tuple[int, int, int]) -> Recipe:
    """Runs the program on two windows of a pattern: what does not run is refused before a video is read."""
    import numpy as np

    from clipmill.extractors.exported.extractor import ProgramExtractor, pooled

    path = recipe.weights.file or ""
    options: ProgramOptions = kind.options.model_validate(recipe.options)
    channels = 1 if recipe.preprocess.colour == "grey" else 3
    window, time, row, column, channel = np.ogrid[:2, : shape[0], : shape[1], : shape[2], :channels]
    frames = ((3 * row + 2 * column + 7 * time + 61 * channel + 101 * window) % 256).astype(np.uint8)
    program = kind.load(recipe, "cpu")
    extractor = ProgramExtractor(program, recipe.model_copy(update={"precision": "float32"}), options, "cpu")
    try:
        found = extractor.output(frames)
    except ClipmillError:
        raise
    except Exception as error:
        got = f"{type(error).__name__}: {' '.join(str(error).split())[:160] or 'no message'}"
        remedy = "export it with the batch axis open, and for frames of this size"
        raise refused(path, f"two windows of {' x '.join(map(str, shape))} to run through it", got, remedy) from None
    output = TensorInterface(recipe.layer, (None, *found.shape[1:]), str(found.dtype).removeprefix("torch."))
    _check_pool(output, interface, options, f"features.{recipe.name}")
    values = pooled(found.float(), options)
    if not values.isfinite().all():
        raise refused(path, "finite numbers", f"NaN or infinity from output {output.name}", "check its weights")
    _counted[recipe.weights.sha256 or "", recipe.layer] = kind.count(program, extractor.prepare(frames[:1]), recipe)
    return recipe.model_copy(update={"dim": int(values.shape[1])})
