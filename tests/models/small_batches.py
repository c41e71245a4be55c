"""Small random batches of pairs, and what a model makes of them when it is trained on nothing else."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipmill.models.base import Batch, Sizes, Values, resolved_loop
from clipmill.models.registry import build, card, resolve_options
from clipmill.pipelines.datasets.items import Items
from clipmill.pipelines.training.loop import train_epoch
from clipmill.schemas.config import LoopConfig
from clipmill.schemas.inputs import InputRows
from clipmill.schemas.spaces import Cosine
from tests.models.synthetic_items import DIM, synthetic_items
from tests.pipelines.training.test_training_loop import training_of

NUM_LABELS, PER_LABEL = 4, 6


def made(name: str, seed: int = 0, num_labels: int = NUM_LABELS, **options: Any) -> Any:
    """Returns a fresh model for inputs of `DIM` numbers."""
    resolved = resolve_options(name, options)
    sizes = Sizes(dict.fromkeys(card(name, resolved).inputs, DIM), num_labels)
    return build(name, resolved, sizes, seed)


def pairs(num: int = 8, num_labels: int = NUM_LABELS, seed: int = 0, **rest: Any) -> Batch:
    """Returns `num` pairs of random vectors, labelled in turn."""
    generator = torch.Generator().manual_seed(seed)
    image, video = (torch.randn(num, DIM, generator=generator) for _ in range(2))
    return Batch({"image": Values(image), "video": Values(video)}, torch.arange(num) % num_labels, **rest)


def noise_for(model: Any, num: int, seed: int = 0) -> dict[str, Tensor]:
    """Returns what the model draws for `num` items."""
    generator = torch.Generator().manual_seed(seed)
    shapes = model.draws() if hasattr(model, "draws") else {}
    return {name: torch.randn(num, *shape, generator=generator) for name, shape in shapes.items()}


def unrelated_items(name: str, **options: Any) -> Items:
    """Returns items whose vectors have nothing to do with their labels or with each other: they can only be learned."""
    inputs = card(name, resolve_options(name, options)).inputs
    items = synthetic_items(inputs, NUM_LABELS, PER_LABEL)
    random = np.random.default_rng(5)
    rows = {
        key: replace(value, values=random.normal(size=value.values.shape).astype(np.float32))
        for key, value in items.inputs.items()
    }
    return replace(items, inputs=rows)


def learned(name: str, items: Items, epochs: int, learning_rate: float, **options: Any) -> tuple[Any, list[dict]]:
    """Returns the model after training on all of `items` at once, and each epoch's losses."""
    resolved = resolve_options(name, options)
    model: Any = build(name, resolved, Sizes(dict.fromkeys(items.inputs, DIM), NUM_LABELS), seed=1)
    own = card(name, resolved)
    given = LoopConfig(epochs=epochs, batch=len(items), learning_rate=learning_rate)
    training = replace(training_of(model, items, resolved_loop(own, given)), couples_batch=own.couples_batch)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Operations are so small that threads would mostly wait for each other.
    try:
        return model, [train_epoch(training, epoch) for epoch in range(epochs)]
    finally:
        torch.set_num_threads(threads)


def mean_average_precision(model: Any, items: Items, space: str) -> float:
    """Returns the mAP over all ranks of each item's query among all gallery items, by a space of cosines."""
    model.eval()
    by_name = model.spaces()[space]
    assert isinstance(by_name, Cosine)
    inputs = {key: values_of(rows) for key, rows in items.inputs.items()}
    with torch.no_grad():
        query, gallery = model.embed("query", inputs)[by_name.query], model.embed("gallery", inputs)[by_name.gallery]
    left, right = (np.asarray(side / side.norm(dim=-1, keepdim=True)) for side in (query, gallery))
    precisions = []
    for row, label in zip(left @ right.T, items.label, strict=True):
        hits = items.label[np.argsort(-row, kind="stable")] == label
        precisions.append((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())
    return float(np.mean(precisions))


def values_of(rows: InputRows) -> Values:
    """Returns stored rows as a model takes them."""
    if rows.offsets is None:
        return Values(torch.from_numpy(rows.values))
    values, mask = rows.padded()
    return Values(torch.from_numpy(values), torch.from_numpy(mask))
