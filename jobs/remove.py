"""``clipmill remove``: take videos out of a store that no longer exist, or that are not wanted."""

import sys
from collections.abc import Sequence

from clipmill.jobs.output import Outcome
from clipmill.schemas.errors import UsageError, describe, near
from clipmill.stores.membership import Membership
from clipmill.stores.store import Store

SHOWN = 20
"""ours: ids named on a terminal; ``--json`` has all."""


def run_remove(
    url: str, missing: bool, ids: Sequence[str], ids_from: str | None, dry_run: bool, is_confirmed: bool
) -> Outcome:
    """Takes out the videos that the newest full manifest no longer lists (`missing`), or those of `ids`.

    One record does it for all of them and all features: readers no longer serve them from then on, ``clipmill clean``
    gives their space back, and a later build that lists one brings it back.

    Args:
        ids_from: a text file with further ids, one a line.
        is_confirmed: do it without asking; where nobody can be asked, nothing is done without.

    Raises:
        UsageError: neither or both of `missing` and ids, an id the store does not know, or no confirmation.
    """
    wanted = [*ids, *(_ids_of(ids_from) if ids_from is not None else ())]
    if missing == bool(wanted):
        got = "both" if missing else "neither"
        raise UsageError(
            describe(
                "remove", "videos", "--missing, or --ids with at least one id", got, "say which videos to take out"
            )
        )
    store = Store.open(url)
    held = store.membership()
    chosen = dict(sorted(held.unlisted.items())) if missing else _chosen(held, wanted, url)
    commits = store.commits()
    pairs = set(zip(*(commits.column(name).to_pylist() for name in ("video_id", "recipe_fingerprint")), strict=True))
    num_pairs = sum(video_id in chosen for video_id, _ in pairs)
    what = f"{len(chosen)} videos, {num_pairs} pairs of video and feature"
    if chosen and not dry_run:
        if not is_confirmed and not _agreed(f"{url}: take out {what}? [y/N] "):
            remedy = f"add --yes to take out {what}"
            raise UsageError(describe("remove", url, "--yes, or --dry-run to see what goes", "neither", remedy))
        store.write_removal(store.new_run_id(), chosen)
    data = {
        "store": url,
        "dry_run": dry_run,
        "num_removed": len(chosen),
        "num_pairs": num_pairs,
        "videos": list(chosen),
        "num_served_before": sum(video_id in held.served for video_id in chosen),
    }
    if not chosen:
        return Outcome(data, f"{url}: nothing to take out")
    lines = [
        f"{url}: {'would take' if dry_run else 'took'} out {what}",
        *(f"  {name}" for name in list(chosen)[:SHOWN]),
    ]
    if len(chosen) > SHOWN:
        lines.append(f"  and {len(chosen) - SHOWN} more (--json lists all)")
    if data["num_served_before"]:
        lines.append("  a build that lists one of them makes it again")
    if not dry_run:
        lines.append(f"  their rows stay in shards that nobody reads, until: clipmill clean {url}")
    return Outcome(data, "\n".join(lines))


def _chosen(held: Membership, wanted: Sequence[str], url: str) -> dict[str, str]:
    known = {**held.unlisted, **held.served}
    for video_id in wanted:
        if video_id not in known and video_id not in held.removed:
            hint = near(video_id, known) if len(known) <= 100_000 else f"see clipmill status {url}"
            raise UsageError(describe("remove", "--ids", f"ids of store {url}", repr(video_id), hint))
    return {video_id: known[video_id] for video_id in sorted(set(wanted)) if video_id in known}


def _ids_of(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return [line for line in file.read().splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        got = getattr(error, "strerror", None) or "other bytes than UTF-8"
        remedy = "give a text file with an id a line"
        raise UsageError(describe("remove", f"--ids-from {path}", "a readable text file", got, remedy)) from None


def _agreed(question: str) -> bool:
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
