"""``clipmill evaluate``: image-to-video retrieval on the clips kept for the test, and a report people can open."""

import json
import os
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from clipmill.jobs.configs import read_config
from clipmill.jobs.evaluation_report import Evaluated, make_report
from clipmill.jobs.output import Outcome
from clipmill.jobs.retrieval_spaces import (
    COSINE,
    COSINE_INPUTS,
    Spaces,
    check_recipe_trained_on,
    chosen_spaces,
    comparable,
    model_spaces,
)
from clipmill.models.base import RETRIEVAL_SIDES, Side
from clipmill.models.checkpoints import TrainedModel, find_checkpoint, load
from clipmill.models.embedding import array_name, arrays_of, embed, inputs_of
from clipmill.pipelines.datasets.items import Items, read_items
from clipmill.pipelines.evaluation.retrieval.approximate import Approximate
from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery, Queries, RetrievalResult, evaluate_retrieval
from clipmill.pipelines.evaluation.retrieval.results import results_json
from clipmill.pipelines.evaluation.retrieval.scorers import Block, Cosine
from clipmill.pipelines.evaluation.tasks.retrieval.report import write_report
from clipmill.schemas.config import DataConfig, EvaluateConfig, dump_config
from clipmill.schemas.errors import StorageUnavailableError, UsageError, describe
from clipmill.schemas.inputs import Input, Vector
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
        **{name: source.recipe_fingerprint for name, source in evaluated.pairs.sources.items()},
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
    inputs = dict(trained.card.inputs) if trained is not None else COSINE_INPUTS
    sides = trained.card.sides if trained is not None else RETRIEVAL_SIDES
    pairs = read_items(_data(config, trained), inputs, vocabularies=trained.origin.vocabularies if trained else None)
    if trained is not None:
        _check_same_data(trained, pairs, config.run or "")
    test = pairs.of("test")
    notes: list[str] = []
    scorers: Spaces = {}
    queries = arrays_of({name: test.inputs[name] for name in sides["query"]})
    gallery: dict[str, Any] = {}
    prepare = None
    if trained is not None:
        checkpoint = find_checkpoint(config.run or "", config.checkpoint)
        gallery |= embed(trained, "gallery", test.inputs)
        scorers |= model_spaces(trained, checkpoint)
        prepare = EmbedQueries(os.path.abspath(checkpoint))
    if config.cosine_baseline:
        plain = _plain_cosine(pairs, inputs, sides)
        if plain is None:
            names = " and ".join(dict.fromkeys(source.name for source in pairs.sources.values()))
            notes.append(
                f"No plain cosine row: {names} are not single vectors of one network, so they cannot be compared "
                "without a model."
            )
        else:
            scorers[COSINE] = plain
            gallery |= arrays_of({sides["gallery"][0]: test.inputs[sides["gallery"][0]]})
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
        trained = _loaded(self.path)
        return dict(block) | embed(trained, "query", inputs_of(block, trained.card.sides["query"]))


@lru_cache(maxsize=2)
def _loaded(path: str) -> TrainedModel:
    return load(Path(path))


def _plain_cosine(pairs: Items, inputs: Mapping[str, Input], sides: Mapping[Side, tuple[str, ...]]) -> Cosine | None:
    """Returns the space of stored vectors as they are, where both sides are one vector of one network."""
    names = (*sides["query"], *sides["gallery"])
    if len(sides["query"]) != 1 or len(sides["gallery"]) != 1:
        return None
    if not all(isinstance(inputs[name], Vector) for name in names):
        return None
    store = FeatureStore(pairs.store_url)
    query, gallery = (store[pairs.sources[name].name].recipe for name in names)
    return Cosine(array_name(names[0]), array_name(names[1])) if comparable(query, gallery) else None


def _data(config: EvaluateConfig, trained: TrainedModel | None) -> DataConfig:
    if config.data is not None:
        return config.data
    if trained is None:
        raise UsageError("evaluation data: expected data or run, got neither; see docs/evaluation.md")
    return validate(DataConfig, trained.origin.config["data"], "the run's data")


def _check_same_data(trained: TrainedModel, pairs: Items, run: str) -> None:
    origin = trained.origin
    for name, now in pairs.sources.items():
        check_recipe_trained_on(run, name, now.name, origin.inputs[name].recipe_fingerprint, now.recipe_fingerprint)
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
