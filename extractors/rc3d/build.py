"""R-C3D as an extractor: a buffer of frames to scored segments with their features."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipmill.extractors.base import Extractor, Outputs, Reducer, card_for, options_of
from clipmill.extractors.compiled_network import CompiledNetwork, sample_frames
from clipmill.extractors.flow_files import FlowFiles
from clipmill.extractors.preprocess import values_of
from clipmill.extractors.rc3d.card import CARD
from clipmill.extractors.rc3d.layouts import layout_name, layouts, trained_layout_name
from clipmill.extractors.rc3d.network import RC3D, SLAB_FRAMES, LastSlabs, Slab, first_slab, run_trunk
from clipmill.extractors.rc3d.options import RC3DOptions
from clipmill.extractors.rc3d.releases import Release
from clipmill.extractors.rc3d.rows import DETECTIONS_POOL, DetectionRows, ProposalRows
from clipmill.extractors.rc3d.segments import decode, nms, propose
from clipmill.extractors.runtime import RuntimeUse
from clipmill.extractors.shared_pass import LastPass
from clipmill.extractors.torch_extractor import (
    affine,
    empty,
    reverse_input_channels,
    running,
    seeded,
    torch_dtype,
)
from clipmill.extractors.transfers import fetching, on_device, uploaded
from clipmill.extractors.weights import load_network
from clipmill.schemas.arrays import Floats, Ints, Pixels, Singles
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Clip, Window

RANDOM_INPUT_SCALE = 1 / 64
"""Frames are not scaled to unit size, so random weights are: else scores of an untrained network saturate (ours)."""


def build(recipe: Recipe, device: str) -> "RC3DExtractor":
    """Returns the extractor with the recipe's weights."""
    options: RC3DOptions = options_of(CARD, recipe)
    release = options.release
    if recipe.weights.file is not None:
        network = empty(lambda: RC3D(release, options.pooled))
        unused = card_for(CARD, options).layer(recipe.layer).unused
        name = recipe.weights.layout or layout_name(release)
        if name == trained_layout_name(release):
            network.offsets_normalised = True
        load_network(network, recipe.weights.file, layouts(), unused, name)
    else:
        network = random_network(release, options.pooled, recipe.weights.seed or 0)
    return RC3DExtractor(network, recipe, device, options)


@dataclass(frozen=True, slots=True)
class _Found:
    """What one pass over a buffer gives: proposals, their classes and offsets, and both hidden layers where wanted."""

    num_frames: int
    segments: Floats
    confidence: Floats
    probabilities: Floats
    offsets: Floats
    fc6: Singles | None = None
    last: Singles | None = None


@dataclass(frozen=True, slots=True)
class _Begun:
    """A buffer whose trunk is queued, and what its proposals are chosen by."""

    num_frames: int
    maps: Tensor
    choice: Callable[[], Mapping[str, Floats]]


class _Pass:
    """One pass over a batch, in three steps, so that the device has work while the host chooses proposals.

    As it is made, the trunk is queued, and what proposals are chosen by. `choose` waits for that, chooses, and queues
    the heads; `found` waits for what these give. A step that was taken is not taken again.
    """

    def __init__(self, extractor: "RC3DExtractor", frames: npt.NDArray[np.uint8]) -> None:
        self._extractor = extractor
        with torch.inference_mode():
            self._begun = [extractor.begin(extractor.prepare(buffer), buffer) for buffer in frames]
        self._heads: list[Callable[[], _Found]] = []
        self._found: list[_Found] = []

    def choose(self) -> None:
        with torch.inference_mode():
            self._heads += [self._extractor.end(begun) for begun in self._begun]
        # Their maps are not needed any more.
        self._begun.clear()

    def found(self) -> list[_Found]:
        self.choose()
        self._found += [arrive() for arrive in self._heads]
        self._heads.clear()
        return self._found


def random_network(release: Release, pooled: tuple[int, int, int] | None, seed: int) -> RC3D:
    """Returns the network with weights that are a function of `seed`."""
    network = seeded(seed, lambda: RC3D(release, pooled))
    network.initialise_heads(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        cast(Tensor, network.first_conv.weight).mul_(RANDOM_INPUT_SCALE)
    return network


class RC3DExtractor:
    """Runs R-C3D on one buffer after another; a batch only saves transfers, buffers are large enough by themselves."""

    def __init__(self, network: RC3D, recipe: Recipe, device: str, options: RC3DOptions) -> None:
        if recipe.preprocess.colour == "bgr":
            reverse_input_channels(network.first_conv)
        self._device = torch.device(device)
        self._dtype = torch_dtype(recipe)
        self._network = network.to(self._device, self._dtype).eval()
        self._scale, self._shift = (tensor.to(self._device) for tensor in affine(recipe.preprocess, 5))
        self._recipe = recipe
        self._options = options
        self._release: Release = network.release
        self._trunk: Callable[..., Tensor] = network.trunk
        self._layers = {recipe.layer}
        self._begin_pass: Callable[[npt.NDArray[np.uint8]], _Pass] = self._pass
        self._last_pass: _Pass | None = None
        self._last_slabs = LastSlabs()
        self.runtime_use: RuntimeUse | None = None
        if recipe.runtime is not None:
            self._compile_trunk(network)

    def _compile_trunk(self, network: RC3D) -> None:
        """Has the recipe's runtime run the trunk, on a sample of one slab; heads are PyTorch's."""
        parts = network.trunk_parts()
        maps = self.prepare(sample_frames(self._recipe)[0, :SLAB_FRAMES])
        runs = []
        with torch.inference_mode():
            for part in parts:
                runs.append(CompiledNetwork(part, self._recipe, first_slab(maps) if isinstance(part, Slab) else maps))
                maps = run_trunk([part], maps)
        self._trunk = partial(run_trunk, parts, runs=runs)
        self.runtime_use = max((item.use for item in runs), key=lambda use: use.error)

    def forward(self, frames: npt.NDArray[np.uint8]) -> Outputs:
        """Returns, for ``uint8[N, L, H, W, 3]`` buffers, M segments each, best first, of which `num_valid` are real.

        M is fixed, so that what a buffer gives does not depend on its neighbours: 300 proposals, or 5000 detections.

        ``segments float64[N, M, 2]`` in frames of the buffer, ``score``, ``class_score`` and ``class_index`` ``[N,
        M]``, and ``values float32[N, M, D]``: features of the segment, or its class probabilities for layer detections.
        """
        return self.submit(frames)()

    @property
    def queues(self) -> bool:
        """Whether `submit` leaves the work to the device: on a GPU."""
        return self._device.type == "cuda"

    def submit(
        self,
        frames: npt.NDArray[np.uint8],
        windows: Sequence[Window] | None = None,
        files: Sequence[FlowFiles] | None = None,
    ) -> Callable[[], Outputs]:
        """Queues what `forward` does: the trunk, then the heads of the batch before, whose proposals the host chooses
        while the device is at that trunk.
        """
        last, begun = self._last_pass, self._begin_pass(frames)
        self._last_pass = begun
        if last is not None:
            # What it raises belongs to that batch, and comes again when its outputs are asked for.
            with contextlib.suppress(Exception):
                last.choose()
        return lambda: self._outputs(begun.found())

    def _outputs(self, buffers: Sequence[_Found]) -> Outputs:
        found = [self._of_layer(buffer) for buffer in buffers]
        most = DETECTIONS_POOL if self._recipe.layer == "detections" else self._release.test_filter.num_after
        outputs: dict[str, npt.NDArray[np.generic]] = {
            name: np.stack([_padded(item[name], most) for item in found]) for name in found[0]
        }
        outputs["num_valid"] = np.array([len(item["score"]) for item in found], dtype=np.int64)
        return outputs

    def of_layers(self, recipes: Sequence[Recipe]) -> list[Extractor]:
        """Returns an extractor of each recipe; they differ from this one's in their layer, and share its passes."""
        self._layers = {recipe.layer for recipe in recipes}
        shared = LastPass(self._pass)
        found: list[Extractor] = []
        for recipe in recipes:
            # The network and all that was made of it are shared; what is read of a pass is its own.
            reader = copy(self)
            reader._recipe, reader._begin_pass = recipe, shared
            found.append(reader)
        return found

    def _pass(self, frames: npt.NDArray[np.uint8]) -> _Pass:
        return _Pass(self, frames)

    def ready(self, frames: npt.NDArray[np.uint8]) -> Callable[[], None]:
        """Returns what runs the network alone, to its end, on buffers that are prepared already."""
        buffers = [self.prepare(buffer) for buffer in frames]
        return running(lambda: [self.end(self.begin(buffer))() for buffer in buffers], self._device)

    def begin(self, inputs: Tensor, frames: Pixels | None = None) -> _Begun:
        """Queues the trunk of one buffer, and the scores and offsets of its anchors.

        Args:
            frames: what `inputs` were made of; without them nothing is taken from the buffer before.
        """
        maps = self._trunk(inputs, frames=frames, memory=self._last_slabs)
        scores, offsets = self._network.propose(maps)
        choice = {"scores": scores[0].float().softmax(dim=0)[1].double(), "offsets": offsets[0].double()}
        return _Begun(inputs.shape[2], maps, fetching(choice))

    def end(self, begun: _Begun) -> Callable[[], _Found]:
        """Chooses the proposals of a buffer and queues its heads; what it returns waits for what they give."""
        choice, options = begun.choice(), self._options
        scales, rule = self._release.scales, self._release.test_filter
        segments, confidence = propose(choice["scores"], choice["offsets"], scales, rule, options.nms_equal)
        fc6, last = self._network.hidden(begun.maps[0], uploaded(segments, self._device))
        scores, offsets = self._network.classify(last)
        given = {
            "probabilities": scores.float().softmax(dim=1).double(),
            "offsets": self._network.real_offsets(offsets).double(),
        }
        if "fc6" in self._layers:
            given["fc6"] = fc6.float()
        if self._layers - {"fc6", "detections"}:
            given["last"] = last.float()
        arrive = fetching(given)

        def found() -> _Found:
            return _Found(num_frames=begun.num_frames, segments=segments, confidence=confidence, **arrive())

        return found

    def _of_layer(self, found: _Found) -> dict[str, npt.NDArray[Any]]:
        """Returns what the recipe reads of a pass over one buffer."""
        segments, probabilities = found.segments, found.probabilities
        if self._recipe.layer == "detections":
            return self._detect(found.num_frames, segments, probabilities, found.offsets)
        best = probabilities[:, 1:].argmax(axis=1) + 1
        class_score = np.take_along_axis(probabilities, best[:, None], axis=1)[:, 0]
        return {
            "segments": segments,
            "score": found.confidence if self._options.confidence == "rpn" else class_score,
            "class_index": best,
            "class_score": class_score,
            "values": found.fc6 if self._recipe.layer == "fc6" else found.last,
        }

    def prepare(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """Returns the network's input ``float[1, 3, L, H, W]`` for one buffer ``uint8[L, H, W, 3]``."""
        values = values_of(frames, self._recipe.preprocess)
        tensor = on_device(np.ascontiguousarray(values), self._device)
        tensor = tensor.permute(3, 0, 1, 2)[None].to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        return tensor.mul_(self._scale).add_(self._shift).to(self._dtype)

    def _detect(
        self, num_frames: int, segments: Floats, probabilities: Floats, offsets: Floats
    ) -> dict[str, npt.NDArray[Any]]:
        """Returns one buffer's detections: per class those above the threshold, moved by its offsets, after NMS."""
        release, options = self._release, self._options
        threshold = release.score_threshold if options.score_threshold is None else options.score_threshold
        regions: list[Ints] = []
        classes: list[Ints] = []
        moved: list[Floats] = []
        for index in range(1, release.num_classes):
            above = np.flatnonzero(probabilities[:, index] > threshold)
            above = above[np.argsort(-probabilities[above, index], kind="stable")]
            refined = decode(segments[above], offsets[above, index], num_frames)
            kept = nms(refined, options.nms or release.nms, suppress_equal=options.nms_equal)
            regions.append(above[kept])
            classes.append(np.full(len(kept), index, dtype=np.int64))
            moved.append(refined[kept])
        region, class_index = np.concatenate(regions), np.concatenate(classes)
        score = probabilities[region, class_index]
        order = np.argsort(-score, kind="stable")[:DETECTIONS_POOL]
        return {
            "segments": np.concatenate(moved)[order],
            "score": score[order],
            "class_index": class_index[order],
            "class_score": score[order],
            "values": probabilities[region[order]].astype(np.float32),
        }

    def reducer(self, clip: Clip) -> Reducer:
        """Returns a reducer that makes the clip's best proposals, or its detections."""
        make = DetectionRows if self._recipe.layer == "detections" else ProposalRows
        return make(clip, self._recipe, self._options, self._release)


def _padded(array: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    return np.pad(array, [(0, length - len(array)), *[(0, 0)] * (array.ndim - 1)])
