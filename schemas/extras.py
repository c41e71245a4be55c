"""Which extra of the package brings a library that is not installed: `pip install 'clipmill[extract]'` and so on."""

from clipmill.schemas.errors import UsageError, describe

EXTRAS = {
    "extract": ("av", "cv2", "decord", "safetensors", "torch"),
    "train": ("torch", "safetensors"),
    "ray": ("ray",),
    "beam": ("apache_beam", "psutil"),
    "dask": ("distributed",),
    "faiss": ("faiss",),
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("openvino",),
    "prometheus": ("prometheus_client",),
    "tensorboard": ("tensorboard",),
    "webdataset": ("webdataset",),
    "lance": ("lance",),
    "pandas": ("pandas",),
    "s3": ("s3fs",),
    "gcs": ("gcsfs",),
    "azure": ("adlfs",),
}
"""Name of an extra -> what it brings, by the names they are imported by. setup.py says in which versions."""

_SCHEMES = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}
"""Protocol of a URL -> the extra with fsspec's driver for it."""

_PURPOSES = {
    "openvino": "to run networks by OpenVINO",
    "pandas": "for rows as a frame",
    "extract": "to decode videos and make features",
    "train": "to train models and to use trained ones",
    "ray": "to build and train on Ray, and to sweep",
    "beam": "to build on Apache Beam",
    "dask": "to work on a Dask cluster",
    "faiss": "to search by an approximate or binary index",
}


def missing_extra(error: ImportError) -> UsageError | None:
    """Returns the error for a library that an extra brings and that is not installed; None for any other."""
    library = (error.name or "").partition(".")[0]
    extras = [name for name, libraries in EXTRAS.items() if library in libraries]
    if not extras or not isinstance(error, ModuleNotFoundError):
        return None
    commands = [f"pip install 'clipmill[{name}]' {_PURPOSES.get(name, '')}".rstrip() for name in extras]
    return UsageError(describe("package", library, "it to be installed", "none", ", or ".join(commands)))


def driver_of(url: str) -> str:
    """Returns what to do where fsspec has no driver for the protocol of `url`."""
    extra = _SCHEMES.get(url.partition("://")[0])
    return "install its driver" if extra is None else f"pip install 'clipmill[{extra}]'"
