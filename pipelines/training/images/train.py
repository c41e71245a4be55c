"""``clipmill train`` on images: an image network and a model of its vectors, trained together.

report = train_on_images(config, clip_windows, [print])

What comes out is what two rooms know already: weights of an extractor, of which a build makes rows, and the checkpoint
of a model of those rows.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from clipmill.extractors import registry as extractors
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.torch_extractor import TorchExtractor
from clipmill.models import registry
from clipmill.models.base import ModelCard, Prepares, Sizes
from clipmill.models.checkpoints import Origin, TrainedModel, checkpoint_path, checkpoints, load, save, write
from clipmill.models.scaling import Kind, Scaling
from clipmill.pipelines.datasets.items import Items
from clipmill.pipelines.training.images.end_to_end import EndToEnd
from clipmill.pipelines.training.images.items import read_image_items, vectors_of
from clipmill.pipelines.training.run_folder import RunFolder, data_fingerprint
from clipmill.pipelines.training.train import EpochObserver, TrainReport, resolve, train_items
from clipmill.pipelines.training.videos.held_out import HELD_OUT
from clipmill.pipelines.training.videos.items import WindowsOf
from clipmill.pipelines.training.worker import TrainJob
from clipmill.schemas.config import FeatureConfig, ModelTrainConfig, WeightsConfig
from clipmill.schemas.config_images import ImageTrainConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.features import FeatureSource
from clipmill.schemas.inputs import Tokens
from clipmill.schemas.recipe import ClipRule, Recipe
from clipmill.stores.manifests import read_manifest

FEATURE = "feature.yaml"
NETWORK = "network"
"""Folder of a run with the network's weights, one file for each checkpoint."""
TRAINED, INITIAL = "trained", "initial"
"""Features of the build of what is held out: of the network as it ended, and as it began."""
MOVED = ("data.images.", "network.weights.file")
"""Keys of the config that say where files lie, which may change while a run goes on: what is in them is compared."""


def network_path(folder: str, epoch: int) -> Path:
    """Returns where the network's weights of `epoch` lie: ``network/epoch-0010.pt``."""
    return Path(folder) / NETWORK / checkpoint_path(folder, epoch).name


@dataclass(frozen=True, slots=True)
class ImageTrainJob(TrainJob):
    """Everything a worker needs: what any training has, and the recipe of the network to begin with."""

    recipe: Recipe

    @property
    def images(self) -> ImageTrainConfig:
        """The config."""
        if not isinstance(self.config, ImageTrainConfig):
            raise TypeError("expected the config of a training on images")
        return self.config

    @property
    def swap_patience(self) -> tuple[int, ...]:
        """When network and model change places."""
        return self.images.network.swap_patience

    def start(self, device: torch.device) -> TrainedModel:
        """Returns the model with its network before it: those of the checkpoint, or fresh ones."""
        trained = load(checkpoints(self.folder)[self.start_epoch]) if self.start_epoch else self._fresh()
        recipe = recipe_of(self.images, self._weights(self.start_epoch)) if self.start_epoch else self.recipe
        extractor = extractors.build(recipe, str(device))
        if not isinstance(extractor, TorchExtractor):
            raise TypeError(f"extractor {recipe.extractor}: expected a TorchExtractor, as it has trained_options")
        vectors = vectors_of(self.card)
        whole = EndToEnd(
            extractor, trained.model, recipe.preprocess, self.images.network, vectors, _scaling(trained.model)
        )
        whole.to(device)
        # Scaled behind the network, not in front of it.
        return replace(trained, model=whole, scalings={})

    def _fresh(self) -> TrainedModel:
        config, items = self.images, self.items
        options = registry.resolve_options(config.model.name, config.model.options)
        vectors = vectors_of(self.card)
        dims = {name: source.dim for name, source in items.sources.items() if name in items.vocabularies}
        sizes = Sizes({name: dims.get(name, self.recipe.dim) for name in self.card.inputs}, len(items.label_names))
        model = registry.build(config.model.name, options, sizes, config.loop.seed)
        training = items.of("train")
        if isinstance(model, Prepares):
            model.prepare(training.inputs, items.vocabularies)
        return TrainedModel(
            name=config.model.name,
            options=options.model_dump(mode="json"),
            sizes=sizes,
            model=model,
            scalings={},
            origin=Origin(
                store_url=_held_out(self.folder, "store"),
                dataset="",
                inputs={name: items.sources[name] for name in dims} | dict.fromkeys(vectors, _no_source()),
                fingerprint=data_fingerprint(items, config.loop.select),
                label_names=items.label_names,
                test_clip_ids=items.test_clip_ids,
                config={**config.model_dump(mode="json", by_alias=True), "data": data_of(config, self.card)},
                vocabularies=items.vocabularies,
            ),
            epoch=0,
        )

    def _weights(self, epoch: int) -> WeightsConfig:
        return WeightsConfig(file=str(network_path(self.folder, epoch)), card=self.recipe.weights.card)

    def save(self, trained: TrainedModel) -> None:
        """Writes the network's weights, then the checkpoint of the model, which knows the rows that they give."""
        whole: EndToEnd = trained.model
        unused = extractors.card_of(self.recipe).layer(self.recipe.layer).unused
        weights = {key: value for key, value in whole.published.items() if not key.startswith(unused)}
        write(network_path(self.folder, trained.epoch), {"state_dict": weights})
        recipe = recipe_of(self.images, self._weights(trained.epoch))
        vectors = vectors_of(self.card)
        source = FeatureSource(TRAINED, recipe.fingerprint, recipe.dim)
        origin = replace(trained.origin, inputs={**trained.origin.inputs, **dict.fromkeys(vectors, source)})
        kind = _scaling(whole.model)
        scalings = {} if kind == "none" else dict.fromkeys(vectors, Scaling(kind))
        path = checkpoint_path(self.folder, trained.epoch)
        save(path, replace(trained, model=whole.model, scalings=scalings, origin=origin))

    def delete(self, epoch: int) -> None:
        """Deletes the checkpoint of an epoch, and the network's weights."""
        TrainJob.delete(self, epoch)
        network_path(self.folder, epoch).unlink(missing_ok=True)


def _no_source() -> FeatureSource:
    return FeatureSource(TRAINED, "", 0)


def _scaling(model: Any) -> Kind:
    """Returns how the model's vectors are scaled.

    Raises:
        UsageError: by all training rows, which change while the network learns.
    """
    kind: Kind = getattr(model, "scaling", "none")
    if kind == "min_max":
        remedy = "set model.options.scaling: l2"
        raise UsageError(describe("model.options", "scaling", "none or l2 with a network that learns", kind, remedy))
    return kind


def _held_out(folder: str, name: str) -> str:
    return str(Path(folder) / HELD_OUT / name)


def recipe_of(config: ImageTrainConfig, weights: WeightsConfig | None = None) -> Recipe:
    """Returns the recipe of the network with the weights it begins with, or with others.

    Raises:
        UsageError: it does not fit its extractor, or is none that can be trained on images.
    """
    network = config.network
    feature = FeatureConfig(
        extractor=network.extractor,
        layer=network.layer,
        weights=weights or network.weights,
        sampling=network.sampling,
        preprocess=network.preprocess,
        options=network.options,
    )
    recipe = resolve_recipe(TRAINED, feature, ClipRule(), config.decode)
    card = extractors.card_of(recipe)
    if card.trained_options is None:
        names = [name for name in extractors.names() if extractors.card(name).trained_options is not None]
        raise UsageError(describe("network", "extractor", f"one of {', '.join(names)}", recipe.extractor, "change it"))
    if any(recipe.options.get(key) != value for key, value in card.trained_options.items()):
        options = network.options | dict(card.trained_options)
        changed = config.model_copy(update={"network": network.model_copy(update={"options": options})})
        return recipe_of(changed, weights)
    if recipe.layer == "regions" or recipe.options.get("resolutions") or recipe.preprocess.crops is not None:
        got = "regions, resolutions or several crops"
        raise UsageError(describe("network", "options", "one row of an image", got, "leave them out"))
    return recipe


def data_of(config: ImageTrainConfig, card: ModelCard) -> dict[str, Any]:
    """Returns the `data` of an evaluation of what is held out, once it is built."""
    sources: dict[str, Any] = {name: TRAINED for name in vectors_of(card)}
    texts = {name: text.model_dump(mode="json") for name, text in config.data.inputs.items()}
    named: dict[str, Any] = {name: sources.pop(name) for name in ("image", "video") if name in sources}
    inputs = sources | texts
    return {
        "store": _held_out(config.out, "store"),
        **named,
        **({"inputs": inputs} if inputs else {}),
        "split": {"from": "none"},
    }


def train_on_images(
    config: ImageTrainConfig, windows_of: WindowsOf, observers: Sequence[EpochObserver] = ()
) -> TrainReport:
    """Returns the report of a finished run; goes on from the newest checkpoint in `config.out` where there is one.

    Ctrl-C finishes the epoch in progress, writes a checkpoint and raises KeyboardInterrupt.

    Args:
        windows_of: places windows on a clip (`pipelines.features.windows.clip_windows`).

    Raises:
        UsageError: config, images or the run's folder cannot be used as given; see `read_image_items`.
        StorageUnavailableError: the folder cannot be written.
        MachineFaultError: no process could be started that reads images.
        EngineError: Ray lost a worker; the last checkpoint stands.
        KeyboardInterrupt: after Ctrl-C.
    """
    config = resolve(config)
    recipe, items = read(config, windows_of)

    def job_of(
        resolved: ModelTrainConfig, items: Items, identity: Mapping[str, Any], folder: str, start_epoch: int
    ) -> TrainJob:
        return ImageTrainJob(resolved, items, identity, folder, start_epoch, recipe)

    report = train_items(config, items, observers, job_of, MOVED)
    path = network_path(config.out, report.selected_epoch)
    feature = feature_of(config, recipe, WeightsConfig(file=str(path), card=recipe.weights.card))
    folder = RunFolder(config.out)
    folder.write(FEATURE, yaml.safe_dump({TRAINED: feature}, sort_keys=False))
    notes = [*report.notes, *_swaps(folder), f"weights for clipmill build: {Path(config.out) / FEATURE}"]
    if _write_held_out(config, recipe, feature, set(items.of("test").video_ids)):
        place = Path(config.out) / HELD_OUT
        notes.append(
            f"held-out images: clipmill build {place}/build.yaml, then clipmill evaluate {place}/evaluate.yaml"
        )
    report = replace(report, notes=tuple(notes))
    folder.write_report(report.to_plain())
    return report


def read(config: ImageTrainConfig, windows_of: WindowsOf) -> tuple[Recipe, Items]:
    """Returns the recipe of the network to begin with, and the images; see `train_on_images`."""
    recipe, card = recipe_of(config), card_of(config)
    vectors_of(card)
    return recipe, read_image_items(config.data, recipe, card, config.decode, windows_of)


def card_of(config: ImageTrainConfig) -> ModelCard:
    """Returns the card of the model as its options make it."""
    return registry.card(config.model.name, registry.resolve_options(config.model.name, config.model.options))


def feature_of(config: ImageTrainConfig, recipe: Recipe, weights: WeightsConfig) -> dict[str, Any]:
    """Returns the build's feature of the network with such weights, as plain types."""
    network = config.network
    options = {key: value for key, value in recipe.options.items() if value not in (None, [])}
    sampling = network.sampling
    return {
        "extractor": recipe.extractor,
        "layer": recipe.layer,
        "weights": weights.model_dump(exclude_none=True),
        **({"sampling": sampling.model_dump(mode="json", exclude_unset=True)} if sampling is not None else {}),
        **({"preprocess": dict(network.preprocess)} if network.preprocess else {}),
        **({"options": options} if options else {}),
    }


def _swaps(folder: RunFolder) -> list[str]:
    """Returns a note of the epochs after which network and model changed places."""
    turns = [(line["epoch"], line["turn"]) for line in folder.metrics() if "turn" in line]
    swapped = [str(epoch - 1) for (_, before), (epoch, turn) in zip(turns, turns[1:], strict=False) if turn != before]
    if not turns:
        return []
    when = f"after epoch {', '.join(swapped)}" if swapped else "never"
    return [f"model and network changed places {when}"]


def _write_held_out(config: ImageTrainConfig, recipe: Recipe, feature: Mapping[str, Any], kept: set[str]) -> bool:
    """Writes manifest.csv, build.yaml and evaluate.yaml of the images kept for the test; False where there are none.

    Of a model of images alone also evaluate_initial.yaml, which scores the network as it began.
    """
    if not kept:
        return False
    card = card_of(config)
    with_texts = any(isinstance(kind, Tokens) for kind in card.inputs.values())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "path", "stream", "label"))
    for video in read_manifest(config.data.images).videos:
        if video.id in kept:
            writer.writerow((video.id, video.uri, video.stream, video.label))
    features = {TRAINED: dict(feature)}
    if not with_texts:
        features[INITIAL] = feature_of(config, recipe, config.network.weights)
    build = {
        "store": {"url": _held_out(config.out, "store")},
        "videos": {"manifest": _held_out(config.out, "manifest.csv")},
        "decode": {"decoder": config.decode.decoder},
        "features": features,
    }
    looks_for = {"relevant": "own_clip"} if with_texts else {"exclude": "own_clip"}
    data = data_of(config, card)
    evaluate = {"run": config.out, "data": data, **looks_for, "out": _held_out(config.out, "evaluation")}
    texts = {"manifest.csv": text.getvalue(), "build.yaml": _dump(build), "evaluate.yaml": _dump(evaluate)}
    if not with_texts:
        plain = {"store": data["store"], "image": INITIAL, "video": INITIAL, "split": data["split"]}
        out = _held_out(config.out, "evaluation_initial")
        texts["evaluate_initial.yaml"] = _dump({"data": plain, **looks_for, "out": out})
    for name, content in texts.items():
        RunFolder(config.out).write(f"{HELD_OUT}/{name}", content)
    return True


def _dump(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
