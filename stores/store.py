"""A store: writing shards and commits, and reading the tables that say what is true."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.schemas.errors import StorageUnavailableError, describe, near
from clipmill.schemas.fingerprint import short
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Quarantined, Video
from clipmill.schemas.rows import Rows
from clipmill.schemas.tables import (
    COMMITS,
    FORMAT_VERSION,
    PROBES,
    QUARANTINE,
    STANDARD_ROW_COLUMNS,
)
from clipmill.stores.catalog import commits_schema, read_commits, write_catalog
from clipmill.stores.objects import Objects
from clipmill.stores.shard_formats import SHARD_FORMATS, is_registered, is_written, write_shard
from clipmill.stores.shards import Span, checked_rows
from clipmill.stores.storage_faults import Retries
from clipmill.stores.stored_tables import problem
from clipmill.stores.stored_videos import StoredVideos
from clipmill.stores.tables import (
    Probe as Probe,
)
from clipmill.stores.tables import (
    ProbeKey as ProbeKey,
)
from clipmill.stores.tables import (
    ProbeTable as ProbeTable,
)
from clipmill.stores.tables import (
    gather,
    in_force,
    numbers_of,
    probes_table,
    quarantine_table,
    repeated,
    take,
    to_parquet,
    whole_columns,
)
from clipmill.stores.video_table import COUNTING_COLUMNS, counting_rows

_MARKER = "store.json"
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")


class Store(StoredVideos):
    """The features of one dataset at one URL. Build it with `create` or `open`.

    Every write is one atomic object, and nothing is ever changed in place: see docs/store.md.

    Attributes:
        url: where it is, as given.
        format: of its shards: a name in `clipmill.stores.shard_formats`.
        dataset: what it holds.
        objects: its bytes.
    """

    def __init__(self, objects: Objects, format: str, dataset: str) -> None:
        super().__init__(objects)
        self.format = format
        self.dataset = dataset

    @classmethod
    def create(cls, url: str, format: str, dataset: str, retries: Retries = Retries()) -> "Store":  # noqa: B008
        """Returns the store at `url`, made if there is none.

        Raises:
            StoreError: another dataset's or another format's store is there, or something that is no store; or there
                is no such format.
            StorageUnavailableError: it cannot be written.
        """
        objects = Objects(url, retries)
        if not is_registered(format):
            remedy = near(format, SHARD_FORMATS.names)
            raise problem("store", "format", "a registered shard format", repr(format), remedy)
        if not objects.exists(_MARKER):
            _check_free(objects)
            marker = {"clipmill": FORMAT_VERSION, "dataset": dataset, "format": format}
            objects.write(_MARKER, json.dumps(marker, ensure_ascii=False, indent=1).encode())
        # Read back even what was just written: of two that create at once, one meets the other's.
        store = cls.open(url, retries)
        store.require(format, dataset)
        objects.check_writable()
        return store

    @classmethod
    def open(cls, url: str, retries: Retries = Retries()) -> "Store":  # noqa: B008
        """Returns the store at `url`, whose storage calls are tried again as `retries` says.

        Raises:
            StoreError: there is none, a newer version of clipmill made it, or its format is not registered here.
        """
        objects = Objects(url, retries)
        try:
            marker = json.loads(objects.read(_MARKER))
            version, dataset, format = int(marker["clipmill"]), str(marker["dataset"]), str(marker["format"])
        except (FileNotFoundError, NotADirectoryError):
            got = {None: "nothing", "file": "a file", "directory": "a folder without store.json"}[objects.kind()]
            raise problem(
                "store", url, "a clipmill store", got, "check the path, or make one with clipmill build"
            ) from None
        except (ValueError, KeyError, TypeError):
            raise problem(
                "store", url, "a readable store.json", "a damaged one", "restore it or choose another store url"
            ) from None
        if version > FORMAT_VERSION:
            expected, got = f"format version {FORMAT_VERSION} or older", f"version {version} with {format}"
            raise problem("store", url, expected, got, "read it with the newer clipmill that made it")
        if not is_registered(format):
            expected = f"shards of a registered format ({', '.join(SHARD_FORMATS.names)})"
            remedy = "install the package that brings it, or read it with the newer clipmill that made it"
            raise problem("store", url, expected, repr(format), remedy)
        return cls(objects, format, dataset)

    @classmethod
    def exists(cls, url: str, retries: Retries = Retries()) -> bool:  # noqa: B008
        """Returns whether there is a store at `url`; writes nothing.

        Raises:
            StoreError: there is none and `create` could make none: a file, or a folder that holds something else.
        """
        objects = Objects(url, retries)
        if objects.exists(_MARKER):
            return True
        _check_free(objects)
        return False

    def with_retries(self, retries: Retries) -> "Store":
        """Returns this store with calls of its own: tried again as `retries` says, and counted apart."""
        return Store(Objects(self.url, retries), self.format, self.dataset)

    def require(self, format: str, dataset: str) -> None:
        """Checks that this store is the one that is meant.

        Raises:
            StoreError: it holds another dataset, or shards of another format.
        """
        if self.dataset != dataset:
            raise problem(
                "store",
                self.url,
                f"dataset {dataset!r}",
                f"a store of {self.dataset!r}",
                f"choose another store url, or set store.dataset to {self.dataset!r} to add these videos to it",
            )
        if self.format != format:
            raise problem(
                "store",
                self.url,
                f"format {format}",
                f"a store of format {self.format}",
                f"choose another store url, or set store.format to {self.format}",
            )

    # Recipes and features.

    def write_recipe(self, recipe: Recipe) -> None:
        """Keeps the full recipe; one that stands is left as it is."""
        path = f"recipes/{folder(recipe)}.json"
        if not self.objects.exists(path):
            text = json.dumps(recipe.model_dump(mode="json", by_alias=True), ensure_ascii=False, indent=1)
            self.objects.write(path, text.encode())

    def recipes(self) -> list[Recipe]:
        """Returns every recipe anything was ever built with, by file name."""
        return self.objects.each(self._recipe, [f"recipes/{name}" for name in self.objects.names("recipes")])

    def _recipe(self, path: str) -> Recipe:
        try:
            return Recipe.model_validate_json(self.objects.read(path))
        except ValueError:
            remedy = "restore that file, or delete it and run clipmill build again"
            raise problem("store", f"{self.url}/{path}", "a recipe", "a damaged file", remedy) from None

    # Shards and commits.

    def has_commit(self, recipe: Recipe, task_key: str) -> bool:
        """Returns whether the task's rows of this recipe are committed."""
        return self.objects.exists(_commit_path(recipe, task_key))

    def write_shard(self, recipe: Recipe, task_key: str, rows: Rows, videos: Sequence[Span]) -> str:
        """Writes the task's rows of one recipe and returns the shard's path.

        Args:
            rows: of all `videos`, one after the other; ``values`` are ``[N, recipe.dim]`` in ``recipe.dtype``.
            videos: (video id, row_start, row_stop), covering the rows without gap; a span may be empty.

        The name holds a digest of the rows, so a shard is never overwritten by other rows: a commit that stands keeps
        naming the bytes it was made for, whatever a later try of the task (with another batch size, say) writes.
        The same rows give the same bytes under the same name, whoever runs it.

        Raises:
            ValueError: the rows are not what the recipe says.
            UsageError: the package that brings the store's format is broken.
            StorageUnavailableError: storage refuses.
        """
        return self.write_rows(folder(recipe), task_key, checked_rows(recipe, rows, videos), videos)

    def write_rows(self, recipe_folder: str, task_key: str, rows: Rows, videos: Sequence[Span]) -> str:
        """Writes rows as they are stored, such as those of a shard that stands; otherwise as `write_shard`."""
        path = f"shards/{recipe_folder}/{task_key}-{rows_digest(rows, videos)}.{self.format}"
        write_shard(self.objects, path, rows, videos)
        return path

    def write_commit(self, recipe: Recipe, task_key: str, table: pa.Table) -> None:
        """Makes the task's rows of one recipe true: the last write, and the only one a reader follows.

        Raises:
            StorageUnavailableError: storage refuses, or a shard the commit names has been deleted meanwhile.
        """
        self.replace_commit(_commit_path(recipe, task_key), table)

    def replace_commit(self, path: str, table: pa.Table) -> None:
        """Writes the commit at `path`; otherwise as `write_commit`."""
        table = gather(COMMITS, [table])
        for shard in sorted(set(table.column("shard").to_pylist())):
            if not is_written(self.objects, shard):
                raise StorageUnavailableError(
                    describe(
                        "shard",
                        shard,
                        "the shard written a moment ago",
                        "nothing (deleted by clipmill clean?)",
                        "run the same command again",
                    )
                )
        self.objects.write(path, to_parquet(table))

    def withdraw_commit(self, path: str) -> None:
        """Deletes the commit at `path`: its rows count no more, and the next build makes them again.

        Raises:
            StorageUnavailableError: storage refuses.
        """
        self.objects.delete(path)

    def commit_paths(self) -> list[str]:
        """Returns the sorted paths of all commit objects."""
        folders = self._commit_folders(None)
        listed = self.objects.each(lambda name: self.objects.names(f"commits/{name}"), folders)
        return [f"commits/{name}/{item}" for name, items in zip(folders, listed, strict=True) for item in items]

    def _commit_folders(self, recipe_fingerprint: str | None) -> list[str]:
        # A recipe keeps its rows when its feature is renamed: any folder that ends in its digits may hold some.
        ending = f"-{short(recipe_fingerprint)}" if recipe_fingerprint else ""
        return [name for name in self.objects.names("commits") if name.endswith(ending)]

    def commits(self, recipe_fingerprint: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Returns the rows of all commits (COMMITS schema), or those of one recipe, in the order of their paths.

        Args:
            columns: those of the schema that are wanted, or fields of them (``passport.truncated``); None: all.
        """
        folders = self._commit_folders(recipe_fingerprint)
        wanted = None if columns is None else list(dict.fromkeys([*columns, "recipe_fingerprint"]))
        parts = [read_commits(self.objects, name, self.read_table, wanted) for name in folders]
        table = gather(commits_schema(wanted), parts)
        # Arrow's comparison ends the process where a column has no chunk.
        if recipe_fingerprint is not None and table.num_rows:
            same = pc.equal(table.column("recipe_fingerprint"), repeated(recipe_fingerprint, 1)[0])
            rows = numbers_of(pc.indices_nonzero(same))
            table = table if len(rows) == table.num_rows else take(table, rows)
        return table if columns is None else table.select(whole_columns(columns))

    def write_catalog(self) -> None:
        """Compacts the commits for quicker reading; what a reader sees is the same with and without it."""
        for name in self._commit_folders(None):
            write_catalog(self.objects, name, self.read_table)

    def commits_in_force(
        self,
        recipe_fingerprint: str,
        manifest: Mapping[str, Video] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Returns the commit rows of one recipe that a reader follows, one per video at most: see `counting_rows`.

        Args:
            columns: as for `commits`; those that decide which rows count are among them in any case.
        """
        manifest = self.manifest() if manifest is None else manifest
        wanted = None if columns is None else [*COUNTING_COLUMNS, *columns]
        return counting_rows(self.commits(recipe_fingerprint, wanted), manifest)

    # Quarantine.

    def write_quarantine(
        self, run_id: str, task_key: str, items: Sequence[Quarantined], released: bool = False
    ) -> None:
        """Records videos that did not work, or, with `released`, puts them back; nothing is written for no items."""
        if items:
            path = f"quarantine/{run_id}-{task_key}{'-released' if released else ''}.parquet"
            self.objects.write(path, to_parquet(quarantine_table(run_id, items, released)))

    def quarantine(self) -> pa.Table:
        """Returns the quarantine rows in force (QUARANTINE schema), by video id."""
        return in_force(self.quarantine_history())

    def quarantine_history(self) -> pa.Table:
        """Returns every quarantine row ever written, releases included."""
        paths = [f"quarantine/{name}" for name in self.objects.names("quarantine")]
        return gather(QUARANTINE, self.read_tables(paths))

    # What feature names mean.

    def current_features(self) -> dict[str, str]:
        """Returns what each feature name means: the recipe fingerprint the newest build gave it.

        A name no build.json speaks of (its build was killed at once) means the one recipe that carries it, if only one
        does.
        """
        carried: dict[str, set[str]] = {}
        for recipe in self.recipes():
            carried.setdefault(recipe.name, set()).add(recipe.fingerprint)
        features = {name: next(iter(found)) for name, found in carried.items() if len(found) == 1}
        for part in self.objects.each(self._build_features, self.runs()):
            features.update(part)
        return dict(sorted(features.items()))

    # Probes.

    def write_probes(self, run_id: str, probes: Mapping[ProbeKey, Probe]) -> None:
        """Keeps what planning read of files, so that the next plan reads them no more; nothing for no probes."""
        if probes:
            self.objects.write(f"probes/{run_id}.parquet", to_parquet(probes_table(probes)))

    def read_probes(self) -> ProbeTable:
        """Returns all probes kept, by (uri, num_bytes, modified_ns)."""
        paths = [f"probes/{name}" for name in self.objects.names("probes")]
        return ProbeTable(gather(PROBES, self.read_tables(paths)))


def folder(recipe: Recipe) -> str:
    """Returns the name of the recipe's folders: its key, with a feature name that is no plain file name quoted."""
    name = recipe.name
    if not _SAFE.fullmatch(name):
        digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
        # Names with a dot in front are hidden: temporary files, which listings leave out.
        quoted = quote(name, safe="")[:60].replace("%", "_").replace("~", "_").lstrip(".")
        name = f"{quoted}-{digest}"
    return f"{name}-{short(recipe.fingerprint)}"


def rows_digest(rows: Rows, videos: Sequence[Span]) -> str:
    """Returns 12 hex digits over the rows, their times and masks, and whose they are."""
    digest = hashlib.blake2b(digest_size=6)
    columns = {name: getattr(rows, name) for name in STANDARD_ROW_COLUMNS} | dict(rows.extras)
    for name, column in sorted(columns.items()):
        little = np.ascontiguousarray(column, column.dtype.newbyteorder("<"))
        digest.update(f"{name} {little.dtype.str} {little.shape}\n".encode())
        digest.update(little.data.cast("B") if little.size else b"")
    digest.update(json.dumps([[name, int(start), int(stop)] for name, start, stop in videos]).encode())
    return digest.hexdigest()


def _commit_path(recipe: Recipe, task_key: str) -> str:
    return f"commits/{folder(recipe)}/{task_key}.parquet"


def _check_free(objects: Objects) -> None:
    kind = objects.kind()
    if kind == "file":
        raise problem("store", objects.url, "a folder or a new path", "a file", "choose another store url")
    if kind == "directory" and (names := objects.names()):
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise problem(
            "store",
            objects.url,
            "a clipmill store, an empty folder or a new path",
            f"a folder without store.json that holds {shown}",
            "choose another store url",
        )
