"""Texts of clips, and the vocabulary made of those that train."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from clipmill.pipelines.datasets.tokenisers import TOKENISERS
from clipmill.schemas.config import TextConfig
from clipmill.schemas.errors import ManifestError, describe
from clipmill.schemas.inputs import InputRows

PADDING, UNKNOWN = 0, 1
RESERVED = 2
"""Positions before the first word."""
LGI_MARKS = ("<S>", "<E>")
"""Begin and end of a text, which LGI's vocabulary has before its words and no text of its data uses."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The words of each clip's text, and the digest of the file they were read from."""

    words: tuple[tuple[str, ...], ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words a model knows, that of position 2 first."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[Sequence[str]], min_count: int = 1) -> "Vocabulary":
        """Returns the words that occur at least `min_count` times in `texts`, the most frequent first.

        Equally frequent ones are in the order of the alphabet.
        """
        counts = Counter(word for text in texts for word in text)
        kept = [word for word, count in counts.items() if count >= min_count]
        return cls(tuple(sorted(kept, key=lambda word: (-counts[word], word))))

    @classmethod
    def by_alphabet(cls, texts: Iterable[Sequence[str]], min_count: int = 1) -> "Vocabulary":
        """Returns the words that occur at least `min_count` times in `texts` by alphabet, from position 4 on (LGI)."""
        return cls((*LGI_MARKS, *sorted(cls.of(texts, min_count).words)))

    @property
    def size(self) -> int:
        """How many positions there are, those of padding and of unknown words included."""
        return len(self.words) + RESERVED

    def rows(self, texts: Sequence[Sequence[str]], max_tokens: int) -> InputRows:
        """Returns the positions ``int64`` of the first `max_tokens` words of each text."""
        position = {word: number for number, word in enumerate(self.words, start=RESERVED)}
        coded = [[position.get(word, UNKNOWN) for word in text[:max_tokens]] for text in texts]
        values = np.array([code for text in coded for code in text], np.int64)
        return InputRows(values, np.cumsum([0, *map(len, coded)]).astype(np.int64))


def read_tokens(
    config: TextConfig, clip_ids: Sequence[str], video_ids: Sequence[str], tokeniser: str = "words"
) -> Texts:
    """Returns the words of the text of each clip, which the file names by the clip's id or by its video's.

    Raises:
        ManifestError: the file cannot be read, lacks a column, or has no word for a clip.
    """
    by_id, digest = _read(config)
    words_of = TOKENISERS[tokeniser]
    found = []
    for clip, video in zip(clip_ids, video_ids, strict=True):
        found.append(words_of(by_id.get(clip, by_id.get(video, ""))))
    bare = [clip for clip, words in zip(clip_ids, found, strict=True) if not words]
    if bare:
        raise ManifestError(
            describe(
                "texts",
                config.file,
                "words for every clip, by its id or its video's",
                f"none for {len(bare)} of {len(found)}, such as {bare[0]!r}",
                "complete the file, or leave those videos out of the store",
            )
        )
    return Texts(tuple(found), digest)


def _read(config: TextConfig) -> tuple[dict[str, str], str]:
    try:
        with open(config.file, "rb") as file:
            data = file.read()
        is_parquet = config.file.endswith(".parquet")
        table = pa.parquet.read_table(pa.BufferReader(data)) if is_parquet else _csv(data)
    except (OSError, pa.ArrowInvalid) as error:
        got = getattr(error, "strerror", None) or (str(error).splitlines() or ["nothing"])[0]
        raise ManifestError(
            describe("texts", config.file, "a readable .csv or .parquet", got, "correct its path")
        ) from None
    for column in (config.id, config.text):
        if column not in table.column_names:
            got = ", ".join(table.column_names)
            raise ManifestError(
                describe("texts", config.file, f"a column {column!r}", got, "name the columns with id and text")
            )
    ids, texts = (table.column(name).cast(pa.string()).to_pylist() for name in (config.id, config.text))
    return dict(zip(ids, (text or "" for text in texts), strict=True)), hashlib.sha256(data).hexdigest()


def _csv(data: bytes) -> pa.Table:
    """Returns a table of commas, or of tabs where its first line has one, in UTF-8 or else in Windows-1252 (SemArt)."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        data = data.decode("cp1252", errors="replace").encode("utf-8")
    source = pa.BufferReader(data)
    delimiter = "\t" if b"\t" in data.partition(b"\n")[0] else ","
    options = pa.csv.ParseOptions(newlines_in_values=True, delimiter=delimiter)
    # Whatever the texts look like, numbers and dates among them, they are texts.
    header = pa.csv.read_csv(source, parse_options=options).schema.names
    source.seek(0)
    types = {name: pa.string() for name in header}
    return pa.csv.read_csv(source, parse_options=options, convert_options=pa.csv.ConvertOptions(column_types=types))
