"""Counts of repetitions per video, and a CSV of them: ``id,count``."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipmill.schemas.errors import FormatError, describe
from clipmill.stores.formats.reader import Reader, ReadRequest
from clipmill.stores.formats.records import Kind, Rename


@dataclass(frozen=True, slots=True)
class Counts:
    """Video id to how often something is repeated in it."""

    counts: Mapping[str, float]

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the videos."""
        return tuple(self.counts)

    def renamed(self, rename: Rename) -> "Counts":
        """Returns the same with other video ids."""
        return Counts(dict(zip(rename(self.counts), self.counts.values(), strict=True)))


def counts_of(value: Any) -> Counts:
    """Returns the counts in a mapping of video id to number."""
    return Counts({str(video): float(count) for video, count in value.items()})


COUNTS = Kind("counts", Counts, counts_of)


def read_counts(request: ReadRequest) -> Counts:
    """Returns the counts in a CSV.

    Raises:
        FormatError: a row has no number.
    """
    counts = {}
    with open(request.path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                counts[row["id"]] = float(row["count"])
            except ValueError:
                where = f"{request.path} video {row['id']}"
                raise FormatError(describe("file", where, "a number", repr(row["count"]), "correct it")) from None
    return Counts(counts)


READER = Reader(
    "counts",
    "a CSV with the columns id and count",
    lambda head: head.columns >= {"id", "count"},
    truth={"counts": read_counts},
    predictions={"counts": read_counts},
)
