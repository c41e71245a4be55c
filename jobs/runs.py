"""``clipmill runs``: who built what in a store, when, where, and how it ended."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from clipmill.jobs.output import Outcome
from clipmill.pipelines.features.heartbeat import HEARTBEAT
from clipmill.pipelines.features.imported.run import REPORT as IMPORT_REPORT
from clipmill.pipelines.features.run_progress import duration
from clipmill.pipelines.features.run_records import END, START, run_file
from clipmill.schemas.errors import EXIT_COMPLETE, EXIT_QUARANTINED
from clipmill.schemas.secrets import masked
from clipmill.stores.run_ids import run_time
from clipmill.stores.store import Store


def run_runs(url: str, last: int) -> Outcome:
    """Lists the runs of the store at `url`, oldest first.

    Args:
        last: only so many, the newest; 0: all.
    """
    store = Store.open(url)
    ids = store.runs()
    runs = store.objects.each(lambda run_id: run_entry(store, run_id), ids[-last:] if last else ids)
    data = {"store": url, "num_runs": len(ids), "runs": runs}
    return Outcome(data, _text(data))


def run_entry(store: Store, run_id: str) -> dict[str, Any]:
    """Returns what the files of one run say of it; what they do not say is None."""
    start, end = run_file(store, run_id, START), run_file(store, run_id, END)
    report, beat = run_file(store, run_id, "report.json"), run_file(store, run_id, HEARTBEAT)
    imported = run_file(store, run_id, IMPORT_REPORT)
    began = run_time(run_id)
    made = None
    if "num_complete" in report:
        made = report["num_complete"] - report["num_complete_before"]
    elif imported:
        made = sum(feature["num_imported"] for feature in imported["features"])
    return {
        "run": run_id,
        "began_at": None if began.year == datetime.min.year else began.isoformat(timespec="seconds"),
        "user": start.get("user"),
        "host": start.get("host"),
        "engine": start.get("engine") or report.get("engine") or ("import" if imported else None),
        "workers": start.get("workers"),
        "shard": start.get("shard"),
        "num_videos": report.get("num_videos", imported.get("num_items")),
        "num_pairs_made": made,
        "num_quarantined": report.get("num_quarantined"),
        "num_videos_left": report.get("num_videos_left"),
        "seconds": end.get("seconds", report.get("seconds", {}).get("wall", imported.get("seconds"))),
        "exit_code": _exit_code(end, report, imported),
        "ended_by": end.get("ended_by"),
        "message": end.get("message"),
        "last_heartbeat": None if end or not beat else {name: beat.get(name) for name in ("at", "number")},
    }


def _exit_code(end: Mapping[str, Any], report: Mapping[str, Any], imported: Mapping[str, Any]) -> int | None:
    if "exit_code" in end:
        return int(end["exit_code"])
    if "num_quarantined" in report:  # a run of a version that did not record its end
        return EXIT_QUARANTINED if report["num_quarantined"] or report.get("num_truncated_kept") else EXIT_COMPLETE
    return EXIT_COMPLETE if imported else None


def _text(data: Mapping[str, Any]) -> str:
    shown, count = data["runs"], data["num_runs"]
    note = f", the newest {len(shown)} of them" if len(shown) < count else ""
    lines = [f"{data['store']}: {count} runs{note}"]
    if not shown:
        return lines[0]
    heads = ("run", "began (UTC)", "by", "engine", "shard", "videos", "made", "quarantine", "time", "exit")
    table = [heads, *(_cells(item) for item in shown)]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    lines += [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    ]
    lines += [f"  {item['run']}: {masked(item['message'])}" for item in shown if item["message"]]
    return "\n".join(lines)


def _cells(item: Mapping[str, Any]) -> tuple[str, ...]:
    began = datetime.fromisoformat(item["began_at"]).astimezone(UTC) if item["began_at"] else None
    workers = f" x{item['workers']}" if (item["workers"] or 1) > 1 else ""
    seconds = item["seconds"]
    return (
        item["run"],
        f"{began:%Y-%m-%d %H:%M}" if began else "-",
        "@".join(text for text in (item["user"], item["host"]) if text) or "-",
        f"{item['engine'] or '-'}{workers}",
        item["shard"] or "-",
        *(_number(item[name]) for name in ("num_videos", "num_pairs_made", "num_quarantined")),
        "-" if seconds is None else duration(seconds),
        _ending(item),
    )


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _ending(item: Mapping[str, Any]) -> str:
    if item["exit_code"] is not None:
        return f"{item['exit_code']}{' ' + item['ended_by'] if item['ended_by'] else ''}"
    beat = item["last_heartbeat"]
    return "no end recorded" + (f", last heartbeat {beat['at']}" if beat else "")
