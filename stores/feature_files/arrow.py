"""Arrow's file format, which Feather is: the columns of a table, read by record batches."""

from collections.abc import Sequence

import pyarrow as pa

from clipmill.schemas.errors import FormatError, describe
from clipmill.stores.feature_files.base import FeatureFormat, not_this_format
from clipmill.stores.feature_files.columns import TableFile


class RecordBatches:
    """The record batches of an Arrow file, mapped into memory.

    Raises:
        FormatError: it is no Arrow file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._source = pa.memory_map(path, "r")
            self._file = pa.ipc.open_file(self._source)
        except (OSError, pa.ArrowException):
            raise not_this_format(path, "an Arrow (or Feather, version 2) file") from None
        self.schema = self._file.schema
        first = self.schema.names[:1]
        self.num_rows: Sequence[int] = [
            self.read(number, first).num_rows for number in range(self._file.num_record_batches)
        ]

    def read(self, chunk: int, columns: Sequence[str]) -> pa.Table:
        """Returns the columns of one record batch.

        Raises:
            FormatError: it is damaged.
        """
        included = [self.schema.get_field_index(name) for name in columns]
        try:
            # Of a compressed file only the columns asked for are decompressed.
            options = pa.ipc.IpcReadOptions(included_fields=included, use_threads=False)
            with pa.ipc.open_file(self._source, options=options) as file:
                return pa.Table.from_batches([file.get_batch(chunk)])
        except (OSError, pa.ArrowException) as error:
            got = f"record batch {chunk} that cannot be read ({type(error).__name__})"
            raise FormatError(describe("file", self._path, "a whole Arrow file", got, "copy it again")) from None

    def close(self) -> None:
        """Unmaps the file."""
        self._source.close()


FORMAT = FeatureFormat(
    "arrow",
    "an Arrow or Feather table",
    (".arrow", ".feather", ".ipc"),
    lambda path: TableFile(path, RecordBatches(path)),
)
