"""A map of the gallery: its vectors laid out in the plane, by principal components and by t-SNE.

Sources: PCA, Pearson 1901; t-SNE, van der Maaten and Hinton 2008, as scikit-learn computes it (Barnes-Hut, started from
the principal components, on the first 50 of them). Both only draw: distances on them are no scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.reports.blocks import Section
from clipmill.pipelines.reports.blocks_images import MapGroup, MapPoint, PointMap
from clipmill.pipelines.reports.thumbnails import Thumbnail
from clipmill.schemas.arrays import Floats

MAX_ITEMS = 400
"""ours: clips on the map; of a larger gallery so many are drawn with the seed."""
PERPLEXITY = 30.0
"""scikit-learn's default, and in the middle of the paper's 5 to 50; lower where there are few items."""
PCA_DIMS = 50
"""The paper's first step: t-SNE runs on this many principal components."""
FEWEST = 4
"""Items below which there is nothing to lay out."""
SHAPES = ("circle", "square", "triangle", "diamond")
NUM_COLOURS = 6
NUM_STYLED = len(SHAPES) * NUM_COLOURS


@dataclass(frozen=True, slots=True)
class EmbeddingMap:
    """Some items of the gallery in the plane.

    Attributes:
        ids, labels: of the items shown.
        layouts: by name (``PCA``, ``t-SNE``), ``float64[n, 2]``, each axis filling [0, 1]; y grows downwards.
        explained: share of the variance that the two axes of ``PCA`` hold.
        vectors: what was laid out, in words.
        num_items: of the whole gallery.
        thumbnails: by id; a missing one is shown as its id.
    """

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    layouts: Mapping[str, Floats]
    explained: float
    vectors: str
    num_items: int
    thumbnails: Mapping[str, Thumbnail]


def sample_items(num_items: int, max_items: int = MAX_ITEMS, seed: int = 0) -> npt.NDArray[np.int64]:
    """Returns the sorted positions of at most `max_items` of `num_items`, drawn without replacement."""
    if num_items <= max_items:
        return np.arange(num_items)
    return np.sort(np.random.default_rng(seed).permutation(num_items)[:max_items])


def lay_out(vectors: npt.NDArray[np.generic], seed: int = 0) -> tuple[dict[str, Floats], float]:
    """Returns the layouts of ``[n, D]`` vectors, scaled to unit length first as cosine does, and PCA's explained share.

    The same vectors give the same layouts: axes point to the side of their largest value, and t-SNE runs on one thread,
    whose sums have one order. Fewer than four vectors, or vectors that are all alike, have no layout.
    """
    rows = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(norms > 0, norms, 1.0)
    centred = rows - rows.mean(axis=0)
    if len(rows) < FEWEST or not np.any(np.abs(centred) > 1e-9):
        return {}, 0.0
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    components = left[:, :PCA_DIMS] * sizes[:PCA_DIMS]
    largest = np.abs(components).argmax(axis=0)
    signs = np.sign(components[largest, np.arange(components.shape[1])])
    components = components * np.where(signs == 0, 1.0, signs)
    plane = components[:, :2] if components.shape[1] > 1 else np.pad(components, ((0, 0), (0, 1)))
    explained = float(np.sum(sizes[:2] ** 2) / np.sum(sizes**2))
    return {"PCA": _fit(plane), "t-SNE": _fit(_tsne(components, plane, seed))}, explained


def _tsne(components: Floats, plane: Floats, seed: int) -> Floats:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # As scikit-learn's own init="pca": the plane, small.
    start = plane / max(float(np.std(plane[:, 0])), 1e-12) * 1e-4
    perplexity = min(PERPLEXITY, (len(components) - 1) / 3)
    tsne: Any = TSNE(n_components=2, perplexity=perplexity, init=start, random_state=seed, n_jobs=1)
    with threadpool_limits(limits=1):
        return np.asarray(tsne.fit_transform(components), np.float64)


def _fit(points: Floats) -> Floats:
    """Returns the points moved and scaled to [0, 1], each axis by itself, rounded to what a screen shows."""
    low, high = points.min(axis=0), points.max(axis=0)
    fitted: Floats = (points - low) / np.where(high > low, high - low, 1.0)
    return np.round(fitted, 4) + 0.0


def label_styles(labels: Sequence[str]) -> list[MapGroup]:
    """Returns the legend: the 24 most frequent labels, each with its own colour and shape, the others as one."""
    names, counts = np.unique(np.asarray(labels, dtype=str), return_counts=True)
    order = sorted(range(len(names)), key=lambda i: (-counts[i], names[i]))
    shown = sorted(order[:NUM_STYLED], key=lambda i: names[i])
    found = [
        # Neighbours differ in both; the second term makes each of the 24 pairs come up once.
        MapGroup(str(names[i]), int(counts[i]), place % NUM_COLOURS, SHAPES[(place + place // NUM_COLOURS) % 4])
        for place, i in enumerate(shown)
    ]
    if len(order) > NUM_STYLED:
        rest = sum(int(counts[i]) for i in order[NUM_STYLED:])
        found.append(MapGroup(f"{len(order) - NUM_STYLED} other labels", rest, -1, "circle"))
    return found


def map_section(items: EmbeddingMap, captions: Mapping[str, str], anchors: Mapping[str, str]) -> Section:
    """Returns the map as a part of the page; t-SNE is shown first.

    Args:
        captions: what to call an item, by id; default: the id.
        anchors: where a clip's lineage stands, by id.
    """
    groups = label_styles(items.labels)
    place = {group.label: number for number, group in enumerate(groups)}
    layouts = dict(reversed(list(items.layouts.items())))
    points = tuple(
        MapPoint(
            caption=captions.get(name, name),
            label=label,
            group=place.get(label, len(groups) - 1),
            places=tuple((float(at[row, 0]), float(at[row, 1])) for at in layouts.values()),
            thumbnail=items.thumbnails.get(name),
            anchor=anchors.get(name, ""),
        )
        for row, (name, label) in enumerate(zip(items.ids, items.labels, strict=True))
    )
    of = f" of {items.num_items:,} clips, drawn with the seed," if len(points) < items.num_items else " clips"
    text = (
        f"{len(points):,}{of} by their {items.vectors}. Point at a clip to see it, or Tab to the map and go from clip "
        "to clip with the arrow keys; Enter enlarges. Close means alike only locally: distances here are no scores."
    )
    explained = f"The two axes of PCA hold {100 * items.explained:.0f} % of the variance. " if "PCA" in layouts else ""
    note = f"{explained}t-SNE starts from PCA, with a fixed seed; each axis is stretched to fill the drawing."
    block = PointMap("Map of the gallery", tuple(layouts), tuple(groups), points, note)
    return Section("map", "Map", (block,), text)
