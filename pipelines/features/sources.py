"""The bytes of a video, wherever they are."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

from clipmill.pipelines.decode.probe import video_fingerprint
from clipmill.pipelines.features.remote_videos import fetched_copy, remote_fingerprint, remote_state
from clipmill.schemas.errors import VideoError, describe
from clipmill.schemas.records import Video
from clipmill.stores.file_names import is_text, path_of, quoted_name
from clipmill.stores.storage_faults import RetriedCalls, Retries

DEFAULT_CALLS = RetriedCalls(Retries())


def is_local(uri: str) -> bool:
    """Returns whether `uri` is a path or a ``file://`` URL."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> str:
    """Returns the path of a local `uri`."""
    return path_of(uri)


@contextlib.contextmanager
def local_copy(uri: str, calls: RetriedCalls = DEFAULT_CALLS) -> Iterator[str]:
    """Yields a path that holds the bytes of `uri`: its own when local, else a temporary file deleted on leaving.

    The path is UTF-8, as decoders want it: a local file of another name is given by a temporary link to it.

    Args:
        calls: to a remote file's server, and how often they are tried.

    Raises:
        VideoError: ``missing_file`` or ``unreadable``.
    """
    if is_local(uri):
        path = local_path(uri)
        if not os.path.exists(path):
            raise VideoError(
                "probe",
                "missing_file",
                describe("video", uri, "a file", "nothing at that path", "correct the path"),
            )
        if not os.path.isfile(path):
            # Opening a pipe would wait for ever, and reading some devices as well.
            got = "a folder" if os.path.isdir(path) else "a pipe or a device"
            remedy = "give the path of a video file"
            raise VideoError("probe", "unreadable", describe("video", uri, "a file", got, remedy))
        if is_text(path):
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="clipmill-") as folder:
            link = os.path.join(folder, quoted_name(os.path.basename(path)))
            os.symlink(os.path.abspath(path), link)
            yield link
        return
    with fetched_copy(uri, calls) as path:
        yield path


def is_planned(video: Video, path: str, calls: RetriedCalls = DEFAULT_CALLS) -> bool:
    """Returns whether the bytes at `path`, the local copy of `video`, are those it was planned with.

    Raises:
        VideoError: its server cannot be asked.
    """
    if video_fingerprint(path, video.stream) == video.fingerprint:
        return True
    if is_local(video.uri):
        return False
    # Asked after the bytes were fetched: what was replaced meanwhile has another state by now.
    state = remote_state(video.uri, calls)
    return (
        state is not None
        and state.num_bytes == os.stat(path).st_size
        and remote_fingerprint(video.uri, state, video.stream) == video.fingerprint
    )
