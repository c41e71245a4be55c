"""The published weights files that are known, of every registered extractor, and what a given file is among them."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError

from clipmill.extractors import registry
from clipmill.extractors.base import WeightsCard, WeightsFile, card_for
from clipmill.extractors.weights import DIGEST_CHUNK_BYTES, digest
from clipmill.schemas.errors import UsageError, WeightsError, describe, near

MIN_DIGEST_DIGITS = 8
"""What file names give of a SHA-256; fewer digits would not tell files apart."""


@dataclass(frozen=True, slots=True)
class CardChoice:
    """A weights card of an extractor, with the options of a recipe that take its weights."""

    card: WeightsCard
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Published:
    """One published file and what it is for.

    Attributes:
        use: the weights card, or for a file that is named in an option, that option.
        file: None where the card's files are known by their layout alone.
    """

    extractor: str
    use: str
    source: str
    licence: str
    file: WeightsFile | None


def card_choices(extractor: str) -> dict[str, CardChoice]:
    """Returns every weights card of an extractor by name, those included that only an option brings (I3D's flow).

    Raises:
        UsageError: there is no such extractor.
    """
    card = registry.card(extractor)
    found = {weights.name: CardChoice(weights) for weights in card.weights}
    for name, info in card.options.model_fields.items():
        for value in _choices(info.annotation):
            try:
                options = card.options.model_validate({name: value})
            except ValidationError:  # a choice that needs others beside it
                continue
            for weights in card_for(card, options).weights:
                found.setdefault(weights.name, CardChoice(weights, {name: value}))
    return found


def _choices(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _choices(part)


def published_files(extractor: str | None = None) -> list[Published]:
    """Returns the known files of one extractor or of all; a card without known files has one entry without a file.

    Raises:
        UsageError: there is no such extractor.
    """
    found: list[Published] = []
    for name in registry.names() if extractor is None else (extractor,):
        if registry.registration(name).layouts is None:
            continue
        for choice in card_choices(name).values():
            card = choice.card
            for file in card.files or (None,):
                licence = (file.licence if file is not None else None) or card.licence
                source = file.source if file is not None else card.source
                found.append(Published(name, card.name, source, licence, file))
        named = registry.card(name).option_files
        found += [Published(name, use, file.source, file.licence or "", file) for use, file in named.items()]
    return found


def published(name: str) -> Published:
    """Returns the published file of that name.

    Raises:
        UsageError: no such file is known; near ones are listed.
    """
    known = {item.file.name: item for item in published_files() if item.file is not None}
    if name not in known:
        raise UsageError(f"weights {name}: expected the name of a published file, got another; {near(name, known)}")
    return known[name]


def git_blob_sha1(path: str) -> str:
    """Returns the id git gives the file's content: what public repositories show of a file they hold.

    Raises:
        OSError: it cannot be read.
    """
    total = hashlib.sha1(f"blob {os.path.getsize(path)}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(DIGEST_CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()


def identify(path: str) -> list[Published]:
    """Returns the published files whose digest is that of the file at `path`; none where it is not a known one.

    Raises:
        WeightsError: it cannot be read.
    """
    sha256, git_blob = digest(path), git_blob_sha1(path)
    return [
        item
        for item in published_files()
        if item.file is not None
        and (git_blob == item.file.git_blob or (item.file.sha256 is not None and sha256.startswith(item.file.sha256)))
    ]


def verify_file(path: str, file: WeightsFile) -> str:
    """Makes sure that the file at `path` is the published `file`, as far as its facts are known; returns which were.

    Raises:
        WeightsError: it has another size or digest, or cannot be read.
    """
    checked: list[str] = []
    remedy = "fetch it again, or from another --url"
    sha256, found_bytes = digest(path), os.path.getsize(path)
    if file.num_bytes is not None:
        if found_bytes != file.num_bytes:
            expected = f"{file.num_bytes:,} bytes"
            raise WeightsError(describe("weights", file.name, expected, f"{found_bytes:,}", remedy))
        checked.append("size")
    if file.sha256 is not None:
        if not sha256.startswith(file.sha256):
            expected, got = f"SHA-256 {file.sha256}", sha256[: len(file.sha256)]
            raise WeightsError(describe("weights", file.name, expected, got, remedy))
        whole = len(file.sha256) == len(sha256)
        checked.append("SHA-256" if whole else f"the first {len(file.sha256)} digits of SHA-256")
    if file.git_blob is not None:
        git_blob = git_blob_sha1(path)
        if git_blob != file.git_blob:
            raise WeightsError(describe("weights", file.name, f"git blob {file.git_blob}", git_blob, remedy))
        checked.append("git blob")
    return ", ".join(checked)
