"""Manifests: the videos of a dataset from a folder, a CSV file or a Parquet file."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from clipmill.schemas.config import VideosConfig
from clipmill.schemas.errors import ManifestError, describe
from clipmill.schemas.records import Segment, Video

MEDIA_SUFFIXES = frozenset(
    ".3g2 .3gp .amv .asf .avi .divx .dv .f4v .flv .gxf .h264 .h265 .hevc .ivf .m1v .m2t .m2ts .m2v .m4v .mj2 .mjpeg "
    ".mjpg .mkv .mod .mov .mp4 .mpe .mpeg .mpg .mpv .mts .mxf .nut .obu .ogm .ogv .ogx .qt .rm .rmvb .tod .ts .vob "
    ".webm .wmv .wtv .y4m".split()
)
"""ours: suffixes of video files, in lower case; a folder's other files are left out and counted."""

NOT_UTF8 = "(file name that is no UTF-8)"
"""The key under which `Manifest.num_left_out` counts files whose name cannot be written down."""

_ID, _PATHS = "id", ("path", "uri")
_TEXTS = (_ID, "label", "split", "segment_label")
_TIMES = ("start_seconds", "stop_seconds")
_COLUMNS = (*_PATHS, *_TEXTS, *_TIMES)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a dataset consists of.

    Attributes:
        videos: without fingerprint and header: nothing has been opened yet.
        dataset: the folder's or file's name.
        num_left_out: files of the folder that are no media, counted by suffix ("" for files without one).
    """

    videos: tuple[Video, ...]
    dataset: str
    num_left_out: Mapping[str, int] = field(default_factory=dict)


def read_manifest(config: VideosConfig) -> Manifest:
    """Returns the videos `config` names, in a stable order.

    Raises:
        ManifestError: there is no such folder or file, no video in it, or a row that cannot be used.
    """
    if config.folder is not None:
        return _read_folder(config.folder, config.label == "parent_folder")
    return _read_table(config.manifest or "", config.root)


def _read_folder(folder: str, label_by_parent: bool) -> Manifest:
    fs, root = _file_system(folder)
    is_local = "file" in _protocols(fs)
    kind = _kind(fs, root, "folder", folder)
    if kind != "directory":
        got = "nothing there" if kind is None else "a file"
        remedy = "check the path" if kind is None else "name its folder, or give a list of videos as videos.manifest"
        raise _problem("videos.folder", folder, "a folder of videos", got, remedy)
    names = sorted(_local_files(root) if is_local else _remote_files(fs, root))
    videos: list[Video] = []
    left_out: Counter[str] = Counter()
    for name in names:
        if not _is_text(name):
            left_out[NOT_UTF8] += 1
            continue
        path = PurePosixPath(name)
        if path.suffix.lower() not in MEDIA_SUFFIXES:
            left_out[path.suffix.lower()] += 1
            continue
        parent = path.parent.name or _base_name(root)
        uri = os.path.join(root, *path.parts) if is_local else fs.unstrip_protocol(f"{root}/{name}")
        videos.append(Video(id=name, uri=uri, label=parent if label_by_parent else None))
    if not videos:
        counts = ", ".join(f"{count} {suffix or '(no suffix)'}" for suffix, count in sorted(left_out.items()))
        got = f"none (left out: {counts})" if counts else "an empty folder"
        remedy = "check the path, or list the files in a manifest, which takes any suffix"
        raise _problem("videos.folder", folder, "at least one video file", got, remedy)
    return Manifest(tuple(videos), _base_name(root), dict(sorted(left_out.items())))


def _local_files(root: str) -> Iterator[str]:
    # Links to folders are followed, as people link their datasets together; a loop ends at the folder it began with.
    def walk(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
        try:
            status = os.stat(folder)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise _problem(
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


def _remote_files(fs: Any, root: str) -> Iterator[str]:
    for path in fs.find(root):
        name = path[len(root) :].lstrip("/")
        if not any(part.startswith(".") for part in name.split("/")):
            yield name


def _read_table(path: str, root: str | None) -> Manifest:
    fs, full = _file_system(path)
    kind = _kind(fs, full, "manifest", path)
    if kind != "file":
        got = "nothing there" if kind is None else "a folder"
        remedy = "check the path" if kind is None else "use videos.folder for a folder of videos"
        raise _problem("videos.manifest", path, "a .csv or .parquet file", got, remedy)
    suffix = PurePosixPath(full).suffix.lower()
    if suffix not in (".csv", ".parquet"):
        got = suffix or "a file without suffix"
        raise _problem(
            "videos.manifest", path, "a .csv or .parquet file", got, "save it as CSV with commas, or Parquet"
        )
    data = fs.cat_file(full)
    columns, rows = _csv_rows(path, data) if suffix == ".csv" else _parquet_rows(path, data)
    used = [name for name in _PATHS if name in columns]
    if not used:
        known = ", ".join(columns) or "none"
        raise _problem(
            "videos.manifest", path, "a column path (or uri)", f"columns {known}", "rename that of the paths"
        )
    folder = root if root is not None else (full.rpartition("/")[0] or "/")
    videos = _videos(path, used[0], rows, folder, fs if root is None else None)
    if not videos:
        raise _problem("videos.manifest", path, "at least one row", "none", "add a row for each video")
    return Manifest(videos, PurePosixPath(full).stem)


def _csv_rows(path: str, data: bytes) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = data[: error.start].count(b"\n") + 1
        raise _problem("videos.manifest", f"{path} line {at}", "UTF-8", "other bytes", "save it as CSV UTF-8") from None
    header = text.partition("\n")[0]
    for name, separator in (("semicolons", ";"), ("tabs", "\t")):
        if separator in header and "," not in header:
            got = f"columns separated by {name}"
            raise _problem("videos.manifest", path, "columns separated by commas", got, "save it as CSV with commas")
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        table = [line for line in reader if line]
    except csv.Error as error:
        raise _problem(
            "videos.manifest", path, "CSV", f"{error} (line {reader.line_num})", "correct the line"
        ) from None
    if not table:
        raise _problem("videos.manifest", path, "a header and rows", "an empty file", "add them")
    columns = [name.strip() for name in table[0]]
    _check_columns(path, columns)
    rows = []
    for number, line in enumerate(table[1:], start=1):
        if len(line) != len(columns):
            got = f"{len(line)} fields"
            raise _problem(
                "videos.manifest", f"{path} row {number}", f"{len(columns)} fields", got, "quote fields with commas"
            )
        rows.append({name: value if value.strip() else None for name, value in zip(columns, line, strict=True)})
    return columns, rows


def _parquet_rows(path: str, data: bytes) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        # By this thread, as in `clipmill.stores.tables.from_parquet`.
        table = pq.ParquetFile(io.BytesIO(data), pre_buffer=False).read(use_threads=False)
    except (pa.ArrowException, OSError):
        raise _problem(
            "videos.manifest", path, "a Parquet file", "other bytes", "write it again with pandas or pyarrow"
        ) from None
    _check_columns(path, table.column_names)
    return table.column_names, table.to_pylist()


def _check_columns(path: str, columns: Sequence[str]) -> None:
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise _problem("videos.manifest", path, "each column once", f"{twice[0]!r} twice", "remove one")
    # A misspelt optional column would otherwise be ignored in silence, and with it every label or segment.
    for name in columns:
        close = [known for known in _COLUMNS if known != name and name.strip().lower().replace(" ", "_") == known]
        if close and close[0] not in columns:
            raise _problem("videos.manifest", path, f"a column {close[0]}", f"{name!r}", "rename the column")


def _videos(
    path: str, path_column: str, rows: Sequence[Mapping[str, Any]], folder: str, fs: Any | None
) -> tuple[Video, ...]:
    grouped: dict[str, Video] = {}
    first_rows: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        place = f"{path} row {number}"
        written = _text(place, path_column, row.get(path_column))
        if written is None:
            raise _problem(place, path_column, "the path of a video", "nothing", "fill it in")
        video_id = _text(place, _ID, row.get(_ID)) or written
        segment = _segment(place, row)
        video = Video(
            id=video_id,
            uri=_resolve(written, folder, fs),
            label=_text(place, "label", row.get("label")),
            split=_text(place, "split", row.get("split")),
            segments=() if segment is None else (segment,),
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
        raise _problem(place, "id", "an id of its own", got, remedy)
    for name in ("uri", "label", "split"):
        old, new = getattr(known, name), getattr(video, name)
        if old != new:
            expected = f"{old!r} as in row {first} of the same id"
            raise _problem(place, name, expected, repr(new), "make the rows of one video agree")
    return Video(known.id, known.uri, label=known.label, split=known.split, segments=known.segments + video.segments)


def _segment(place: str, row: Mapping[str, Any]) -> Segment | None:
    start, stop = (_seconds(place, name, row.get(name)) for name in _TIMES)
    label = _text(place, "segment_label", row.get("segment_label"))
    if start is None and stop is None:
        if label is not None:
            raise _problem(place, "start_seconds", "the start of the segment", "nothing", "fill it in")
        return None
    if start is None or stop is None:
        missing = "start_seconds" if start is None else "stop_seconds"
        raise _problem(place, missing, "a number of seconds", "nothing", "give both ends of a segment")
    if start < 0 or stop <= start:
        raise _problem(place, "stop_seconds", f"0 <= start < stop (start is {start})", str(stop), "correct the segment")
    return Segment(start, stop, label)


def _seconds(place: str, column: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not abs(number) < float("inf"):
        raise _problem(place, column, "a number of seconds", repr(value), "write such as 12.5")
    return number


def _text(place: str, column: str, value: Any) -> str | None:
    if value is None or (isinstance(value, float) and value != value):
        return None
    if not isinstance(value, str | int) or isinstance(value, bool):
        got = f"{type(value).__name__} {value!r}"
        raise _problem(place, column, "text", got, "store the column as strings")
    if "\0" in str(value):
        raise _problem(place, column, "text", "a zero byte", "remove it")
    return str(value) or None


def _resolve(written: str, folder: str, fs: Any | None) -> str:
    if "://" in written or os.path.isabs(written):
        return written
    joined = f"{folder.rstrip('/')}/{written}"
    if fs is None:
        return joined if "://" in joined else os.path.abspath(joined)
    return os.path.abspath(joined) if "file" in _protocols(fs) else str(fs.unstrip_protocol(joined))


def _problem(thing: str, key: str, expected: str, got: str, remedy: str) -> ManifestError:
    return ManifestError(describe(thing, key, expected, got, remedy))


def _file_system(url: str) -> tuple[Any, str]:
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise _problem(
            "videos", url, "a path or a URL fsspec opens", str(error), "correct it or install its driver"
        ) from None
    return fs, path.rstrip("/") or "/"


def _kind(fs: Any, path: str, key: str, shown: str) -> str | None:
    try:
        return str(fs.info(path)["type"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        reason = error.strerror or str(error)
        raise _problem(f"videos.{key}", shown, "something readable", reason, "check access") from None


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _base_name(root: str) -> str:
    return root.rpartition("/")[2] or "dataset"


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode("utf-8")
