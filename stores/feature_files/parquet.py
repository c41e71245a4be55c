"""Parquet: the columns of a table, read by row groups."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from clipmill.schemas.errors import FormatError, describe
from clipmill.stores.feature_files.base import FeatureFormat, not_this_format
from clipmill.stores.feature_files.columns import TableFile


class RowGroups:
    """The row groups of a Parquet file.

    Raises:
        FormatError: it is no Parquet file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._file = pq.ParquetFile(path, memory_map=True)
        except (OSError, pa.ArrowException):
            raise not_this_format(path, "a Parquet file") from None
        metadata = self._file.metadata
        self.schema = self._file.schema_arrow
        self.num_rows: Sequence[int] = [
            metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)
        ]

    def read(self, chunk: int, columns: Sequence[str]) -> pa.Table:
        """Returns the columns of one row group.

        Raises:
            FormatError: it is damaged.
        """
        try:
            return self._file.read_row_group(chunk, columns=list(columns), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            got = f"row group {chunk} that cannot be read ({type(error).__name__})"
            raise FormatError(describe("file", self._path, "a whole Parquet file", got, "copy it again")) from None

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


FORMAT = FeatureFormat("parquet", "a Parquet table", (".parquet", ".pq"), lambda path: TableFile(path, RowGroups(path)))
