"""The region grids of R-MAC, in whole numbers: where each square or rectangle lies on a map."""

from fractions import Fraction
from typing import NamedTuple

from clipmill.extractors.rmac.options import RMACOptions

MOST_ADDED = 6
"""The long side has at most so many regions more than the short side at each scale."""
PLUS_COUNTS = ((1, 2), (2, 3), (3, 2))
"""R-MAC+: regions along rows and columns at each scale, of a map wider than high; see `plus_grid`."""


class Region(NamedTuple):
    """Cells ``[left, left + width)`` x ``[top, top + height)`` of a map."""

    left: int
    top: int
    width: int
    height: int


def regions(width: int, height: int, options: RMACOptions) -> list[Region]:
    """Returns the regions of a map of `width` x `height` cells, as layer regions has them; last the whole map."""
    if options.grid == "rmac":
        found = grid(width, height, options.levels, options.overlap)
    else:
        found = plus_grid(width, height, options.levels)
    return [*found, Region(0, 0, width, height)] if options.mac else found


def added_regions(long: int, short: int, overlap: Fraction) -> int:
    """Returns how many regions the long side has more than the short side at every scale.

    Of 1 to 6, the number with which neighbours of the first scale overlap nearest to `overlap`; the least one of equals
    (such as a 9 x 5 map with 2/5), decided exactly.
    """
    if long == short:
        return 0
    return min(range(1, MOST_ADDED + 1), key=lambda added: abs(1 - Fraction(long - short, short * added) - overlap))


def grid(width: int, height: int, levels: int, overlap: float) -> list[Region]:
    """Returns the square regions of R-MAC (Tolias et al., ICLR 2016) on a map of `width` x `height` cells.

    Scale l of 1 to `levels` has squares of side ``2 * min // (l + 1)``, l along the short side and `added_regions` more
    along the long one, evenly spread. Integer arithmetic: the published codes' floats can be one cell off.

    Regions stand by scale, then row, then column. Scales whose squares would be empty are left out.
    """
    short = min(width, height)
    added = added_regions(max(width, height), short, Fraction(str(overlap)))
    found = []
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)
        if side == 0:
            break
        columns = level + (added if width > height else 0)
        rows = level + (added if height > width else 0)
        found += [
            Region(_place(column, columns, width - side), _place(row, rows, height - side), side, side)
            for row in range(rows)
            for column in range(columns)
        ]
    return found


def _place(index: int, count: int, spare: int) -> int:
    return index * spare // (count - 1) if count > 1 else 0


def plus_grid(width: int, height: int, levels: int) -> list[Region]:
    """Returns the regions of R-MAC+ (fmaglia/keras_rmac_plus): 2, 6 and 6 at the three scales, whatever the shape.

    Sides are ``ceil(2 * min / (l + 1))``, longer where that would leave cells uncovered; corners are rounded half to
    even and moved back into the map. Scale 1 has two regions along the long side (along the rows of a square map).
    """
    found = []
    for level, (rows, columns) in enumerate(PLUS_COUNTS[:levels], start=1):
        if level == 1 and height >= width:
            rows, columns = columns, rows
        side = -(-2 * min(width, height) // (level + 1))
        tall, wide = max(side, -(-height // rows)), max(side, -(-width // columns))
        found += [
            Region(
                min(round(Fraction(column * width, columns)), width - wide),
                min(round(Fraction(row * height, rows)), height - tall),
                wide,
                tall,
            )
            for row in range(rows)
            for column in range(columns)
        ]
    return found
