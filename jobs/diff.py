"""``clipmill diff``: which part of which recipe and passport differs between two stores."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from clipmill.jobs.output import Outcome
from clipmill.stores.reader import FeatureStore

ABSENT = "(absent)"


def run_diff(url: str, other_url: str) -> Outcome:
    """Compares the features in force of two stores, by feature name and video id."""
    stores = FeatureStore(url), FeatureStore(other_url)
    names = sorted({*stores[0].features, *stores[1].features})
    features = [_feature(name, *stores) for name in names]
    same = all(item["same"] for item in features)
    data = {"stores": [url, other_url], "same": same, "features": features}
    lines = [f"{url} and {other_url}: " + ("the same" if same else "different")]
    for item in features:
        lines.append(f"  {item['feature']}: " + ("the same" if item["same"] else item["summary"]))
        lines += [f"    recipe {key}: {left!r} -> {right!r}" for key, (left, right) in item["recipe"].items()]
        lines += [f"    passport {key}: {change} in {count} videos" for key, change, count in item["passport"]]
    return Outcome(data, "\n".join(lines))


def _feature(name: str, left: FeatureStore, right: FeatureStore) -> dict[str, Any]:
    missing = [store.url for store in (left, right) if name not in store.features]
    if missing:
        return {"feature": name, "same": False, "summary": f"not in {missing[0]}", "recipe": {}, "passport": []}
    recipes = [_flat(store[name].recipe.identity()) for store in (left, right)]
    recipe = {
        key: (recipes[0].get(key, ABSENT), recipes[1].get(key, ABSENT))
        for key in sorted({*recipes[0], *recipes[1]})
        if recipes[0].get(key, ABSENT) != recipes[1].get(key, ABSENT)
    }
    rows = [{row["video_id"]: row for row in store[name].index().to_pylist()} for store in (left, right)]
    only = [sorted(rows[0].keys() - rows[1].keys()), sorted(rows[1].keys() - rows[0].keys())]
    changes: Counter[tuple[str, str]] = Counter()
    for video_id in rows[0].keys() & rows[1].keys():
        for key, change in _video(rows[0][video_id], rows[1][video_id]):
            changes[key, change] += 1
    passport = [(key, change, count) for (key, change), count in sorted(changes.items())]
    summary = (
        f"{len(only[0])} videos only left, {len(only[1])} only right, {len(recipe)} recipe keys and "
        f"{len(passport)} passport changes"
    )
    return {
        "feature": name,
        "same": not (recipe or passport or only[0] or only[1]),
        "summary": summary,
        "recipe": recipe,
        "passport": passport,
        "only_left": only[0],
        "only_right": only[1],
    }


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
