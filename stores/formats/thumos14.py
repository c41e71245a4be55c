"""THUMOS14 text: one file of intervals per class, the list of classes, and detections.

::

    <Class>_<test|val>.txt     video_test_0000004  0.2 1.1              one interval a line, in seconds
    Ambiguous_<test|val>.txt   the same; intervals that are neither correct nor incorrect
    detclasslist.txt           7 BaseballPitch                          number and name of the 20 classes
    detections                 video_test_0000004 0.2 1.1 7 0.98        video, start, stop, class number, score

Source: the THUMOS'14 challenge's temporal detection annotations and evaluation kit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clipmill.schemas.errors import FormatError, UsageError, describe
from clipmill.schemas.segments import Segments, segments_from_columns
from clipmill.stores.formats.reader import Head, Reader, ReadRequest, is_number
from clipmill.stores.formats.records import SegmentTable
from clipmill.stores.formats.sniff import listed, looks_like, read_lines, seconds, wrong_format, wrong_line

AMBIGUOUS = "Ambiguous"
CLASS_LIST = "detclasslist.txt"
"""Name of the class list beside the annotations."""
_INTERVALS = "THUMOS14 intervals: lines of <video> <start> <stop>"
_CLASSES = "a THUMOS14 class list: lines of <number> <name>"
_DETECTIONS = "THUMOS14 detections: lines of <video> <start> <stop> <class number> <score>"


@dataclass(frozen=True, slots=True)
class Thumos14:
    """The annotations of one subset.

    Attributes:
        segments: by class in the order of the class list, then as listed. Videos that only have ambiguous intervals are
            not listed.
        ambiguous: intervals of the class ``Ambiguous``.
    """

    segments: Segments
    ambiguous: Segments


def read_thumos14(folder: str | Path, subset: str) -> Thumos14:
    """Returns the annotations in the files ``<Class>_<subset>.txt`` of `folder`.

    Args:
        subset: ``test`` or ``val``.

    Raises:
        FormatError: there are no such files, or a line is malformed.
    """
    root = Path(folder)
    expected = f"a folder of THUMOS14 files such as BaseballPitch_{subset}.txt"
    if not root.is_dir():
        raise FormatError(describe("folder", str(folder), expected, looks_like(folder), "check the path"))
    names = sorted(file.stem.removesuffix(f"_{subset}") for file in root.glob(f"*_{subset}.txt"))
    if not names:
        found = sorted(file.name for file in root.iterdir())
        raise FormatError(describe("folder", str(folder), expected, listed(found) or "nothing", "check the subset"))
    if (root / CLASS_LIST).is_file():
        classes = list(read_thumos14_classes(root / CLASS_LIST).values())
        missing = [name for name in classes if name not in names]
        if missing:
            raise FormatError(
                describe("folder", str(folder), "a file for each class", f"none for {listed(missing)}", "complete it")
            )
        names = classes + [name for name in names if name == AMBIGUOUS]
    rows = {name: _intervals(root / f"{name}_{subset}.txt") for name in names}
    ambiguous = rows.pop(AMBIGUOUS, [])
    return Thumos14(_table(rows), _table({AMBIGUOUS: ambiguous}))


def read_thumos14_classes(path: str | Path) -> dict[int, str]:
    """Returns class number to name, in the order of the file.

    Raises:
        FormatError: the file is something else, or a number or name stands twice.
    """
    classes: dict[int, str] = {}
    for number, line in read_lines(path, _CLASSES):
        fields = line.split()
        if len(fields) != 2 or not fields[0].isdigit():
            raise wrong_format(path, _CLASSES) if number == 1 else wrong_line(path, number, line, "<number> <name>")
        if int(fields[0]) in classes or fields[1] in classes.values():
            raise wrong_line(path, number, line, "each class once")
        classes[int(fields[0])] = fields[1]
    return classes


def read_thumos14_detections(path: str | Path, classes: Mapping[int, str]) -> Segments:
    """Returns the detections in `path`, as listed; an ending ``.mp4`` of a video is dropped, as by the official kit.

    Raises:
        FormatError: the file is something else, or has a class number that is not in `classes`.
    """
    rows = []
    for number, line in read_lines(path, _DETECTIONS):
        fields = line.split()
        values = [seconds(value) for value in fields[1:]]
        if len(fields) != 5 or None in values or not fields[3].isdigit():
            raise wrong_format(path, _DETECTIONS) if number == 1 else wrong_line(path, number, line, _DETECTIONS)
        if int(fields[3]) not in classes:
            known = ", ".join(str(code) for code in classes)
            raise wrong_line(path, number, line, f"a class number of the list ({known})")
        rows.append((fields[0].removesuffix(".mp4"), values[0], values[1], classes[int(fields[3])], values[3]))
    video, start, stop, label, score = zip(*rows, strict=True)
    return segments_from_columns(video, start, stop, label, score, label_names=classes.values())


def write_thumos14(folder: str | Path, subset: str, annotations: Thumos14, classes: Mapping[int, str]) -> None:
    """Writes one file per class of `classes`, the ambiguous intervals and the class list into `folder`."""
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    (root / CLASS_LIST).write_text("".join(f"{code} {name}\n" for code, name in classes.items()))
    tables = [(name, _of_class(annotations.segments, name)) for name in classes.values()]
    for name, table in [*tables, (AMBIGUOUS, annotations.ambiguous)]:
        lines = [f"{video}  {start!r} {stop!r}\n" for video, start, stop, _ in _rows(table)]
        (root / f"{name}_{subset}.txt").write_text("".join(lines), encoding="utf-8")


def write_thumos14_detections(path: str | Path, detections: Segments, classes: Mapping[int, str]) -> None:
    """Writes detections as listed, times and scores exactly; their classes must be in `classes`."""
    codes = {name: code for code, name in classes.items()}
    rows = zip(_rows(detections), detections.label.tolist(), strict=True)
    lines = [
        f"{video} {start!r} {stop!r} {codes[detections.label_names[label]]} {score!r}\n"
        for (video, start, stop, score), label in rows
    ]
    Path(path).write_text("".join(lines), encoding="utf-8")


def _rows(table: Segments) -> list[tuple[str, float, float, float]]:
    columns = (table.video, table.start_seconds, table.stop_seconds, table.score)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [(table.video_ids[video], start, stop, score) for video, start, stop, score in rows]


def _table(rows: Mapping[str, list[tuple[str, float, float]]]) -> Segments:
    flat = [(video, start, stop, name) for name, intervals in rows.items() for video, start, stop in intervals]
    video, start, stop, label = zip(*flat, strict=True) if flat else ((), (), (), ())
    return segments_from_columns(video, start, stop, label, label_names=rows)


def _of_class(segments: Segments, name: str) -> Segments:
    return segments.take(segments.label == (segments.label_names.index(name) if name in segments.label_names else -1))


def _intervals(path: Path) -> list[tuple[str, float, float]]:
    # A class without intervals has an empty file.
    if path.stat().st_size == 0:
        return []
    rows = []
    for number, line in read_lines(path, _INTERVALS):
        fields = line.split()
        start, stop = (seconds(fields[1]), seconds(fields[2])) if len(fields) == 3 else (None, None)
        if start is None or stop is None:
            raise wrong_format(path, _INTERVALS) if number == 1 else wrong_line(path, number, line, _INTERVALS)
        rows.append((fields[0], start, stop))
    return rows


def _looks_like(head: Head) -> bool:
    if head.names:
        annotated = any(name.endswith(("_test.txt", "_val.txt")) for name in head.names)
        return annotated and not any(name.endswith("_query.txt") for name in head.names)
    return len(head.fields) == 5 and all(is_number(field) for field in head.fields[1:])


def _annotations(request: ReadRequest) -> SegmentTable:
    annotations = read_thumos14(request.path, request.subset or _only_subset(request))
    return SegmentTable(annotations.segments, annotations.ambiguous)


def _only_subset(request: ReadRequest) -> str:
    there = [name for name in ("test", "val") if any(Path(request.path).glob(f"*_{name}.txt"))]
    if len(there) != 1:
        got = f"none, and {request.path} has {' and '.join(there) or 'neither'}"
        raise UsageError(describe(request.thing, "subset", "test or val", got, "name one"))
    return there[0]


def _detections(request: ReadRequest) -> SegmentTable:
    return SegmentTable(read_thumos14_detections(request.path, _class_list(request)))


def _class_list(request: ReadRequest) -> Mapping[int, str]:
    if isinstance(request.classes, tuple):
        return dict(enumerate(request.classes, 1))
    path = request.classes or str(Path(request.truth_path or "") / CLASS_LIST)
    if request.classes is None and not Path(path).is_file():
        remedy = f"give predictions.classes: {CLASS_LIST}, or a list of names for class 1, 2, ..."
        raise UsageError(describe(request.thing, "classes", "names of the class numbers", "none", remedy))
    return read_thumos14_classes(path)


READER = Reader(
    "thumos14",
    "a folder of THUMOS14 interval files, or THUMOS14 detections",
    _looks_like,
    truth={"segments": _annotations},
    predictions={"segments": _detections},
    takes=frozenset({"subset", "classes"}),
)
