"""``clipmill import``: features made elsewhere become a store."""

import json
import sys
from collections.abc import Sequence

from clipmill.jobs.configs import read_config, tell_config
from clipmill.jobs.output import Outcome
from clipmill.pipelines.features.imported.run import ImportedFeature, ImportReport, import_features
from clipmill.schemas.config_import import ImportConfig
from clipmill.stores.formats.sniff import listed


def run_import(path: str, overrides: Sequence[str]) -> Outcome:
    """Imports as the config at `path` says."""
    config = read_config(ImportConfig, path, overrides)
    tell_config(config)
    report = import_features(config, _progress)
    return Outcome(report.as_json(), _text(report))


def _progress(feature: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{feature}: {done}/{total} items" + ("\n" if done == total else ""))
        sys.stderr.flush()
    else:
        print(json.dumps({"event": "imported", "feature": feature, "items": done, "num_items": total}), file=sys.stderr)


def _text(report: ImportReport) -> str:
    lines = [
        f"run {report.run_id}: dataset {report.dataset} in {report.store}",
        f"  items {report.num_items}, {report.num_labels} labels; {report.seconds:.1f} s",
    ]
    for feature in report.features:
        lines += [f"  {line}" for line in _feature_lines(feature)]
    return "\n".join(lines)


def _feature_lines(feature: ImportedFeature) -> list[str]:
    lines = [
        f"{feature.key}: {feature.num_imported} items imported ({feature.num_rows} rows of {feature.dim}, "
        f"{feature.dtype}), {feature.num_before} before"
    ]
    if feature.replaced is not None:
        lines.append(f"  the files are no longer those of {feature.replaced}, whose rows stay readable by that name")
    if feature.missing:
        lines.append(f"  without rows: {feature.num_missing} items, such as {listed(feature.missing, 3)}")
    if feature.surplus:
        lines.append(f"  in the files alone: {feature.num_surplus} ids, such as {listed(feature.surplus, 3)}")
    return lines
