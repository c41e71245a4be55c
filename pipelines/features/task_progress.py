"""How far earlier tries of a task came, in the same run."""

from dataclasses import dataclass, field, replace

from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video
from clipmill.schemas.task import ShardTask, TaskResult
from clipmill.stores.store import Store


@dataclass(slots=True)
class Progress:
    """Results of the parts of a task, the ids of the videos in them, and what of it is left, in the order of work."""

    results: list[TaskResult] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    left: list[tuple[tuple[Video, ...], list[Recipe]]] = field(default_factory=list)


def progress_of(store: Store, run_id: str, task: ShardTask) -> Progress:
    """Returns what earlier tries of the task, in this run, have committed, and what is left."""
    recipes = [recipe for recipe in task.recipes if not store.has_commit(recipe, task.key)]
    progress = Progress()
    for part in store.task_parts(run_id, task.key):
        if not progress.done.isdisjoint(part.video_ids):
            continue
        expected = [recipe for recipe in recipes if recipe.fingerprint in part.recipes]
        missing = [recipe for recipe in expected if not store.has_commit(recipe, part.key)]
        if missing:
            progress.left.append((tuple(video for video in task.videos if video.id in part.video_ids), missing))
        num_rows = dict(part.result.num_rows) | {recipe.key: 0 for recipe in missing}
        progress.results.append(replace(part.result, num_rows=num_rows))
        progress.done |= set(part.video_ids)
        # It may have been killed between the commit and this.
        store.write_quarantine(run_id, part.key, part.result.quarantined)
    rest = tuple(video for video in task.videos if video.id not in progress.done)
    if rest and recipes:
        progress.left.append((rest, recipes))
    return progress
