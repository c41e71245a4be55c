"""What every part of a store stands on: its bytes, and the tables and errors read from them."""

from collections.abc import Sequence

import pyarrow as pa

from clipmill.schemas.errors import StoreError, describe
from clipmill.stores.objects import Objects
from clipmill.stores.tables import from_parquet


class StoredTables:
    """The tables of a store.

    Attributes:
        url: where it is, as given.
        objects: its bytes.
    """

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.url = objects.url

    def read_table(self, path: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Returns one Parquet table of the store (a commit, a quarantine list), or some of its columns.

        Raises:
            StoreError: it is damaged.
            FileNotFoundError: there is none.
        """
        try:
            return from_parquet(self.objects.read(path), columns)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            remedy = "restore that file, or delete it and run clipmill build again"
            raise problem("store", f"{self.url}/{path}", "a Parquet table", "a damaged file", remedy) from None

    def read_tables(self, paths: Sequence[str]) -> list[pa.Table]:
        """Returns several tables, in order."""
        return self.objects.each(self.read_table, paths)


def problem(thing: str, key: str, expected: str, got: str, remedy: str) -> StoreError:
    """Returns the error for what a store should hold and does not."""
    return StoreError(describe(thing, key, expected, got, remedy))
