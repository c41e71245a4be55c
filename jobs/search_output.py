"""What every search leaves in its `out`: ``results.json`` and a page."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipmill.pipelines.reports.page import write_page
from clipmill.pipelines.reports.search import SearchPage, render_search
from clipmill.schemas.errors import StorageUnavailableError, describe


def write_search(out: str, results: Mapping[str, Any], page: SearchPage) -> dict[str, Any]:
    """Writes both and returns `results` with where they are.

    Raises:
        StorageUnavailableError: the folder cannot be written.
    """
    folder = Path(out)
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
    return {**results, "report": report, "report_bytes": num_bytes, "results": str(folder / "results.json")}
