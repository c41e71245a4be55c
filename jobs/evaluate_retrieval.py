"""``clipmill evaluate``: image-to-video retrieval on the clips kept for the test, and a report people can open."""

import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from clipmill.jobs.configs import read_config
from clipmill.jobs.evaluation_report import Evaluated, make_report
from clipmill.jobs.output import Outcome
from clipmill.jobs.retrieval_spaces import (
    COSINE,
    Spaces,
    check_recipe_trained_on,
    chosen_spaces,
    comparable,
    model_spaces,
)
from clipmill.models.checkpoints import TrainedModel, find_checkpoint, load
from clipmill.models.retrieval import embed_images, embed_videos
from clipmill.pipelines.datasets.pairs import PairedFeatures, read_pairs
from clipmill.pipelines.evaluation.retrieval.approximate import Approximate
from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery, Queries, RetrievalResult, evaluate_retrieval
from clipmill.pipelines.evaluation.retrieval.results import results_json
from clipmill.pipelines.evaluation.retrieval.scorers import Block, Cosine
from clipmill.pipelines.evaluation.tasks.retrieval.report import write_report
from clipmill.schemas.config import EvaluateConfig, RetrievalDataConfig, dump_config
from clipmill.schemas.errors import StorageUnavailableError, UsageError, describe
from clipmill.schemas.model import validate
from clipmill.stores import FeatureStore


def run_evaluate(path: str, overrides: Sequence[str]) -> Outcome:
    """Evaluates as the config at `path` says; writes ``results.json`` and ``report.html``."""
    config = read_config(EvaluateConfig, path, overrides)
    print(dump_config(config).rstrip(), file=sys.stderr)
    evaluated = evaluate(config)
    out = Path(config.out or (Path(config.run) / "evaluation" if config.run else "out/evaluation"))
    about = {
        "store": evaluated.pairs.store_url,
        "image": evaluated.pairs.image_source.recipe_fingerprint,
        "video": evaluated.pairs.video_source.recipe_fingerprint,
        "model": evaluated.trained.name if evaluated.trained else None,
        "epoch": evaluated.trained.epoch if evaluated.trained else None,
    }
    results = results_json(evaluated.result, about)
    started = time.monotonic()
    report = make_report(evaluated, config)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.json").write_bytes(results)
    except OSError as error:
        raise StorageUnavailableError(
            describe(
                "evaluation",
                str(out),
                "a folder that can be written",
                error.strerror or str(error),
                "choose another out",
            )
        ) from None
    num_bytes = write_report(str(out / "report.html"), report)
    data = json.loads(results)
    del data["queries"]
    for space in data["spaces"].values():
        del space["per_query"]
    data |= {
        "report": str(out / "report.html"),
        "report_bytes": num_bytes,
        "results": str(out / "results.json"),
        "seconds": round(evaluated.result.seconds + time.monotonic() - started, 3),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    return Outcome(data, _text(evaluated.result, config.at, str(out / "report.html")))


def evaluate(config: EvaluateConfig) -> Evaluated:
    """Returns the result over the test clips: every test frame queries every test clip, its own included.

    Raises:
        UsageError: the run's features are no longer those it was trained on, or a space is unknown.
    """
    trained = load(find_checkpoint(config.run, config.checkpoint)) if config.run else None
    pairs = read_pairs(_data(config, trained))
    if trained is not None:
        _check_same_data(trained, pairs, config.run or "")
    test = pairs.take(pairs.is_test.nonzero()[0])
    notes: list[str] = []
    scorers: Spaces = {}
    queries: dict[str, Any] = {"image": test.image}
    gallery: dict[str, Any] = {"raw": test.video}
    prepare = None
    if trained is not None:
        gallery |= embed_videos(trained, test.video)
        scorers |= model_spaces(trained)
        prepare = EmbedQueries(os.path.abspath(find_checkpoint(config.run or "", config.checkpoint)))
    if config.cosine_baseline:
        store = FeatureStore(pairs.store_url)
        if comparable(store[pairs.image_source.name].recipe, store[pairs.video_source.name].recipe):
            scorers[COSINE] = Cosine("image", "raw")
        else:
            notes.append(
                f"No plain cosine row: {pairs.image_source.name} and {pairs.video_source.name} are not outputs of one "
                "network, so their vectors cannot be compared without a model."
            )
    if config.spaces:
        scorers = chosen_spaces(scorers, config.spaces)
    if not scorers:
        raise UsageError("evaluation spaces: expected at least one, got none; give run, or features of one network")
    labels = [test.label_names[code] for code in test.label]
    result = evaluate_retrieval(
        Queries(test.clip_ids, labels, queries),
        Gallery(test.clip_ids, labels, gallery),
        scorers,
        config.at,
        prepare=prepare,
        approximate=None if config.search.index == "exact" else Approximate(**config.search.model_dump()),
        dask_address=config.dask,
        seed=config.seed,
    )
    return Evaluated(result, pairs, test, trained, tuple(notes))


@dataclass(frozen=True, slots=True)
class EmbedQueries:
    """Embeds a block of query images with the checkpoint at `path`; picklable, so that a cluster's workers can."""

    path: str

    def __call__(self, block: Block) -> Block:
        return dict(block) | embed_images(_loaded(self.path), block["image"])


@lru_cache(maxsize=2)
def _loaded(path: str) -> TrainedModel:
    return load(Path(path))


def _data(config: EvaluateConfig, trained: TrainedModel | None) -> RetrievalDataConfig:
    if config.data is not None:
        return config.data
    if trained is None:
        raise UsageError("evaluation data: expected data or run, got neither; see docs/evaluation.md")
    return validate(RetrievalDataConfig, trained.origin.config["data"], "the run's data")


def _check_same_data(trained: TrainedModel, pairs: PairedFeatures, run: str) -> None:
    origin = trained.origin
    for role, then, now in (("image", origin.image, pairs.image_source), ("video", origin.video, pairs.video_source)):
        check_recipe_trained_on(run, role, now.name, then.recipe_fingerprint, now.recipe_fingerprint)
    # Clips added since are welcome, unless the model has seen them: then they would not be a test.
    seen = set(pairs.clip_ids) - set(origin.test_clip_ids)
    leaked = [clip for clip in pairs.test_clip_ids if clip in seen]
    if leaked:
        raise UsageError(
            describe(
                "run",
                run,
                "the split it was trained with",
                f"{len(leaked)} test clips it was not told to keep out, such as {leaked[0]!r}",
                "train again, or evaluate with the run's own data",
            )
        )


def _text(result: RetrievalResult, at: Sequence[int], report: str) -> str:
    names = [f"map@{k}" for k in sorted(set(at))]
    lines = [
        f"image-to-video retrieval: {len(result.query_ids)} queries, {len(result.gallery_ids)} clips",
        f"  {'space':<14}" + "".join(f"{name:>10}" for name in names),
    ]
    for space in result.spaces:
        lines.append(f"  {space.space:<14}" + "".join(f"{space.metrics[name]:>10.4f}" for name in names))
    lines.append(f"  {'(chance)':<14}" + "".join(f"{result.chance[name]:>10.4f}" for name in names))
    if result.approximate is not None:
        lines.append(f"approximate search: {result.approximate.line}")
    lines.append(f"report: {report}")
    return "\n".join(lines)
