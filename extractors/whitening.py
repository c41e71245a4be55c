"""The file of a PCA whitening: ``.npz``, numbers and text only; and keras_rmac's published matrix (``.mat``)."""

import json
import os
import zipfile
from typing import Any

import numpy as np

from clipmill.schemas.errors import StorageUnavailableError, WeightsError, describe
from clipmill.schemas.whitening import Whitening

FORMAT = "clipmill whitening 1"
REMEDY = "give a file made by clipmill whiten"
MATLAB_START = b"MATLAB 5.0 MAT-file"
PUBLISHED = "published"
"""The feature of a whitening that was not fitted here: what it was fitted on is known as far as its `network` says."""
KERAS_RMAC = {"network": "vgg16", "colour": "bgr", "mean": [123.68, 116.779, 103.939]}
"""What keras_rmac's matrix was fitted on: Caffe's VGG-16 with the means of red and blue swapped (``means: krmac``)."""
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
    """Returns the whitening in the file at `path`: one of clipmill's, or ``PCAmatrices.mat`` of keras_rmac.

    Raises:
        WeightsError: it cannot be read, is no such file, or its numbers are not those of its fingerprint.
    """
    if _is_matlab(path):
        return _read_published(path)
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


def _is_matlab(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(MATLAB_START)) == MATLAB_START
    except OSError:
        return False


def _read_published(path: str) -> Whitening:
    """Returns ``weights [C, D]`` and ``bias [C, 1]`` of ``y = weights x + bias`` as mean, directions and variances."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path, variable_names=["weights", "bias"])
        weights = np.asarray(content["weights"], dtype=np.float64)
        bias = np.asarray(content["bias"], dtype=np.float64).ravel()
        norms = np.linalg.norm(weights, axis=1)
        if weights.ndim != 2 or bias.shape != norms.shape or not (norms > 0).all() or not np.isfinite(bias).all():
            raise ValueError(f"weights {list(weights.shape)} and bias {list(bias.shape)}")
        mean = np.asarray(np.linalg.lstsq(weights, -bias, rcond=None)[0], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError, MatReadError, np.linalg.LinAlgError) as error:
        got = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
        expected = "weights [C, D] and bias [C], as in keras_rmac's PCAmatrices.mat"
        raise WeightsError(describe("whitening", path, expected, got, REMEDY)) from None
    return Whitening(
        mean=mean,
        components=weights / norms[:, None],
        eigenvalues=norms**-2.0,
        num_floored=0,
        num_vectors=0,
        feature=PUBLISHED,
        network=KERAS_RMAC,
        videos=(),
    )
