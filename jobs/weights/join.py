"""``clipmill weights join``: I3D's two streams in one file, so that one digest covers what features depend on."""

import os
from collections.abc import Sequence

from clipmill.extractors.weights import digest
from clipmill.jobs.output import Outcome
from clipmill.schemas.errors import StorageUnavailableError, UsageError, describe


def run_join(files: Sequence[str], out: str) -> Outcome:
    """Writes the two files of I3D into the one file `out`, which must not be there yet."""
    from clipmill.extractors.i3d.join import streams_of
    from clipmill.extractors.i3d.weights import join_streams

    path = os.path.abspath(os.path.expanduser(out))
    if os.path.exists(path):
        raise UsageError(describe("option", "--out", "a new file", f"{path}, which is there", "give another name"))
    streams = streams_of(files)
    part = f"{path}.part"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # Opened here, because torch raises RuntimeError for a place it cannot write to.
        with open(part, "wb"):
            pass
        join_streams(streams["rgb"], streams["flow"], part)
        os.replace(part, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageUnavailableError(describe("file", path, "to be written", reason, "choose another place")) from None
    data = {"path": path, "sha256": digest(path), "rgb": streams["rgb"], "flow": streams["flow"]}
    text = f"{path}: both streams of I3D\n  in a build  i3d: {{options: {{stream: both}}, weights: {{file: {path}}}}}"
    return Outcome(data, text)
