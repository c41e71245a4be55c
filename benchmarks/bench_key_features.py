"""Indexes of key features: queries for a second of CPU time, bytes, and how many of the nearest are found.

    python -m benchmarks.bench_key_features --key-features 20000 --queries 10

Key features are random bits; the 500 descriptors of a query are some of them with a share of their bits flipped, as a
photograph does: the worst case of inverted lists, whose centres then mean little. Prints a line of JSON for each index.
"""

import argparse
import json
import time

import faiss
import numpy as np

from clipmill.pipelines.evaluation.retrieval.key_features import ExactIndex, make_index

DESCRIPTORS, BYTES = 500, 32
FLIPPED = 0.1


def main() -> None:
    """Prints the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--key-features", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random = np.random.default_rng(given.seed)
    faiss.omp_set_num_threads(1)
    rows = random.integers(0, 256, (given.key_features, BYTES), dtype=np.uint8)
    queries = []
    for _ in range(given.queries):
        flips = np.packbits(random.random((DESCRIPTORS, 8 * BYTES)) < FLIPPED, axis=1)
        queries.append(rows[random.integers(0, len(rows), DESCRIPTORS)] ^ flips)
    exact = [ExactIndex(rows).nearest(query).distance for query in queries[:3]]
    for kind, probes in (("exact", 0), ("flat", 0), ("ivf", 1), ("ivf", 8), ("ivf", 32)):
        index = make_index(rows, kind, probes)  # type: ignore[arg-type]
        started = time.process_time()
        found = [index.nearest(query) for query in queries]
        seconds = time.process_time() - started
        same = np.mean([left == right.distance for left, right in zip(exact, found, strict=False)])
        line = {
            "index": kind if kind != "ivf" else f"ivf, {probes} probes",
            "queries_per_cpu_second": round(given.queries / seconds, 2),
            "bytes": index.num_bytes,
            "recall_of_nearest": round(float(same), 4),
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
