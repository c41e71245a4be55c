"""Offline batch pipeline for video features: stored features, trained models and their scores.

```python
import clipmill

store = clipmill.open("out/demo/store")  # a clipmill.FeatureStore
rows = store["c3d"]["video id"]          # .values float32[T, D]  .start_seconds[T]  .stop_seconds[T]  .mask[T]
```

```python
found = clipmill.evaluate("detection", ground_truth="truth.json", predictions="results.json")
found.run().metrics["map@0.5"]           # what `clipmill evaluate` prints; see `clipmill.TaskScore`
```

What a build, a training or an evaluation needs beyond that is imported when it is first used, so ``import clipmill``
takes milliseconds.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipmill.pipelines.evaluation.bootstrap import Interval
    from clipmill.pipelines.evaluation.tasks.clip_views import ClipViews
    from clipmill.pipelines.evaluation.tasks.result import RunScore, TaskScore
    from clipmill.schemas.recipe import Recipe
    from clipmill.schemas.segments import Segments
    from clipmill.stores import ClipRows, Feature, FeatureStore

__all__ = [
    "ClipRows",
    "Feature",
    "FeatureStore",
    "Interval",
    "RunScore",
    "Segments",
    "TaskScore",
    "evaluate",
    "open",
]

__version__ = "0.1.0"
"""Written in every passport. Not asked of the installed metadata: code that Ray ships to its workers has none."""

_HOMES = {
    **dict.fromkeys(("ClipRows", "Feature", "FeatureStore"), "clipmill.stores"),
    "Interval": "clipmill.pipelines.evaluation.bootstrap",
    **dict.fromkeys(("RunScore", "TaskScore"), "clipmill.pipelines.evaluation.tasks.result"),
    "Segments": "clipmill.schemas.segments",
}
"""Public name -> the module it is imported from, when it is first asked for."""


def open(url: str) -> "FeatureStore":
    """Opens a store for reading.

    Args:
        url: a folder, or any URL that fsspec takes.

    Raises:
        StoreError: there is no store, or it is of a newer version.
    """
    from clipmill.stores import FeatureStore

    return FeatureStore(url)


def evaluate(
    task: str,
    *,
    ground_truth: Any = None,
    predictions: Any = None,
    out: str | os.PathLike[str] | None = None,
    report: bool = False,
    **keys: Any,
) -> "TaskScore":
    """Scores predictions, as ``clipmill evaluate`` does for a config of the same keys.

    Args:
        task: ``detection``, ``proposals``, ``moments``, ``highlights``, ``classification``, ``ranking``, ``landmarks``,
            ``scene_retrieval``, ``retrieval``, or one that an installed package brings.
        ground_truth: path of a file or folder, data in memory, or a mapping such as ``{"file": path, "subset": "val"}``
            or ``{"arrays": data, "durations": {"video": 12.5}}``. Which data each task takes: docs/python.md.
        predictions: the same, or a list of several; ``{"arrays": data, "name": "ours"}`` names a row.
        out: folder of ``results.json``; None: nothing is written.
        report: write ``report.html`` into `out` too.
        keys: further keys of the task's config, such as ``protocol="thumos14"`` (docs/evaluation_tasks.md); of
            retrieval ``run``, ``data``, or ``queries`` and ``gallery`` in memory (docs/evaluation.md).

    Returns:
        Metrics, baselines, intervals, counts and notes of each run: what ``results.json`` holds.

    Raises:
        clipmill.schemas.errors.UsageError: an argument is none of the task's, a file is something else than the task
            reads, or ids have nothing in common.
        clipmill.schemas.errors.StorageUnavailableError: `out` cannot be written.
    """
    from clipmill.pipelines.evaluation.call import evaluate as call

    given = {"ground_truth": ground_truth, "predictions": predictions, **keys}
    return call(task, _class_names, _clip_views, out=out, report=report, **given)


def _class_names(recipe: "Recipe") -> tuple[str, ...]:
    """Returns the names of a recipe's classes; asked for stored features alone, since it imports the extractors."""
    from clipmill.extractors import registry

    return registry.class_names(recipe)


def _clip_views() -> "ClipViews":
    """Returns who makes images and lineage of stored clips; asked when a page needs them, since it imports decoders."""
    from clipmill.jobs import report_clips

    return report_clips


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'clipmill' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
