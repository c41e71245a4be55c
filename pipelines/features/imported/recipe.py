"""What is kept of where imported rows came from: the digest of each file, the recipe, and the provenance record."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from hashlib import file_digest
from importlib.metadata import version
from typing import Any

from clipmill.pipelines.features.imported.files import Place, SourceFiles
from clipmill.schemas.config_import import ImportedFeatureConfig
from clipmill.schemas.errors import FormatError, describe
from clipmill.schemas.fingerprint import fingerprint, short
from clipmill.schemas.recipe import IMPORTED, UNKNOWN_MAKE, ClipRule, Preprocess, Recipe, Sampling, Weights
from clipmill.schemas.rows import Rows
from clipmill.stores.item_manifests import Item
from clipmill.stores.verify import values_sha256

IMPORT_VERSION = 1
"""Raised whenever a change of code changes what rows become of a file."""

_DIGEST_THREADS = 4
"""Hashing releases the interpreter lock; more threads than this only fight for the disk (ours)."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one item's rows lie.

    Attributes:
        text: file, array and rows, and the SHA-256 of the file: what a provenance record says.
        identity: the same in full, with the facts of the item that its times follow from, as plain types.
    """

    text: str
    identity: tuple[Any, ...]


def file_digests(paths: Iterable[str]) -> dict[str, str]:
    """Returns the SHA-256 of each file.

    Raises:
        FormatError: one cannot be read.
    """
    wanted = sorted(set(paths))
    with ThreadPoolExecutor(_DIGEST_THREADS, thread_name_prefix="digest") as pool:
        return dict(zip(wanted, pool.map(_digest, wanted), strict=True))


def _digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        got = error.strerror or type(error).__name__
        raise FormatError(describe("file", path, "a readable file", got, "check its permissions")) from None


def origin_of(
    item: Item, places: Sequence[Place], config: ImportedFeatureConfig, files: SourceFiles, digests: Mapping[str, str]
) -> Origin:
    """Returns where an item's rows lie."""
    parts = [(place.file, files.name(place, config.dataset), place.rows) for place in places]
    identity = [(digests[file], name, list(rows) if rows is not None else None) for file, name, rows in parts]
    named = list(dict.fromkeys((file, name) for file, name, _ in parts))
    if len(named) == 1:
        file, name = named[0]
        rows = [row for _, _, some in parts for row in some or ()]
        text = " ".join(word for word in (os.path.basename(file), name, _rows_text(rows)) if word)
        text = f"{text}, SHA-256 {digests[file]}"
    else:
        text = f"{len(named)} arrays, {os.path.basename(named[0][0])} and others, {short(fingerprint(identity))}"
    facts = [item.duration_seconds, item.fps if config.steps is not None and config.steps.fps is None else None]
    return Origin(text, (*identity, facts))


def _rows_text(rows: Sequence[int]) -> str:
    if not rows:
        return ""
    if len(rows) == 1:
        return f"row {rows[0]}"
    if list(rows) == list(range(rows[0], rows[0] + len(rows))):
        return f"rows {rows[0]}:{rows[0] + len(rows)}"
    return f"{len(rows)} rows ({short(fingerprint(list(rows)))})"


def source_fingerprint(origins: Mapping[str, Origin]) -> str:
    """Returns the fingerprint of where all rows of a feature lie, and of the bytes that are there, by id."""
    return fingerprint([[name, list(origin.identity)] for name, origin in sorted(origins.items())])


def imported_recipe(
    name: str, config: ImportedFeatureConfig, rule: ClipRule, dim: int, dtype: str, source: str
) -> Recipe:
    """Returns the recipe of an imported feature: no network, but how its rows are read, and from what.

    Args:
        source: fingerprint of the source the feature was first imported from. Items may be added under the same
            recipe; where rows that are stored already differ, it is another source, and another recipe.
    """
    reading = config.model_dump(
        mode="json", include={"dataset", "ids", "position", "steps", "transpose", "extras"}, exclude_none=True
    )
    rows = "video" if config.rows == "item" and rule.from_ == "whole" else config.rows
    return Recipe(
        name=name,
        extractor=IMPORTED,
        extractor_version=IMPORT_VERSION,
        layer=config.made_by or UNKNOWN_MAKE,
        dim=dim,
        dtype=dtype,  # type: ignore[arg-type]
        # Vectors of two features are comparable where one network made both: where nobody says so, no two are alike.
        weights=Weights(source=IMPORTED, card=config.made_by or f"source {source[:16]}"),
        sampling=Sampling(),
        preprocess=Preprocess(),
        clips=rule,
        options={"source": source, "rows": rows, **reading},
        files={"source": os.path.abspath(os.path.expanduser(config.file))},
    )


@cache
def _clipmill_version() -> str:
    # Looked up once: it is read from a file, and there is a record for each item.
    return version("clipmill")


def imported_passport(item: Item, origin: Origin, rows: Rows) -> dict[str, Any]:
    """Returns the provenance record of one item's rows: what is not known is null."""
    return {
        "clipmill_version": _clipmill_version(),
        "weights": IMPORTED,
        "decoder": IMPORTED,
        "decoder_version": origin.text,
        "duration_seconds": item.duration_seconds,
        "values_sha256": values_sha256(rows.values),
    }
