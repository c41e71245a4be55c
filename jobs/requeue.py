"""``clipmill requeue``: put quarantined videos back, or damaged rows to be made again."""

from collections.abc import Sequence

from clipmill.jobs.output import Outcome
from clipmill.pipelines.features.quarantine import quarantined_of
from clipmill.schemas.errors import StoreError, UsageError, describe
from clipmill.stores.store import Store
from clipmill.stores.verify import verify_commits

REQUEUE_KEY = "requeue"


def run_requeue(url: str, reasons: Sequence[str]) -> Outcome:
    """Releases every quarantined video, or only those with one of `reasons`.

    Raises:
        UsageError: a reason that no quarantined video has.
    """
    store = Store.open(url)
    rows = store.quarantine().to_pylist()
    known = sorted({row["reason"] for row in rows})
    for reason in reasons:
        if reason not in known:
            raise UsageError(
                describe(
                    "requeue",
                    "--reason",
                    ", ".join(known) or "nothing: quarantine is empty",
                    reason,
                    "see clipmill status",
                )
            )
    chosen = [row for row in rows if not reasons or row["reason"] in reasons]
    items = [quarantined_of(row, row["recipes"]) for row in chosen]
    if items:
        store.write_quarantine(store.new_run_id(), REQUEUE_KEY, items, released=True)
    videos = sorted({item.video_id for item in items})
    text = (
        f"{url}: {len(videos)} videos put back; run clipmill build again" if videos else f"{url}: nothing to put back"
    )
    return Outcome({"store": url, "num_released": len(videos), "videos": videos}, text)


def run_requeue_damaged(url: str) -> Outcome:
    """Withdraws every commit that its shard does not bear out, so that the next build makes its rows again."""
    store = Store.open(url)
    damaged = {problem.shard for problem in verify_commits(store)}
    withdrawn: list[str] = []
    videos: set[str] = set()
    for path in store.commit_paths():
        try:
            rows = store.read_table(path).select(["shard", "video_id"]).to_pylist()
        except StoreError:
            rows = []
        if path in damaged or any(row["shard"] in damaged for row in rows):
            store.withdraw_commit(path)
            withdrawn.append(path)
            videos |= {row["video_id"] for row in rows}
    text = f"{url}: nothing is damaged"
    if withdrawn:
        text = (
            f"{url}: {len(withdrawn)} damaged commits withdrawn, with rows of {len(videos)} videos; "
            "run clipmill build again"
        )
    return Outcome(
        {"store": url, "num_withdrawn": len(withdrawn), "commits": withdrawn, "videos": sorted(videos)}, text
    )
