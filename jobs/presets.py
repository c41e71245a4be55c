"""``clipmill presets``: published feature sets by name, and what one of them means."""

from typing import Any

import yaml

from clipmill.extractors.presets import PRESETS, Preset, preset, written_out
from clipmill.extractors.resolve import resolve_recipe
from clipmill.jobs.output import Outcome
from clipmill.pipelines.features.row_counts import expected_rows
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.model import validate
from clipmill.schemas.recipe import ClipRule, Recipe


def run_presets(name: str | None, seconds: float, fps: float) -> Outcome:
    """Lists the presets, or shows one as the YAML one would write by hand, with its rows for a video of this length.

    Raises:
        UsageError: there is no such preset, or the length is no length.
    """
    for key, value in (("--seconds", seconds), ("--fps", fps)):
        if not 0 < value < float("inf"):
            raise UsageError(describe("presets", key, "a number above zero", f"{value:g}", "correct it"))
    length = {"seconds": seconds, "fps": fps}
    if name is not None:
        found = preset(name)
        return Outcome(_data(name, found, seconds, fps) | length, _shown(name, found, seconds, fps))
    width = max(len(name) for name in PRESETS)
    lines = [f"{name.ljust(width)}  {found.summary}" for name, found in PRESETS.items()]
    lines.append("clipmill presets NAME shows one; features: {i3d: {preset: NAME, weights: {file: PATH}}} uses it")
    data = {"presets": [_data(name, found, seconds, fps) for name, found in PRESETS.items()]}
    return Outcome(data | length, "\n".join(lines))


def recipes(found: Preset) -> dict[str, Recipe]:
    """Returns the preset's recipes by extractor, with random weights and without the files it needs."""
    made = {}
    for extractor, keys in found.features.items():
        written = written_out(extractor, keys, {"weights": {"random": 0}})
        if found.needs:
            written["options"] = {key: value for key, value in written["options"].items() if not key.startswith("pca")}
        feature = validate(FeatureConfig, written, extractor)
        made[extractor] = resolve_recipe(extractor, feature, ClipRule(), DecodeConfig())
    return made


def _data(name: str, found: Preset, seconds: float, fps: float) -> dict[str, Any]:
    counts = {
        extractor: expected_rows(recipe, max(round(seconds * fps), 1), fps)
        for extractor, recipe in recipes(found).items()
    }
    return {
        "name": name,
        "summary": found.summary,
        "source": found.source,
        "features": {extractor: _written(extractor, name, found) for extractor in found.features},
        "rows": found.rows,
        "expected_rows": counts,
        "weights": found.weights,
        "needs": list(found.needs),
        "differs": list(found.differs),
    }


def _written(extractor: str, name: str, found: Preset) -> dict[str, Any]:
    """Returns the preset's keys as one would write them, files as placeholders."""
    keys = written_out(extractor, found.features[extractor], {"weights": {"file": "PATH"}})
    written = {key: value for key, value in keys.items() if value}
    for dotted in found.needs:
        group, key = dotted.split(".")
        written.setdefault(group, {})[key] = "columns or rows" if key.endswith("orientation") else "PATH"
    return {key: written[key] for key in ("extractor", *sorted(written.keys() - {"extractor"}))}


def _shown(name: str, found: Preset, seconds: float, fps: float) -> str:
    data = _data(name, found, seconds, fps)
    counts = ", ".join(f"{count} ({extractor})" for extractor, count in data["expected_rows"].items())
    lines = [
        f"# {name}: {found.summary}",
        f"# source:  {found.source}",
        f"# rows:    {found.rows}",
        f"#          of {seconds:g} s at {fps:g} frames a second: {counts}",
        f"# weights: {found.weights}",
        *(f"# differs: {difference}" for difference in found.differs),
        "features:",
    ]
    text = yaml.safe_dump(data["features"], sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    return "\n".join([*lines, *(f"  {line}" for line in text.rstrip().splitlines())])
