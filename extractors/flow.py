"""Dense optical flow behind one interface: ``flow(previous, next) -> float32[2, H, W]`` in pixels, x in channel 0.

Three methods: DIS (Kroeger et al., ECCV 2016; the default, real time on a CPU), TV-L1 (Zach et al., DAGM 2007; what
I3D's flow weights were trained on) and RAFT (Teed and Deng, ECCV 2020; where torchvision is installed). They shift the
distribution of what follows, so the method and its parameters are options of the recipe and part of its fingerprint.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from clipmill.extractors.base import WeightsFile
from clipmill.extractors.flow_files import X_NAME, Y_NAME, folder_problem, name_problem
from clipmill.extractors.imagenet import TORCHVISION_URL
from clipmill.schemas.arrays import Pixels
from clipmill.schemas.errors import UsageError, VideoError, WeightsError, describe
from clipmill.schemas.model import Model

if TYPE_CHECKING:
    from torch import nn

FlowField = npt.NDArray[np.float32]
Flow = Callable[[Pixels, Pixels], FlowField]
"""``(previous uint8[H, W, 3] RGB, next) -> float32[2, H, W]``: where each pixel of `previous` went, in pixels."""

BOUND_PIXELS = 20.0
"""Displacements beyond this are clamped before I3D sees them (kinetics-i3d)."""

RAFT_MIN_SIDE_PIXELS = 128
RAFT_STRIDE_PIXELS = 8
RAFT_UPDATES = 12
"""torchvision's number of refinements."""
RAFT_UPDATES_SHARE = {"large": 0.74, "small": 0.94}
"""What of the cost those refinements are, by torch's count."""
RAFT_GMAC_PER_PIXEL = {"large": 211.007 / 512**2, "small": 47.655 / 512**2}
"""Of a pair of frames, by torchvision's count for 512 x 512 (``_ops`` of its weights' meta)."""


def _raft_file(size: str, weights: str, digits: str) -> WeightsFile:
    name = f"raft_{size}_{weights}-{digits}.pth"
    return WeightsFile(
        name=name,
        layout=f"raft_{size}",
        source=f"pytorch/vision (Raft_{size.title()}_Weights.{weights})",
        url=f"{TORCHVISION_URL}/{name}",
        sha256=digits,
        licence="BSD-3-Clause (of the code)",
    )


RAFT_NAMED = {
    (size, weights): _raft_file(size, weights, digits)
    for size, weights, digits in (
        ("large", "C_T_V1", "22a6c225"),
        ("large", "C_T_V2", "1bb1363a"),
        ("large", "C_T_SKHT_V1", "0b8c9e55"),
        ("large", "C_T_SKHT_V2", "ff5fadd5"),
        ("large", "C_T_SKHT_K_V1", "4a6a5039"),
        ("large", "C_T_SKHT_K_V2", "b5c70766"),
        ("small", "C_T_V1", "ad48884c"),
        ("small", "C_T_V2", "01064c6d"),
    )
}
"""torchvision's RAFT files by size and the name its code gives the weights. ``C_T_SKHT_V1`` is princeton-vl's
raft-sintel, which video_features uses, in torchvision's keys."""

RAFT_FILES = {f"options.flow (raft, {size}, {weights})": file for (size, weights), file in RAFT_NAMED.items()}
"""RAFT's published weights, by where a recipe names them."""


class TVL1Options(Model):
    """Parameters of TV-L1, by OpenCV's names; None: OpenCV's default.

    Attributes:
        tau: time step. lambda_: weight of the data term. theta: tightness.
        scales, scale_step: of the pyramid. warps: per scale. epsilon: at which iterations stop.
        inner_iterations, outer_iterations: at most. gamma: weight of illumination changes. median_filtering: side.
    """

    tau: float | None = Field(default=None, gt=0)
    lambda_: float | None = Field(default=None, gt=0)
    theta: float | None = Field(default=None, gt=0)
    scales: int | None = Field(default=None, ge=1)
    scale_step: float | None = Field(default=None, gt=0, lt=1)
    warps: int | None = Field(default=None, ge=1)
    epsilon: float | None = Field(default=None, gt=0)
    inner_iterations: int | None = Field(default=None, ge=1)
    outer_iterations: int | None = Field(default=None, ge=1)
    gamma: float | None = Field(default=None, ge=0)
    median_filtering: Literal[1, 3, 5] | None = None


class FlowOptions(Model):
    """Which optical flow.

    Attributes:
        method: ``dis``, ``tvl1`` or ``raft``; or ``images``: not computed, but read from files (see `flow_files`).
        preset: of DIS.
        values: ``exact``: clamp to the bound and divide by it; ``uint8``: round to 256 levels first, as the original
            JPEG pipeline of I3D did; ``video_features``: that code's 257 levels, of which 128 is no motion.
        bound: pixels beyond which displacements are clamped; None: 20. Of ``images``: what level 255 stands for.
        tvl1: parameters of ``tvl1``.
        raft: size of the RAFT network.
        weights: path of RAFT's state dict (torchvision's key names), or torchvision's name of one, which is looked for
            among the files torch has downloaded. Once resolved, the recipe has it in `files`, and its digest here: the
            fingerprint covers the bytes, not the path.
        sha256: of that file; where it is given, the file must have it.
        updates: how often RAFT refines its flow; None: 12, torchvision's (princeton-vl's evaluation on Sintel: 32;
            video_features: 20).
        padding: how sizes that are no multiple of 8 are filled for RAFT: None: at the bottom and right; ``both``:
            evenly on both sides, as princeton-vl does; ``uncut``: the same, and the crop is taken of the filled map,
            as video_features does.
        folder: of ``images``: where a video's are; may hold ``{id}``, ``{path}`` (the id without suffix) and ``{stem}``
            (the name of the video's file without suffix). Once resolved, the recipe has it in `files`.
        x, y: names of the images in it, with ``{number:05d}``; may begin with folders and hold the same.
            None: denseflow's ``flow_x_{number:05d}.jpg``.
        first: number of the first flow; None: 0 where there is such a file, else 1.
    """

    method: Literal["dis", "tvl1", "raft", "images"] = "dis"
    preset: Literal["ultrafast", "fast", "medium"] = "medium"
    values: Literal["exact", "uint8", "video_features"] = "exact"
    bound: float | None = Field(default=None, gt=0)
    tvl1: TVL1Options | None = None
    raft: Literal["large", "small"] = "large"
    weights: str | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    updates: int | None = Field(default=None, ge=1)
    padding: Literal["both", "uncut"] | None = None
    folder: str | None = None
    x: str | None = None
    y: str | None = None
    first: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _images_have_names(self) -> "FlowOptions":
        if self.method != "images":
            given = [name for name in ("folder", "x", "y", "first") if getattr(self, name) is not None]
            if given:
                raise ValueError(f"flow {self.method}: {given[0]} belongs to method: images; remove it")
            return self
        if self.values != "exact":
            raise ValueError(f"flow images: expected no values, got {self.values}: the images are levels; remove it")
        for key, name in (("x", self.x or X_NAME), ("y", self.y or Y_NAME)):
            expected = name_problem(name)
            if expected is not None:
                raise ValueError(f"flow {key}: expected {expected}, got {name!r}; such as {X_NAME}")
        problem = folder_problem(self.folder or "")
        if problem is not None:
            raise ValueError(f"flow folder: expected {problem}, got {self.folder!r}")
        if (self.x or X_NAME) == (self.y or Y_NAME):
            raise ValueError(f"flow images: expected two names, got {self.x!r} for x and y; set y")
        return self

    @model_validator(mode="after")
    def _raft_has_weights(self) -> "FlowOptions":
        if self.method == "raft" and self.weights is None and self.sha256 is None:
            raise ValueError("flow raft: expected weights (a file), got none; add weights: PATH")
        if self.method != "raft" and (self.weights is not None or self.sha256 is not None):
            raise ValueError(f"flow {self.method}: weights and sha256 belong to method: raft; remove them")
        if self.method != "raft" and (self.updates is not None or self.padding is not None):
            raise ValueError(f"flow {self.method}: updates and padding belong to method: raft; remove them")
        if self.method != "tvl1" and self.tvl1 is not None:
            raise ValueError(f"flow {self.method}: tvl1 belongs to method: tvl1; remove it")
        return self


def resolve_flow_files(options: FlowOptions, where: str) -> tuple[FlowOptions, dict[str, str]]:
    """Returns the options with the digest of RAFT's file in place of its path, and that path by ``flow.weights``.

    Of ``images`` the folder moves to ``flow.folder`` in the same way; its files belong to the videos' rows.

    Raises:
        UsageError: no file, or no folder, is named.
        WeightsError: it cannot be read, or has another digest than the one given.
    """
    from clipmill.extractors.weights import check_digest, digest

    if options.method == "images":
        return options.model_copy(update={"folder": None}), {"flow.folder": _folder(options.folder, where)}
    if options.method != "raft":
        return options, {}
    if options.weights is None:
        remedy = "add weights: PATH (clipmill weights list --extractor i3d)"
        raise UsageError(describe(where, "flow", "weights (a file) for method raft", "its sha256 only", remedy))
    path = _raft_path(options.weights, options.raft, where)
    found = digest(path)
    if options.sha256 is not None:
        check_digest(path, options.sha256)
    return options.model_copy(update={"weights": None, "sha256": found}), {"flow.weights": path}


def _folder(folder: str | None, where: str) -> str:
    if not folder:
        remedy = "add folder: PATH, such as /data/flow/{stem}"
        raise UsageError(describe(where, "flow.folder", "a folder, for method images", "none", remedy))
    if "://" in folder:
        remedy = "mount it, or copy it where every worker finds it under one path"
        raise UsageError(describe(where, "flow.folder", "a folder of the file system", folder, remedy))
    path = os.path.abspath(os.path.expanduser(folder))
    # What comes before the first place must be there; of a single video there may be none.
    base = path.partition("{")[0]
    base = base if base == path else base.rpartition("/")[0] or "/"
    if not os.path.isdir(base):
        got = "nothing there" if not os.path.exists(base) else "a file"
        raise UsageError(describe(where, "flow.folder", f"a folder {base}", got, "correct the path"))
    return path


def _raft_path(weights: str, size: str, where: str) -> str:
    """Returns the path of RAFT's file, which may be given as torchvision's name: ``C_T_SKHT_V2``, or with its class.

    Raises:
        UsageError: torch has not downloaded the file of that name.
    """
    path = os.path.abspath(os.path.expanduser(weights))
    named = RAFT_NAMED.get((size, weights.rpartition(".")[2]))
    of_file = next((file for file in RAFT_NAMED.values() if file.name == weights), None)
    file = named or of_file
    if file is None or os.path.isfile(path):
        return path
    home = os.environ.get("TORCH_HOME", os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch"))
    cached = os.path.join(os.path.expanduser(home), "hub", "checkpoints", file.name)
    if os.path.isfile(cached):
        return cached
    remedy = f"fetch it (clipmill weights fetch {file.name} --out DIR) and give its path"
    raise UsageError(describe(where, "flow.weights", f"a file, or {file.name} in {cached}", "neither", remedy))


def gmac_per_pair(options: FlowOptions, num_pixels: int) -> float:
    """Returns the cost of the flow of two frames; only RAFT's is in multiply-accumulates, the others count as none."""
    if options.method != "raft":
        return 0.0
    shares = RAFT_UPDATES_SHARE[options.raft] * ((options.updates or RAFT_UPDATES) / RAFT_UPDATES - 1)
    return RAFT_GMAC_PER_PIXEL[options.raft] * num_pixels * (1 + shares)


def make_flow(options: FlowOptions, device: str) -> Flow:
    """Returns the flow `options` name; RAFT runs on `device`, the others on the CPU. RAFT needs `weights` and `sha256`.

    ``images`` are not computed: see `flow_files.ImageFlows`.

    Raises:
        UsageError: the library a method needs is not installed.
        WeightsError: RAFT's weights file is missing, another one, or does not fit.
    """
    if options.method == "images":
        raise ValueError("flow images: expected a method that computes flow, got files; read them with ImageFlows")
    if options.method == "raft":
        return _raft(options, device)
    return _dis(options.preset) if options.method == "dis" else _tvl1(options.tvl1 or TVL1Options())


def _grey(frame: Pixels) -> Pixels:
    import cv2

    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def _on_grey(calculate: Callable[[Pixels, Pixels, None], npt.NDArray[np.float32]]) -> Flow:
    def flow(previous: Pixels, following: Pixels) -> FlowField:
        field = calculate(_grey(previous), _grey(following), None)
        return np.ascontiguousarray(np.asarray(field, dtype=np.float32).transpose(2, 0, 1))

    return flow


def _dis(preset: str) -> Flow:
    import cv2

    presets = {
        "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
        "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
        "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
    }
    create: Any = cv2.DISOpticalFlow_create  # type: ignore[attr-defined]
    return _on_grey(create(presets[preset]).calc)


TVL1_SETTERS = {
    "tau": "Tau",
    "lambda_": "Lambda",
    "theta": "Theta",
    "scales": "ScalesNumber",
    "scale_step": "ScaleStep",
    "warps": "WarpingsNumber",
    "epsilon": "Epsilon",
    "inner_iterations": "InnerIterations",
    "outer_iterations": "OuterIterations",
    "gamma": "Gamma",
    "median_filtering": "MedianFiltering",
}
"""Our name -> the end of OpenCV's setter."""


def _tvl1(options: TVL1Options) -> Flow:
    import cv2

    if not hasattr(cv2, "optflow"):
        remedy = "pip install opencv-contrib-python-headless in place of the OpenCV that is there, or use method: dis"
        raise UsageError(describe("flow", "tvl1", "OpenCV's contrib modules", "an OpenCV without cv2.optflow", remedy))
    create: Any = cv2.optflow.DualTVL1OpticalFlow_create  # type: ignore[attr-defined]
    algorithm = create()
    for name, setter in TVL1_SETTERS.items():
        value = getattr(options, name)
        if value is not None:
            getattr(algorithm, f"set{setter}")(value)
    return _on_grey(algorithm.calc)


def _raft(options: FlowOptions, device: str) -> Flow:
    import torch

    network = _raft_network(options).to(device).eval()

    def flow(previous: Pixels, following: Pixels) -> FlowField:
        height, width = previous.shape[:2]
        if min(height, width) < RAFT_MIN_SIDE_PIXELS:
            expected = f"frames of at least {RAFT_MIN_SIDE_PIXELS} pixels a side"
            message = describe("flow", "raft", expected, f"{width}x{height}", "resize larger, or use method: dis")
            raise VideoError("extract", "frame_too_small", message)
        # Edge-padded to the stride of the network; the padding's flow is cut off again.
        more = -height % RAFT_STRIDE_PIXELS, -width % RAFT_STRIDE_PIXELS
        top, left = (0, 0) if options.padding is None else (more[0] // 2, more[1] // 2)
        padding = ((top, more[0] - top), (left, more[1] - left), (0, 0))
        pair = np.stack([np.pad(frame, padding, mode="edge") for frame in (previous, following)])
        scaled = torch.from_numpy(pair).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        with torch.inference_mode():
            field = network(scaled[:1], scaled[1:], num_flow_updates=options.updates or RAFT_UPDATES)[-1]
        if options.padding != "uncut":
            field = field[:, :, top : top + height, left : left + width]
        return np.ascontiguousarray(field[0].float().cpu().numpy())

    return flow


def _raft_network(options: FlowOptions) -> "nn.Module":
    from clipmill.extractors.weights import digest, read_state_dict

    try:
        optical_flow: Any = import_module("torchvision.models.optical_flow")
    except (ImportError, RuntimeError) as error:
        remedy = "pip install torchvision in the version that belongs to your torch, or use method: dis"
        raise UsageError(describe("flow", "raft", "torchvision", f"none ({error})", remedy)) from None
    path = str(options.weights)
    found = digest(path)
    if found != options.sha256:
        remedy = "give the file the recipe names, or its own digest"
        raise WeightsError(describe("flow weights", path, f"SHA-256 {options.sha256}", found, remedy))
    make: dict[str, Any] = {"large": optical_flow.raft_large, "small": optical_flow.raft_small}
    network: nn.Module = make[options.raft](weights=None, progress=False)
    state = read_state_dict(path)
    wanted = {key for key in network.state_dict() if not key.endswith("num_batches_tracked")}
    if state.keys() != wanted:
        got = f"{len(wanted - state.keys())} keys missing and {len(state.keys() - wanted)} unexpected"
        remedy = "princeton-vl's own checkpoints do not fit; give torchvision's file"
        raise WeightsError(describe("flow weights", path, f"torchvision's raft_{options.raft}", got, remedy))
    network.load_state_dict(state, strict=False)
    return network


class WindowFlows:
    """Flows of whole windows, each pair of frames computed once while it is remembered.

    Overlapping windows share most of their pairs; a pair is recognised by its bytes, so the result is a function of the
    pixels alone.

    Args:
        flow: computes one pair.
        num_remembered: how many pairs are kept; as many as a window has is enough for windows that overlap.
    """

    def __init__(self, flow: Flow, num_remembered: int) -> None:
        self._flow = flow
        self._num_remembered = num_remembered
        self._known: OrderedDict[tuple[bytes, bytes], FlowField] = OrderedDict()

    def of(self, frames: Pixels) -> FlowField:
        """Returns ``float32[T, 2, H, W]`` in pixels, for the ``uint8[T + 1, H, W, 3]`` frames of one window."""
        size = str(frames.shape).encode()
        keys = [hashlib.blake2b(frame.tobytes(), digest_size=16, key=size).digest() for frame in frames]
        return np.stack(
            [
                self._pair((keys[index], keys[index + 1]), frames[index], frames[index + 1])
                for index in range(len(frames) - 1)
            ]
        )

    def _pair(self, key: tuple[bytes, bytes], previous: Pixels, following: Pixels) -> FlowField:
        known = self._known.pop(key, None)
        field = self._flow(previous, following) if known is None else known
        self._known[key] = field
        if len(self._known) > self._num_remembered:
            self._known.popitem(last=False)
        return field


def network_values(flows: FlowField, values: str, bound: float = BOUND_PIXELS) -> FlowField:
    """Returns flows in pixels as a flow network expects them, in [-1, 1]: clamped to `bound` pixels and divided by it.

    Args:
        values: ``exact``, or ``uint8``: the interval is first rounded to the levels 0 to 255 (zero flow then becomes
            +1/255, level 128); ``video_features``: to ``round(128 + 255 / (2 bound) x)``, half to even, from 0 (of
            0.5) to 256: the upper bound becomes 1.0078.
    """
    clamped = np.clip(flows, -bound, bound)
    if values == "exact":
        return np.asarray(clamped / bound, dtype=np.float32)
    if values == "video_features":
        levels = np.round(128 + 255 / (2 * bound) * clamped)
    else:
        levels = np.floor((clamped + bound) * (255.0 / (2 * bound)) + 0.5)
    return np.asarray(levels * (2.0 / 255.0) - 1.0, dtype=np.float32)
