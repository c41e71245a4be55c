"""Queries as items: sentences about videos with the moments they describe, for models that localise.

Items share the rows of their video. Nothing of a test is read here: an evaluation names its own annotations, and
`answerable` makes them what a trained model is given.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clipmill.pipelines.datasets.items import Items
from clipmill.pipelines.datasets.provenance import source_of
from clipmill.pipelines.datasets.split import validation_videos
from clipmill.pipelines.datasets.text import RESERVED, Vocabulary
from clipmill.pipelines.datasets.tokenisers import TOKENISERS
from clipmill.pipelines.datasets.video_steps import Grid, VideoSteps, best_cells
from clipmill.pipelines.datasets.word_vectors import WordVectors, read_word_vectors
from clipmill.schemas.arrays import Array, Floats, Ints
from clipmill.schemas.config import DataConfig
from clipmill.schemas.config_queries import MomentQueriesConfig
from clipmill.schemas.config_truth import TruthConfig
from clipmill.schemas.errors import FormatError, ManifestError, UsageError, describe
from clipmill.schemas.features import FeatureSource
from clipmill.schemas.inputs import Input, InputRows, Tokens
from clipmill.schemas.inputs import Sequence as SequenceInput
from clipmill.stores import Feature, FeatureStore
from clipmill.stores.formats.charades_sta import read_charades_durations
from clipmill.stores.formats.ids import match_ids
from clipmill.stores.formats.reader import ReadRequest
from clipmill.stores.formats.records import AnnotatedQueries
from clipmill.stores.formats.registry import format_of, formats_of, reader
from clipmill.stores.formats.sniff import listed, looks_like

_DONE = {"drop": "left out", "swap": "turned round"}


@dataclass(frozen=True, slots=True, eq=False)
class Annotated:
    """n sentences, each with one annotated moment.

    Attributes:
        ids: of the queries; of a query with several windows the first one's alone.
        duration_seconds: ``float64[n]``, NaN where the annotations have none.
        window_seconds: ``float64[n, 2]``, start and stop.
        counts: what was changed or left out, in words, and how many.
    """

    ids: tuple[str, ...]
    video_ids: tuple[str, ...]
    sentences: tuple[str, ...]
    duration_seconds: Floats
    window_seconds: Floats
    counts: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Array, **counts: int) -> "Annotated":
        """Returns the queries at `rows` (positions or a mask), with further `counts`."""
        kept = np.arange(len(self))[rows]
        ids, videos, sentences = (
            tuple(column[row] for row in kept) for column in (self.ids, self.video_ids, self.sentences)
        )
        times = (self.duration_seconds[kept], self.window_seconds[kept])
        return Annotated(ids, videos, sentences, *times, {**self.counts, **counts})


def read_annotated(config: TruthConfig, thing: str) -> Annotated:
    """Returns the queries of a file of annotations; of a query with several windows, one entry for each.

    Args:
        thing: key of the config that names the file, for messages.

    Raises:
        FormatError: the file is something else, or a window is inverted and `config` says to refuse that.
        UsageError: a key of the config means nothing for the format.
    """
    known = formats_of("truth", ("queries",))
    found = config.format or format_of(config.file, known)
    if found not in known:
        got = f"{found} ({looks_like(config.file)})"
        raise FormatError(describe(f"{thing} file", config.file, f"one of {', '.join(known)}", got, "check the file"))
    taken = reader(found)
    if config.subset is not None and "subset" not in taken.takes:
        raise UsageError(describe(thing, "subset", f"none, as {found} has none", config.subset, "leave it out"))
    request = ReadRequest(config.file, thing, subset=config.subset)
    counts: dict[str, int] = {}
    if "inverted" in taken.takes and config.inverted != "refuse":
        # What is dropped is what is there once it is swapped.
        dropped, swapped = (taken.truth["queries"](replace(request, inverted=way)) for way in ("drop", "swap"))
        record: AnnotatedQueries = dropped if config.inverted == "drop" else swapped
        if num := len(swapped.queries) - len(dropped.queries):
            counts[f"inverted and {_DONE[config.inverted]}"] = num
    else:
        record = taken.truth["queries"](request)
    queries = record.queries
    query = queries.windows.video
    durations = queries.duration_seconds
    if config.durations is not None:
        seconds = read_charades_durations(config.durations)
        durations = np.array([seconds.get(name, np.nan) for name in queries.video_ids], np.float64)
    windows = np.stack([queries.windows.start_seconds, queries.windows.stop_seconds], axis=1)
    annotated = Annotated(
        tuple(queries.query_ids[row] for row in query.tolist()),
        tuple(config.id_of(queries.video_ids[row]) for row in query.tolist()),
        tuple(queries.sentences[row] for row in query.tolist()),
        np.asarray(durations[query], np.float64),
        windows.astype(np.float64),
        counts,
    )
    if not len(annotated):
        raise FormatError(describe(f"{thing} file", config.file, "sentences with moments", "none", "give annotations"))
    return _not_inverted(annotated, config)


def _not_inverted(annotated: Annotated, config: TruthConfig) -> Annotated:
    wrong = annotated.window_seconds[:, 0] > annotated.window_seconds[:, 1]
    if not wrong.any():
        return annotated
    if config.inverted == "refuse":
        first = annotated.ids[int(np.flatnonzero(wrong)[0])]
        got = f"{int(wrong.sum())} that end before they start, such as that of {first!r}"
        remedy = "correct them, or write inverted: drop or inverted: swap"
        raise FormatError(describe("file", config.file, "moments that start before they end", got, remedy))
    if config.inverted == "drop":
        return annotated.take(~wrong, **{f"inverted and {_DONE['drop']}": int(wrong.sum())})
    swapped = replace(annotated, window_seconds=np.sort(annotated.window_seconds, axis=1))
    return swapped.take(np.arange(len(swapped)), **{f"inverted and {_DONE['swap']}": int(wrong.sum())})


def read_query_items(config: DataConfig, inputs: Mapping[str, Input]) -> Items:
    """Returns the queries to train and to validate on, as `config.queries` names them.

    Targets are ``span int64[n, 2]``: the first and last step of the moment, both counted, whose time has the highest
    IoU with the annotated one (as in VSLNet).

    Args:
        inputs: of the model: one sequence, read from a feature, and tokens, the words of the queries.

    Raises:
        UsageError: the config names other inputs than the model has, the feature was cut into clips, videos of the
            annotations have no rows or no known duration, or nothing is left to train or to validate on.
        FormatError: a file of annotations is something else, or holds inverted moments.
        ManifestError: sentences have no word, or the file of word vectors cannot be used.
    """
    queries = config.queries
    if queries is None:
        remedy = "give queries: {train: charades_sta_train.txt}"
        raise UsageError(describe("data", "queries", "sentences and their moments", "none", remedy))
    video, text, steps_kind, tokens = query_inputs(inputs)
    feature_name = _feature_name(config, video, text)
    store = FeatureStore(config.store)
    feature = whole_videos(store[feature_name])
    parts = {"train": read_annotated(queries.train, "queries.train")}
    if queries.validation is not None:
        parts["validation"] = read_annotated(queries.validation, "queries.validation")
    parts = {part: _with_rows(found, feature, queries, part) for part, found in parts.items()}
    part = np.concatenate([np.full(len(found), name, dtype="<U10") for name, found in parts.items()])
    annotated = _joined(list(parts.values()))
    if queries.validation_fraction:
        held = validation_videos(annotated.video_ids, queries.validation_fraction, queries.seed)
        part = np.array(["validation" if name in held else "train" for name in annotated.video_ids], dtype="<U10")
    keep, annotated = _within_videos(_with_durations(annotated, feature))
    annotated, part = annotated.take(keep), part[keep]
    for name in dict.fromkeys(("train", *(["validation"] if queries.validation_fraction else []), *parts)):
        if not (part == name).any():
            raise UsageError(describe("data.queries", name, "queries", "none", "check the annotations"))
    words = _words(annotated, tokens)
    vectors, vocabulary = _vocabulary(words, part, tokens, queries)
    unique = dict(zip(annotated.video_ids, annotated.duration_seconds.tolist(), strict=True))
    steps = VideoSteps.read(feature, steps_kind, unique, queries.grid)
    return Items(
        inputs={video: steps.of(annotated.video_ids), text: vocabulary.rows(words, tokens.max_tokens)},
        label=np.full(len(annotated), -1, np.int64),
        label_names=(),
        clip_ids=annotated.ids,
        video_ids=annotated.video_ids,
        clips=np.zeros(len(annotated), np.int32),
        clip_seconds=annotated.window_seconds,
        part=part,
        sources={
            video: source_of(feature_name, feature, unique),
            text: FeatureSource(queries.train.file, _digest(annotated, vectors), vocabulary.size),
        },
        vocabularies={text: vocabulary.words},
        store_url=config.store,
        dataset=store.store.dataset,
        targets={"span": _spans(steps, annotated)},
        word_vectors={} if vectors is None else {text: vectors.table(vocabulary.words, RESERVED)},
        notes=(*_counted(annotated, feature, vocabulary), *_notes(words, tokens, vocabulary, vectors)),
    )


def query_inputs(inputs: Mapping[str, Input]) -> tuple[str, str, SequenceInput, Tokens]:
    """Returns the names and kinds of the inputs of a model that localises: a sequence of steps, and words.

    Raises:
        ValueError: its card says otherwise.
    """
    steps = [(name, kind) for name, kind in inputs.items() if isinstance(kind, SequenceInput)]
    words = [(name, kind) for name, kind in inputs.items() if isinstance(kind, Tokens)]
    if len(steps) != 1 or len(words) != 1 or len(inputs) != 2:
        raise ValueError(f"a model that localises: expected a sequence and tokens, got {', '.join(inputs)}")
    return steps[0][0], words[0][0], steps[0][1], words[0][1]


def whole_videos(feature: Feature) -> Feature:
    """Returns `feature`, of which each video is one clip.

    Raises:
        UsageError: it was cut into clips.
    """
    rule = feature.recipe.clips.from_
    if rule != "whole":
        remedy = "build or import it with clips: {from: whole}"
        raise UsageError(describe("feature", feature.recipe.name, "one clip for each video", f"{rule} clips", remedy))
    return feature


def sentence_words(sentences: Sequence[str], tokens: Tokens) -> list[tuple[str, ...]]:
    """Returns the words of each sentence, as the model cuts them."""
    words_of = TOKENISERS[tokens.tokeniser]
    return [words_of(sentence) for sentence in sentences]


def _feature_name(config: DataConfig, video: str, text: str) -> str:
    name = config.sources.get(video)
    if not isinstance(name, str) or set(config.sources) != {video}:
        got = ", ".join(config.sources)
        remedy = f"name it under data; {text} comes from data.queries"
        raise UsageError(describe("data", "inputs", f"a feature for {video} alone", got, remedy))
    return name


def _with_rows(annotated: Annotated, feature: Feature, queries: MomentQueriesConfig, part: str) -> Annotated:
    """Returns the queries whose videos have rows."""
    known = set(feature.video_ids)
    has = np.array([name in known for name in annotated.video_ids], np.bool_)
    if has.all():
        return annotated
    match = match_ids(annotated.video_ids, known, f"queries.{part}", f"feature {feature.recipe.name}")
    lacking = sorted(set(annotated.video_ids) - known)
    if queries.missing == "refuse" or not has.any():
        got = f"none for {len(lacking)} of {len(set(annotated.video_ids))} ({listed(tuple(lacking))}), "
        got += f"{int((~has).sum())} queries" + (f"; {match.hint}" if match.hint else "")
        remedy = "build or import those videos, correct the ids (drop_prefix, drop_ending), or write missing: skip"
        raise UsageError(describe(f"queries.{part}", "videos", f"rows of {feature.recipe.name} for each", got, remedy))
    return annotated.take(has, **{f"without rows in {part}": int((~has).sum())})


def _joined(parts: Sequence[Annotated]) -> Annotated:
    counts: dict[str, int] = {}
    for found in parts:
        for name, count in found.counts.items():
            counts[name] = counts.get(name, 0) + count
    return Annotated(
        tuple(name for found in parts for name in found.ids),
        tuple(name for found in parts for name in found.video_ids),
        tuple(text for found in parts for text in found.sentences),
        np.concatenate([found.duration_seconds for found in parts]),
        np.concatenate([found.window_seconds for found in parts]),
        counts,
    )


def _with_durations(annotated: Annotated, feature: Feature) -> Annotated:
    """Returns the queries with durations: of the annotations, else of the store's videos."""
    durations = known_durations(annotated.video_ids, annotated.duration_seconds, feature)
    wrong = ~(np.isfinite(durations) & (durations > 0))
    if wrong.any():
        names = sorted({annotated.video_ids[row] for row in np.flatnonzero(wrong).tolist()})
        got = f"none for {len(names)} videos ({listed(tuple(names))})"
        remedy = "give durations: a JSON or CSV file, beside the annotations"
        raise UsageError(describe("queries", "durations", "seconds of every video", got, remedy))
    return replace(annotated, duration_seconds=durations)


def known_durations(video_ids: Sequence[str], seconds: Floats, feature: Feature) -> Floats:
    """Returns ``float64[n]``: `seconds`, and where those are NaN when the clip that is the whole video ends."""
    if np.isfinite(seconds).all():
        return seconds
    ends = {clip.video_id: clip.stop_seconds for clip in feature.clips() if clip.stop_seconds > 0}
    given = zip(video_ids, seconds.tolist(), strict=True)
    return np.array([ends.get(name, np.nan) if np.isnan(own) else own for name, own in given], np.float64)


def _within_videos(annotated: Annotated) -> tuple[Array, Annotated]:
    """Returns which queries have a moment within their video, and all with moments that are clipped to it."""
    windows, durations = annotated.window_seconds, annotated.duration_seconds
    clipped = np.clip(windows, 0.0, durations[:, None])
    changed = (clipped != windows).any(axis=1)
    outside = (windows[:, 0] >= durations) | (windows[:, 1] < 0)
    counts = dict(annotated.counts)
    if (changed & ~outside).any():
        counts["clipped to their video"] = int((changed & ~outside).sum())
    if outside.any():
        counts["outside their video"] = int(outside.sum())
    return ~outside, replace(annotated, window_seconds=clipped, counts=counts)


def _words(annotated: Annotated, tokens: Tokens) -> list[tuple[str, ...]]:
    words = sentence_words(annotated.sentences, tokens)
    bare = [name for name, found in zip(annotated.ids, words, strict=True) if not found]
    if bare:
        got = f"none in {len(bare)} of {len(words)}, such as that of {bare[0]!r}"
        expected = f"a word in every sentence (tokeniser {tokens.tokeniser})"
        raise ManifestError(describe("queries", "sentences", expected, got, "complete them, or take those lines out"))
    return words


def _vocabulary(
    words: Sequence[tuple[str, ...]], part: Array, tokens: Tokens, queries: MomentQueriesConfig
) -> tuple[WordVectors | None, Vocabulary]:
    training = [found for found, name in zip(words, part.tolist(), strict=True) if name == "train"]
    config = queries.word_vectors
    make = Vocabulary.by_alphabet if tokens.vocabulary == "lgi" else Vocabulary.of
    vocabulary = make(training, tokens.min_count)
    if config is None:
        if tokens.vocabulary == "vslnet":
            expected = "a file, whose words are the vocabulary of kind vslnet"
            raise UsageError(describe("queries", "word_vectors", expected, "none", "give word_vectors: FILE"))
        return None, vocabulary
    if tokens.vector_dim is None:
        remedy = "leave word_vectors out"
        raise UsageError(describe("queries", "word_vectors", "none: the model takes none", config.file, remedy))
    wanted = vocabulary.words
    if tokens.vocabulary == "vslnet":
        also = [read_annotated(item, "word_vectors.also") for item in config.also]
        more = [found for item in also for found in sentence_words(item.sentences, tokens)]
        wanted = Vocabulary.of([*words, *more], tokens.min_count).words
    vectors = read_word_vectors(config.file, wanted)
    if vectors.dim != tokens.vector_dim:
        expected = f"vectors of {tokens.vector_dim} numbers, as the model's words are"
        remedy = f"give another file, or set model.options.word_dim: {vectors.dim}"
        raise ManifestError(describe("word vectors", config.file, expected, f"{vectors.dim} numbers", remedy))
    if tokens.vocabulary == "vslnet":
        have = set(vectors.words)
        vocabulary = Vocabulary(tuple(word for word in wanted if word in have))
    return vectors, vocabulary


def _spans(steps: VideoSteps, annotated: Annotated) -> Ints:
    found = np.empty((len(annotated), 2), np.int64)
    edges = {name: steps.edges(name) for name in steps.video_ids}
    for row, (name, (start, stop)) in enumerate(
        zip(annotated.video_ids, annotated.window_seconds.tolist(), strict=True)
    ):
        found[row] = best_cells(edges[name], start, stop)
    return found


def _digest(annotated: Annotated, vectors: WordVectors | None) -> str:
    """Returns 64 hex digits over the sentences and the file of word vectors: what stands for a recipe of a text."""
    digest = hashlib.sha256("\n".join(annotated.sentences).encode())
    digest.update((vectors.digest if vectors is not None else "").encode())
    return digest.hexdigest()


def _counted(annotated: Annotated, feature: Feature, vocabulary: Vocabulary) -> tuple[str, ...]:
    notes = [f"{len(annotated):,} queries about {len(set(annotated.video_ids)):,} videos, {vocabulary.size:,} words"]
    counts = [f"{count:,} {what}" for what, count in annotated.counts.items()]
    if counts:
        notes.append(f"moments: {', '.join(counts)}")
    unasked = len(set(feature.video_ids) - set(annotated.video_ids))
    if unasked:
        notes.append(f"{unasked:,} videos of {feature.recipe.name} have no query that is trained or validated on")
    return tuple(notes)


def _notes(
    words: Sequence[tuple[str, ...]], tokens: Tokens, vocabulary: Vocabulary, vectors: WordVectors | None
) -> tuple[str, ...]:
    notes = []
    cut = sum(len(found) > tokens.max_tokens for found in words)
    if cut:
        notes.append(f"{cut:,} of {len(words):,} sentences have more than {tokens.max_tokens} words and are cut")
    if vectors is not None:
        lacking = sorted(set(vocabulary.words) - set(vectors.words))
        if lacking:
            notes.append(
                f"no vector for {len(lacking):,} of {len(vocabulary.words):,} words ({listed(tuple(lacking))})"
            )
    return tuple(notes)


@dataclass(frozen=True, slots=True, eq=False)
class Answerable:
    """Queries as a trained model is given them.

    Attributes:
        kept: ``int64[n]``, which of the queries asked can be answered: those whose video has rows and which have words.
        inputs: of these.
        steps: of their videos.
        video_ids: of these.
    """

    kept: Ints
    inputs: Mapping[str, InputRows]
    steps: VideoSteps
    video_ids: tuple[str, ...]


def answerable(
    feature: Feature,
    inputs: Mapping[str, Input],
    vocabularies: Mapping[str, tuple[str, ...]],
    queries: Sequence[tuple[str, str]],
    duration_seconds: Mapping[str, float],
    grid: Grid,
) -> Answerable:
    """Returns those of `queries` that a model can answer, as it is given them.

    Args:
        inputs: of its card.
        vocabularies: of its checkpoint.
        queries: n video ids and sentences.
        duration_seconds: of the videos.
        grid: as of its training.
    """
    video, text, kind, tokens = query_inputs(inputs)
    words = sentence_words([sentence for _, sentence in queries], tokens)
    known = set(feature.video_ids)
    kept = [row for row, (name, _) in enumerate(queries) if name in known and words[row]]
    names = tuple(queries[row][0] for row in kept)
    steps = VideoSteps.read(feature, kind, {name: duration_seconds[name] for name in names}, grid)
    coded = Vocabulary(vocabularies[text]).rows([words[row] for row in kept], tokens.max_tokens)
    return Answerable(np.array(kept, np.int64), {video: steps.of(names), text: coded}, steps, names)
