"""``clipmill requeue``: put quarantined videos back."""

from collections.abc import Sequence

from clipmill.jobs.output import Outcome
from clipmill.pipelines.features.build import new_run_id
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.records import Quarantined
from clipmill.stores.store import Store

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
    items = [
        Quarantined(
            row["video_id"],
            row["video_fingerprint"],
            row["uri"],
            tuple(row["recipes"]),
            row["stage"],
            row["reason"],
            row["message"],
            row["attempts"],
        )
        for row in chosen
    ]
    if items:
        store.write_quarantine(new_run_id(), REQUEUE_KEY, items, released=True)
    videos = sorted({item.video_id for item in items})
    text = (
        f"{url}: {len(videos)} videos put back; run clipmill build again" if videos else f"{url}: nothing to put back"
    )
    return Outcome({"store": url, "num_released": len(videos), "videos": videos}, text)
