"""``clipmill train`` on videos: from a config to a run folder with checkpoints that are an extractor's weights.

report = train_on_videos(config, clip_windows, [print])
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from clipmill.extractors import registry
from clipmill.extractors.learner import Learner
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.weights import digest
from clipmill.models.checkpoints import checkpoint_path
from clipmill.pipelines.training.interruption import Interruption
from clipmill.pipelines.training.parallel import OneProcess
from clipmill.pipelines.training.run_folder import RunFolder, has_run_out, must_stay
from clipmill.pipelines.training.train import EpochObserver, TrainReport, resolve_device, use_threads
from clipmill.pipelines.training.videos.checkpoints import load
from clipmill.pipelines.training.videos.held_out import HELD_OUT, write_held_out
from clipmill.pipelines.training.videos.items import VideoItems, WindowsOf, read_video_items
from clipmill.pipelines.training.videos.worker import VideoTrainJob, work
from clipmill.pipelines.training.worker import EpochDone
from clipmill.schemas.config import FeatureConfig
from clipmill.schemas.config_videos import LearnerConfig, VideoLoopConfig, VideoTrainConfig
from clipmill.schemas.errors import AnnotationsWarning, UsageError, describe
from clipmill.schemas.model import validate
from clipmill.schemas.recipe import ClipRule, Recipe

FEATURE = "feature.yaml"


def resolve(config: VideoTrainConfig) -> VideoTrainConfig:
    """Returns `config` with loop and training as the network's publication has them, where it says nothing else.

    Raises:
        UsageError: there is no such extractor, or it cannot be trained.
        ConfigError: an option of the training does not fit.
    """
    learner = registry.learner(config.model.name)
    given = config.loop.model_dump(include=config.loop.model_fields_set)
    loop = validate(VideoLoopConfig, {**learner.loop, **given}, "loop")
    training = validate(learner.options, config.model.training, "model.training")
    model = config.model.model_copy(update={"training": training.model_dump(mode="json")})
    # With every key set, so that it is written down whole.
    return config.model_copy(update={"loop": VideoLoopConfig.model_validate(loop.model_dump()), "model": model})


def recipe_of(config: VideoTrainConfig, learner: Learner) -> Recipe:
    """Returns the recipe of the network to begin with.

    Raises:
        UsageError: its weights, options, sampling or preprocessing do not fit the extractor.
    """
    model = config.model
    feature = FeatureConfig(
        extractor=model.name,
        layer=learner.layer,
        weights=model.weights,
        sampling=model.sampling,
        preprocess=model.preprocess,
        options=model.options,
    )
    return resolve_recipe(model.name, feature, ClipRule(), config.decode)


def feature_of(model: LearnerConfig, recipe: Recipe, learner: Learner, classes: Sequence[str]) -> dict[str, Any]:
    """Returns the build's feature that makes rows with the trained weights, as plain types, without their path."""
    options = {key: value for key, value in recipe.options.items() if value not in (None, [])}
    sampling = (
        {} if model.sampling is None else {"sampling": model.sampling.model_dump(mode="json", exclude_unset=True)}
    )
    preprocess = {"preprocess": dict(model.preprocess)} if model.preprocess else {}
    return {
        "extractor": recipe.extractor,
        "layer": learner.trained_layer,
        "weights": {"card": recipe.weights.card},
        **sampling,
        **preprocess,
        "options": options | learner.recipe_options(classes),
    }


def prepared(config: VideoTrainConfig, windows_of: WindowsOf) -> VideoTrainJob:
    """Returns what workers are given, for a training from its start; see `train_on_videos`."""
    config = resolve(config)
    learner = registry.learner(config.model.name)
    recipe = recipe_of(config, learner)
    options = validate(learner.options, config.model.training, "model.training")
    buffers = learner.buffers(recipe) if learner.buffers is not None else None
    copies = learner.augmentation(recipe, options).flip == "copies"
    items = read_video_items(config.data, recipe, buffers, copies, windows_of)
    _check_batch(config, learner, items)
    _check_selection(config, learner, items)
    identity = _identity(config, recipe, items) | _other_weights(learner, options)
    feature = feature_of(config.model, recipe, learner, items.classes)
    return VideoTrainJob(config, recipe, items, feature, identity, str(RunFolder(config.out).path), 0)


def train_on_videos(
    config: VideoTrainConfig, windows_of: WindowsOf, observers: Sequence[EpochObserver] = ()
) -> TrainReport:
    """Returns the report of a finished run; goes on from the newest checkpoint in `config.out` where there is one.

    Ctrl-C finishes the epoch in progress, writes a checkpoint and raises KeyboardInterrupt.

    Args:
        windows_of: places windows on a clip (`pipelines.features.windows.clip_windows`).

    Raises:
        UsageError: config, videos, annotations or the run's folder cannot be used as given; see `read_video_items`.
        StorageUnavailableError: the folder cannot be written.
        MachineFaultError: no decode child could be started.
        EngineError: Ray lost a worker; the last checkpoint stands.
        KeyboardInterrupt: after Ctrl-C.

    Warns:
        AnnotationsWarning: annotations were cut or left out, before training starts.
    """
    started = time.monotonic()
    job = prepared(config, windows_of)
    config, items, folder = job.config, job.items, RunFolder(job.folder)
    for note in items.notes:
        warnings.warn(note, AnnotationsWarning, stacklevel=2)
    checkpoint = folder.open(config, job.identity, load)
    if checkpoint is not None:
        job = replace(job, start_epoch=checkpoint.epoch)
    on_ray = config.trainer.name == "ray"
    epoch, device = job.start_epoch, "ray" if on_ray else str(resolve_device(config.loop.device))

    def tell(done: EpochDone) -> None:
        for observer in observers:
            observer(done)

    def is_finished(epoch: int) -> bool:
        loop = config.loop
        return epoch >= loop.epochs or has_run_out(folder.best(loop.select), epoch, loop.patience)

    if not is_finished(epoch):
        if on_ray:
            from clipmill.pipelines.training.ray_train import run_on_ray

            epoch, device = run_on_ray(job, tell)
        else:
            with Interruption() as interruption, use_threads(config.loop.threads):
                epoch = work(job, OneProcess(), resolve_device(device), lambda: interruption.requested, tell)
    best = folder.best(config.loop.select)
    if best is not None:
        folder.select(best.epoch)  # Once more: a run may have been killed between a checkpoint and this.
    used = epoch if best is None else best.epoch
    stopped_early = epoch < config.loop.epochs and is_finished(epoch)
    path = checkpoint_path(config.out, used)
    feature = {**job.feature, "weights": {"file": str(path), **job.feature["weights"]}}
    folder.write(FEATURE, yaml.safe_dump({feature["extractor"]: feature}, sort_keys=False))
    notes = [*items.notes, f"weights for clipmill build: {Path(config.out) / FEATURE}"]
    learner, annotated = registry.learner(config.model.name), config.data.annotations is not None
    if write_held_out(config.out, items, annotated, feature, learner):
        place = Path(config.out) / HELD_OUT
        notes.append(
            f"held-out videos: clipmill build {place}/build.yaml, then clipmill evaluate {place}/evaluate.yaml"
        )
    report = TrainReport(
        out=config.out,
        checkpoint=str(checkpoint_path(config.out, epoch)),
        epoch=epoch,
        start_epoch=job.start_epoch,
        seconds=time.monotonic() - started,
        losses=tuple(line["losses"] for line in folder.metrics()),
        model=config.model.name,
        options=dict(config.model.training),
        trainer=config.trainer.name,
        num_workers=config.trainer.workers if on_ray else 1,
        device=device,
        num_train=len(items),
        num_test=items.num_test,
        num_labels=len(items.classes),
        labels_without_training=items.labels_without_training,
        labels_without_test=items.labels_without_test,
        num_only={},
        num_validation=len(items.validation),
        selected_epoch=used,
        stopped_early=stopped_early,
        notes=tuple(notes),
    )
    folder.write_report(report.to_plain())
    if epoch < config.loop.epochs and not stopped_early:
        raise KeyboardInterrupt(
            f"stopped after epoch {epoch} of {config.loop.epochs}, which is kept; run the same command again to go on"
        )
    return report


def _check_batch(config: VideoTrainConfig, learner: Learner, items: VideoItems) -> None:
    """Makes sure that a batch the job asks for is there; the publication's is cut down to what there is."""
    batch = config.loop.batch
    if batch > len(items) and batch != learner.loop.get("batch", VideoLoopConfig().batch):
        expected = f"at most the {len(items)} items there are to train on"
        remedy = "lower it, or leave it out: the network's own is cut down to what there is"
        raise UsageError(describe("loop", "batch", expected, str(batch), remedy))


def _check_selection(config: VideoTrainConfig, learner: Learner, items: VideoItems) -> None:
    """Makes sure that there is what an epoch is selected by."""
    select = config.loop.select
    if select == "last":
        return
    if select not in learner.losses:
        known = ", ".join(["last", *learner.losses])
        raise UsageError(describe("loop", "select", f"one of {known}", select, "correct the name"))
    if not items.validation:
        remedy = "set data.split.validation_fraction, or mark videos of the manifest as validation"
        raise UsageError(describe("loop", "select", f"videos to validate {select} on", "none", remedy))


def _identity(config: VideoTrainConfig, recipe: Recipe, items: VideoItems) -> dict[str, Any]:
    """Returns what must be equal for a run to go on: flat and plain."""
    plain: dict[str, Any] = must_stay(config.model_dump(mode="json", by_alias=True))
    # Where the files lie may change; what is in them is compared.
    moved = ("data.videos.", "data.annotations.file", "model.weights.file")
    kept = {key: value for key, value in plain.items() if not key.startswith(moved)}
    return kept | {
        "network": recipe.fingerprint,
        "number of items": len(items),
        "number of labels": len(items.classes),
        "data": items.fingerprint,
    }


def _other_weights(learner: Learner, options: Any) -> dict[str, str]:
    path = learner.other_weights(options)
    return {} if path is None else {"weights of another network": digest(path)}
