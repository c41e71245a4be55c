"""Which rows of which arrays are whose: the lines of a manifest against the files of one feature."""

import glob
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clipmill.pipelines.features.imported.files import Place, SourceFiles, row_shape
from clipmill.pipelines.features.imported.names import check_columns, columns_in, filled, found_by
from clipmill.schemas.config_import import ImportedFeatureConfig
from clipmill.schemas.errors import FormatError, ManifestError, UsageError, describe, near
from clipmill.stores.feature_files.base import no_array
from clipmill.stores.feature_files.registry import FEATURE_FORMATS
from clipmill.stores.formats.ids import match_ids
from clipmill.stores.formats.sniff import listed
from clipmill.stores.item_manifests import ItemManifest


@dataclass(frozen=True, slots=True)
class Located:
    """Where the rows of a feature lie.

    Attributes:
        places: by position of the item; one place for the item, or one for each of its lines.
        dim: length of a row.
        dtype: that holds the numbers of all arrays.
        missing: ids of items without rows.
        surplus: ids that the files have and the manifest has not; empty too where the files do not tell.
    """

    places: Mapping[int, tuple[Place, ...]]
    dim: int
    dtype: "np.dtype[np.generic]"
    missing: tuple[str, ...]
    surplus: tuple[str, ...]


def check_names(name: str, config: ImportedFeatureConfig, manifest: ItemManifest) -> None:
    """Refuses names in `config` that mean nothing: columns the manifest has not, formats there are not.

    Raises:
        UsageError: there is one.
    """
    thing = f"features.{name}"
    if config.format is not None and config.format not in FEATURE_FORMATS.names:
        remedy = near(config.format, FEATURE_FORMATS.names)
        raise UsageError(describe(thing, "format", "a registered feature file format", repr(config.format), remedy))
    steps = config.steps
    templates: dict[str, str | None] = {"file": config.file, "dataset": config.dataset}
    templates["ids"] = config.ids.dataset if config.ids is not None else None
    templates |= {f"extras.{key}": value for key, value in config.extras.items()}
    templates |= {"steps.start": steps.start, "steps.stop": steps.stop} if steps is not None else {}
    for key, template in templates.items():
        if template is not None:
            check_columns(thing, key, template, manifest.columns)
    if config.position is not None and config.position not in manifest.columns:
        expected = "a column of the manifest"
        raise UsageError(
            describe(thing, "position", expected, config.position, near(config.position, manifest.columns))
        )
    if "://" in config.file:
        raise UsageError(describe(thing, "file", "a local path", "a URL", "copy the file here first"))


def locate(
    name: str,
    config: ImportedFeatureConfig,
    manifest: ItemManifest,
    files: SourceFiles,
    is_by_line: bool,
    is_missing_allowed: bool,
) -> Located:
    """Returns where the rows of the feature `name` lie; reads shapes and ids, no values.

    Args:
        is_by_line: ``rows: item`` means one for each line of the manifest, rather than one for each item.
        is_missing_allowed: some items may have no rows (but not all).

    Raises:
        FormatError: files or arrays that all items share are missing, shapes are wrong, or rows and lines do not match;
            one line with counts.
        ManifestError: a line lacks what a name needs.
    """
    search = _Search(name, config, manifest, files, is_by_line and config.rows == "item")
    for (file, dataset), lines in search.groups().items():
        search.take(file, dataset, lines)
    return search.located(is_missing_allowed)


@dataclass(slots=True)
class _Search:
    name: str
    config: ImportedFeatureConfig
    manifest: ItemManifest
    files: SourceFiles
    is_by_line: bool
    places: dict[int, dict[int, Place]] = field(default_factory=dict)
    """By item: line to place; one that stands for all lines of the item goes by its first line."""
    missing: set[int] = field(default_factory=set)
    known_ids: set[str] = field(default_factory=set)
    wrong: list[tuple[int, str]] = field(default_factory=list)
    dims: Counter[int] = field(default_factory=Counter)
    first_of_dim: dict[int, int] = field(default_factory=dict)
    dtypes: set[Any] = field(default_factory=set)

    @property
    def thing(self) -> str:
        return f"features.{self.name}"

    def num_wanted(self, lines: Sequence[int]) -> int | None:
        """Returns how many rows an item of so many lines has; None: as many as there are."""
        if self.is_by_line:
            return len(lines)
        return 1 if self.config.rows in ("item", "video") else None

    def groups(self) -> dict[tuple[str, str | None], list[int]]:
        """Returns the lines of the manifest by the array they name."""
        found: dict[tuple[str, str | None], list[int]] = {}
        empty: list[int] = []
        for number, line in enumerate(self.manifest.lines):
            file = filled(self.config.file, line.cells)
            dataset = filled(self.config.dataset, line.cells) if self.config.dataset is not None else None
            if file is None or (dataset is None and self.config.dataset is not None):
                empty.append(number)
            else:
                found.setdefault((os.path.expanduser(file), dataset), []).append(number)
        if empty:
            columns = columns_in(self.thing, "file", self.config.file)
            columns += columns_in(self.thing, "dataset", self.config.dataset or "")
            got = f"an empty cell in {len(empty)} of {len(self.manifest.lines)} lines, such as {self._id(empty[0])!r}"
            expected = f"a value of {' and '.join(dict.fromkeys(columns))} in each line"
            raise ManifestError(describe(self.thing, "file", expected, got, "fill it in"))
        return found

    def take(self, file: str, dataset: str | None, lines: list[int]) -> None:
        """Finds the rows of `lines` in one array."""
        items = dict.fromkeys(self.manifest.lines[line].item for line in lines)
        is_own = len(items) == 1 and self.config.ids is None and self.config.position is None
        if is_own and "{" in self.config.file and not os.path.isfile(file):
            self.missing.update(items)
            return
        opened = self.files.file(file)
        name = dataset if dataset is not None else self.files.only_name(file, self._others(lines[0]))
        try:
            info = opened.info(name)
        except KeyError:
            if not is_own or "{" not in (self.config.dataset or ""):
                raise no_array(file, name, opened.names()) from None
            self.missing.update(items)
            return
        shape = row_shape(info.shape, is_own, self.config.transpose)
        if shape is None:
            self._all_wrong(items, f"{list(info.shape)}, which is no matrix of rows")
            return
        self.dtypes.add(info.dtype)
        self.dims[shape[1]] += len(items)
        self.first_of_dim.setdefault(shape[1], next(iter(items)))
        if is_own:
            self._take_own(file, lines, shape[0], list(info.shape))
        else:
            self._take_shared(file, name, lines, shape[0])

    def _take_own(self, file: str, lines: list[int], num_rows: int, shape: list[int]) -> None:
        first = self.manifest.lines[lines[0]]
        wanted = self.num_wanted(lines)
        if wanted is not None and num_rows != wanted:
            self.wrong.append((first.item, f"{shape}, {num_rows} rows for {wanted}"))
        elif num_rows == 0:
            self.missing.add(first.item)
        elif not self.is_by_line or len(lines) == 1:
            self._place(lines[0], Place(file, first.cells, None, num_rows, True))
        else:
            for row, line in enumerate(lines):
                self._place(line, Place(file, first.cells, (row,), num_rows, True))

    def _take_shared(self, file: str, name: str, lines: list[int], num_rows: int) -> None:
        where = " ".join((file, name)).strip()
        if self.config.ids is not None:
            self._take_by_ids(file, where, lines, num_rows)
            return
        if self.num_wanted(lines) is None:
            expected = "the id of each row, since items have several"
            remedy = "give ids: NAME, or name one array for each item"
            raise UsageError(describe(self.thing, "ids", expected, f"rows: {self.config.rows} of one array", remedy))
        if not self.is_by_line:
            lines = sorted({self.manifest.lines[line].item: line for line in reversed(lines)}.values())
        if self.config.position is not None:
            rows = self._positions(where, lines, num_rows)
        elif num_rows != len(lines):
            what = "lines" if self.is_by_line else "items"
            expected = f"a row for each of {len(lines)} {what} of the manifest that share it"
            remedy = "list exactly its rows in their order, or say ids: NAME or position: COLUMN"
            raise FormatError(describe("file", where, expected, f"{num_rows} rows", remedy))
        else:
            rows = list(range(num_rows))
        for line, row in zip(lines, rows, strict=True):
            self._place(line, Place(file, self.manifest.lines[line].cells, (row,), num_rows, False))

    def _positions(self, where: str, lines: list[int], num_rows: int) -> list[int]:
        column = str(self.config.position)
        cells = [self.manifest.lines[line].cells.get(column, "") for line in lines]
        bad = [number for number, cell in enumerate(cells) if not cell.isdecimal() or int(cell) >= num_rows]
        if bad:
            expected = f"a row of {where}, 0 to {num_rows - 1}, in each line"
            got = f"{cells[bad[0]]!r} for {self._id(lines[bad[0]])!r}" + (
                f" and {len(bad) - 1} more" if bad[1:] else ""
            )
            raise ManifestError(describe("manifest", column, expected, got, "correct the column"))
        return [int(cell) for cell in cells]

    def _take_by_ids(self, file: str, where: str, lines: list[int], num_rows: int) -> None:
        ids = self.config.ids
        if ids is None:
            raise RuntimeError("rows are found by ids only where there are any")
        cells = self.manifest.lines[lines[0]].cells
        name = filled(ids.dataset, cells) or ""
        try:
            found = [ids.id_of(item) for item in self.files.file(file).texts(name)]
        except KeyError:
            raise no_array(file, name, self.files.file(file).names()) from None
        if len(found) != num_rows:
            got = f"{len(found)} in {name}"
            raise FormatError(describe("file", where, f"an id for each of {num_rows} rows", got, "correct ids"))
        self.known_ids.update(found)
        rows: dict[str, list[int]] = {}
        for row, item_id in enumerate(found):
            rows.setdefault(item_id, []).append(row)
        of_item: dict[int, list[int]] = {}
        for line in lines:
            of_item.setdefault(self.manifest.lines[line].item, []).append(line)
        for item, its_lines in of_item.items():
            here = rows.get(self.manifest.items[item].video.id, [])
            wanted = self.num_wanted(its_lines)
            if not here:
                self.missing.add(item)
            elif wanted is not None and len(here) != wanted:
                self.wrong.append((item, f"{len(here)} rows for {wanted}"))
            elif self.is_by_line:
                for line, row in zip(its_lines, here, strict=True):
                    self._place(line, Place(file, self.manifest.lines[line].cells, (row,), num_rows, False))
            else:
                cells = self.manifest.lines[its_lines[0]].cells
                self._place(its_lines[0], Place(file, cells, tuple(here), num_rows, False))

    def located(self, is_missing_allowed: bool) -> Located:
        """Returns what was found, once it is sound."""
        self._check_shapes()
        whole = {}
        for item, by_line in self.places.items():
            if item not in self.missing:
                whole[item] = tuple(by_line[line] for line in sorted(by_line))
                if not self.is_by_line and len(by_line) > 1:
                    got = f"{len(by_line)} for {self.manifest.items[item].video.id!r}"
                    remedy = "let the names differ by {id} alone, or say rows: item"
                    raise FormatError(describe(self.thing, "file", "one array for each item", got, remedy))
        missing = tuple(self.manifest.items[item].video.id for item in sorted(self.missing))
        known = self.known_ids or self._ids_in_files()
        surplus = tuple(sorted(known.difference(item.video.id for item in self.manifest.items)))
        if not whole or (missing and not is_missing_allowed):
            raise _ids_differ(self.name, self.manifest, self.missing, known, self.config.file)
        dtype = np.result_type(*self.dtypes)
        return Located(whole, next(iter(self.dims)), dtype, missing, surplus)

    def _check_shapes(self) -> None:
        if self.wrong:
            item, first = self.wrong[0]
            num = len({item for item, _ in self.wrong})
            got = f"another shape for {num} of {len(self.manifest.items)}, such as {self._item_id(item)!r}: {first}"
            expected = "one row for each line of an item" if self.is_by_line else "one row for each item"
            if self.num_wanted(()) is None:
                expected = "a matrix [T, D] for each item"
            remedy = "say rows: steps or rows: bag where items have several, or transpose: true for [D, T]"
            raise FormatError(describe(self.thing, "rows", expected, got, remedy))
        if len(self.dims) > 1:
            counts = ", ".join(
                f"{dim} for {count} (such as {self._item_id(self.first_of_dim[dim])!r})"
                for dim, count in self.dims.most_common(3)
            )
            raise FormatError(describe(self.thing, "rows", "rows of one length", counts, "correct the files"))
        if self.dims and not next(iter(self.dims)):
            raise FormatError(describe(self.thing, "rows", "rows of some length", "0", "name another dataset"))

    def _all_wrong(self, items: Mapping[int, None], text: str) -> None:
        self.wrong += [(item, text) for item in items]

    def _place(self, line: int, place: Place) -> None:
        self.places.setdefault(self.manifest.lines[line].item, {})[line] = place

    def _others(self, line: int) -> Sequence[str]:
        """Returns the names of arrays that are no rows: ids, times, further numbers."""
        steps, ids = self.config.steps, self.config.ids
        templates = [*self.config.extras.values(), ids.dataset if ids is not None else None]
        templates += [steps.start, steps.stop] if steps is not None else []
        cells = self.manifest.lines[line].cells
        return [filled(template, cells) or "" for template in templates if template is not None]

    def _ids_in_files(self) -> set[str]:
        """Returns the ids that names of files, or of arrays in the one file, hold; none where they do not tell."""
        file, dataset = self.config.file, self.config.dataset or ""
        in_file, in_dataset = columns_in(self.thing, "file", file), columns_in(self.thing, "dataset", dataset)
        if in_file == ["id"] and set(in_dataset) <= {"id"}:
            path = os.path.expanduser(file)
            return set(found_by(path, glob.glob(glob.escape(path).replace("{id}", "*"))) or ())
        if not in_file and in_dataset == ["id"]:
            return set(found_by(dataset, self.files.file(os.path.expanduser(file)).names()) or ())
        return set()

    def _id(self, line: int) -> str:
        return self._item_id(self.manifest.lines[line].item)

    def _item_id(self, item: int) -> str:
        return self.manifest.items[item].video.id


def _ids_differ(name: str, manifest: ItemManifest, missing: set[int], known: set[str], file: str) -> FormatError:
    """Returns the error where items have no rows: counts and examples of both sides, and what would make them match.

    Args:
        missing: positions of those items.
        known: ids that the files have; empty where they do not tell.
    """
    ids = [item.video.id for item in manifest.items]
    lacking = sorted(ids[item] for item in missing)
    if known:
        got = str(match_ids(ids, known, "the manifest", "the files"))
    else:
        got = f"{len(ids) - len(lacking)} of {len(ids)}, none for {listed(lacking)}"
    remedy = "correct the ids"
    if len(lacking) < len(ids):
        remedy += ", or set missing: skip"
    return FormatError(describe(f"features.{name}", file, "rows of every item of the manifest", got, remedy))
