"""Manifests: the videos of a dataset from a folder, a CSV file or a Parquet file."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from clipmill.schemas.config import VideosConfig
from clipmill.schemas.records import Video
from clipmill.stores.annotated_files import Matching, annotated
from clipmill.stores.file_names import address_of, is_text, quoted_name, unquoted_name
from clipmill.stores.manifest_tables import (
    TIMES,
    called,
    file_system,
    kind_of,
    problem,
    read_table,
    segment_of,
    text_of,
)
from clipmill.stores.storage_faults import Retries

MEDIA_SUFFIXES = frozenset(
    ".3g2 .3gp .amv .asf .avi .divx .dv .f4v .flv .gxf .h264 .h265 .hevc .ivf .m1v .m2t .m2ts .m2v .m4v .mj2 .mjpeg "
    ".mjpg .mkv .mod .mov .mp4 .mpe .mpeg .mpg .mpv .mts .mxf .nut .obu .ogm .ogv .ogx .ps .qt .rm .rmvb .tod .ts .vob "
    ".webm .wmv .wtv .y4m".split()
)
"""ours: suffixes of video files, in lower case; a folder's other files are left out and counted."""

_ID, _PATHS = "id", ("path", "uri")
_TEXTS = (_ID, "label", "split", "segment_label", "stream")
_COLUMNS = (*_PATHS, *_TEXTS, *TIMES)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a dataset consists of.

    Attributes:
        videos: without fingerprint and header: nothing has been opened yet.
        dataset: the folder's or file's name.
        num_left_out: files of the folder that are no media, counted by suffix ("" for files without one).
        matching: how the annotations that listed them fit the files; None: no annotations did.
    """

    videos: tuple[Video, ...]
    dataset: str
    num_left_out: Mapping[str, int] = field(default_factory=dict)
    matching: Matching | None = None


def read_manifest(config: VideosConfig, retries: Retries = Retries()) -> Manifest:  # noqa: B008 (a frozen record)
    """Returns the videos `config` names, in a stable order.

    Args:
        retries: of the calls to storage.

    Raises:
        ManifestError: there is no such folder or file, no video in it, or a row that cannot be used.
        StorageUnavailableError: its server refuses or does not answer.
    """
    if config.folder is not None:
        manifest = _read_folder(config.folder, config.label == "parent_folder", retries)
        if config.annotations is not None:
            named, matching = annotated(config.annotations, config, manifest.videos)
            manifest = replace(manifest, videos=named, matching=matching)
    else:
        manifest = _read_table(config.manifest or "", config.root, retries)
    if config.stream is None:
        return manifest
    videos = [video if video.stream is not None else replace(video, stream=config.stream) for video in manifest.videos]
    return replace(manifest, videos=tuple(videos))


def _read_folder(folder: str, label_by_parent: bool, retries: Retries) -> Manifest:
    fs, root = file_system(_by_quoted_name(folder))
    is_local = "file" in _protocols(fs)
    kind = kind_of(fs, root, "videos.folder", folder, retries)
    if kind != "directory":
        got = "nothing there" if kind is None else "a file"
        remedy = "check the path" if kind is None else "name its folder, or give a list of videos as videos.manifest"
        raise problem("videos.folder", folder, "a folder of videos", got, remedy)
    names = sorted(_local_files(root) if is_local else _remote_files(fs, root, folder, retries))
    videos: list[Video] = []
    left_out: Counter[str] = Counter()
    # Only a name that is no UTF-8 can be spelt like another one.
    spelt: dict[str, str] = {}
    base_name, local_root = _base_name(root), root.rstrip("/")
    for name in names:
        suffix = _suffix(name).lower()
        if suffix not in MEDIA_SUFFIXES:
            left_out[quoted_name(suffix)] += 1
            continue
        uri = address_of(f"{local_root}/{name}") if is_local else fs.unstrip_protocol(f"{root}/{name}")
        video_id = quoted_name(name)
        if other := spelt.get(video_id):
            got = f"{_shown(other)} and {_shown(name)}"
            raise problem("videos.folder", _shown(folder), f"one file of id {video_id}", got, "rename one of them")
        spelt[video_id] = name
        label = quoted_name(PurePosixPath(name).parent.name or base_name) if label_by_parent else None
        videos.append(Video(id=video_id, uri=uri, label=label))
    if not videos:
        counts = ", ".join(f"{count} {suffix or '(no suffix)'}" for suffix, count in sorted(left_out.items()))
        got = f"none (left out: {counts})" if counts else "an empty folder"
        remedy = "check the path, or list the files in a manifest, which takes any suffix"
        raise problem("videos.folder", folder, "at least one video file", got, remedy)
    return Manifest(tuple(videos), _base_name(root), dict(sorted(left_out.items())))


def _suffix(name: str) -> str:
    """Returns what `PurePosixPath.suffix` does, in a tenth of the time: of a million names, some are seconds."""
    last = name[name.rfind("/") + 1 :]
    at = last.rfind(".")
    return last[at:] if 0 < at < len(last) - 1 else ""


def _local_files(root: str) -> Iterator[str]:
    # Links to folders are followed, as people link their datasets together; a loop ends at the folder it began with.
    def walk(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
        try:
            status = os.stat(folder)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise problem(
                "videos.folder", _shown(folder), "a readable folder", reason, "make it readable or move it away"
            ) from None
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            kind = _kind_of(entry)
            if kind == "folder":
                yield from walk(entry.path, f"{prefix}{entry.name}/", above | {here})
            elif kind == "file":
                yield prefix + entry.name

    yield from walk(root, "", frozenset())


def _kind_of(entry: "os.DirEntry[str]") -> str | None:
    try:
        if entry.is_dir():
            return "folder"
        # A broken link counts as a file: it is reported as a video that cannot be opened, not lost in silence. Pipes
        # and devices do not: reading one would wait for ever.
        return "file" if entry.is_file() or not os.path.exists(entry.path) else None
    except OSError:
        return "file"


def _remote_files(fs: Any, root: str, folder: str, retries: Retries) -> Iterator[str]:
    for path in called(lambda: fs.find(root), "videos.folder", folder, retries):
        name = path[len(root) :].lstrip("/")
        if not any(part.startswith(".") for part in name.split("/")):
            yield name


def _read_table(path: str, root: str | None, retries: Retries) -> Manifest:
    of_folder = "use videos.folder for a folder of videos"
    columns, rows = read_table("videos.manifest", path, _COLUMNS, of_folder, _PATHS, retries)
    used = [name for name in _PATHS if name in columns]
    if not used:
        known = ", ".join(columns) or "none"
        raise problem("videos.manifest", path, "a column path (or uri)", f"columns {known}", "rename that of the paths")
    fs, full = file_system(path)
    folder = root if root is not None else (full.rpartition("/")[0] or "/")
    videos = _videos(path, used[0], rows, folder, fs if root is None else None)
    if not videos:
        raise problem("videos.manifest", path, "at least one row", "none", "add a row for each video")
    return Manifest(videos, PurePosixPath(full).stem)


def _videos(
    path: str, path_column: str, rows: Sequence[Mapping[str, Any]], folder: str, fs: Any | None
) -> tuple[Video, ...]:
    grouped: dict[str, Video] = {}
    first_rows: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        place = f"{path} row {number}"
        written = text_of(place, path_column, row.get(path_column))
        if written is None:
            raise problem(place, path_column, "the path of a video", "nothing", "fill it in")
        video_id = text_of(place, _ID, row.get(_ID)) or quoted_name(written)
        segment = segment_of(place, row)
        video = Video(
            id=video_id,
            uri=_address(place, path_column, written, folder, fs),
            label=text_of(place, "label", row.get("label")),
            split=text_of(place, "split", row.get("split")),
            segments=() if segment is None else (segment,),
            stream=text_of(place, "stream", row.get("stream")),
        )
        known = grouped.setdefault(video_id, video)
        first = first_rows.setdefault(video_id, number)
        if first != number:
            grouped[video_id] = _joined(place, first, known, video)
    return tuple(grouped.values())


def _joined(place: str, first: int, known: Video, video: Video) -> Video:
    if not (known.segments and video.segments):
        got = f"{video.id!r}, the id of row {first} as well"
        remedy = "give each video its own id, or each of its rows a segment (start_seconds, stop_seconds)"
        raise problem(place, "id", "an id of its own", got, remedy)
    for name in ("uri", "label", "split", "stream"):
        old, new = getattr(known, name), getattr(video, name)
        if old != new:
            expected = f"{old!r} as in row {first} of the same id"
            raise problem(place, name, expected, repr(new), "make the rows of one video agree")
    return replace(known, segments=known.segments + video.segments)


def _address(place: str, column: str, written: str, folder: str, fs: Any | None) -> str:
    """Returns where a video is, as it is written down; a local file may be named by its bytes, or by its quoted id."""
    full = _resolve(written, folder, fs)
    if not is_text(full):
        if not os.path.lexists(full):
            got = f"other bytes, and no file {_shown(written)}"
            raise problem(place, column, "UTF-8", got, "save the manifest as CSV UTF-8, or correct the path")
        return address_of(full)
    return address_of(_by_quoted_name(full))


def _by_quoted_name(path: str) -> str:
    """Returns the local path that `path` spells where there is no file of its own name."""
    if "%" not in path or "://" in path or os.path.lexists(path):
        return path
    named = unquoted_name(path)
    return named if os.path.lexists(named) else path


def _resolve(written: str, folder: str, fs: Any | None) -> str:
    if "://" in written or os.path.isabs(written):
        return written
    joined = f"{folder.rstrip('/')}/{written}"
    if fs is None:
        return joined if "://" in joined else os.path.abspath(joined)
    return os.path.abspath(joined) if "file" in _protocols(fs) else str(fs.unstrip_protocol(joined))


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _base_name(root: str) -> str:
    return quoted_name(root.rpartition("/")[2]) or "dataset"


def _shown(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode("utf-8")
