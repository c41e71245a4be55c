"""``clipmill export``: write one feature in a format other tools read."""

from clipmill.jobs.output import Outcome
from clipmill.stores.export import export_feature
from clipmill.stores.reader import FeatureStore


def run_export(url: str, name: str, format: str, out: str) -> Outcome:
    """Exports the feature `name` of the store at `url` to `out`."""
    report = export_feature(FeatureStore(url)[name], format, out)
    data = {"store": url, "feature": name, "format": format, "out": out} | report
    return Outcome(
        data, f"{name}: {report['num_videos']} videos, {report['num_rows']} rows written to {out} ({format})"
    )
