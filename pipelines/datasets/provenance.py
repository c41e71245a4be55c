"""What the rows of an input were made of, by the passports of their videos, and whether that has changed since."""

from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from clipmill.schemas.features import FeatureSource
from clipmill.stores import Feature

_PARTS = (
    "weights",
    "weights_sha256",
    "decoder",
    "decoder_version",
    "device",
    "precision",
    "num_threads",
    "batch_windows",
    "torch_version",
    "numpy_version",
    "opencv_version",
    "clipmill_version",
)
"""Fields of a passport that decide values, the likeliest first."""
_DIGITS = 8
"""ours: of a digest; enough to tell two versions of one video's rows apart."""


def source_of(name: str, feature: Feature, video_ids: Iterable[str]) -> FeatureSource:
    """Returns what an input was read from: the rows of these videos of the feature called `name`."""
    table = feature.index()
    table = table.filter(pc.is_in(table.column("video_id"), pa.array(sorted(set(video_ids)), pa.string())))
    passports = table.column("passport").combine_chunks()
    digests = pc.struct_field(passports, "values_sha256").to_pylist()
    columns = (table.column(key).to_pylist() for key in ("video_id", "video_fingerprint"))
    videos = {
        video_id: f"{fingerprint[:_DIGITS]}:{(digest or '')[:_DIGITS]}"
        for video_id, fingerprint, digest in zip(*columns, digests, strict=True)
    }
    parts = {}
    for part in _PARTS:
        found = pc.unique(pc.struct_field(passports, part)).to_pylist()
        if values := tuple(sorted(str(value) for value in found if value is not None)):
            parts[part] = values
    return FeatureSource(name, feature.recipe.fingerprint, feature.dim, dict(sorted(videos.items())), parts)


def rows_changed(then: FeatureSource, now: FeatureSource) -> str | None:
    """Returns in words how rows of videos that both have differ, and by which part of their passports; None: they do
    not."""
    shared = [video_id for video_id in now.videos if video_id in then.videos]
    changed = [video_id for video_id in shared if now.videos[video_id] != then.videos[video_id]]
    if not changed:
        return None
    parts = _parts_changed(then, now, changed) or ["nothing else in their passports"]
    return f"other rows for {len(changed)} of {len(shared)} videos, such as {changed[0]!r} ({', '.join(parts[:3])})"


def all_rows_changed(then: Mapping[str, FeatureSource], now: Mapping[str, FeatureSource]) -> list[str]:
    """Returns `rows_changed` of each input whose rows have changed, with its name and its feature's."""
    found = {name: rows_changed(then[name], source) for name, source in now.items() if name in then}
    return [f"{name} feature {now[name].name}: {text}" for name, text in found.items() if text is not None]


def _parts_changed(then: FeatureSource, now: FeatureSource, changed: list[str]) -> list[str]:
    parts = []
    if any(now.videos[name].split(":")[0] != then.videos[name].split(":")[0] for name in changed):
        parts.append("the bytes of the video")
    for part in _PARTS:
        before, after = set(then.passports.get(part, ())), set(now.passports.get(part, ()))
        if new := sorted(after - before):
            parts.append(f"{part} {_short(new)}, then {_short(sorted(before)) or 'unknown'}")
    return parts


def _short(values: list[str]) -> str:
    return " and ".join(value[:12] if len(value) == 64 else value for value in values[:2])
