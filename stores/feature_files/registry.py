"""Which formats of feature files there are, and which of them a file is, by its suffix.

To add one: a file with a `FeatureFormat`, and one line in the table. One from outside the project registers under the
entry point group ``clipmill.feature_files``.
"""

import os

from clipmill.schemas.errors import FormatError, describe
from clipmill.schemas.registry import Registry
from clipmill.stores.feature_files.base import FeatureFile, FeatureFormat
from clipmill.stores.formats.sniff import looks_like

FEATURE_FORMATS: Registry[FeatureFormat] = Registry(
    "feature file format",
    "clipmill.feature_files",
    FeatureFormat,
    {
        "arrow": "clipmill.stores.feature_files.arrow:FORMAT",
        "hdf5": "clipmill.stores.feature_files.hdf5:FORMAT",
        "mat": "clipmill.stores.feature_files.mat:FORMAT",
        "npy": "clipmill.stores.feature_files.npy:FORMAT",
        "npz": "clipmill.stores.feature_files.npz:FORMAT",
        "parquet": "clipmill.stores.feature_files.parquet:FORMAT",
    },
)


def format_of(path: str) -> FeatureFormat:
    """Returns the format whose suffix the file at `path` has.

    Raises:
        FormatError: none has it.
    """
    suffix = os.path.splitext(path)[1].lower()
    known = [FEATURE_FORMATS.get(name) for name in FEATURE_FORMATS.names]
    for found in known:
        if suffix in found.suffixes:
            return found
    suffixes = " ".join(sorted(suffix for found in known for suffix in found.suffixes))
    got = f"{suffix or 'no suffix'} ({looks_like(path)})" if os.path.isfile(path) else suffix or "no suffix"
    raise FormatError(
        describe("file", path, f"a file of features ({suffixes})", got, "convert it, or say format: NAME")
    )


def open_feature_file(path: str, format: str | None = None) -> FeatureFile:
    """Returns the file at `path`, opened as `format`, by default as its suffix says.

    Raises:
        UsageError: there is no such format.
        FormatError: there is no such file, or it is something else.
    """
    if not os.path.isfile(path):
        got = "a folder" if os.path.isdir(path) else "nothing there"
        remedy = "name its files, such as folder/{id}.npy" if os.path.isdir(path) else "check the path"
        raise FormatError(describe("file", path, "a file of features", got, remedy))
    found = FEATURE_FORMATS.get(format) if format is not None else format_of(path)
    return found.open(path)
