"""What training R-C3D needs: annotations of a buffer, targets of anchors and regions, and the four losses.

Settings are the published ones: SGD with momentum 0.9 and weight decay 5e-4 (none on biases, whose rate is doubled),
rate 1e-4, one buffer per step. The network must give normalised offsets (`RC3D.normalise_offsets`).
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from clipmill.extractors.learner import Annotated
from clipmill.extractors.rc3d.network import RC3D
from clipmill.extractors.rc3d.releases import OFFSET_STD, Release
from clipmill.extractors.rc3d.segments import anchors, encode, overlaps, propose
from clipmill.schemas.arrays import Floats, Ints
from clipmill.schemas.errors import UsageError, describe

POSITIVE_OVERLAP, NEGATIVE_OVERLAP = 0.7, 0.3
NUM_ANCHORS_SAMPLED = 64
"""256 by default in both codes, 64 in all their configs."""
FOREGROUND_OVERLAP = 0.5
NUM_REGIONS = 128
MIN_SOURCE_FRAMES = 3
RPN_SIGMA, HEAD_SIGMA = 3.0, 1.0
IGNORED = -1


def truth_of_buffer(
    annotations: Sequence[tuple[float, float, int]], start_seconds: float, release: Release, fps: float = 25.0
) -> Annotated | None:
    """Returns the annotations a training buffer keeps, or None where it keeps none and is no training buffer.

    One is kept if the release's share of it lies in the buffer and it lasts at least 3 source frames; it is then cut to
    the buffer.

    Args:
        annotations: start and stop in seconds, and class.
        start_seconds: of the buffer.
    """
    num_source_frames = release.buffer_frames * release.every
    kept, classes = [], []
    for start_of, stop_of, index in annotations:
        start, stop = (start_of - start_seconds) * fps, (stop_of - start_seconds) * fps
        inside = min(stop, num_source_frames) - max(start, 0.0)
        if stop - start < MIN_SOURCE_FRAMES or inside < release.min_inside * (stop - start) - 1e-9:
            continue
        last = release.buffer_frames - 1
        kept.append((max(start / release.every, 0.0), min(stop / release.every, last)))
        classes.append(index)
    if not kept:
        return None
    return Annotated(np.array(kept, dtype=np.float64), np.array(classes, dtype=np.int64))


def anchor_targets(
    scales: Sequence[float], buffer_frames: int, truth: Annotated, generator: np.random.Generator
) -> tuple[Ints, Floats]:
    """Returns labels ``[K]`` (1 foreground, 0 background, -1 ignored) and offset targets ``[K, 2]`` of the anchors.

    Only anchors wholly inside the buffer count. Foreground: an overlap of at least 0.7, or the best for some
    annotation. Background: less than 0.3. 64 are kept, at most half of them foreground.
    """
    boxes = anchors(scales, buffer_frames // 8)
    inside = np.flatnonzero((boxes[:, 0] >= 0) & (boxes[:, 1] < buffer_frames))
    labels = np.full(len(boxes), IGNORED, dtype=np.int64)
    targets = np.zeros((len(boxes), 2))
    if not len(inside):
        return labels, targets
    overlap = overlaps(boxes[inside], truth.segments)
    highest = overlap.max(axis=1)
    best_of_truth = overlap.max(axis=0)
    is_best = ((overlap == best_of_truth) & (best_of_truth > 0)).any(axis=1)
    own = np.full(len(inside), IGNORED, dtype=np.int64)
    own[highest < NEGATIVE_OVERLAP] = 0
    own[is_best | (highest >= POSITIVE_OVERLAP)] = 1
    _thin(own, 1, NUM_ANCHORS_SAMPLED // 2, generator)
    _thin(own, 0, NUM_ANCHORS_SAMPLED - int((own == 1).sum()), generator)
    labels[inside] = own
    targets[inside] = encode(boxes[inside], truth.segments[overlap.argmax(axis=1)])
    return labels, targets


def _thin(labels: Ints, label: int, most: int, generator: np.random.Generator) -> None:
    """Sets all but `most` of `label` to ignored, at random, in place."""
    chosen = np.flatnonzero(labels == label)
    if len(chosen) > most:
        labels[generator.permutation(chosen)[most:]] = IGNORED


def region_targets(
    proposals: Floats, truth: Annotated, release: Release, generator: np.random.Generator
) -> tuple[Floats, Ints, Floats]:
    """Returns the sampled regions ``[n, 2]``, their classes ``[n]`` and normalised offset targets ``[n, 2]``.

    Annotations join the proposals. Foreground overlaps an annotation by at least 0.5, background by less but by at
    least the release's `background_low`. The PyTorch release draws with replacement to reach 128, the Caffe release
    may return fewer.
    """
    regions = np.concatenate([proposals.reshape(-1, 2), truth.segments])
    overlap = overlaps(regions, truth.segments)
    highest, nearest = overlap.max(axis=1), overlap.argmax(axis=1)
    foreground = np.flatnonzero(highest >= FOREGROUND_OVERLAP)
    background = np.flatnonzero((highest < FOREGROUND_OVERLAP) & (highest >= release.background_low))
    num_foreground = min(max(round(release.foreground_share * NUM_REGIONS), 1), len(foreground))
    if release.resampled and not len(background):
        chosen, num_foreground = generator.choice(foreground, NUM_REGIONS), NUM_REGIONS
    else:
        num_background = NUM_REGIONS - num_foreground
        others = (
            generator.choice(background, num_background)
            if release.resampled
            else generator.permutation(background)[:num_background]
        )
        chosen = np.concatenate([generator.permutation(foreground)[:num_foreground], others])
    classes = truth.classes[nearest[chosen]]
    classes[num_foreground:] = 0
    targets = encode(regions[chosen], truth.segments[nearest[chosen]]) / np.array(OFFSET_STD)
    return regions[chosen], classes, targets


def smooth_l1(difference: Tensor, sigma: float) -> Tensor:
    """Returns ``(sigma d)^2 / 2`` where ``|d| < 1 / sigma^2`` and ``|d| - 1 / (2 sigma^2)`` elsewhere, elementwise."""
    size = difference.abs()
    return torch.where(size < 1 / sigma**2, 0.5 * (sigma * difference) ** 2, size - 0.5 / sigma**2)


def rpn_losses(scores: Tensor, offsets: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the proposal subnet's losses: softmax, and smooth L1 (sigma 3), both over the sampled anchors' number.

    Args:
        scores: ``[2, K]``; offsets and targets ``[K, 2]``; labels ``[K]``.
    """
    sampled, positive = labels != IGNORED, labels == 1
    num_sampled = sampled.sum().clamp(min=1)
    class_loss = functional.cross_entropy(scores.T[sampled], labels[sampled], reduction="sum") / num_sampled
    return class_loss, smooth_l1(offsets[positive] - targets[positive], RPN_SIGMA).sum() / num_sampled


def head_losses(scores: Tensor, offsets: Tensor, classes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the classification subnet's losses: softmax, and smooth L1 (sigma 1) of each foreground's own class.

    Args:
        scores: ``[n, C]``; offsets ``[n, C, 2]``; classes ``[n]``; targets ``[n, 2]``.
    """
    foreground = classes > 0
    own = offsets[torch.arange(len(classes), device=offsets.device), classes]
    offset_loss = smooth_l1(own[foreground] - targets[foreground], HEAD_SIGMA).sum() / len(classes)
    return functional.cross_entropy(scores, classes), offset_loss


def losses(network: RC3D, clip: Tensor, truth: Annotated, generator: np.random.Generator) -> dict[str, Tensor]:
    """Returns the four losses of one buffer, by name; their plain sum is what is minimised.

    Args:
        clip: ``float[3, L, H, W]``, scaled as the release's weights expect.
        generator: draws the samples.

    Raises:
        UsageError: the buffer has no annotation, or the network gives real offsets.
    """
    if not len(truth.segments):
        raise UsageError(describe("R-C3D training", "buffer", "at least one annotation", "none", "leave it out"))
    if not network.offsets_normalised:
        remedy = "call normalise_offsets(True) before training"
        raise UsageError(describe("R-C3D training", "offsets", "a head of normalised offsets", "real ones", remedy))
    release, device = network.release, clip.device
    maps = network.trunk(clip[None])
    scores, offsets = network.propose(maps)
    labels, targets = anchor_targets(release.scales, clip.shape[1], truth, generator)
    rpn_class, rpn_offset = rpn_losses(
        scores[0], offsets[0], torch.from_numpy(labels).to(device), torch.from_numpy(targets).to(offsets)
    )
    foreground = scores[0].detach().float().softmax(dim=0)[1].double().cpu().numpy()
    proposals, _ = propose(foreground, offsets[0].detach().double().cpu().numpy(), release.scales, release.train_filter)
    regions, classes, region_offsets = region_targets(proposals, truth, release, generator)
    _, last = network.hidden(maps[0], torch.from_numpy(regions).to(device))
    class_scores, class_offsets = network.classify(last)
    head_class, head_offset = head_losses(
        class_scores,
        class_offsets,
        torch.from_numpy(classes).to(device),
        torch.from_numpy(region_offsets).to(class_offsets),
    )
    return {
        "rpn_class": rpn_class,
        "rpn_offset": rpn_offset,
        "head_class": head_class,
        "head_offset": head_offset,
    }


def _is_norm(name: str) -> bool:
    """Whether it is a batch norm's parameter: those of the ResNets keep their values."""
    return ".bn" in name or ".downsample.1." in name


def parameter_groups(network: RC3D, learning_rate: float = 1e-4) -> list[dict[str, object]]:
    """Returns the groups for an SGD of momentum 0.9: frozen layers left out, biases at twice the rate without decay."""
    groups: tuple[list[Tensor], list[Tensor]] = ([], [])
    for name, parameter in network.named_parameters():
        frozen = name.startswith(tuple(f"{part}." for part in network.release.frozen)) or _is_norm(name)
        trained = not frozen
        parameter.requires_grad_(trained)
        if trained:
            groups[name.endswith(".bias")].append(parameter)
    return [
        {"params": groups[0], "lr": learning_rate, "weight_decay": 5e-4},
        {"params": groups[1], "lr": 2 * learning_rate, "weight_decay": 0.0},
    ]
