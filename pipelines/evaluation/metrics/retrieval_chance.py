"""What a ranking drawn at random scores: the floor every retrieval number is read against.

With N items, R of them relevant, all N! rankings equally likely. The hits h within the top K are hypergeometric; given
h, their positions are uniform, so with the harmonic number ``H_K = 1 + 1/2 + ... + 1/K``::

    E[AP@K | h] = ( H_K + (K - H_K) (h - 1) / (K - 1) ) / K          for h >= 1, and 0 for h = 0

Exact, no sampling. Source: own derivation from ``P(r relevant | h) = h / K`` and, given that, ``E[P(r)] =
(1 + (r - 1)(h - 1)/(K - 1)) / r``. Note that ``map@K`` of the released definition is well above R / N at chance.
"""

import math


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
    all_draws = math.comb(num_items, top)
    plain, normalised = [], []
    others = num_items - num_relevant
    least = max(1, top - others)
    # Exact integers divided once: the numbers overflow a float long before their ratio does.
    ways = math.comb(num_relevant, least) * math.comb(others, top - least)
    for hits in range(least, min(top, num_relevant) + 1):
        if hits > least:
            ways = ways * ((num_relevant - hits + 1) * (top - hits + 1)) // (hits * (others - top + hits))
        chance = ways / all_draws
        spread = (top - harmonic) * (hits - 1) / (top - 1) if top > 1 else 0.0
        value = (harmonic + spread) / top
        plain.append(chance * value)
        normalised.append(chance * value * hits / min(k, num_relevant))
    return math.fsum(plain), math.fsum(normalised)


def chance_recall(num_items: int, k: int) -> float:
    """Returns the expected recall@K of a random ranking: ``min(K, N) / N``."""
    return min(k, num_items) / num_items


def chance_precision(num_items: int, num_relevant: int, k: int) -> float:
    """Returns the expected p@K of a random ranking: ``min(K, N) / K x R / N``."""
    return min(k, num_items) / k * num_relevant / num_items
