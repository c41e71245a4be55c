"""Which trials a sweep has: every point with every seed, read and checked before anything is trained."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipmill.models import registry
from clipmill.pipelines.datasets.items import Items
from clipmill.pipelines.evaluation.tasks.base import Sources
from clipmill.pipelines.evaluation.tasks.moments.inputs import read_moment_truth
from clipmill.pipelines.evaluation.tasks.result import segments_fingerprint
from clipmill.pipelines.features.windows import clip_windows
from clipmill.pipelines.sweeps.points import Point, with_settings
from clipmill.pipelines.sweeps.trials import Kind, Trial
from clipmill.pipelines.training.run_folder import identity
from clipmill.pipelines.training.train import items_for, resolve
from clipmill.pipelines.training.videos.train import prepared
from clipmill.schemas.config import TrainConfig
from clipmill.schemas.config_moments import MomentsConfig
from clipmill.schemas.config_retrieval import RetrievalConfig
from clipmill.schemas.config_sweep import TrialsConfig
from clipmill.schemas.config_videos import VideoTrainConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.model import validate


@dataclass(frozen=True, slots=True)
class _Planned:
    """A trial's config, and what its key is a fingerprint of."""

    kind: Kind
    train: Mapping[str, Any]
    evaluate: Mapping[str, Any]
    decides: Sequence[Any]


class Planner:
    """Makes trials, and reads each set of clips once, so that what cannot be trained is refused before anything is."""

    def __init__(self) -> None:
        self._items: dict[str, Items] = {}
        self._truths: dict[str, tuple[Any, ...]] = {}

    def items(self, config: TrainConfig) -> Items:
        """Returns the clips `config` trains and tests on.

        Raises:
            UsageError: they cannot be used by the model; see `read_items`.
        """
        card = registry.card(config.model.name, registry.resolve_options(config.model.name, config.model.options))
        kinds = {name: repr(kind) for name, kind in card.inputs.items()}
        name = json.dumps([config.data.model_dump(mode="json"), kinds, card.needs_labels], sort_keys=True)
        if name not in self._items:
            self._items[name] = items_for(config.data, card)
        return self._items[name]

    def trials(
        self, train_keys: Mapping[str, Any], points: Sequence[Point], config: TrialsConfig, source: str
    ) -> list[Trial]:
        """Returns each point with each seed, point by point.

        Args:
            train_keys: of a train config, before the points' own.
            source: what messages about a point begin with.

        Raises:
            UsageError: a config does not validate, or its clips cannot be used.
        """
        found = []
        for point in points:
            for seed in config.seeds:
                settings = {**point.settings, **dict.fromkeys(config.seed_keys, seed)}
                where = f"{source} ({point.name})"
                keys = with_settings(train_keys, settings, where) | {"out": config.out, "resume": True}
                if isinstance(keys.get("data"), dict) and "videos" in keys["data"]:
                    planned = self._of_videos(validate(VideoTrainConfig, keys, where), config, source)
                else:
                    planned = self._of_rows(resolve(validate(TrainConfig, keys, where)), config, source)
                trainer = planned.train["trainer"]["name"]
                if trainer != "local":
                    remedy = "leave it out; concurrent runs several trials at a time"
                    raise UsageError(describe(where, "trainer.name", "local for each of many trials", trainer, remedy))
                text = json.dumps(planned.decides, sort_keys=True, default=str)
                key = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
                rest = (config.backwards, config.keep_checkpoints)
                found.append(Trial(key, point.name, seed, planned.kind, planned.train, planned.evaluate, *rest))
        return found

    def _of_rows(self, train_config: TrainConfig, config: TrialsConfig, source: str) -> _Planned:
        model = train_config.model
        options = registry.resolve_options(model.name, model.options)
        kind: Kind = "moments" if registry.card(model.name, options).task == "moments" else "retrieval"
        evaluate, truth = self._evaluation(config, kind, source)
        decides = [
            identity(train_config, options.model_dump(mode="json"), self.items(train_config)),
            train_config.loop.epochs,
            evaluate,
            config.backwards,
            *truth,
        ]
        keys = train_config.model_dump(mode="json", by_alias=True, exclude_none=True)
        return _Planned(kind, keys, evaluate, decides)

    def _of_videos(self, train_config: VideoTrainConfig, config: TrialsConfig, source: str) -> _Planned:
        """Plans a training on videos, whose points are compared by what validates: rows of the test are not there."""
        if config.evaluate or config.backwards:
            expected, remedy = "none: points are compared by validation losses", "leave it out"
            got = "backwards" if config.backwards else ", ".join(config.evaluate)
            raise UsageError(describe(source, "evaluate", expected, got, remedy))
        job = prepared(train_config, clip_windows)
        if not job.validates:
            remedy = "set it, such as to total, and data.split.validation_fraction"
            expected = "a loss on the validation split, to compare points by"
            raise UsageError(describe(source, "loop.select", expected, "last", remedy))
        keys = job.config.model_dump(mode="json", by_alias=True)
        return _Planned("videos", keys, {}, [job.identity, job.config.loop.epochs])

    def _evaluation(self, config: TrialsConfig, kind: Kind, source: str) -> tuple[dict[str, Any], tuple[Any, ...]]:
        """Returns the keys of the evaluation, checked, and what else decides its results."""
        given = config.evaluate.get("task", "retrieval")
        if given != kind:
            remedy = "write evaluate: {task: moments, ground_truth: FILE}" if kind == "moments" else "leave it out"
            expected = f"{kind}, which the model is scored by"
            raise UsageError(describe(f"{source} evaluate", "task", expected, given, remedy))
        # No page is made of each trial.
        wanted = {"report": False, **config.evaluate}
        if kind == "retrieval":
            retrieval = validate(RetrievalConfig, {**wanted, "run": "run"}, f"{source} evaluate")
            excluded = {"run", "out", "data", "checkpoint"}
            return retrieval.model_dump(mode="json", by_alias=True, exclude=excluded, exclude_none=True), ()
        if config.backwards:
            remedy = "leave it out"
            raise UsageError(describe(source, "backwards", "none: moments do not search sentences", "true", remedy))
        moments = validate(MomentsConfig, {**wanted, "predictions": {"run": "run"}}, f"{source} evaluate")
        keys = moments.model_dump(mode="json", by_alias=True, exclude={"predictions", "out"}, exclude_none=True)
        name = json.dumps(keys, sort_keys=True)
        if name not in self._truths:
            truth = read_moment_truth(moments.ground_truth, moments.training, Sources()).truth
            tables = [truth.windows, *([] if truth.training is None else [truth.training])]
            self._truths[name] = (segments_fingerprint(*tables), truth.sentences)
        return keys, self._truths[name]
