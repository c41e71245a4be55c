"""``clipmill diff``: which part of which recipe and passport differs between two stores, and how far rows are apart."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from clipmill.jobs.output import Outcome
from clipmill.schemas.errors import EXIT_COMPLETE, EXIT_GATE, UsageError, describe
from clipmill.stores.feature import Feature
from clipmill.stores.reader import FeatureStore
from clipmill.stores.row_differences import Difference, difference_of, tolerance_of

ABSENT = "(absent)"

DIFFERENCES = ("none", "passport", "rounding", "rows")
"""What two features differ in, the least first. ``passport``: all rows are equal, but not what they were made with.
``rounding``: rows differ by less than `tolerance_of` their precision. ``rows``: they differ by more, or recipes, files
or the sets of videos do."""

WORDS = {
    "none": "the same",
    "passport": "the same rows, made with other settings",
    "rounding": "the same up to rounding",
    "rows": "different",
}


FAIL_ON = ("rows", "rounding")


def run_diff(url: str, other_url: str, fail_on: str | None = None) -> Outcome:
    """Compares the features in force of two stores, by feature name and video id.

    Args:
        fail_on: of `FAIL_ON`: exit code 5 where stores differ so much or more. None: always 0.

    Raises:
        UsageError: `fail_on` is none of these.
        StoreError: there is no store, or rows that are to be compared cannot be read.
    """
    if fail_on is not None and fail_on not in FAIL_ON:
        raise UsageError(describe("diff", "--fail-on", " or ".join(FAIL_ON), fail_on, "correct it, or leave it out"))
    stores = FeatureStore(url), FeatureStore(other_url)
    names = sorted({*stores[0].features, *stores[1].features})
    features = [_feature(name, *stores) for name in names]
    difference = max((item["difference"] for item in features), key=DIFFERENCES.index, default="none")
    data = {"stores": [url, other_url], "same": difference == "none", "difference": difference, "features": features}
    lines = [f"{url} and {other_url}: {WORDS[difference]}"]
    for item in features:
        lines.append(f"  {item['feature']}: {_told(item)}")
        lines += [f"    recipe {key}: {left!r} -> {right!r}" for key, (left, right) in item["recipe"].items()]
        lines += [f"    passport {key}: {change} in {count} videos" for key, change, count in item["passport"]]
        lines += [f"    rows of {line}" for line in _rows_told(item)]
    failed = fail_on is not None and DIFFERENCES.index(difference) >= DIFFERENCES.index(fail_on)
    return Outcome(data, "\n".join(lines), EXIT_GATE if failed else EXIT_COMPLETE)


def _told(item: Mapping[str, Any]) -> str:
    if item["difference"] == "none":
        return WORDS["none"]
    if item["difference"] == "rows":
        return str(item["summary"])
    return f"{WORDS[item['difference']]}; {item['summary']}"


def _rows_told(item: Mapping[str, Any]) -> list[str]:
    rows = item.get("rows")
    if not rows:
        return []
    lines = []
    if rows["num_rounding"]:
        lines.append(
            f"{rows['num_rounding']} videos differ by rounding: at most {rows['largest_rounding']:.3g}, "
            f"{rows['relative_rounding']:.1e} of the video's largest value (rounding is up to {rows['tolerance']:.0e})"
        )
    if rows["num_different"]:
        lines.append(f"{rows['num_different']} videos differ by more, such as {rows['example']}")
    return lines


def _feature(name: str, left: FeatureStore, right: FeatureStore) -> dict[str, Any]:
    missing = [store.url for store in (left, right) if name not in store.features]
    if missing:
        nothing: dict[str, Any] = {"recipe": {}, "passport": [], "rows": None}
        return {"feature": name, "same": False, "difference": "rows", "summary": f"not in {missing[0]}"} | nothing
    recipes = [_flat(store[name].recipe.identity()) for store in (left, right)]
    recipe = {
        key: (recipes[0].get(key, ABSENT), recipes[1].get(key, ABSENT))
        for key in sorted({*recipes[0], *recipes[1]})
        if recipes[0].get(key, ABSENT) != recipes[1].get(key, ABSENT)
    }
    rows = [{row["video_id"]: row for row in store[name].index().to_pylist()} for store in (left, right)]
    only = [sorted(rows[0].keys() - rows[1].keys()), sorted(rows[1].keys() - rows[0].keys())]
    changes: Counter[tuple[str, str]] = Counter()
    apart: list[str] = []
    other_files = False
    for video_id in sorted(rows[0].keys() & rows[1].keys()):
        found = _video(rows[0][video_id], rows[1][video_id])
        changes.update(found)
        other_files |= any(key == "video_fingerprint" for key, _ in found)
        if any(key == "values_sha256" for key, _ in found):
            apart.append(video_id)
    passport = [(key, change, count) for (key, change), count in sorted(changes.items())]
    # Rows of other recipes, or of other bytes, are not meant to be alike.
    compared = _rows(left[name], right[name], apart) if apart and not (recipe or other_files) else None
    difference = "passport" if passport else "none"
    if recipe or only[0] or only[1] or other_files or (compared and compared["num_different"]):
        difference = "rows"
    elif compared:
        difference = "rounding"
    summary = (
        f"{len(only[0])} videos only left, {len(only[1])} only right, {len(recipe)} recipe keys and "
        f"{len(passport)} passport changes"
    )
    return {
        "feature": name,
        "same": difference == "none",
        "difference": difference,
        "summary": summary,
        "recipe": recipe,
        "passport": passport,
        "rows": compared,
        "only_left": only[0],
        "only_right": only[1],
    }


def _rows(left: Feature, right: Feature, video_ids: Sequence[str]) -> dict[str, Any]:
    """Returns how far the rows of these videos are apart, whose digests differ."""
    tolerance = tolerance_of(left.recipe.precision, left.recipe.dtype)
    found: dict[str, Difference] = {}
    for video_id in video_ids:
        difference = difference_of(left.stored(video_id), right.stored(video_id), tolerance)
        if difference is not None:
            found[video_id] = difference
    rounding = [item for item in found.values() if item.is_rounding]
    different = {video_id: item for video_id, item in found.items() if not item.is_rounding}
    example = next(iter(different.items()), None)
    return {
        "tolerance": tolerance,
        "num_rounding": len(rounding),
        "largest_rounding": max((item.largest or 0.0 for item in rounding), default=0.0),
        "relative_rounding": max((item.relative or 0.0 for item in rounding), default=0.0),
        "num_different": len(different),
        "largest_difference": max((item.largest or 0.0 for item in different.values()), default=0.0),
        "example": _example(*example) if example else None,
    }


def _example(video_id: str, item: Difference) -> str:
    if item.largest is None or item.relative is None:
        return f"{video_id}: {item.what}"
    return f"{video_id}: {item.what} by {item.largest:.3g}, {item.relative:.1e} of the largest value"


def _video(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[tuple[str, str]]:
    changes = []
    if left["video_fingerprint"] != right["video_fingerprint"]:
        changes.append(("video_fingerprint", "the file's bytes differ"))
    old, new = _flat(left["passport"]), _flat(right["passport"])
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            change = "rows differ" if key == "values_sha256" else f"{old.get(key)!r} -> {new.get(key)!r}"
            changes.append((key, change))
    return changes


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = item
    return flat
