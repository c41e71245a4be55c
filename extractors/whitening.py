"""The file of a PCA whitening: ``.npz``, numbers and text only."""

import json
import os
import zipfile
from typing import Any

import numpy as np

from clipmill.schemas.errors import StorageUnavailableError, WeightsError, describe
from clipmill.schemas.whitening import Whitening

FORMAT = "clipmill whitening 1"
REMEDY = "give a file made by clipmill whiten"
ARRAYS = ("mean", "components", "eigenvalues")


def write_whitening(path: str, whitening: Whitening) -> None:
    """Writes the file in one step: whoever reads it meanwhile sees the old one or the new one.

    Raises:
        StorageUnavailableError: it cannot be written.
    """
    folder = os.path.dirname(os.path.abspath(path))
    beside = os.path.join(folder, f".{os.path.basename(path)}.{os.getpid()}")
    text = json.dumps(whitening.about() | {"format": FORMAT, "fingerprint": whitening.fingerprint}, sort_keys=True)
    arrays: dict[str, Any] = {name: getattr(whitening, name) for name in ARRAYS}
    try:
        os.makedirs(folder, exist_ok=True)
        try:
            with open(beside, "wb") as file:
                videos = np.array(whitening.videos, dtype="S32")
                np.savez(file, about=np.array(text), videos=videos, **arrays)
            os.replace(beside, path)
        finally:
            if os.path.exists(beside):
                os.remove(beside)
    except OSError as error:
        got = error.strerror or str(error)
        raise StorageUnavailableError(
            describe("whitening", path, "a file that can be written", got, "choose another out")
        ) from None


def read_whitening(path: str) -> Whitening:
    """Returns the whitening in the file at `path`.

    Raises:
        WeightsError: it cannot be read, is no such file, or its numbers are not those of its fingerprint.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            arrays = {name: np.asarray(file[name], dtype=np.float64) for name in ARRAYS}
            videos = tuple(video.decode("ascii") for video in file["videos"].tolist())
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']!r}")
        whitening = Whitening(
            **arrays,
            num_floored=about["num_floored"],
            num_vectors=about["num_vectors"],
            feature=about["feature"],
            network=about["network"],
            videos=videos,
        )
        written = about["fingerprint"]
    except OSError as error:
        got = error.strerror or str(error)
        raise WeightsError(describe("whitening", path, "a readable file", got, "correct the path")) from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, zipfile.BadZipFile) as error:
        got = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
        raise WeightsError(describe("whitening", path, "a whitening of clipmill's", got, REMEDY)) from None
    if whitening.fingerprint != written:
        got = f"those of {whitening.fingerprint[:8]} (a damaged or edited file)"
        raise WeightsError(
            describe("whitening", path, f"the numbers of fingerprint {written[:8]}", got, "fit it again")
        )
    return whitening
