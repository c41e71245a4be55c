"""Which classes are taken for which, as a table of numbers for few classes and as an image for many."""

from collections.abc import Sequence

import numpy as np

from clipmill.pipelines.reports.blocks import Block, Cell, Chart, Charts, Matrix, Row, Table
from clipmill.pipelines.reports.charts_bars import matrix_picture
from clipmill.schemas.arrays import Ints

CLASSES_SHOWN = 24
PAIRS_SHOWN = 12


def confusion_blocks(
    counts: Ints, names: Sequence[str], title: str, note: str, missed: str | None = None
) -> tuple[Block, ...]:
    """Returns the matrix and the pairs most often confused.

    Args:
        counts: ``int64[C, C]``, true by predicted, or ``int64[C, C + 1]`` with a last column called `missed`.
    """
    num = len(names)
    square = counts[:, :num]
    present = (counts.sum(axis=1) > 0) | (square.sum(axis=0) > 0)
    confused = square - np.diag(np.diagonal(square))
    blocks: list[Block] = []
    kept = np.flatnonzero(present).tolist()
    if len(kept) > CLASSES_SHOWN:
        blocks.append(_picture(square, kept, names, title))
        if not confused.any():
            return tuple(blocks)
        mixed = confused.sum(axis=0) + confused.sum(axis=1)
        by_trouble = sorted(kept, key=lambda code: (-mixed[code], names[code]))
        kept = sorted(by_trouble[:CLASSES_SHOWN])
        title = f"{title}: the {CLASSES_SHOWN} classes most often confused"
    columns = [names[code] for code in kept]
    rows = []
    others = np.setdiff1d(np.arange(num), kept)
    for code in kept:
        row = square[code, kept].tolist()
        if len(others) and present[others].any():
            row.append(int(square[code, others].sum()))
        if missed is not None:
            row.append(int(counts[code, num]))
        rows.append(tuple(int(value) for value in row))
    if len(others) and present[others].any():
        columns.append("(other classes)")
    if missed is not None:
        columns.append(missed)
    blocks.append(Matrix(title, tuple(names[code] for code in kept), tuple(columns), tuple(rows), note))
    pairs = [
        (int(confused[a, b]), names[a], names[b], int(counts[a].sum()))
        for a, b in zip(*np.nonzero(confused), strict=True)
    ]
    pairs.sort(key=lambda item: (-item[0], item[1], item[2]))
    if pairs:
        lines = tuple(
            Row(f"{truth} → {other}", (Cell(f"{count:,}"), Cell(f"{total:,}"), Cell(f"{100 * count / total:.1f} %")))
            for count, truth, other, total in pairs[:PAIRS_SHOWN]
        )
        text = f"{len(pairs):,} pairs in all." if len(pairs) > PAIRS_SHOWN else ""
        head = ("true class → taken for", "times", "of", "share")
        blocks.append(Table("Pairs most often confused", head, (("", lines),), text))
    return tuple(blocks)


def _picture(square: Ints, kept: Sequence[int], names: Sequence[str], title: str) -> Charts:
    part = square[np.ix_(kept, kept)]
    shares = part / np.maximum(part.sum(axis=1, keepdims=True), 1)
    note = (
        "Each row is a true class, each column what it was taken for, both in the order of names, from "
        f"{names[kept[0]]} to {names[kept[-1]]}. The darker a cell, the larger its share of the row (by the square "
        "root, so that rare confusions show); correct answers lie on the diagonal."
    )
    return Charts((Chart(f"{title}: all {len(kept)} classes", matrix_picture(shares, title), (), note),))
