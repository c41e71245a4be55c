"""Trains CI-MHA, its ablations and baselines on planted features, and scores all on the same test queries.

    python examples/moments/ablation.py [--epochs 12] [--only full_pool mha] [--seeds 0 1]

First run glove.py, planted.py and ``clipmill import examples/moments/import.yaml``. Each row is what
``clipmill train examples/moments/ci_mha.yaml`` does with the options below; a row that is trained already is
not trained again. The last numbers are those of sentences that belong to other lines.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

import clipmill
from clipmill.models import registry
from clipmill.pipelines.training.train import items_for, train_items
from clipmill.schemas.config import TrainConfig
from clipmill.schemas.model import validate

HERE = Path(__file__).parent
BASELINE = {"cross_attention": "one_way", "segmentation_weight": 0.0}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "full_pool": ("ci_mha", {"fusion": "pool"}),
    "full_pad": ("ci_mha", {"fusion": "pad"}),
    "without_ms_pool": ("ci_mha", {"fusion": "pool", "segmentation_weight": 0.0}),
    "without_ms_pad": ("ci_mha", {"fusion": "pad", "segmentation_weight": 0.0}),
    "mha": ("ci_mha", BASELINE),
    "blind": ("ci_mha", {"fusion": "pool", "blind": "both"}),
    "full_back": ("ci_mha", {"fusion": "back"}),
    "full_seq": ("ci_mha", {"fusion": "seq"}),
    "excl": ("excl", {}),
}


def main() -> None:
    """Trains, scores and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--only", nargs="*", default=list(ROWS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    given = parser.parse_args()
    plain = yaml.safe_load((HERE / "ci_mha.yaml").read_text("utf-8"))
    evaluate = yaml.safe_load((HERE / "evaluate.yaml").read_text("utf-8"))
    if given.epochs is not None:
        plain["loop"]["epochs"] = given.epochs
    items = {}
    for seed in given.seeds:
        for row in given.only:
            name, options = ROWS[row]
            own = registry.resolve_options(name, {}).model_dump()
            kept = {key: value for key, value in plain["model"]["options"].items() if key in own}
            config = validate(
                TrainConfig,
                plain
                | {"model": {"name": name, "options": kept | options}, "out": f"out/moments/{row}-{seed}"}
                | {"loop": plain["loop"] | {"seed": seed}},
                row,
            )
            # What all rows read is the same, so it is read once.
            card = registry.card(name, registry.resolve_options(name, config.model.options))
            inputs = json.dumps({key: repr(kind) for key, kind in card.inputs.items()}, sort_keys=True)
            if inputs not in items:
                items[inputs] = items_for(config.data, card)
            report = train_items(config, items[inputs])
            print(f"{row} seed {seed}: {_scores(evaluate, report.out)}, {report.seconds:.0f} s", flush=True)


def _scores(evaluate: dict[str, Any], run: str) -> str:
    found = []
    for truth in ("test", "test_shuffled"):
        keys = {key: value for key, value in evaluate.items() if key not in ("task", "published", "predictions", "out")}
        keys["ground_truth"] = keys["ground_truth"] | {"file": f"out/moments/planted/{truth}.txt"}
        score = clipmill.evaluate("moments", predictions={"run": run}, **keys, resamples=50)
        metrics = score.runs[0].metrics
        found.append(" ".join(f"{100 * metrics[key]:.1f}" for key in ("r1@0.3", "r1@0.5", "r1@0.7", "miou")))
    return f"R@1 .3 .5 .7, mIoU: {found[0]}; shuffled {found[1]}"


if __name__ == "__main__":
    main()
