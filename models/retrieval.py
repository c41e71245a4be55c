"""Scoring with a trained model, NumPy in and NumPy out: embed queries and gallery, then distances block by block.

trained = load(find_checkpoint("out/run"))
queries, gallery = embed_images(trained, u), embed_videos(trained, v)
distances(trained.model, "combined", queries, gallery)     # float32[Q, G], small is good
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipmill.models.checkpoints import TrainedModel
from clipmill.models.registry import RetrievalModel
from clipmill.schemas.errors import UsageError, describe, near

Floats = npt.NDArray[np.float32]
Block = Mapping[str, npt.NDArray[np.generic]]

_ROWS = 256
"""ours: rows of one forward pass; h decoded samples each make it h times as many vectors."""


def embed_images(trained: TrainedModel, images: npt.NDArray[np.generic]) -> dict[str, Floats]:
    """Returns what images are searched with, as `MapIvr.embed_images` names it.

    Args:
        images: ``[n, image_dim]``, as stored: they are scaled here as in training.

    Raises:
        UsageError: the vectors are of another length than those the model was trained on.
    """
    _check(images, trained.model.image_dim, "image", trained.origin.image.name)
    return _embed(trained.model.embed_images, trained.image_scaling.apply(images), trained.model)


def embed_videos(trained: TrainedModel, videos: npt.NDArray[np.generic]) -> dict[str, Floats]:
    """Returns what videos are found by, as `MapIvr.embed_videos` names it.

    Args:
        videos: ``[n, video_dim]``, as stored: they are scaled here as in training.

    Raises:
        UsageError: the vectors are of another length than those the model was trained on.
    """
    _check(videos, trained.model.video_dim, "video", trained.origin.video.name)
    return _embed(trained.model.embed_videos, trained.video_scaling.apply(videos), trained.model)


def distances(model: RetrievalModel, space: str, queries: Block, gallery: Block) -> Floats:
    """Returns ``float32[Q, G]``, small is good, of a block of queries against a block of the gallery.

    ``appearance`` is S_A = 1 - cos(a_u, a_v). ``video`` is S_V = min over i of 1 - cos(v, v_hat_i); the h samples are
    taken one after the other, so nothing of size Q x h x G exists. ``combined`` is their weighted sum. A zero vector
    has cosine 0 with everything.

    Raises:
        UsageError: the model has no such space.
    """
    if space not in model.spaces():
        raise UsageError(describe("space", space, "one of the model's", "none of them", near(space, model.spaces())))
    if space == "combined":
        parts = [np.float32(w) * distances(model, name, queries, gallery) for name, w in model.combined.items()]
        return np.asarray(sum(parts), np.float32)
    if space == "appearance":
        return np.float32(1) - _unit(queries["appearance"]) @ _unit(gallery["appearance"]).T
    samples, columns = queries["samples"], _unit(gallery["video"]).T
    nearest = np.full((samples.shape[0], columns.shape[1]), np.inf, np.float32)
    for sample in range(samples.shape[1]):
        np.minimum(nearest, np.float32(1) - _unit(samples[:, sample]) @ columns, out=nearest)
    return nearest


def _unit(rows: npt.NDArray[np.generic]) -> Floats:
    values = np.asarray(rows, np.float32)
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.asarray(values / np.where(norms > 0, norms, np.float32(1)), np.float32)


def _embed(
    function: Callable[[Tensor], Mapping[str, Tensor]], rows: Floats, model: RetrievalModel
) -> dict[str, Floats]:
    device = next(iter(model.parameters())).device
    parts: dict[str, list[Any]] = {}
    with torch.inference_mode():
        # One pass even without rows, which gives every array its shape.
        for start in range(0, max(1, len(rows)), _ROWS):
            block = torch.from_numpy(np.ascontiguousarray(rows[start : start + _ROWS])).to(device)
            for name, values in function(block).items():
                parts.setdefault(name, []).append(values.cpu().numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def _check(rows: npt.NDArray[np.generic], dim: int, modality: str, feature: str) -> None:
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise UsageError(
            describe(
                f"{modality} vectors",
                f"of {feature}",
                f"[n, {dim}] as the model was trained on",
                str(list(rows.shape)),
                "evaluate with the features of its training config",
            )
        )
