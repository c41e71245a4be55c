"""The bytes of a video, wherever they are."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from urllib.parse import urlsplit

import fsspec

from clipmill.schemas.errors import VideoError, describe
from clipmill.stores.file_names import is_text, path_of, quoted_name
from clipmill.stores.storage_faults import RetriedCalls, Retries, fault_of, status_of

COPY_CHUNK_BYTES = 4 << 20


def is_local(uri: str) -> bool:
    """Returns whether `uri` is a path or a ``file://`` URL."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> str:
    """Returns the path of a local `uri`."""
    return path_of(uri)


@contextlib.contextmanager
def local_copy(uri: str) -> Iterator[str]:
    """Yields a path that holds the bytes of `uri`: its own when local, else a temporary file deleted on leaving.

    The path is UTF-8, as decoders want it: a local file of another name is given by a temporary link to it.

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
    with tempfile.TemporaryDirectory(prefix="clipmill-") as folder:
        path = os.path.join(folder, "video" + os.path.splitext(urlsplit(uri).path)[1])

        def fetch() -> None:
            with fsspec.open(uri, "rb") as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target, COPY_CHUNK_BYTES)

        try:
            RetriedCalls(Retries())(fetch)
        except Exception as error:
            raise _fetch_error(uri, error) from None
        yield path


def _fetch_error(uri: str, error: Exception) -> VideoError:
    """Returns why a remote video could not be fetched.

    Every driver has errors of its own, and one for an unknown protocol or a package that is not installed.
    """
    fault = fault_of(error)
    got = (str(error).strip() or type(error).__name__).splitlines()[0]
    if fault == "absent":
        return VideoError(
            "probe", "missing_file", describe("video", uri, "an object", "nothing at that URL", "correct the URL")
        )
    if fault == "passing":
        remedy = "run the same command again when its server answers"
        return VideoError("probe", "storage_unavailable", describe("video", uri, "a server that answers", got, remedy))
    if fault == "credentials" or (fault == "refused" and _is_denied(error)):
        return VideoError(
            "probe",
            "access_denied",
            describe("video", uri, "access to its bytes", got, "set the credentials of its server"),
        )
    return VideoError(
        "probe", "unreadable", describe("video", uri, "readable bytes", got, "check access and run again")
    )


def _is_denied(error: Exception) -> bool:
    return isinstance(error, PermissionError) or status_of(error) in (401, 403)
