"""What a ranking drawn at random scores: the floor every retrieval number is read against.

With N items, R of them relevant, all N! rankings equally likely. The hits h within the top K are hypergeometric; given
h, their positions are uniform, so with the harmonic number ``H_K = 1 + 1/2 + ... + 1/K``::

    E[AP@K | h] = ( H_K + (K - H_K) (h - 1) / (K - 1) ) / K          for h >= 1, and 0 for h = 0

Exact, no sampling. Source: own derivation from ``P(r relevant | h) = h / K`` and, given that, ``E[P(r)] =
(1 + (r - 1)(h - 1)/(K - 1)) / r``. Note that ``map@K`` of the released definition is well above R / N at chance.

Where a query's own clip is in the gallery and counts as a hit, whatever compares vectors of one network finds it first.
What remains at chance is a second floor: the own clip at rank 1, the other N - 1 items at random. With h hits in all::

    E[AP@K | h] = ( 1 + (h - 1)/(K - 1) (2 (H_K - 1) + (h - 2)/(K - 2) (K - 1 - 2 (H_K - 1))) ) / h
"""

import math
from collections.abc import Iterator


def chance_average_precision(num_items: int, num_relevant: int, k: int) -> tuple[float, float]:
    """Returns the expected (AP@K, AP_min@K) of a random ranking.

    Args:
        num_items: N, at least 1.
        num_relevant: R.
        k: cut-off; beyond N it changes nothing but the denominator ``min(K, R)``, which R then bounds.
    """
    top = min(k, num_items)
    if num_relevant == 0 or top == 0:
        return 0.0, 0.0
    harmonic = math.fsum(1 / r for r in range(1, top + 1))
    plain, normalised = [], []
    for hits, chance in _hits(num_items, num_relevant, top, 1):
        spread = (top - harmonic) * (hits - 1) / (top - 1) if top > 1 else 0.0
        value = (harmonic + spread) / top
        plain.append(chance * value)
        normalised.append(chance * value * hits / min(k, num_relevant))
    return math.fsum(plain), math.fsum(normalised)


def own_clip_first_average_precision(num_items: int, num_relevant: int, k: int) -> tuple[float, float]:
    """Returns the expected (AP@K, AP_min@K) where a relevant item stands first and the others at random.

    Args:
        num_items, num_relevant: N and R, that item among them.
        k: cut-off.
    """
    top = min(k, num_items)
    above = math.fsum(1 / r for r in range(2, top + 1))
    plain, normalised = [], []
    for others, chance in _hits(num_items - 1, num_relevant - 1, top - 1, 0):
        spread = (others - 1) / (top - 2) * (top - 1 - 2 * above) if top > 2 else 0.0
        total = 1 + (others / (top - 1) * (2 * above + spread) if others else 0.0)
        plain.append(chance * total / (others + 1))
        normalised.append(chance * total / min(k, num_relevant))
    return math.fsum(plain), math.fsum(normalised)


def _hits(num_items: int, num_relevant: int, num_drawn: int, fewest: int) -> Iterator[tuple[int, float]]:
    """Yields (h, its probability) of the relevant items among those drawn without replacement, from `fewest` on."""
    all_draws = math.comb(num_items, num_drawn)
    others = num_items - num_relevant
    least = max(fewest, num_drawn - others)
    # Exact integers divided once: the numbers overflow a float long before their ratio does.
    ways = math.comb(num_relevant, least) * math.comb(others, num_drawn - least)
    for hits in range(least, min(num_drawn, num_relevant) + 1):
        if hits > least:
            ways = ways * ((num_relevant - hits + 1) * (num_drawn - hits + 1)) // (hits * (others - num_drawn + hits))
        yield hits, ways / all_draws


def chance_recall(num_items: int, k: int) -> float:
    """Returns the expected recall@K of a random ranking: ``min(K, N) / N``."""
    return min(k, num_items) / num_items


def chance_precision(num_items: int, num_relevant: int, k: int) -> float:
    """Returns the expected p@K of a random ranking: ``min(K, N) / K x R / N``."""
    return min(k, num_items) / k * num_relevant / num_items
