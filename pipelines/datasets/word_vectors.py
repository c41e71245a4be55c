"""Vectors of words from a text file in GloVe's format: a word and its numbers a line, between single spaces."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from clipmill.schemas.arrays import Bools, Singles
from clipmill.schemas.errors import ManifestError, describe


@dataclass(frozen=True, slots=True, eq=False)
class WordVectors:
    """The vectors of some words.

    Attributes:
        words: those the file has, in its order.
        values: ``float32[W, D]``.
        digest: SHA-256 of the file's bytes.
    """

    words: tuple[str, ...]
    values: Singles
    digest: str

    @property
    def dim(self) -> int:
        """D."""
        return int(self.values.shape[1])

    def table(self, vocabulary: Collection[str], num_reserved: int) -> tuple[Singles, Bools]:
        """Returns ``float32[num_reserved + V, D]``, the vectors of `vocabulary`, and ``bool``: which there are.

        Rows of reserved positions, and of words without a vector, are 0.
        """
        place = {word: row for row, word in enumerate(self.words)}
        rows = np.array([place.get(word, -1) for word in vocabulary], np.int64)
        found = np.concatenate([np.zeros(num_reserved, np.bool_), rows >= 0])
        table = np.zeros((len(found), self.dim), np.float32)
        table[found] = self.values[rows[rows >= 0]]
        return table, found


def read_word_vectors(path: str, wanted: Collection[str]) -> WordVectors:
    """Returns the vectors of the words of `wanted` that the file at `path` has; the others are passed over unparsed.

    Of a word that stands there twice the first counts.

    Raises:
        ManifestError: the file cannot be read, has none of the words, or a line of one of them holds something else
            than as many numbers as the first.
    """
    words, rows, digest, dim = dict.fromkeys(wanted, False), list[Singles](), hashlib.sha256(), 0
    found: list[str] = []
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                digest.update(line)
                # Only spaces separate: some words of GloVe 840B hold other white space, and a few hold spaces.
                word, _, rest = line.rstrip(b"\r\n ").partition(b" ")
                name = word.decode("utf-8", "replace")
                if words.get(name) is not False:
                    continue
                vector = _numbers(rest)
                if vector is None and number == 1:
                    break
                if vector is None or (dim and len(vector) != dim):
                    got = "something else" if vector is None else f"{len(vector)} numbers"
                    expected = f"{dim} numbers, as in its first line" if dim else "numbers"
                    remedy = "give a text file in GloVe's format"
                    raise ManifestError(describe("word vectors", f"{path} line {number}", expected, got, remedy))
                dim = len(vector)
                words[name] = True
                found.append(name)
                rows.append(vector)
    except OSError as error:
        got = error.strerror or str(error)
        raise ManifestError(describe("word vectors", path, "a readable file", got, "correct its path")) from None
    if not found:
        expected = f"lines of a word and its numbers, for some of the {len(words)} words of the queries"
        remedy = "give a text file in GloVe's format, of words in lower case"
        raise ManifestError(describe("word vectors", path, expected, "a vector of none of them", remedy))
    return WordVectors(tuple(found), np.stack(rows), digest.hexdigest())


def _numbers(text: bytes) -> Singles | None:
    try:
        values = np.array(text.split(b" "), np.float32)
    except ValueError:
        return None
    return values if len(values) and np.isfinite(values).all() else None
