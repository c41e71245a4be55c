"""``clipmill clean``: delete what no commit refers to."""

from clipmill.jobs.output import Outcome
from clipmill.stores.clean import delete_garbage, find_garbage
from clipmill.stores.store import Store


def run_clean(url: str, dry_run: bool) -> Outcome:
    """Deletes (or with `dry_run` lists) shards without a commit and files of interrupted writes."""
    store = Store.open(url)
    garbage = find_garbage(store)
    if not dry_run:
        delete_garbage(store, garbage)
    num_bytes = sum(item.num_bytes for item in garbage)
    verb = "would delete" if dry_run else "deleted"
    text = "\n".join(
        [f"{url}: {verb} {len(garbage)} objects, {num_bytes} bytes", *(f"  {item.path}" for item in garbage)]
    )
    data = {"store": url, "dry_run": dry_run, "num_bytes": num_bytes, "paths": [item.path for item in garbage]}
    return Outcome(data, text)
