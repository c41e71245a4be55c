"""Ground truth and predictions of an evaluation, whatever they come from: files, stores, runs, or data in memory."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipmill.pipelines.evaluation.fusion import fused
from clipmill.pipelines.evaluation.tasks.base import Sources
from clipmill.schemas.config_evaluate import BlockedConfig, IdsConfig, PredictionsConfig, TaskConfig, TruthConfig
from clipmill.schemas.errors import FormatError, UsageError, describe, near
from clipmill.stores.formats.arrays import record_of
from clipmill.stores.formats.charades_sta import read_charades_durations
from clipmill.stores.formats.class_lists import names_of_numbers, read_class_list
from clipmill.stores.formats.ids import match_ids, require_ids
from clipmill.stores.formats.reader import Reader, ReadRequest
from clipmill.stores.formats.records import (
    CLASS_SCORES,
    SEGMENTS,
    VIDEO_CLASSES,
    ClassScoreTable,
    Kind,
    R,
    Record,
    SegmentTable,
)
from clipmill.stores.formats.registry import Side, format_of, formats_of, names, reader
from clipmill.stores.formats.sniff import looks_like, read_text

_UNSET: Mapping[str, Any] = {"subset": None, "inverted": "refuse", "classes": None, "window_weights": None}
"""Key that only some formats read to the value it has where nobody gave one."""
_WITH_CLASSES = (SEGMENTS.name, VIDEO_CLASSES.name, CLASS_SCORES.name)
"""Kinds of record that name classes."""


def read_truth(
    kind: Kind[R], config: TruthConfig, sources: Sources, thing: str = "ground_truth", kinds: Sequence[str] = ()
) -> R:
    """Returns the ground truth as the record of `kind`, with the ids that `config` makes of those in the file.

    Args:
        thing: key of the config that names the file, for messages.
        kinds: kinds of record that the task takes beside this one; a file of those is not refused here.

    Raises:
        FormatError: a file is something else, or its ids become alike.
        UsageError: a key of the config means nothing for this format.
    """
    if config.file in sources.arrays:
        record = record_of(kind, sources.arrays[config.file], config.file)
    else:
        found = chosen_reader(thing, config.file, config.format, "truth", (kind.name, *kinds))
        request = ReadRequest(config.file, thing, subset=config.subset, inverted=config.inverted)
        record = _read(kind, found, found.truth, request)
    return _renamed(record, config, config.file)


def read_predictions(
    kind: Kind[R],
    config: PredictionsConfig,
    sources: Sources,
    truth_path: str | None = None,
    truth: Record | None = None,
) -> R:
    """Returns one set of predictions as the record of `kind`, with the ids that `config` makes of those in the file.

    Args:
        truth_path: file or folder of the ground truth, beside which a list of classes may lie.
        truth: its record, into whose lists positions may point.

    Raises:
        FormatError: the file is something else, or holds no prediction.
        UsageError: it is no file, or a key of the config means nothing for this format.
    """
    source = source_of(config)
    if config.fuse is not None:
        parts = [
            PredictionsConfig.model_validate(part.model_dump(exclude={"weight"}, exclude_none=True))
            for part in config.fuse
        ]
        each = [read_predictions(kind, part, sources, truth_path, truth) for part in parts]
        record: R = fused(each, config, fused_names(config))
    elif config.run is not None:
        record = _predicted(kind, config, sources)
    elif config.file is None:
        remedy = "give predictions: {file: ...}"
        raise UsageError(describe("predictions", "store", "a file for this task", str(config.store), remedy))
    elif config.file in sources.arrays:
        record = record_of(kind, sources.arrays[config.file], config.file)
    else:
        found = chosen_reader("predictions", config.file, config.format, "predictions", (kind.name,))
        # A format without class numbers of its own may have them in the place of names.
        is_own = "classes" in found.takes or kind.name not in _WITH_CLASSES
        request = ReadRequest(
            config.file,
            "predictions",
            classes=config.classes if is_own else None,
            truth_path=truth_path,
            truth=truth,
            window_weights=config.window_weights,
        )
        record = _read(kind, found, found.predictions, request)
        if config.classes is not None and not is_own:
            record = _with_class_names(record, config.classes, source)
    require_any(record.ids, source)
    return _renamed(record, config, source)


def read_durations(config: TruthConfig, sources: Sources) -> dict[str, float]:
    """Returns video id to seconds, of the file that `config.durations` names; empty where it names none.

    Raises:
        FormatError: the file is something else.
    """
    if config.durations is None:
        return {}
    given = sources.arrays.get(config.durations)
    if given is not None:
        return {str(video): float(seconds) for video, seconds in given.items()}
    return read_charades_durations(config.durations)


def match_durations(video_ids: Iterable[str], durations: Mapping[str, float], thing: str) -> None:
    """Refuses durations of which none is of a video of the ground truth.

    Raises:
        FormatError: with the counts and examples of both sides.
    """
    require_ids(match_ids(video_ids, durations, thing, "durations"))


def chosen_reader(thing: str, path: str, given: str | None, side: Side, kinds: Sequence[str]) -> Reader:
    """Returns the reader of the file at `path`: of the given format, or of the one its content has.

    Args:
        kinds: kinds of record that the task can use.

    Raises:
        FormatError: there is no such file, or it carries none of `kinds`; says what it looks like.
        UsageError: there is no such format, or it carries none of `kinds`.
    """
    known = formats_of(side, kinds)
    if given is not None:
        if given not in known:
            remedy = "correct the format" if given in names() else near(given, known)
            raise UsageError(describe(thing, "format", f"one of {', '.join(known)} for this task", given, remedy))
        return reader(given)
    found = format_of(path, known)
    if found not in known:
        expected = " or ".join(f"{reader(name).what} ({name})" for name in known)
        got = f"{reader(found).what} ({looks_like(path)})"
        raise FormatError(describe(f"{thing} file", path, expected, got, "check the task and file"))
    return reader(found)


def carries(kind: Kind[Any], config: TruthConfig, sources: Sources, kinds: Sequence[str]) -> tuple[bool, str]:
    """Returns whether the ground truth can be read as `kind`, and the name of its format.

    Args:
        kinds: kinds of record that the task can use.

    Raises:
        FormatError: there is no such file, or it carries none of `kinds`.
    """
    if config.file in sources.arrays:
        try:
            record_of(kind, sources.arrays[config.file], config.file)
        except FormatError:
            return False, "data in memory"
        return True, "data in memory"
    found = chosen_reader("ground_truth", config.file, config.format, "truth", kinds)
    return kind.name in found.truth, found.format


def _read(kind: Kind[R], found: Reader, side: Mapping[str, Callable[[ReadRequest], Any]], request: ReadRequest) -> R:
    for key, unset in _UNSET.items():
        if getattr(request, key) != unset and key not in found.takes:
            takers = " or ".join(name for name in names() if key in reader(name).takes)
            remedy = "leave it out"
            raise UsageError(describe(request.thing, key, f"a format that has it ({takers})", found.format, remedy))
    if kind.name not in side:
        expected = " or ".join(f"{reader(name).what} ({name})" for name in formats_of("truth", (kind.name,)))
        got = f"{found.what} ({looks_like(request.path)})"
        raise FormatError(describe(f"{request.thing} file", request.path, expected, got, "check the task and file"))
    record = side[kind.name](request)
    if not isinstance(record, kind.record):
        expected = f"a {kind.record.__name__} from its reader"
        remedy = "correct the package that brings the format"
        raise UsageError(describe("format", found.format, expected, type(record).__name__, remedy))
    return record


def _with_class_names(record: R, classes: str | tuple[str, ...], source: str) -> R:
    """Returns the record with the names that its class numbers stand for."""
    listed = read_class_list(classes) if isinstance(classes, str) else dict(enumerate(classes, 1))
    named: Any = record
    if isinstance(record, ClassScoreTable):
        named = replace(record, class_names=names_of_numbers(record.class_names, listed, source))
    elif isinstance(record, SegmentTable):
        labels = names_of_numbers(record.segments.label_names, listed, source)
        named = replace(record, segments=replace(record.segments, label_names=labels))
    return named  # type: ignore[no-any-return]


def _predicted(kind: Kind[R], config: PredictionsConfig, sources: Sources) -> R:
    record = None if sources.predict is None else sources.predict(config)
    if not isinstance(record, kind.record):
        expected = f"a run that gives a {kind.record.__name__}"
        raise UsageError(describe("predictions", "run", expected, type(record).__name__, "give a file"))
    return record


def _renamed(record: R, config: IdsConfig, source: str) -> R:
    if not config.drop_prefix and not config.drop_ending:
        return record
    renamed: R = record.renamed(lambda ids: new_ids(ids, config, source))  # type: ignore[assignment]
    return renamed


def source_of(config: PredictionsConfig) -> str:
    """Returns where predictions come from, for messages."""
    if config.fuse is not None:
        return " and ".join(part.file for part in config.fuse)
    return config.file or config.run or f"{config.feature} of {config.store}"


def fused_names(config: PredictionsConfig) -> list[str]:
    """Returns the name of each file that is fused: as given, or of the file."""
    return [part.name or Path(part.file).stem for part in config.fuse or ()]


def require_any(ids: Sequence[str], source: str) -> None:
    """Refuses predictions without a single id: the score would be zero, and the ids could not be checked.

    Raises:
        FormatError: there is none.
    """
    if not len(ids):
        remedy = "check the command that wrote it"
        raise FormatError(describe("predictions", source, "at least one prediction", "none", remedy))


def run_names(predictions: Sequence[PredictionsConfig]) -> list[str]:
    """Returns the name of each set of predictions: as given, or of its file, feature or run.

    Raises:
        UsageError: two have the same name.
    """
    names = [item.name or _default_name(item) for item in predictions]
    for name in names:
        if names.count(name) > 1:
            expected = "a name for each of several predictions"
            raise UsageError(describe("evaluation", "predictions", expected, f"{name!r} twice", "give each a name"))
    return names


def _default_name(config: PredictionsConfig) -> str:
    if config.fuse is not None:
        return " + ".join(fused_names(config)).replace("/", "_")
    if config.file is not None:
        return Path(config.file).stem
    return Path(config.run).name if config.run is not None else str(config.feature)


def new_ids(names: Iterable[str], config: IdsConfig, source: str) -> list[str]:
    """Returns `names` without the prefix and ending that `config` drops.

    Raises:
        FormatError: two become the same.
    """
    before = list(names)
    after = [config.id_of(name) for name in before]
    if len(set(after)) != len(before):
        twice = next(name for name in after if after.count(name) > 1)
        raise FormatError(
            describe("ids of", source, "distinct ids", f"{twice!r} from two", "drop less of them (drop_ending)")
        )
    return after


def read_blocked(config: BlockedConfig) -> frozenset[str]:
    """Returns the ids of blocked videos.

    Raises:
        FormatError: the file is neither a JSON list of names nor lines of names.
    """
    ids = set(config.ids)
    if config.file is not None:
        expected = "blocked videos: a JSON list of ids, or one id a line"
        text = read_text(config.file, expected)
        names: Any = [line.strip() for line in text.splitlines() if line.strip()]
        if text.lstrip()[:1] in "[{":
            try:
                names = json.loads(text)
            except ValueError:
                names = None
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise FormatError(describe("file", config.file, expected, looks_like(config.file), "correct the file"))
        ids |= set(names)
    return frozenset(ids)


def bootstrap_of(config: TaskConfig, resamples: int) -> dict[str, Any]:
    """Returns the settings of the bootstrap for ``results.json``."""
    return {"seed": config.seed, "resamples": config.resamples or resamples, "confidence": config.confidence}
