"""``clipmill clean``: delete what no commit refers to, and rows of removed videos."""

from clipmill.jobs.output import Outcome
from clipmill.schemas.errors import EXIT_COMPLETE, EXIT_FAILURE, StoreError
from clipmill.stores.clean import delete_garbage, drop_removed_rows, find_garbage, find_removed_rows, shard_of
from clipmill.stores.store import Store


def run_clean(url: str, dry_run: bool) -> Outcome:
    """Deletes (or with `dry_run` lists) rows of removed videos, shards without a commit, files of killed writes.

    Exit code 1 where a damaged shard keeps its rows of removed videos.
    """
    store = Store.open(url)
    commits = find_removed_rows(store)
    problems = []
    for commit in commits if not dry_run else ():
        try:
            drop_removed_rows(store, commit)
        except StoreError as error:
            problems.append(f"{error}, or have its rows made again: clipmill requeue {url} --damaged")
    garbage = find_garbage(store)
    if dry_run:
        freed = {shard for commit in commits for shard in commit.shards}
        garbage += [item for item in store.objects.find("shards") if shard_of(item.path) in freed]
        garbage.sort(key=lambda item: item.path)
    else:
        delete_garbage(store, garbage)
    num_bytes = sum(item.num_bytes for item in garbage)
    videos = {video_id for commit in commits for video_id in commit.video_ids}
    lines = [f"{url}: {'would delete' if dry_run else 'deleted'} {len(garbage)} objects, {num_bytes} bytes"]
    if commits:
        num_shared = sum(bool(commit.kept) for commit in commits)
        lines.append(
            f"  rows of {len(videos)} removed videos, in {len(commits)} commits; in {num_shared} of these, rows of "
            f"other videos {'would move' if dry_run else 'moved'}, unchanged, to shards without them"
        )
    lines += [f"  {item.path}" for item in garbage]
    lines += [f"  left as it is: {problem}" for problem in problems]
    data = {
        "store": url,
        "dry_run": dry_run,
        "num_bytes": num_bytes,
        "paths": [item.path for item in garbage],
        "num_removed_videos": len(videos),
        "num_commits_changed": len(commits) - len(problems),
        "problems": problems,
    }
    return Outcome(data, "\n".join(lines), EXIT_FAILURE if problems else EXIT_COMPLETE)
