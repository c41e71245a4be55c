"""``clipmill export``: write one feature in a format other tools read, or as a repository's loader opens it."""

from clipmill.jobs.output import Outcome
from clipmill.schemas.errors import UsageError, describe
from clipmill.stores.export import export_feature
from clipmill.stores.formats.sniff import listed
from clipmill.stores.loaders.export import LoaderExport, export_for_loader
from clipmill.stores.reader import FeatureStore


def run_export(
    url: str,
    name: str,
    out: str,
    format: str | None = None,
    target: str | None = None,
    dataset: str | None = None,
    ids: str | None = None,
    annotations: str | None = None,
) -> Outcome:
    """Exports the feature `name` of the store at `url` to `out`, in `format` or for the loader `target`.

    Raises:
        UsageError: `format` beside `target`, or what belongs to `target` without it.
    """
    data = {"store": url, "feature": name, "out": out}
    if target is not None:
        if format is not None:
            remedy = "leave one out"
            raise UsageError(describe("export", "--for", "a loader or a format", f"{target} and {format}", remedy))
        done = export_for_loader(FeatureStore(url)[name], target, out, ids or "stem", annotations, dataset)
        return Outcome(data | done.as_json(), _text(name, out, annotations, done))
    for option, value in (("--dataset", dataset), ("--ids", ids), ("--annotations", annotations)):
        if value is not None:
            raise UsageError(describe("export", option, "--for beside it", "none", "name the loader, or leave it out"))
    report = export_feature(FeatureStore(url)[name], format or "hdf5", out)
    text = f"{name}: {report['num_videos']} videos, {report['num_rows']} rows written to {out} ({report['format']})"
    return Outcome(data | report, text)


def _text(name: str, out: str, annotations: str | None, done: LoaderExport) -> str:
    exported = done.exported
    least, most, dim = done.shape
    rows = f"{least}" if least == most else f"{least} to {most}"
    source = done.loader.datasets[done.dataset].source
    num_rows = sum(video.num_rows for video in exported.videos)
    lines = [
        f"{name}: {len(exported.videos)} videos, {num_rows} rows written to {out} "
        f"for {done.loader.name} ({done.dataset})",
        f"opened as {source} of {done.loader.repository} does: float32, {rows} rows of {dim} a video",
    ]
    if exported.annotated is not None:
        both = len(exported.annotated) - len(done.not_exported)
        prefix = f" (behind {exported.prefix!r})" if exported.prefix else ""
        lines.append(f"{annotations}: {len(exported.annotated)} videos, {both} of them exported{prefix}")
    for ids, what in (
        (done.not_exported, "annotated and without features"),
        (done.not_annotated, "exported and not annotated"),
        (done.without_rows, "without rows, not written"),
        (done.names.unnamed, "not in the table of --ids, not written"),
        (done.names.unknown, "in the table of --ids and without rows"),
    ):
        if ids:
            lines.append(f"  {len(ids)} {what}: {listed(ids)}")
    if done.id_hint:
        lines.append(f"  {done.id_hint}")
    if done.num_masked:
        lines.append(f"  {done.num_masked} rows that only fill up, not written")
    lines += [f"note: {note}" for note in done.notes]
    lines.append(f"then, in {done.loader.repository}:")
    return "\n".join([*lines, *(f"  {step}" for step in done.next_steps)])
