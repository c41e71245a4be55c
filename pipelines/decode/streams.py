"""Which of a file's video streams is used: the one that was asked for, or the one that stands out.

A stream is asked for by its number as ffprobe shows it (``0``, ``3``), by its place among the video streams as ffmpeg's
``-map`` has it (``v:1``), or by its title or language, whole and in any case.
"""

import re
from collections.abc import Sequence
from typing import Any

from clipmill.pipelines.decode.refusals import refusal
from clipmill.schemas.errors import near

DEFAULT = 0x1
ATTACHED_PICTURE = 0x400
NO_CANDIDATE = ATTACHED_PICTURE | 0x800 | 0x80000 | 0x100000
"""AV_DISPOSITION_ATTACHED_PIC, _TIMED_THUMBNAILS, _DEPENDENT, _STILL_IMAGE: covers, previews, layers of others."""
ALIKE_SHARE = 0.75
"""Of two streams with the same default flag, one whose pictures have more than this share of the other's pixels is as
likely to be meant (ours)."""


def candidates_of(container: Any) -> list[Any]:
    """Returns the streams that are videos, in the order of the file: no covers, previews or layers."""
    return [stream for stream in container.streams.video if not int(stream.disposition) & NO_CANDIDATE]


def choose_stream(path: str, container: Any, wanted: str | None) -> Any:
    """Returns the video stream to be used: where none is wanted, the one libavformat finds best.

    Raises:
        Refused: ``no_video_stream``, ``no_such_stream``, or ``ambiguous_stream``: several fit equally well.
    """
    candidates = candidates_of(container)
    if not candidates:
        others = sorted({stream.type for stream in container.streams if not int(stream.disposition) & ATTACHED_PICTURE})
        got = ", ".join(kind for kind in others if kind != "video") + " only" if set(others) - {"video"} else "none"
        raise refusal(path, "no_video_stream", "a video stream", got, "remove it from the input")
    if wanted is not None:
        return _wanted(path, candidates, wanted)
    best = container.streams.best("video")
    if best not in candidates:
        best = max(candidates, key=lambda stream: (_is_default(stream), _num_pixels(stream), -stream.index))
    alike = [stream for stream in candidates if stream is best or _is_as_likely(stream, best)]
    if len(alike) > 1:
        raise _ambiguous(path, "one video stream that stands out", alike)
    return best


def _wanted(path: str, candidates: Sequence[Any], wanted: str) -> Any:
    place = re.fullmatch(r"v:(\d+)", wanted)
    if place is not None:
        found = list(candidates[int(place[1]) : int(place[1]) + 1])
    elif wanted.isdecimal():
        found = [stream for stream in candidates if stream.index == int(wanted)]
    else:
        found = [stream for stream in candidates if wanted.casefold() in map(str.casefold, _names(stream))]
    if len(found) > 1:
        raise _ambiguous(path, f"one video stream {wanted!r}", found)
    if not found:
        names = [name for stream in candidates for name in _names(stream)]
        hint = near(wanted, names) if names and not (place or wanted.isdecimal()) else "name one of these"
        raise refusal(path, "no_such_stream", f"a video stream {wanted!r}", _listed(candidates), hint)
    return found[0]


def _names(stream: Any) -> list[str]:
    """Returns the title and the language of a stream, where it has them."""
    metadata = stream.metadata
    handler = metadata.get("handler_name")
    titles = [metadata.get("title"), metadata.get("name"), handler if handler not in ("VideoHandler", "") else None]
    language = stream.language or metadata.get("language")
    return [name for name in (*titles, None if language == "und" else language) if name]


def _is_default(stream: Any) -> bool:
    return bool(int(stream.disposition) & DEFAULT)


def _num_pixels(stream: Any) -> int:
    context = stream.codec_context
    return 0 if context is None else (context.width or 0) * (context.height or 0)


def _is_as_likely(stream: Any, best: Any) -> bool:
    if _is_default(stream) != _is_default(best):
        return _is_default(stream)
    small, large = sorted((_num_pixels(stream), _num_pixels(best)))
    # A stream of which one frame is known, beside one of many, is a picture, whatever its flags say.
    pictures = 1 in (stream.frames, best.frames) and stream.frames != best.frames
    return small > ALIKE_SHARE * large and not pictures


def _ambiguous(path: str, expected: str, streams: Sequence[Any]) -> Exception:
    remedy = "choose one with videos.stream, or the manifest's column stream"
    return refusal(path, "ambiguous_stream", expected, _listed(streams), remedy)


def _listed(streams: Sequence[Any]) -> str:
    parts = []
    for stream in streams:
        context = stream.codec_context
        size = f" {context.width}x{context.height}" if context is not None else ""
        names = "".join(f" {name!r}" for name in _names(stream))
        parts.append(f"{stream.index}{size}{names}{' (default)' if _is_default(stream) else ''}")
    return "stream " + ", ".join(parts)
