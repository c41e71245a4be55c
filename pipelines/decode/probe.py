"""What planning reads of a video: its header, and a fingerprint of its bytes."""

import hashlib
import os

from clipmill.pipelines.decode.inspection import DEFAULT_LIMITS, InspectionLimits, inspect
from clipmill.schemas.errors import VideoError
from clipmill.schemas.fingerprint import fingerprint
from clipmill.schemas.records import VideoHeader

CHUNK_BYTES = 4 << 20
FINGERPRINT_BYTES = 16


def probe(path: str, stream: str | None = None, limits: InspectionLimits = DEFAULT_LIMITS) -> VideoHeader:
    """Returns what the container's header claims, and which way up the first frame is. Runs in a child process.

    Args:
        stream: which video stream (see `streams`); None: the one that stands out.

    Raises:
        VideoError: stage ``probe``; the reasons are those of `containers` and ``deadline``, ``decoder_crashed``,
            ``out_of_memory``.
        MachineFaultError: no child could be started.
    """
    return VideoHeader(**inspect("probe", path, "probe", {"stream": stream}, limits).data["header"])


def content_fingerprint(path: str) -> str:
    """Returns 32 hex digits of BLAKE2b-128 over all bytes of the file.

    Raises:
        VideoError: stage ``probe``, reason ``missing_file`` or ``unreadable``.
    """
    digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
    buffer = bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    try:
        with open(path, "rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while count := file.readinto(buffer):
                digest.update(view[:count])
    except FileNotFoundError:
        raise VideoError(
            "probe", "missing_file", f"video {path}: expected a file, got none; correct its path in the manifest"
        ) from None
    except OSError as error:
        raise VideoError(
            "probe",
            "unreadable",
            f"video {path}: expected a readable file, got {error.strerror}; check its permissions",
        ) from None
    return digest.hexdigest()


def video_fingerprint(path: str, stream: str | None) -> str:
    """Returns `content_fingerprint`, and another one for each stream that is asked for: its frames are others.

    Raises:
        VideoError: as `content_fingerprint`.
    """
    content = content_fingerprint(path)
    return content if stream is None else fingerprint({"content": content, "stream": stream})
