"""``clipmill status``: what is complete, missing and in quarantine, per recipe."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clipmill.jobs.output import Outcome
from clipmill.pipelines.features.listing import COPIES_SHOWN
from clipmill.pipelines.features.machine_faults import failures_in_a_row, next_try
from clipmill.stores.membership import copies
from clipmill.stores.run_ids import run_time
from clipmill.stores.store import Store
from clipmill.stores.tables import TRUNCATED_AND_JOINED_COLUMNS, truncated_and_joined
from clipmill.stores.tables import in_force as in_force_of

_COLUMNS = ("row_stop", *TRUNCATED_AND_JOINED_COLUMNS, "passport.num_segments_clamped", "passport.num_segments_emptied")
"""Of commits, beside those that decide which count."""


def run_status(url: str) -> Outcome:
    """Reads commits and quarantine only; opens no shard."""
    store = Store.open(url)
    videos = store.manifest()
    held = store.membership()
    current = store.current_features()
    history = store.quarantine_history()
    quarantine = in_force_of(history).to_pylist()
    failures = failures_in_a_row(history)
    in_force = [
        row
        for row in quarantine
        if (video := videos.get(row["video_id"])) and video.fingerprint == row["video_fingerprint"]
    ]
    features: list[dict[str, Any]] = []
    for recipe in sorted(store.recipes(), key=lambda recipe: recipe.key):
        commits = store.commits_in_force(recipe.fingerprint, videos, _COLUMNS)
        complete = set(commits.column("video_id").to_pylist())
        num_rows = sum(
            stop - start
            for start, stop in zip(
                commits.column("row_start").to_pylist(), commits.column("row_stop").to_pylist(), strict=True
            )
        )
        truncated, joined = truncated_and_joined(commits)
        quarantined = {row["video_id"] for row in in_force if recipe.fingerprint in row["recipes"]} - complete
        features.append(
            {
                "feature": recipe.name,
                "key": recipe.key,
                "current": current.get(recipe.name) == recipe.fingerprint,
                "weights": recipe.weights.source,
                "num_complete": len(complete),
                "num_quarantined": len(quarantined),
                "num_missing": len(videos) - len(complete) - len(quarantined),
                "num_rows": num_rows,
                **_segments_outside(commits),
                "num_truncated_kept": len(truncated),
                "num_joined": len(joined),
                "dim": recipe.dim,
            }
        )
    removed = held.removed.keys() & set(store.commits().column("video_id").to_pylist()) if held.removed else set()
    items = [_item(row, failures) for row in sorted(in_force, key=lambda row: (row["reason"], row["video_id"]))]
    data = {
        "store": url,
        "dataset": store.dataset,
        "format": store.format,
        "num_videos": len(videos),
        "num_unlisted": len(held.unlisted),
        "unlisted": sorted(held.unlisted),
        "num_removed_with_rows": len(removed),
        "copies": [list(group) for group in copies(held.served)],
        "features": features,
        "reasons": dict(sorted(Counter(item["reason"] for item in items).items())),
        "quarantine": items,
        "runs": store.runs(),
    }
    return Outcome(data, _text(data))


def _item(row: Mapping[str, Any], failures: Mapping[tuple[str, str, str], int]) -> dict[str, Any]:
    num_failures = max(failures[row["video_id"], row["video_fingerprint"], recipe] for recipe in row["recipes"])
    due = next_try(row["reason"], run_time(row["run_id"]), num_failures)
    return {
        **{key: row[key] for key in ("video_id", "stage", "reason", "message", "attempts", "run_id")},
        "num_runs_failed": num_failures,
        "next_try": None if due is None else due.isoformat(timespec="seconds"),
    }


def _segments_outside(commits: pa.Table) -> dict[str, int]:
    """Returns how many annotated segments lie outside their videos, in part or wholly."""
    passports = commits.column("passport").combine_chunks()
    names = ("num_segments_clamped", "num_segments_emptied")
    return {name: pc.sum(pc.struct_field(passports, name)).as_py() or 0 for name in names}


def _text(data: dict[str, Any]) -> str:
    lines = [
        f"{data['store']}: dataset {data['dataset']}, {data['format']}, {data['num_videos']} videos, "
        f"{len(data['runs'])} runs"
    ]
    if data["features"]:
        lines.append(f"  {'recipe':<28} {'complete':>9} {'missing':>8} {'quarantine':>11} {'rows':>10}  weights")
    for item in data["features"]:
        mark = "" if item["current"] else "  (not in the newest build)"
        lines.append(
            f"  {item['key']:<28} {item['num_complete']:>9} {item['num_missing']:>8} {item['num_quarantined']:>11} "
            f"{item['num_rows']:>10}  {item['weights']}{mark}"
        )
        if item["num_segments_clamped"] or item["num_segments_emptied"]:
            lines.append(
                f"    annotated segments outside their video: {item['num_segments_emptied']} wholly (empty clips), "
                f"{item['num_segments_clamped']} in part (cut)"
            )
    lines += [
        f"  {item['key']}: {item['num_truncated_kept']} truncated videos kept, {item['num_joined']} joined end to end"
        for item in data["features"]
        if item["num_truncated_kept"] or item["num_joined"]
    ]
    lines += _listing_lines(data)
    if data["quarantine"]:
        lines.append(
            f"  in quarantine ({', '.join(f'{reason} {count}' for reason, count in data['reasons'].items())}):"
        )
        lines += [f"    {item['reason']}: {item['message']}{_retried(item)}" for item in data["quarantine"]]
        lines.append(f"  put them back with: clipmill requeue {data['store']}")
    return "\n".join(lines)


def _listing_lines(data: Mapping[str, Any]) -> list[str]:
    lines = []
    if data["unlisted"]:
        lines.append(
            f"  no longer in the newest full manifest, so not served: {data['num_unlisted']} videos, such as "
            f"{data['unlisted'][0]}; take their rows out with: clipmill remove {data['store']} --missing"
        )
    if data["num_removed_with_rows"]:
        lines.append(
            f"  removed, their rows still in shards: {data['num_removed_with_rows']} videos; "
            f"give the space back with: clipmill clean {data['store']}"
        )
    if data["copies"]:
        lines.append("  copies (the same bytes under several ids):")
        lines += [f"    {' = '.join(group)}" for group in data["copies"][:COPIES_SHOWN]]
        if len(data["copies"]) > COPIES_SHOWN:
            lines.append(f"    and {len(data['copies']) - COPIES_SHOWN} groups more (--json lists all)")
    return lines


def _retried(item: Mapping[str, Any]) -> str:
    if item["next_try"] is None:
        return ""
    runs = "1 run" if item["num_runs_failed"] == 1 else f"{item['num_runs_failed']} runs"
    return f" (failed in {runs}; tried again by builds from {item['next_try']} on)"
