"""R-MAC's regions: the golden vectors, every map size against the published arithmetic, and R-MAC+'s fixed grid."""

from fractions import Fraction

import numpy as np
import pytest

from clipmill.extractors.rmac.regions import Region, added_regions, grid, plus_grid

OVERLAP = 0.4
GOLDEN = [
    # map width and height, then per scale: side; left corners; top corners
    ((7, 7), 14, [(7, [0], [0]), (4, [0, 3], [0, 3]), (3, [0, 2, 4], [0, 2, 4])]),
    ((32, 24), 20, [(24, [0, 8], [0]), (16, [0, 8, 16], [0, 8]), (12, [0, 6, 13, 20], [0, 6, 12])]),
    ((24, 32), 20, [(24, [0], [0, 8]), (16, [0, 8], [0, 8, 16]), (12, [0, 6, 12], [0, 6, 13, 20])]),
    ((32, 21), 20, [(21, [0, 11], [0]), (14, [0, 9, 18], [0, 7]), (10, [0, 7, 14, 22], [0, 5, 11])]),
    ((32, 18), 20, [(18, [0, 14], [0]), (12, [0, 10, 20], [0, 6]), (9, [0, 7, 15, 23], [0, 4, 9])]),
    ((32, 16), 26, [(16, [0, 8, 16], [0]), (10, [0, 7, 14, 22], [0, 6]), (8, [0, 6, 12, 18, 24], [0, 4, 8])]),
    (
        (32, 12),
        32,
        [(12, [0, 6, 13, 20], [0]), (8, [0, 6, 12, 18, 24], [0, 4]), (6, [0, 5, 10, 15, 20, 26], [0, 3, 6])],
    ),
]


@pytest.mark.parametrize(("size", "count", "scales"), GOLDEN, ids=[f"{size[0]}x{size[1]}" for size, *_ in GOLDEN])
def test_golden_vectors(size: tuple[int, int], count: int, scales: list[tuple[int, list[int], list[int]]]) -> None:
    expected = [Region(left, top, side, side) for side, lefts, tops in scales for top in tops for left in lefts]
    assert grid(*size, 3, OVERLAP) == expected
    assert len(expected) == count


def in_floats(size: int, side: int, count: int) -> list[int]:
    """The corners along one axis as the published codes compute them: centres in float64, rounded down."""
    spacing = 0.0 if count == 1 else (size - side) / (count - 1)
    centre = np.floor(side / 2 - 1)
    return [int(np.floor(centre + index * spacing) - centre) for index in range(count)]


def test_every_map_from_3_to_64_cells_keeps_its_regions_inside_and_agrees_with_floats_but_for_their_error() -> None:
    num_coordinates, differing = 0, []
    for width in range(3, 65):
        for height in range(3, 65):
            found = grid(width, height, 3, OVERLAP)
            added = added_regions(max(width, height), min(width, height), Fraction(2, 5))
            columns, rows = (added if width > height else 0), (added if height > width else 0)
            assert len(found) == sum((level + columns) * (level + rows) for level in (1, 2, 3))
            start = 0
            for level in (1, 2, 3):
                side = 2 * min(width, height) // (level + 1)
                stop = start + (level + columns) * (level + rows)
                scale, start = found[start:stop], stop
                assert {(region.width, region.height) for region in scale} == {(side, side)}
                for corners, size, count in (
                    ([region.left for region in scale[: level + columns]], width, level + columns),
                    ([region.top for region in scale[:: level + columns]], height, level + rows),
                ):
                    assert min(corners) == 0
                    assert max(corners) == (size - side if count > 1 else 0)
                    num_coordinates += count
                    pairs = zip(corners, in_floats(size, side, count), strict=True)
                    differing += [(own, floats) for own, floats in pairs if own != floats]
    # All six where the last region must touch the border and the float form stops a cell short.
    assert num_coordinates == 75_324
    assert differing == [(61, 60)] * 6


def test_ties_take_the_least_number() -> None:
    # On 9 x 5, one region more overlaps by 0.2 and two by 0.6: both 0.2 off.
    assert added_regions(9, 5, Fraction(2, 5)) == 1
    others = 0
    for long in range(3, 65):
        for short in range(3, long):
            off = [abs((short**2 - short * ((long - short) / added)) / short**2 - 0.4) for added in range(1, 7)]
            own = added_regions(long, short, Fraction(2, 5))
            others += own != int(np.argmin(off)) + 1
            assert off[own - 1] == pytest.approx(min(off), abs=1e-12)
    # Floats take the other of two equals on so many maps (as many again upright).
    assert others == 12


def test_overlap_decides_how_many_regions_the_long_side_has() -> None:
    counts = [len({region.left for region in grid(32, 16, 1, overlap)}) for overlap in (0.0, 0.4, 0.6, 0.75)]
    assert counts == [2, 3, 4, 5]


def test_scales_without_a_cell_are_left_out() -> None:
    # Six regions overlap by 0.4 of a cell on average.
    assert grid(4, 1, 3, OVERLAP) == [Region(left, 0, 1, 1) for left in (0, 0, 1, 1, 2, 3)]
    assert grid(1, 1, 1, OVERLAP) == [Region(0, 0, 1, 1)]


def plus_in_floats(rows_of_map: int, columns_of_map: int) -> set[tuple[int, int, int, int]]:
    """R-MAC+'s grid as its publication's arithmetic goes, in floats: (top, bottom, left, right)."""
    found = set()
    counts = {1: (1, 2) if rows_of_map < columns_of_map else (2, 1), 2: (2, 3), 3: (3, 2)}
    for level, numbers in counts.items():
        spans = []
        for size, number in zip((rows_of_map, columns_of_map), numbers, strict=True):
            extent = int(np.ceil(2 * min(rows_of_map, columns_of_map) / (level + 1)))
            extent = extent if extent * number >= size else int(np.ceil(size / number))
            starts = [round(index * (size / number)) for index in range(number)]
            starts = [size - extent if start + extent > size else start for start in starts]
            spans.append([(start, start + extent) for start in starts])
        found |= {(*row, *column) for row in spans[0] for column in spans[1]}
    return found


@pytest.mark.parametrize("size", [(7, 7), (32, 24), (24, 32), (32, 18), (15, 40), (5, 3), (1, 1)])
def test_the_plus_grid_is_the_published_one(size: tuple[int, int]) -> None:
    width, height = size
    found = plus_grid(width, height, 3)
    assert len(found) == 14
    corners = {(item.top, item.top + item.height, item.left, item.left + item.width) for item in found}
    assert corners == plus_in_floats(height, width)
    covered = np.zeros((height, width), dtype=bool)
    for region in found[:2]:
        assert min(region.left, region.top) >= 0
        covered[region.top : region.top + region.height, region.left : region.left + region.width] = True
    assert covered.all()
