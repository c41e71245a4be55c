"""Ground truth and predictions of an evaluation, from whichever format a file is in, with ids that are checked."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from clipmill.extractors.registry import class_names
from clipmill.pipelines.evaluation.tasks.classification.score import ClassScores
from clipmill.pipelines.evaluation.tasks.landmarks.score import LandmarkTruth
from clipmill.pipelines.evaluation.tasks.moments.score import MomentTruth
from clipmill.pipelines.evaluation.tasks.segment_truth import SegmentTruth
from clipmill.schemas.config_evaluate import BlockedConfig, IdsConfig, PredictionsConfig, TruthConfig
from clipmill.schemas.errors import FormatError, UsageError, describe
from clipmill.schemas.segments import Segments, segments_from_columns
from clipmill.stores import FeatureStore
from clipmill.stores.formats.activitynet import read_activitynet_database, read_activitynet_results
from clipmill.stores.formats.activitynet_captions import read_activitynet_captions
from clipmill.stores.formats.charades_sta import read_charades_durations, read_charades_sta
from clipmill.stores.formats.class_scores import read_class_scores, read_labels
from clipmill.stores.formats.ids import IdMatch, match_ids, require_ids
from clipmill.stores.formats.kinds import KINDS, kind_of
from clipmill.stores.formats.moments import MomentQueries
from clipmill.stores.formats.oxford_buildings import read_oxford_buildings, read_rankings
from clipmill.stores.formats.parquet import read_segments_parquet
from clipmill.stores.formats.qvhighlights import QVHighlights, read_qvhighlights, read_qvhighlights_predictions
from clipmill.stores.formats.revisited_oxford import read_revisited_oxford
from clipmill.stores.formats.segments_csv import read_segments_csv
from clipmill.stores.formats.sniff import listed, looks_like, read_text
from clipmill.stores.formats.thumos14 import read_thumos14, read_thumos14_classes, read_thumos14_detections
from clipmill.stores.formats.trec import read_trec_qrels, read_trec_run

T = TypeVar("T")
CLASS_LIST = "detclasslist.txt"
_ID_KEYS = {"without the prefix 'v_'": "drop_prefix: v_", "without their endings": "drop_ending: true"}
"""Hint of `match_ids` to the key of the config that does it."""


def run_names(predictions: Sequence[PredictionsConfig]) -> list[str]:
    """Returns the name of each set of predictions: as given, or of its file or feature.

    Raises:
        UsageError: two have the same name.
    """
    names = [item.name or (Path(item.file).stem if item.file else str(item.feature)) for item in predictions]
    for name in names:
        if names.count(name) > 1:
            expected = "a name for each of several predictions"
            raise UsageError(describe("evaluation", "predictions", expected, f"{name!r} twice", "give each a name"))
    return names


def chosen_format(thing: str, path: str, given: str | None, known: Sequence[str]) -> str:
    """Returns the format of the file at `path`: the given one, or the one its content has.

    Args:
        known: formats that the task reads.

    Raises:
        FormatError: there is no such file, or it is none of `known`; says what it looks like.
        UsageError: the given format is not one of `known`.
    """
    if given is not None:
        if given not in known:
            raise UsageError(
                describe(thing, "format", f"one of {', '.join(known)} for this task", given, "correct the format")
            )
        return given
    found = kind_of(path, known)
    if found not in known:
        expected = " or ".join(f"{KINDS[name]} ({name})" for name in known)
        raise FormatError(
            describe(f"{thing} file", path, expected, f"{KINDS[found]} ({looks_like(path)})", "check the task and file")
        )
    return found


def check_ids(match: IdMatch) -> tuple[str, ...]:
    """Returns a note that lists the ids that differ; none where both sides agree.

    Raises:
        FormatError: no id is on both sides.
    """
    try:
        require_ids(match)
    except FormatError as error:
        key = next((key for words, key in _ID_KEYS.items() if words in match.hint), None)
        raise FormatError(f"{error}" + (f"; write {key} beside file or store" if key else "")) from None
    return () if match.complete else (f"ids of {match.left} and {match.right}: {match}",)


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


def read_segment_truth(config: TruthConfig, training: TruthConfig | None = None) -> SegmentTruth:
    """Returns annotations of videos, with durations where the file or `config.durations` has them.

    Raises:
        FormatError: a file is something else, or its ids share nothing with those of its durations.
    """
    segments, ambiguous, durations = _annotations("ground_truth", config)
    if training is None:
        return SegmentTruth(segments, ambiguous, durations)
    others, _, other_durations = _annotations("training", training)
    return SegmentTruth(segments, ambiguous, durations, others, other_durations)


def _annotations(thing: str, config: TruthConfig) -> tuple[Segments, Segments | None, Mapping[str, float]]:
    kind = chosen_format(thing, config.file, config.format, ("activitynet", "thumos14", "csv", "parquet"))
    if config.subset is not None and kind not in ("activitynet", "thumos14"):
        raise UsageError(
            describe(thing, "subset", "activitynet or thumos14 annotations, which have subsets", kind, "leave it out")
        )
    ambiguous: Segments | None = None
    durations: dict[str, float] = {}
    if kind == "activitynet":
        database = read_activitynet_database(config.file, config.subset)
        segments, durations = database.segments, dict(database.duration_seconds)
    elif kind == "thumos14":
        annotations = read_thumos14(config.file, config.subset or _thumos14_subset(thing, config.file))
        segments, ambiguous = annotations.segments, annotations.ambiguous
    elif kind == "csv":
        table = read_segments_csv(config.file)
        segments, durations = table.segments, table.duration_seconds
    else:
        segments = read_segments_parquet(config.file)
    if not len(segments):
        raise FormatError(describe(f"{thing} file", config.file, "annotations", "none", "check the subset"))
    segments = _renamed(segments, config, config.file)
    if ambiguous is not None:
        ambiguous = _renamed(ambiguous, config, config.file)
    durations = {config.id_of(name): value for name, value in durations.items()}
    if config.durations is not None:
        durations = read_charades_durations(config.durations)
        require_ids(match_ids(segments.video_ids, durations, thing, "durations"))
    return segments, ambiguous, durations


def _thumos14_subset(thing: str, folder: str) -> str:
    found = [name for name in ("test", "val") if any(Path(folder).glob(f"*_{name}.txt"))]
    if len(found) != 1:
        got = " and ".join(found) or "neither"
        raise UsageError(describe(thing, "subset", "test or val", f"none, and {folder} has {got}", "name one"))
    return found[0]


def read_segment_predictions(config: PredictionsConfig, truth: TruthConfig, with_classes: bool) -> Segments:
    """Returns predicted segments of a file or a store's feature.

    Args:
        truth: whose class list a THUMOS14 file without one takes.
        with_classes: False for proposals: classes are dropped, and a store's feature needs none.

    Raises:
        FormatError: the file is something else.
        UsageError: class numbers without names, or a feature without scores.
    """
    if config.store is not None:
        segments = _stored(config, with_classes)
    else:
        path = str(config.file)
        kind = chosen_format("predictions", path, config.format, ("activitynet", "thumos14", "csv", "parquet"))
        if config.classes is not None and kind != "thumos14":
            expected = "class numbers, as thumos14 detections and stores have them"
            raise UsageError(describe("predictions", "classes", expected, f"{kind}, which has names", "leave it out"))
        if kind == "activitynet":
            segments = read_activitynet_results(path).segments
        elif kind == "thumos14":
            segments = read_thumos14_detections(path, _class_list(config, truth))
        elif kind == "csv":
            segments = read_segments_csv(path).segments
        else:
            segments = read_segments_parquet(path)
    source = config.file or f"{config.feature} of {config.store}"
    _require_any(segments.video_ids, source)
    segments = _renamed(segments, config, source)
    if not np.isfinite(segments.score).all():
        row = int(np.flatnonzero(~np.isfinite(segments.score))[0])
        video = segments.video_ids[int(segments.video[row])]
        raise UsageError(
            describe("predictions", f"video {video}", "finite scores", str(segments.score[row]), "correct the score")
        )
    if with_classes:
        return segments
    return replace(segments, label_names=("",), label=np.zeros(len(segments), np.int64))


def _class_list(config: PredictionsConfig, truth: TruthConfig) -> Mapping[int, str]:
    if isinstance(config.classes, tuple):
        return dict(enumerate(config.classes, 1))
    path = config.classes or str(Path(truth.file) / CLASS_LIST)
    if config.classes is None and not Path(path).is_file():
        remedy = f"give predictions.classes: {CLASS_LIST}, or a list of names for class 1, 2, ..."
        raise UsageError(describe("predictions", "classes", "names of the class numbers", "none", remedy))
    return read_thumos14_classes(path)


def _stored(config: PredictionsConfig, with_classes: bool) -> Segments:
    feature = FeatureStore(str(config.store))[str(config.feature)]
    names = _stored_classes(config, feature.recipe) if with_classes else ("",)
    videos: list[str] = []
    columns: list[tuple[Any, Any, Any, Any]] = []
    for video in feature.video_ids:
        rows = feature.stored(video)
        needed = ("score", "class_index") if with_classes else ("score",)
        missing = [name for name in needed if name not in rows.extras]
        if missing:
            got = f"{', '.join(rows.extras) or 'no further columns'}"
            remedy = "name the feature of a detector, such as rc3d with layer: detections"
            where = f"{config.feature} of {config.store}"
            raise UsageError(describe("predictions feature", where, f"a column {listed(missing)}", got, remedy))
        score = np.asarray(rows.extras["score"], np.float64)[rows.mask]
        code = np.asarray(rows.extras["class_index"], np.int64)[rows.mask] if with_classes else np.ones(len(score), int)
        videos += [video] * len(score)
        columns.append((rows.start_seconds[rows.mask], rows.stop_seconds[rows.mask], code, score))
    start, stop, codes, scores = (np.concatenate([np.zeros(0), *part]) for part in zip(*columns, strict=True))
    if len(codes) and int(codes.max()) > len(names):
        got = f"class {int(codes.max())}"
        raise UsageError(describe("predictions", "classes", f"at most {len(names)} classes", got, "complete the list"))
    found = [names[int(code) - 1] for code in codes.tolist()]
    return segments_from_columns(videos, start, stop, found, scores, video_ids=feature.video_ids)


def _stored_classes(config: PredictionsConfig, recipe: Any) -> tuple[str, ...]:
    if isinstance(config.classes, str):
        return tuple(read_thumos14_classes(config.classes).values())
    if config.classes is not None:
        return config.classes
    known = class_names(recipe)
    if not known:
        remedy = "give predictions.classes: the names of class 1, 2, ... (0 is background)"
        got = f"none, and {recipe.extractor}'s weights do not name them"
        raise UsageError(describe("predictions", "classes", "names of the class numbers", got, remedy))
    return known


def _renamed(segments: Segments, config: IdsConfig, source: str) -> Segments:
    names = new_ids(segments.video_ids, config, source)
    return replace(segments, video_ids=tuple(names))


def _require_any(predictions: Sized, source: str) -> None:
    """Refuses a file without a single id: the score would be zero, and its ids could not be checked."""
    if not len(predictions):
        remedy = "check the command that wrote it"
        raise FormatError(describe("predictions", source, "at least one prediction", "none", remedy))


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


def keyed(table: Mapping[str, T], config: IdsConfig, source: str) -> dict[str, T]:
    """Returns `table` with the ids that `config` makes of its keys."""
    return dict(zip(new_ids(table, config, source), table.values(), strict=True))


def check_classes(truth: Segments, predictions: Segments) -> tuple[str, ...]:
    """Returns a note that lists predicted classes without ground truth and true classes never predicted.

    Raises:
        FormatError: no class is on both sides.
    """
    sides = []
    for table in (truth, predictions):
        used = np.flatnonzero(np.bincount(table.label, minlength=len(table.label_names)))
        sides.append([table.label_names[code] for code in used.tolist()])
    if not sides[1]:
        return ()
    match = match_ids(sides[0], sides[1], "classes of the ground truth", "classes of the predictions")
    require_ids(match)
    return () if match.complete else (f"classes: {match}",)


@dataclass(frozen=True, slots=True)
class MomentInput:
    """Queries with their windows, and which protocol their format belongs to."""

    truth: MomentTruth
    protocol: Literal["charades", "qvhighlights"]


def read_moment_truth(config: TruthConfig, training: TruthConfig | None = None) -> MomentInput:
    """Returns queries with annotated windows.

    Raises:
        FormatError: a file is something else, or its videos share nothing with those of its durations.
    """
    kind, queries = _queries("ground_truth", config)
    others = _queries("training", training)[1] if training is not None else None
    truth = MomentTruth(
        queries.windows,
        queries.duration_seconds,
        queries.sentences,
        queries.video_ids,
        None if others is None else others.windows,
        None if others is None else others.duration_seconds,
    )
    return MomentInput(truth, "qvhighlights" if kind == "qvhighlights" else "charades")


def _queries(thing: str, config: TruthConfig) -> tuple[str, MomentQueries]:
    known = ("charades_sta", "activitynet_captions", "qvhighlights")
    kind = chosen_format(thing, config.file, config.format, known)
    if kind == "charades_sta":
        queries = read_charades_sta(config.file, backwards=config.backwards)
    elif kind == "activitynet_captions":
        queries = read_activitynet_captions(config.file)
    else:
        queries = read_qvhighlights(config.file).queries
    if config.durations is not None:
        durations = read_charades_durations(config.durations)
        require_ids(match_ids(queries.video_ids, durations, f"videos of {thing}", "durations"))
        found = [durations.get(name, np.nan) for name in queries.video_ids]
        queries = replace(queries, duration_seconds=np.array(found, np.float64))
    if not len(queries.windows):
        raise FormatError(describe(f"{thing} file", config.file, "annotated windows", "none", "give annotations"))
    names = tuple(new_ids(queries.query_ids, config, config.file))
    return kind, replace(queries, query_ids=names, windows=replace(queries.windows, video_ids=names))


def read_moment_predictions(config: PredictionsConfig) -> Segments:
    """Returns predicted windows; their "videos" are query ids.

    Raises:
        FormatError: the file is something else.
    """
    path = _file_of(config)
    kind = chosen_format("predictions", path, config.format, ("qvhighlights", "activitynet", "csv", "parquet"))
    if kind == "qvhighlights":
        table = read_qvhighlights_predictions(path)
        windows = table.queries.windows
        if not len(windows) and table.saliency:
            remedy = "score it with task: highlights"
            raise FormatError(describe("predictions file", path, "predicted windows", "saliency scores alone", remedy))
    elif kind == "activitynet":
        windows = read_activitynet_results(path).segments
    elif kind == "csv":
        windows = read_segments_csv(path).segments
    else:
        windows = read_segments_parquet(path)
    _require_any(windows.video_ids, path)
    windows = _renamed(windows, config, path)
    return replace(windows, label_names=("",), label=np.zeros(len(windows), np.int64))


def read_saliency(config: TruthConfig) -> dict[str, np.ndarray]:
    """Returns query id to annotated scores ``float64[clips, people]``.

    Raises:
        FormatError: the file is something else, or has no saliency scores.
    """
    chosen_format("ground_truth", config.file, config.format, ("qvhighlights",))
    return _saliency("ground_truth", config.file, config, read_qvhighlights)


def read_clip_scores(config: PredictionsConfig) -> dict[str, np.ndarray]:
    """Returns query id to one predicted score per clip, ``float64[clips]``.

    Raises:
        FormatError: the file is something else, or has no saliency scores.
    """
    path = _file_of(config)
    chosen_format("predictions", path, config.format, ("qvhighlights",))
    tables = _saliency("predictions", path, config, read_qvhighlights_predictions)
    return {name: table[:, 0] for name, table in tables.items()}


def _saliency(thing: str, path: str, config: IdsConfig, read: Callable[[str], QVHighlights]) -> dict[str, np.ndarray]:
    tables = read(path).saliency
    if not tables:
        raise FormatError(
            describe(f"{thing} file", path, "saliency scores", "windows alone", "score it with task: moments")
        )
    return keyed(tables, config, path)


def read_item_labels(config: TruthConfig) -> dict[str, str]:
    """Returns item id to class name.

    Raises:
        FormatError: the file is something else.
    """
    return keyed(read_labels(config.file), config, config.file)


def read_item_scores(config: PredictionsConfig) -> ClassScores:
    """Returns class scores of items.

    Raises:
        FormatError: the file is something else.
    """
    path = _file_of(config)
    chosen_format("predictions", path, config.format, ("scores",))
    table = read_class_scores(path)
    _require_any(table.ids, path)
    return ClassScores(tuple(new_ids(table.ids, config, path)), table.class_names, table.values)


def read_video_classes(config: PredictionsConfig) -> Segments:
    """Returns classes of whole videos with scores.

    Raises:
        FormatError: the file is something else.
    """
    path = _file_of(config)
    kind = chosen_format("predictions", path, config.format, ("activitynet", "scores", "csv", "parquet"))
    if kind == "activitynet":
        segments = read_activitynet_results(path, whole_videos=True).segments
    elif kind == "scores":
        table = read_class_scores(path)
        row, column = np.nonzero(np.isfinite(table.values))
        labels = [table.class_names[code] for code in column.tolist()]
        videos = [table.ids[code] for code in row.tolist()]
        nowhere = np.zeros(len(videos))
        segments = segments_from_columns(
            videos, nowhere, nowhere, labels, table.values[row, column], video_ids=table.ids
        )
    else:
        segments = read_segments_csv(path).segments if kind == "csv" else read_segments_parquet(path)
    _require_any(segments.video_ids, path)
    return _renamed(segments, config, path)


def read_qrels(config: TruthConfig) -> dict[str, dict[str, int]]:
    """Returns query to document to judgement.

    Raises:
        FormatError: the file is something else.
    """
    chosen_format("ground_truth", config.file, config.format, ("trec",))
    return keyed(read_trec_qrels(config.file), config, config.file)


def read_run(config: PredictionsConfig) -> dict[str, Mapping[str, float]]:
    """Returns query to document to score.

    Raises:
        FormatError: the file is something else.
    """
    path = _file_of(config)
    chosen_format("predictions", path, config.format, ("trec",))
    return keyed(read_trec_run(path).scores, config, path)


def read_landmark_truth(config: TruthConfig) -> LandmarkTruth:
    """Returns the ground truth of Oxford or Paris, old (a folder) or revisited.

    Raises:
        FormatError: the file is something else.
    """
    kind = chosen_format("ground_truth", config.file, config.format, ("revisited", "oxford"))
    if kind == "oxford":
        queries = read_oxford_buildings(config.file)
        good = {name: frozenset((*query.good, *query.ok)) for name, query in queries.items()}
        junk = {name: frozenset(query.junk) for name, query in queries.items()}
        images = {name: query.image for name, query in queries.items()}
        return LandmarkTruth((), images, {"good": good}, {"good": junk})
    truth = read_revisited_oxford(config.file)
    positives: dict[str, dict[str, frozenset[str]]] = {}
    ignored: dict[str, dict[str, frozenset[str]]] = {}
    for protocol in truth.protocols:
        parts = truth.protocol(protocol)
        rows = list(zip(truth.query_images, parts, strict=True))
        positives[protocol] = {name: frozenset(truth.images[row] for row in part[0]) for name, part in rows}
        ignored[protocol] = {name: frozenset(truth.images[row] for row in part[1]) for name, part in rows}
    return LandmarkTruth(truth.images, {name: name for name in truth.query_images}, positives, ignored)


def read_landmark_rankings(config: PredictionsConfig, truth: LandmarkTruth, ties: str) -> dict[str, list[str]]:
    """Returns query to image names, best first.

    Args:
        ties: images of equal score in a TREC run rank by name, ``ascending`` or ``descending``.

    Raises:
        FormatError: the file is something else.
    """
    path = _file_of(config)
    kind = chosen_format("predictions", path, config.format, ("trec", "ranks"))
    if kind == "ranks":
        rankings = read_rankings(path, truth.images, tuple(truth.query_images))
        _require_any(rankings, path)
        return keyed(rankings, config, path)
    scores = read_trec_run(path).scores
    ranked = {}
    for query, images in scores.items():
        names = sorted(images, reverse=ties == "descending")
        ranked[query] = sorted(names, key=lambda name: -images[name])
    return keyed(ranked, config, path)


def _file_of(config: PredictionsConfig) -> str:
    if config.file is None:
        raise UsageError(
            describe("predictions", "store", "a file for this task", str(config.store), "give predictions: {file: ...}")
        )
    return config.file
