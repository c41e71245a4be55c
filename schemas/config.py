"""The YAML files of the jobs, as models. Key names are part of the command-line contract."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    SerializeAsAny,
    field_serializer,
    field_validator,
    model_validator,
)

from clipmill.schemas.config_queries import MomentQueriesConfig
from clipmill.schemas.errors import ConfigError
from clipmill.schemas.model import LocalPath, Model, validate
from clipmill.schemas.recipe import ClipRule, Pooling, Sampling


class StoreConfig(Model):
    """Where features are kept.

    Attributes:
        format: of its shards; which ones there are, `clipmill.stores.shard_formats` knows.
        dataset: names what the store holds; default: the folder's or manifest's name.
        attempts: tries of a storage call whose fault may pass (a connection that breaks, a server that is busy), with
            growing pauses between them.
    """

    url: str = Field(min_length=1)
    format: str = "zarr"
    dataset: str | None = None
    attempts: int = Field(default=5, ge=1)


class BuildStoreConfig(StoreConfig):
    """Where a build keeps features, and what its list of videos means for those the store has already.

    Attributes:
        manifest: ``full``: the folder or manifest is the whole dataset, and what it no longer has is no longer served
            (its rows stay until ``clipmill remove --missing``); ``additive``: it adds to what is there.
        max_unlisted_share: a full manifest that lacks five or more of the store's videos, and a larger share of them
            than this, is refused (ours): a folder that is mounted in part, or a list of new videos alone.
    """

    manifest: Literal["full", "additive"] = "full"
    max_unlisted_share: float = Field(default=0.5, ge=0, le=1)


class VideosConfig(Model):
    """Where videos come from: a folder (searched recursively), a manifest (.csv or .parquet), or published annotations.

    Attributes:
        annotations: file or folder of annotated segments or language queries: its videos are those of the build, by
            their ids there, and lie in `folder`.
        ids: the name below `folder` of the file of an id: ``{id}`` stands for the id, ``*`` for anything but a slash,
            ``**/`` for any folders or none. Default: ``**/{id}.*``.
        subset: of the annotations: this part alone.
        format: of the annotations; default: told by their content.
        label: ``parent_folder`` labels each video of a folder by the name of the folder it lies in.
        root: folder that relative paths of a manifest start from; default: the manifest's own folder.
        stream: which video stream of each file: its number as ffprobe shows it, ``v:1`` for the second video stream, a
            title or a language. A manifest's column `stream` comes before it. Default: the stream that stands out.
    """

    folder: str | None = Field(default=None, min_length=1)
    manifest: str | None = Field(default=None, min_length=1)
    label: Literal["parent_folder"] | None = None
    root: str | None = None
    stream: str | None = Field(default=None, min_length=1)
    annotations: str | None = Field(default=None, min_length=1)
    ids: str | None = None
    subset: str | None = None
    format: str | None = None

    @field_validator("stream", mode="before")
    @classmethod
    def _number_of_stream(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _one_source(self) -> "VideosConfig":
        if (self.folder is None) == (self.manifest is None):
            raise ValueError("expected exactly one of folder and manifest")
        if self.label is not None and self.folder is None:
            raise ValueError("label: parent_folder belongs to folder; give a manifest a column 'label' instead")
        if self.annotations is None:
            unused = [key for key in ("ids", "subset", "format") if getattr(self, key) is not None]
            if unused:
                raise ValueError(f"{unused[0]} belongs to annotations; leave it out, or name their file")
        elif self.folder is None or self.label is not None:
            raise ValueError(
                "annotations name the videos of a folder and their labels: give folder, and leave out label"
            )
        if self.ids is not None and self.ids.count("{id}") != 1:
            raise ValueError(f"ids: expected {{id}} once, such as v_{{id}}.mp4, got {self.ids}")
        return self


class WeightsConfig(Model):
    """Which weights: ``{random: <seed>}`` or ``{file: <path>}``; `card` overrides the recognised preprocessing card."""

    random: int | None = None
    file: str | None = None
    card: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "WeightsConfig":
        if (self.random is None) == (self.file is None):
            raise ValueError("expected exactly one of random and file, such as {random: 0} or {file: c3d.pth}")
        return self


class FeatureConfig(Model):
    """One feature of a build; its key in `features` is its name. What is left out, the extractor decides.

    Attributes:
        preset: a published feature set whose keys are meant (`clipmill.extractors.presets`); those written beside it
            override them.
        runtime: what runs the network; ``torch`` leaves a recipe's fingerprint as it was before there were others.
        sampling: what is written in it stands in place of the extractor's; see `clipmill.extractors.resolve`.
    """

    preset: str | None = None
    extractor: str | None = None
    layer: str | None = None
    sampling: Sampling | None = None
    weights: WeightsConfig | None = None
    preprocess: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    pooling: Pooling = "none"
    dtype: Literal["float32", "float16", "uint8"] | None = None
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    runtime: Literal["torch", "openvino", "onnxruntime"] = "torch"

    @field_serializer("sampling")
    def _sampling_as_written(self, sampling: Sampling | None) -> dict[str, Any] | None:
        # A saved config must mean what the written one did: a default filled in would read as a wish.
        return None if sampling is None else sampling.model_dump(mode="json", exclude_unset=True)


class AnnotationsConfig(Model):
    """How the segments of the manifest are laid on a video, for ``clips: {from: annotations}``.

    Attributes:
        origin: what their times count from: the ``first_frame`` that is shown, as players count; or the zero of the
            ``container``'s clock, at which a camcorder's file or a broadcast need not begin.
        max_outside_share: a video is refused where more than this share of its segments, or of their time, lies outside
            it (ours): such annotations belong to another file, or count from another time.
    """

    origin: Literal["first_frame", "container"] = "first_frame"
    max_outside_share: float = Field(default=0.5, ge=0, le=1)


class DecodeConfig(Model):
    """How videos are decoded: which decoder, how long one may take, how much memory its child process may use.

    Attributes:
        truncated: what becomes of a video that breaks off before its end: ``quarantine``, or ``keep`` what is there,
            counted. Not part of a recipe: what is there has the same rows either way.
    """

    decoder: Literal["auto", "decord", "pyav"] = "auto"
    truncated: Literal["quarantine", "keep"] = "quarantine"
    deadline_seconds: float = Field(default=60.0, gt=0)
    memory_gib: float = Field(default=4.0, gt=0)
    videos_per_child: int = Field(default=1000, ge=1)


class EngineConfig(Model):
    """What runs the tasks: the keys every engine takes. An engine with further ones brings a model that adds them.

    Attributes:
        name: of a registered engine.
        device: ``auto`` picks a GPU where there is one.
        threads: compute threads of one worker; 0: all cores, divided by `num_workers`.
        decoders: videos that one worker decodes at a time, each in a process of its own; ``auto``: as many as it has
            threads. No row depends on it.
        task_seconds: size of a task: estimated seconds of work.
        commit_seconds: a task that takes longer is committed in parts of about so many measured seconds (ours: what a
            kill may cost); a single video is committed whole.
        forward_deadline_seconds: a forward pass that takes longer than this and ten times its estimated cost has hung
            (ours): its process ends, and the task is tried again.
        max_attempts: tries for one video before it is quarantined.
        batch_windows: windows in one forward pass, short ones being filled up; None: the extractor's hint.
        max_fault_share: a run ends where more than this share of its videos fails by faults of the machine (files that
            vanish, storage that refuses, memory that runs out) instead of putting them into quarantine; ours.
    """

    name: str = "local"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    threads: int = Field(default=0, ge=0)
    decoders: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    task_seconds: float = Field(default=300.0, gt=0)
    commit_seconds: float = Field(default=300.0, gt=0)
    forward_deadline_seconds: float = Field(default=600.0, gt=0)
    max_attempts: int = Field(default=2, ge=1)
    batch_windows: int | None = Field(default=None, ge=1)
    max_fault_share: float = Field(default=0.2, ge=0, le=1)

    @property
    def num_workers(self) -> int:
        """How many workers share the cores of a machine."""
        return 1


class BuildConfig(Model):
    """``clipmill build FILE``.

    Which engines and shard formats there are is not known here: `clipmill.pipelines.features.build_config` reads a
    file with the model of the engine it names.
    """

    store: BuildStoreConfig
    videos: VideosConfig
    clips: ClipRule = Field(default_factory=ClipRule)
    features: dict[str, FeatureConfig] = Field(min_length=1)
    annotations: AnnotationsConfig = Field(default_factory=AnnotationsConfig)
    decode: DecodeConfig = Field(default_factory=DecodeConfig)
    engine: SerializeAsAny[EngineConfig] = Field(default_factory=EngineConfig)

    @model_validator(mode="after")
    def _origin_of_annotations(self) -> "BuildConfig":
        if self.annotations.origin == "container" and self.clips.from_ != "annotations":
            raise ValueError("annotations.origin: container belongs to clips: {from: annotations}; leave it out")
        return self

    @property
    def clip_rule(self) -> ClipRule:
        """`clips` as recipes have it: with the origin of the annotations, where it is not the default."""
        origin = "container" if self.annotations.origin == "container" else self.clips.origin
        return self.clips.model_copy(update={"origin": origin})


class SplitConfig(Model):
    """Which clips train and which test: by video, so that no clip of a training video is ever tested.

    Attributes:
        from_: ``manifest`` uses its column `split`; ``random`` draws per label (stratified), seeded; ``none`` tests all
            clips, where nothing is trained.
        test_fraction: share of the videos of each label that is tested.
        validation_fraction: share that is neither trained on nor tested, for `loop.select`.
    """

    from_: Literal["random", "manifest", "none"] = Field(default="random", alias="from")
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    validation_fraction: float = Field(default=0.0, ge=0, lt=1)
    seed: int = 0

    model_config = Model.model_config | {"populate_by_name": True}


def _with_training_part(split: SplitConfig) -> SplitConfig:
    if split.from_ == "none":
        raise ValueError("split: {from: none} keeps everything for the test; take random or manifest")
    return split


TrainingSplit = Annotated[SplitConfig, AfterValidator(_with_training_part)]
"""A split that leaves something to train on."""


class TextConfig(Model):
    """A table (.csv or .parquet) with a text for each clip; `id` and `text` name its columns.

    An id is that of a clip (``<video id>#<index>``) or of a video, whose clips all have its text.
    """

    file: str = Field(min_length=1)
    id: str = "id"
    text: str = "text"


class DataConfig(Model):
    """What a model is given: for each of its inputs a stored feature, or a file of texts.

    Attributes:
        image, video: the inputs of those names: what a clip is searched with, and what it is found by.
        inputs: inputs of other names.
        queries: of models that localise: sentences and their moments, which are the items; `split` is theirs then.
        label_map: a file that maps labels to others (.csv of `label` and `merged`, or a .json object): those with one
            name there are one class.
    """

    store: str
    image: str | None = None
    video: str | None = None
    inputs: dict[str, str | TextConfig] = Field(default_factory=dict)
    queries: MomentQueriesConfig | None = None
    label_map: str | None = Field(default=None, min_length=1)
    split: SplitConfig = Field(default_factory=SplitConfig)

    @model_validator(mode="after")
    def _each_once(self) -> "DataConfig":
        for name in ("image", "video"):
            if getattr(self, name) is not None and name in self.inputs:
                raise ValueError(f"expected {name} once, got it in inputs too; leave one out")
        if not self.sources:
            raise ValueError("expected at least one input, such as image: vgg16 and video: c3d")
        if self.queries is not None and (self.split != SplitConfig() or self.label_map is not None):
            raise ValueError("queries: split and label_map mean nothing beside them; give queries.validation")
        return self

    @property
    def sources(self) -> dict[str, str | TextConfig]:
        """What each input is read from, by name."""
        named = {"image": self.image, "video": self.video}
        return {name: source for name, source in named.items() if source is not None} | self.inputs


class ModelConfig(Model):
    """Which model, and its own options (validated by the model's options class)."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class LoopConfig(Model):
    """The training loop. A key that is left out is as the model's publication has it (see docs/models), else as here.

    Attributes:
        batch: items of one step, over all workers together.
        beta1, beta2, weight_decay: of Adam.
        schedule: of the learning rate: ``milestones``, without any of which it is constant, or ``cosine``, half a wave
            that falls towards 0 over the epochs.
        milestones, gamma: after so many epochs the learning rate is multiplied by `gamma`.
        warmup_epochs: over so many epochs it rises in equal steps, one a batch, to what the schedule says.
        max_gradient_norm: the gradients of a step that are longer, all together, are shortened to it; None: never.
        precision: of the forward pass. In ``bfloat16`` and ``float16`` PyTorch's autocast decides by operation; weights
            stay in float32, and of float16 the losses are scaled, so that small gradients do not vanish.
        select: the epoch a run is used by: the ``last``, or the one whose loss of this name (such as ``total``) is
            least on the validation split.
        patience: the training ends after so many epochs without a smaller loss `select`; None: never.
        keep_checkpoints: the newest so many are kept, older ones deleted.
        threads: compute threads; 0: as many as PyTorch takes, divided by the workers of a machine.
    """

    epochs: int = Field(default=200, ge=1)
    batch: int = Field(default=70, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["milestones", "cosine"] = "milestones"
    milestones: tuple[int, ...] = ()
    gamma: float = Field(default=0.1, gt=0)
    warmup_epochs: int = Field(default=0, ge=0)
    max_gradient_norm: float | None = Field(default=None, gt=0)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    select: str = "last"
    patience: int | None = Field(default=None, ge=1)
    seed: int = 0
    checkpoint_every_epochs: int = Field(default=10, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    device: str = "auto"
    threads: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _keys_fit_each_other(self) -> "LoopConfig":
        if self.schedule != "milestones" and self.milestones:
            raise ValueError(f"schedule {self.schedule} has no milestones: leave them out, or set schedule: milestones")
        if self.patience is not None and self.select == "last":
            raise ValueError("patience waits for a smaller loss on the validation split: set select, such as total")
        return self


class TrainerConfig(Model):
    """Where training runs: in this process, or under Ray Train with `workers` processes (the same global batch).

    Attributes:
        max_failures: so often a lost worker is made good from the last checkpoint; once more ends the run.
        timeout_seconds: a worker that the others wait for longer than this counts as lost.
        connect_seconds: how long Ray may take to answer or to start, and how long it may be gone later on.
    """

    name: Literal["local", "ray"] = "local"
    workers: int = Field(default=1, ge=1)
    address: str | None = None
    max_failures: int = Field(default=3, ge=0)  # ours
    timeout_seconds: int = Field(default=600, ge=1)  # ours: as long as Ray's own health check of a worker
    connect_seconds: float = Field(default=120.0, gt=0)  # ours: see clipmill.pipelines.ray_cluster

    @model_validator(mode="after")
    def _keys_of_its_own(self) -> "TrainerConfig":
        unused = [key for key in type(self).model_fields if key != "name" and getattr(self, key) != _default(self, key)]
        if self.name == "local" and unused:
            raise ValueError(f"{unused[0]} belongs to trainer ray: leave it out, or set name: ray")
        return self


def _default(model: Model, key: str) -> Any:
    return type(model).model_fields[key].default


def _to_train_on(data: DataConfig) -> DataConfig:
    _with_training_part(data.split)
    return data


TrainingData = Annotated[DataConfig, AfterValidator(_to_train_on)]
"""What a model is trained on: some of it is left to train on."""


class ModelTrainConfig(Model):
    """What trainings of a model have in common, whatever it is given. `out` is the folder of the run.

    Attributes:
        tensorboard: losses and learning rate also as TensorBoard's event files, in the folder ``tensorboard`` of `out`.
    """

    data: Model
    model: ModelConfig
    loop: LoopConfig = Field(default_factory=LoopConfig)
    trainer: TrainerConfig = Field(default_factory=TrainerConfig)
    out: LocalPath
    resume: bool = True
    tensorboard: bool = False

    @field_serializer("loop")
    def _loop_as_written(self, loop: LoopConfig) -> dict[str, Any]:
        # A default filled in would read as a wish, and come before the model's own value.
        return loop.model_dump(mode="json", exclude_unset=True)


class TrainConfig(ModelTrainConfig):
    """``clipmill train FILE`` on stored features."""

    data: TrainingData


T = TypeVar("T", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, of which PyYAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for index, (key, _) in enumerate(node.value):
            if key.value in keys[:index]:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def parse_config(model: type[T], text: str, overrides: Sequence[str] = (), source: str = "config") -> T:
    """Returns YAML `text`, with ``a.b=v`` overrides applied, as `model`.

    Raises:
        ConfigError: the text is no YAML mapping, an override is malformed, or a key or value does not fit.
    """
    with blamed(overrides, source):
        return validate(model, parse_mapping(text, overrides, source), source)


@contextmanager
def blamed(overrides: Sequence[str], source: str) -> Iterator[None]:
    """Puts ``--set`` in place of `source` where a `ConfigError` raised meanwhile is about what an override set."""
    try:
        yield
    except ConfigError as error:
        given = [override.partition("=")[0] for override in overrides]

        def line_of(line: str) -> str:
            where, colon, rest = line.removeprefix(f"{source} ").partition(":")
            of_override = line.startswith(f"{source} ") and any(
                where == key or where.startswith(f"{key}.") for key in given
            )
            return f"--set {where}{colon}{rest}" if of_override else line

        raise ConfigError("\n".join(line_of(line) for line in str(error).splitlines())) from None


def parse_mapping(text: str, overrides: Sequence[str] = (), source: str = "config") -> dict[str, Any]:
    """Returns YAML `text`, with ``a.b=v`` overrides applied, as a mapping that no model has seen yet.

    Raises:
        ConfigError: the text is no YAML mapping, or an override is malformed.
    """
    try:
        data = yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise ConfigError(f"{source} text: expected YAML, got one too deeply nested; correct the file") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none, such as 2001-99-99
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark is not None else "text"
        raise ConfigError(
            f"{source} {where}: expected YAML, got {getattr(error, 'problem', error)}; correct the file"
        ) from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: expected a mapping of keys, got {type(data).__name__}; see docs/configuration.md")
    for override in overrides:
        _apply(data, override)
    return data


def _apply(data: dict[str, Any], override: str) -> None:
    path, separator, value = override.partition("=")
    if not separator or not path:
        raise ConfigError(f"--set {override}: expected a.b=value, got no '='; write --set engine.name=ray")
    keys = path.split(".")
    current = data
    for key in keys[:-1]:
        child = current.setdefault(key, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: expected a mapping at '{key}', got {child!r}; name an existing group")
        current = child
    try:
        current[keys[-1]] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"--set {override}: expected a YAML value, got {value!r}; quote it") from None


def dump_config(config: BaseModel) -> str:
    """Returns the resolved config as YAML: what is printed once and saved with the run."""
    data: Mapping[str, Any] = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True)
