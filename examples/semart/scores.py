"""Scores a run on SemArt's protocol: Text2Art and Art2Text, and the choice among ten, easy and difficult.

    python examples/semart/scores.py out/semart/cml

Recall and median rank place every painting (or text) of an equal score first. Prints a line of JSON for each direction.
"""

import json
import sys

import numpy as np

from clipmill.models.checkpoints import find_checkpoint, load
from clipmill.models.embedding import embed
from clipmill.pipelines.evaluation.metrics.retrieval_choice import choice_accuracy
from clipmill.pipelines.evaluation.metrics.retrieval_rank import pessimistic_first_rank
from clipmill.pipelines.evaluation.retrieval.scorers import Cosine
from clipmill.pipelines.evaluation.tasks.retrieval.trained import items_of

CUTOFFS = (1, 5, 10)
NUM_CANDIDATES = 10


def main(run: str) -> None:
    """Prints the scores of the run in the folder `run`."""
    trained = load(find_checkpoint(run))
    test = items_of(None, trained, run, needs_labels=False).of("test")
    texts, paintings = (embed(trained, side, test.inputs) for side in ("query", "gallery"))
    scores = Cosine("common", "common")(texts, paintings)
    kinds = [test.label_names[code] for code in test.label] if test.label_names else None
    for name, table in (("text_to_art", scores), ("art_to_text", scores.T)):
        rank = pessimistic_first_rank(table, np.eye(len(table), dtype=bool))
        line = {"direction": name, "num": len(table)}
        line |= {f"r@{k}": round(float((rank <= k).mean()), 4) for k in CUTOFFS} | {
            "median_rank": float(np.median(rank))
        }
        line["easy"] = round(float(np.nanmean(choice_accuracy(table, NUM_CANDIDATES))), 4)
        if kinds is not None:
            line["difficult"] = round(float(np.nanmean(choice_accuracy(table, NUM_CANDIDATES, kinds))), 4)
        print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1])
