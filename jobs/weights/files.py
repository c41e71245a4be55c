"""``clipmill weights list`` and ``fetch``: the published files that are known, and getting one of them."""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TextIO

from clipmill.extractors.base import WeightsFile
from clipmill.extractors.published import Published, published, published_files, verify_file
from clipmill.extractors.weights import digest
from clipmill.jobs.output import Outcome
from clipmill.jobs.progress import REDRAW_SECONDS
from clipmill.pipelines.features.run_progress import duration
from clipmill.schemas.errors import UsageError, WeightsError, describe
from clipmill.stores.download import download

NOT_KNOWN = "not known"
EVENT_SECONDS = 30.0


def run_list(extractor: str | None) -> Outcome:
    """Lists the known files of one extractor or of all; what is not known is said to be so."""
    found = published_files(extractor)
    data = {"files": [_entry(item) for item in found]}
    lines: list[str] = []
    for name in dict.fromkeys(item.extractor for item in found):
        lines += [name, *_table([item for item in found if item.extractor == name])]
    lines.append("clipmill weights fetch FILE --out DIR fetches one; clipmill weights check EXTRACTOR FILE checks any")
    return Outcome(data, "\n".join(lines))


def _table(items: Sequence[Published]) -> list[str]:
    """Returns one extractor's lines: name, card, layout, size, digest, licence of each file, then what has none."""
    rows = [_row(item, item.file) for item in items if item.file is not None]
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))] if rows else []
    lines = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines += [f"  no file known for card {item.use} ({item.source})" for item in items if item.file is None]
    return [line.rstrip() for line in lines]


def _entry(item: Published) -> dict[str, Any]:
    facts = asdict(item.file or WeightsFile("", "", ""))
    if item.file is None:
        facts = dict.fromkeys(facts)
    facts |= {"source": item.source, "licence": item.licence}
    return {"extractor": item.extractor, "use": item.use} | facts


def _row(item: Published, file: WeightsFile) -> tuple[str, ...]:
    size = f"{file.num_bytes:,} bytes" if file.num_bytes is not None else "size not known"
    fetched = "can be fetched" if file.url is not None else "by hand only"
    return file.name, item.use, file.layout, size, _shown_digest(file), item.licence, fetched


def _shown_digest(file: WeightsFile) -> str:
    if file.sha256 is not None:
        return f"sha256 {file.sha256[:12]}..."
    return f"git {file.git_blob[:12]}..." if file.git_blob is not None else "digest not known"


def run_fetch(name: str, out: str, url: str | None) -> Outcome:
    """Fetches the published file `name` into the folder `out`, from `url` where one is given."""
    item = published(name)
    file = item.file
    if file is None:
        raise UsageError(describe("weights", name, "a published file", "a card", "see clipmill weights list"))
    folder = os.path.abspath(os.path.expanduser(out))
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UsageError(describe("option", "--out", "a folder", f"the file {folder}", "give another"))
    path = os.path.join(folder, file.name)
    address = url or file.url
    started, was_there = time.monotonic(), os.path.exists(path)
    if was_there:
        _keep(path, file)
    elif address is None:
        remedy = f"get it by hand ({item.source}), or give --url"
        raise UsageError(describe("weights", name, "an address to fetch it from", NOT_KNOWN, remedy))
    else:
        download(address, path, file.num_bytes, lambda part: _verify(part, file), FetchProgress(file.name))
    data = _entry(item) | {
        "path": path,
        "fetched_from": None if was_there else address,
        "already_there": was_there,
        "num_bytes": os.path.getsize(path),
        "sha256": digest(path),
        "verified": verify_file(path, file),
        "seconds": round(time.monotonic() - started, 3),
    }
    return Outcome(data, _fetched_text(data))


def _verify(path: str, file: WeightsFile) -> None:
    verify_file(path, file)


def _keep(path: str, file: WeightsFile) -> None:
    try:
        verify_file(path, file)
    except WeightsError as error:
        remedy = "delete it, or give another --out"
        raise UsageError(
            describe("file", path, "nothing, or the published file", f"another ({error})", remedy)
        ) from None


def _fetched_text(data: dict[str, Any]) -> str:
    verified = data["verified"] or f"nothing to verify it by ({NOT_KNOWN})"
    return (
        f"{data['path']}: {'was there' if data['already_there'] else 'fetched'}, {data['num_bytes']:,} bytes\n"
        f"  SHA-256   {data['sha256']}\n"
        f"  verified  {verified}\n"
        f"  licence   {data['licence']} ({data['source']})\n"
        f"  for       {data['extractor']}, {data['use']}; clipmill weights check {data['extractor']} {data['path']}"
    )


class FetchProgress:
    """Tells of a download on standard error: one rewritten line on a terminal, one JSON line per event elsewhere."""

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        self._name = name
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._started = time.monotonic()
        self._first: int | None = None
        self._drawn = 0.0
        self._width = 0

    def on_bytes(self, done: int, total: int | None) -> None:
        """Tells of bytes, rate and time left: every fifth of a second on a terminal, every half minute elsewhere."""
        begins, ends = self._first is None, total is not None and done == total
        self._first = done if self._first is None else min(self._first, done)
        now = time.monotonic()
        rate = (done - self._first) / max(now - self._started, 1e-9)
        if not (begins or ends) and now - self._drawn < (REDRAW_SECONDS if self._terminal else EVENT_SECONDS):
            return
        self._drawn = now
        if not self._terminal:
            self._event("fetching", num_bytes=done, total_bytes=total, bytes_per_second=round(rate))
            return
        percent = f"{100 * done / total:3.0f}%  " if total else ""
        of = f" of {total:,}" if total is not None else ""
        left = duration((total - done) / rate if total is not None and rate > 0 else None)
        line = f"{percent}{self._name}: {done:,}{of} bytes  {rate / 1e6:.1f} MB/s  ETA {left}"
        self._stream.write("\r" + line.ljust(self._width) + ("\n" if ends else ""))
        self._width = 0 if ends else len(line)
        self._stream.flush()

    def on_retry(self, reason: str, wait_seconds: float) -> None:
        """Says why the connection was given up and when the next is tried."""
        if self._terminal:
            self._stream.write(f"\r{reason}; again in {wait_seconds:.0f} s".ljust(self._width) + "\n")
            self._width = 0
        else:
            self._event("retry", reason=reason, wait_seconds=wait_seconds)

    def _event(self, event: str, **values: Any) -> None:
        print(json.dumps({"event": event, "file": self._name} | values), file=self._stream, flush=True)
