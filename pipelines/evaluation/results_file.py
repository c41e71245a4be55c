"""Reading ``results.json``, of this version and of version 1.

Version 1 differed in words (``floors`` for ``baselines``, ``tious`` for ``tiou_thresholds`` and so on), and retrieval
had a file of its own: ``spaces`` in place of ``runs``, with the queries and what chance scores beside them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipmill.pipelines.evaluation.tasks.result import RESULTS, RESULTS_VERSION
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.fingerprint import fingerprint

RETRIEVAL = "retrieval"
_KEYS = {
    "at": "cutoffs",
    "ious": "iou_thresholds",
    "max_average": "max_avg_num_proposals",
    "tious": "tiou_thresholds",
}
"""Key of `protocol` in version 1 to its name now."""
_VALUES = {"listed": "file_order"}
"""Value of the keys `ties` and `order` in version 1 to its name now."""


def read_results(place: str, thing: str = "--against") -> dict[str, Any]:
    """Returns the results of an evaluation as version 2 has them; `version` stays as in the file.

    Args:
        place: the folder of an evaluation, or its ``results.json``.
        thing: what names the file, for the message.

    Raises:
        UsageError: there is no such file, or it is no evaluation's, changed by hand, or of a newer version.
    """
    path = Path(place) / RESULTS if Path(place).is_dir() else Path(place)
    expected, remedy = f"the folder of an evaluation, or its {RESULTS}", "give the out of another evaluation"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        got = getattr(error, "strerror", None) or "no JSON"
        raise UsageError(describe(thing, str(path), expected, got, remedy)) from None
    if not isinstance(data, dict) or not ("spaces" in data or "runs" in data):
        got = "JSON without 'spaces' or 'runs'"
        raise UsageError(describe(thing, str(path), expected, got, remedy))
    version = data.get("version", 1)
    if not isinstance(version, int) or version > RESULTS_VERSION:
        got = f"version {version} of it, which a newer clipmill wrote"
        raise UsageError(describe(thing, str(path), expected, got, "update clipmill"))
    if not _is_complete(data):
        raise UsageError(describe(thing, str(path), expected, "one that was changed or cut", remedy))
    return upgraded(data)


def upgraded(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns results of any version as version 2 has them; `version` stays, to tell where they came from."""
    if results.get("version", 1) >= RESULTS_VERSION:
        return dict(results)
    return _retrieval(results) if "spaces" in results else _task(results)


def retrieval_fingerprint(
    queries: Sequence[Mapping[str, str]], num_gallery: int, num_relevant: Mapping[str, int]
) -> str:
    """Returns the fingerprint of what retrieval is scored against: the same for files of both versions.

    Args:
        queries: ``{"id", "label"}`` of each query, in order.
        num_gallery: items that are ranked.
        num_relevant: label to how many of them are relevant.
    """
    return fingerprint([[dict(query) for query in queries], num_gallery, sorted(num_relevant.items())])


def _task(results: Mapping[str, Any]) -> dict[str, Any]:
    protocol = {
        _KEYS.get(key, key): _VALUES.get(value, value) if key in ("ties", "order") else value
        for key, value in results.get("protocol", {}).items()
    }
    runs = {}
    for name, run in results["runs"].items():
        others = {key: value for key, value in run.items() if key != "floors"}
        runs[name] = others | {"baselines": run.get("floors", {})}
    return dict(results) | {"protocol": protocol, "runs": runs}


def _retrieval(results: Mapping[str, Any]) -> dict[str, Any]:
    labels: Mapping[str, Any] = next(iter(results["spaces"].values()))["per_label"]
    num_relevant = {label: item["num_relevant"] for label, item in labels.items()}
    ids = [query["id"] for query in results["queries"]]
    runs = {}
    for name, space in results["spaces"].items():
        intervals = space.get("intervals", {})
        runs[name] = {
            "metrics": space["metrics"],
            "baselines": {"chance": results.get("chance", {})},
            "intervals": intervals,
            "shown": list(intervals),
            "per_class": space["per_label"],
            "units": {"kind": "query", "ids": ids, "values": space.get("per_query", {})},
        }
    data = {
        "fingerprint": retrieval_fingerprint(results["queries"], results["num_gallery"], num_relevant),
        "num_queries": len(ids),
        "num_gallery": results["num_gallery"],
    }
    return {
        "version": results.get("version", 1),
        "task": RETRIEVAL,
        "protocol": {},
        "data": data,
        "bootstrap": {},
        "runs": runs,
    }


def _is_complete(data: Mapping[str, Any]) -> bool:
    """Returns whether what is read of another evaluation's results is there, and of the right kind."""
    runs = data["spaces"] if "spaces" in data else data["runs"]
    if not isinstance(runs, dict) or not runs or not all(isinstance(run, dict) for run in runs.values()):
        return False
    tables = [run.get("metrics") for run in runs.values()]
    if not all(isinstance(table, dict) for table in tables):
        return False
    if not all(value is None or isinstance(value, int | float) for table in tables for value in table.values()):
        return False
    if "spaces" in data:
        return {"queries", "num_gallery"} <= set(data) and all("per_label" in run for run in runs.values())
    return "task" in data and isinstance(data.get("data"), dict) and "fingerprint" in data["data"]
