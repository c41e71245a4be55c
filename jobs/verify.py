"""``clipmill verify``: check every commit against its bytes, and compute a sample of rows again."""

import random
from typing import Any

import numpy as np

from clipmill.jobs.output import Outcome
from clipmill.pipelines.features.engines.cores import num_cores
from clipmill.pipelines.features.extraction import resolve_device
from clipmill.pipelines.features.sources import is_planned, local_copy
from clipmill.schemas.errors import EXIT_COMPLETE, EXIT_FAILURE, UsageError, VideoError, describe
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video
from clipmill.schemas.rows import Rows
from clipmill.stores.reader import FeatureStore
from clipmill.stores.store import Store
from clipmill.stores.verify import verify_commits

RELATIVE_TOLERANCE = 1e-3
"""Rows computed again have the batch size and the threads of the stored ones, but may come of another machine's
arithmetic: what is allowed is this share of the row's length (ours; the last bits of float32 sums over 10^5 terms stay
well below it)."""


def run_verify(url: str, sample: float, seed: int) -> Outcome:
    """Checks the whole store's bytes, and recomputes `sample` of the videos of every recipe in force.

    Exit code 1 when anything differs. Of imported features the bytes are all that can be checked.
    """
    if not 0 <= sample <= 1:
        raise UsageError(describe("verify", "--sample", "a share between 0 and 1", str(sample), "such as 0.001"))
    store = Store.open(url)
    damaged = verify_commits(store)
    problems = [f"{item.shard}: {item.message}" for item in damaged]
    features = FeatureStore(url)
    checked: list[dict[str, Any]] = []
    imported = [name for name in features.features if features[name].recipe.is_imported]
    for name in features.features:
        if name in imported:
            continue
        feature = features[name]
        ids = feature.video_ids
        if not ids or sample == 0:
            continue
        passports = {row["video_id"]: row["passport"] for row in feature.index().to_pylist()}
        chosen = random.Random(seed).sample(ids, max(1, round(sample * len(ids))))
        for video_id in sorted(chosen):
            made_with = passports[video_id]
            device = resolve_device("auto", made_with["num_threads"] or num_cores())
            video = features.videos()[video_id]
            outcome = _check(video, feature.recipe, feature[video_id], device, made_with["batch_windows"])
            checked.append({"feature": name, "video_id": video_id} | outcome)
            if outcome["problem"]:
                problems.append(f"{name} {video_id}: {outcome['problem']}")
    data = {
        "store": url,
        "num_commit_rows": store.commits().num_rows,
        "recomputed": checked,
        "imported": imported,
        "problems": problems,
    }
    worst = max((item["largest_difference"] for item in checked), default=0.0)
    text = (
        f"{url}: {data['num_commit_rows']} committed videos checked against their bytes; {len(checked)} computed "
        f"again, largest relative difference {worst:.2e}; {len(problems)} problems"
    )
    lines = [text, *("  " + line for line in problems)]
    if damaged:
        lines.append(f"  have damaged rows made again with: clipmill requeue {url} --damaged, then clipmill build")
    if imported and sample:
        lines.append(f"  imported, so nothing can compute them again: {', '.join(imported)}")
    return Outcome(data, "\n".join(lines), EXIT_FAILURE if problems else EXIT_COMPLETE)


def _check(video: Video, recipe: Recipe, stored: Rows, device: str, batch_windows: int | None) -> dict[str, Any]:
    from clipmill.pipelines.features.recompute import recompute

    try:
        with local_copy(video.uri) as path:
            if not is_planned(video, path):
                return _outcome("the file has changed since; run clipmill build --recheck bytes")
        rows = recompute(video, recipe, device, batch_windows=batch_windows)
    except VideoError as error:
        return _outcome(error.message)
    if rows.values.shape != stored.values.shape:
        return _outcome(f"expected rows of shape {stored.values.shape}, got {rows.values.shape}")
    if rows.values.dtype == np.uint8:
        return _outcome("" if np.array_equal(rows.values, stored.values) else "rows differ")
    old, new = stored.values.astype(np.float64), rows.values.astype(np.float64)
    scale = np.maximum(np.linalg.norm(old, axis=1), np.finfo(np.float32).tiny)
    largest = float((np.linalg.norm(new - old, axis=1) / scale).max(initial=0.0))
    problem = f"rows differ by {largest:.2e} of their length" if largest > RELATIVE_TOLERANCE else ""
    return _outcome(problem, largest)


def _outcome(problem: str, largest: float = 0.0) -> dict[str, Any]:
    return {"problem": problem, "largest_difference": largest}
