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

from jobs.configs import read_config
from jobs.evaluation_report import Evaluated, make_report
from jobs.output import Outcome
from models.checkpoints import TrainedModel, find_checkpoint, load
from models.retrieval import embed_images, embed_videos
from pipelines.evaluation.report import write_report
from pipelines.evaluation.retrieval import Gallery, Queries, RetrievalResult, evaluate_retrieval
from pipelines.evaluation.retrieval_results import results_json
from pipelines.evaluation.retrieval_scorers import BestOfSamples, Block, Combined, Cosine, Scorer
from pipelines.training.datasets import PairedFeatures, read_pairs
from schemas.config import EvaluateConfig, RetrievalDataConfig, dump_config
from schemas.errors import StorageUnavailableError, UsageError, describe
from schemas.model import validate
from schemas.recipe import Recipe, Weights
from stores import FeatureStore

COSINE = "cosine"


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
    scorers: dict[str, Scorer | Combined] = {}
    queries: dict[str, Any] = {"image": test.image}
    gallery: dict[str, Any] = {"raw": test.video}
    prepare = None
    if trained is not None:
        gallery |= embed_videos(trained, test.video)
        scorers |= _model_spaces(trained)
        prepare = EmbedQueries(os.path.abspath(find_checkpoint(config.run or "", config.checkpoint)))
    if config.cosine_baseline:
        if _comparable(pairs):
            scorers[COSINE] = Cosine("image", "raw")
        else:
            notes.append(
                f"No plain cosine row: {pairs.image_source.name} and {pairs.video_source.name} are not outputs of one "
                "network, so their vectors cannot be compared without a model."
            )
    if config.spaces:
        scorers = _chosen(scorers, config.spaces)
    if not scorers:
        raise UsageError("evaluation spaces: expected at least one, got none; give run, or features of one network")
    labels = [test.label_names[code] for code in test.label]
    result = evaluate_retrieval(
        Queries(test.clip_ids, labels, queries),
        Gallery(test.clip_ids, labels, gallery),
        scorers,
        config.at,
        prepare=prepare,
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
        if then.recipe_fingerprint != now.recipe_fingerprint:
            raise UsageError(
                describe(
                    "run",
                    run,
                    f"{role} feature {then.name} of recipe {then.recipe_fingerprint[:8]}, which it was trained on",
                    f"{now.name} of recipe {now.recipe_fingerprint[:8]}",
                    "train again, or evaluate with the old recipe's key as the feature name",
                )
            )
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


def _model_spaces(trained: TrainedModel) -> dict[str, Scorer | Combined]:
    known: dict[str, Scorer | Combined] = {
        "appearance": Cosine("appearance", "appearance"),
        "video": BestOfSamples("samples", "video"),
        "combined": Combined(dict(trained.model.combined)),
    }
    return {space: known[space] for space in trained.model.spaces()}


def _comparable(pairs: PairedFeatures) -> bool:
    """Returns whether both vectors are outputs of one network: same extractor, layer and weights."""
    store = FeatureStore(pairs.store_url)
    image, video = (store[source.name].recipe for source in (pairs.image_source, pairs.video_source))
    return (image.extractor, image.layer, _weights(image)) == (video.extractor, video.layer, _weights(video))


def _weights(recipe: Recipe) -> Weights:
    """Returns the recipe's weights without the path they were read from."""
    return recipe.weights.model_copy(update={"file": None})


def _chosen(scorers: dict[str, Scorer | Combined], spaces: Sequence[str]) -> dict[str, Scorer | Combined]:
    for space in spaces:
        if space not in scorers:
            raise UsageError(
                describe("evaluation", "spaces", ", ".join(scorers) or "none here", space, "correct the name")
            )
    chosen = {space: scorers[space] for space in spaces}
    for scorer in list(chosen.values()):
        if isinstance(scorer, Combined):
            chosen = {name: scorers[name] for name in scorer.weights if name not in chosen} | chosen
    return chosen


def _text(result: RetrievalResult, at: Sequence[int], report: str) -> str:
    names = [f"map@{k}" for k in sorted(set(at))]
    lines = [
        f"image-to-video retrieval: {len(result.query_ids)} queries, {len(result.gallery_ids)} clips",
        f"  {'space':<14}" + "".join(f"{name:>10}" for name in names),
    ]
    for space in result.spaces:
        lines.append(f"  {space.space:<14}" + "".join(f"{space.metrics[name]:>10.4f}" for name in names))
    lines.append(f"  {'(chance)':<14}" + "".join(f"{result.chance[name]:>10.4f}" for name in names))
    lines.append(f"report: {report}")
    return "\n".join(lines)
