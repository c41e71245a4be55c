"""I3D's two streams in one file, so that one digest covers what features depend on."""

from collections.abc import Sequence

from clipmill.extractors.i3d.weights import join_streams, stream_of
from clipmill.schemas.errors import UsageError, describe


def streams_of(files: Sequence[str]) -> dict[str, str]:
    """Returns the two files by stream, ``rgb`` and ``flow``, in whatever order they were given.

    Raises:
        UsageError: they are not one of each.
        WeightsError: one of them is no file of I3D.
    """
    streams = [stream_of(path) for path in files]
    if sorted(streams) != ["flow", "rgb"]:
        got = " and ".join(f"{stream} ({path})" for stream, path in zip(streams, files, strict=True))
        raise UsageError(describe("weights", "i3d", "one file of rgb and one of flow", got, "give one of each"))
    return dict(zip(streams, files, strict=True))


def join(files: Sequence[str], path: str) -> None:
    """Writes both streams' weights into the one file at `path`, for ``stream: both``.

    Raises:
        UsageError: the files are not one of each stream.
        WeightsError: one of them is no file of I3D.
    """
    streams = streams_of(files)
    join_streams(streams["rgb"], streams["flow"], path)
