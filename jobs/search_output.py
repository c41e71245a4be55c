"""What every search leaves in its `out`, ``results.json``, a page and the config, and what it prints."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipmill.jobs.configs import keep_config
from clipmill.jobs.output import Outcome
from clipmill.jobs.search_queries import Failure
from clipmill.pipelines.reports.page import write_page
from clipmill.pipelines.reports.search import SearchedQuery, SearchPage, render_search
from clipmill.schemas.config_search import SearchConfig
from clipmill.schemas.errors import EXIT_COMPLETE, EXIT_QUARANTINED, StorageUnavailableError, describe


def search_outcome(
    config: SearchConfig,
    what: str,
    page: SearchPage,
    results: Mapping[str, Any],
    searches: Sequence[SearchedQuery],
    failures: Sequence[Failure],
) -> Outcome:
    """Writes what a search found; exit code 3 when a query could not be used.

    Args:
        what: was searched with what, in words, such as ``2 queries against 70 clips, by combined``.

    Raises:
        StorageUnavailableError: the folder cannot be written.
    """
    folder = Path(config.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(
            json.dumps(results, sort_keys=True, ensure_ascii=False, indent=1) + "\n", "utf-8"
        )
    except OSError as error:
        got = error.strerror or str(error)
        raise StorageUnavailableError(
            describe("search", str(folder), "a folder that can be written", got, "choose another out")
        ) from None
    report = str(folder / "report.html")
    num_bytes = write_page(report, render_search(page))
    keep_config(config, folder, "search")
    data = {**results, "report": report, "report_bytes": num_bytes, "results": str(folder / "results.json")}
    text = "\n".join([*_lines(what, searches, page.primary, failures), f"report: {report}"])
    return Outcome(data, text, EXIT_QUARANTINED if failures else EXIT_COMPLETE)


def _lines(what: str, searches: Sequence[SearchedQuery], space: str, failures: Sequence[Failure]) -> list[str]:
    lines = [f"{what}:"]
    for query in searches:
        lines.append(f"  {query.name}")
        for rank, found in enumerate(query.hits[space][:3], start=1):
            span = f"{found.start_seconds:.1f} to {found.stop_seconds:.1f} s"
            lines.append(f"    {rank}. {found.score:.4f}  {found.video_id}  {span}")
    if failures:
        lines.append(f"{len(failures)} queries could not be used:")
        lines += [f"  {failure.message}" for failure in failures]
    return lines
