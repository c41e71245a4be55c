"""An import: files of features and a manifest to committed rows, as a build would leave them."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa

from clipmill.pipelines.features.imported.files import SourceFiles
from clipmill.pipelines.features.imported.places import check_names
from clipmill.pipelines.features.imported.plan import FeaturePlan, known_items, plan_feature
from clipmill.pipelines.features.imported.recipe import imported_passport
from clipmill.pipelines.features.imported.rows import ItemRows
from clipmill.pipelines.features.run_records import recorded_end, write_start
from clipmill.schemas.config import dump_config
from clipmill.schemas.config_import import ImportConfig
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.rows import concatenate
from clipmill.schemas.tables import COMMITS
from clipmill.schemas.task import ShardTask, clips_fingerprint
from clipmill.stores.item_manifests import Item, read_item_manifest
from clipmill.stores.storage_faults import Retries
from clipmill.stores.store import Store

REPORT = "import.json"
"""In the folder of the run. Not ``report.json``, which tells of decoding."""


@dataclass(frozen=True, slots=True)
class ImportedFeature:
    """What an import did for one feature.

    Attributes:
        key: of its recipe.
        source: the files, as the config names them.
        num_imported, num_rows: items and rows that were written now.
        num_before: items whose rows stood already.
        num_missing, num_surplus: items without rows in the files, and ids of the files that no item has.
        replaced: key of the recipe whose rows were other ones; they stay readable by it.
    """

    name: str
    key: str
    fingerprint: str
    source: str
    dim: int
    dtype: str
    num_imported: int
    num_rows: int
    num_before: int
    num_missing: int
    num_surplus: int
    missing: tuple[str, ...]
    surplus: tuple[str, ...]
    replaced: str | None


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did."""

    run_id: str
    store: str
    dataset: str
    num_items: int
    num_labels: int
    features: tuple[ImportedFeature, ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
        return asdict(self)


def import_features(config: ImportConfig, on_imported: Callable[[str, int, int], None] | None = None) -> ImportReport:
    """Makes every row the store lacks of the features that `config` names; returns what was done.

    Everything is read and checked before anything is written.

    Args:
        on_imported: is told of a feature, how many of its items are written now, and of how many.

    Raises:
        UsageError: config, manifest, files or store cannot be used as given.
        StorageUnavailableError: run the import again; what is committed stands.
    """
    started = time.monotonic()
    manifest = read_item_manifest(config.manifest)
    for name, feature in config.features.items():
        check_names(name, feature, manifest)
    dataset = config.store.dataset or manifest.name
    existing = _existing(config, dataset)
    items = known_items(manifest, existing.every_video() if existing is not None else {})
    with ExitStack() as stack:
        plans = []
        for name, feature in config.features.items():
            files = stack.enter_context(SourceFiles(feature.format, feature.transpose))
            plans.append(plan_feature(name, config, manifest, items, files, existing))
        store = Store.create(config.store.url, config.store.format, dataset, Retries(config.store.attempts))
        run_id = store.new_run_id()
        with recorded_end(store, run_id):
            _record_start(store, run_id, config, items, plans)
            done = tuple(_write_feature(store, plan, on_imported) for plan in plans)
            store.write_catalog()
            report = ImportReport(
                run_id,
                config.store.url,
                dataset,
                len(items),
                len({item.video.label for item in items} - {None}),
                done,
                round(time.monotonic() - started, 3),
            )
            text = json.dumps(report.as_json(), ensure_ascii=False, indent=1, sort_keys=True)
            store.write_run_file(run_id, REPORT, text)
    return report


def _existing(config: ImportConfig, dataset: str) -> Store | None:
    retries = Retries(config.store.attempts)
    if not Store.exists(config.store.url, retries):
        return None
    store = Store.open(config.store.url, retries)
    store.require(config.store.format, dataset)
    return store


def _record_start(
    store: Store, run_id: str, config: ImportConfig, items: Sequence[Item], plans: Sequence[FeaturePlan]
) -> None:
    write_start(store, run_id, "import")
    store.write_manifest(run_id, [item.video for item in items])
    store.write_run_file(run_id, "config.yaml", dump_config(config))
    for plan in plans:
        store.write_recipe(plan.recipe)
    features = {plan.name: plan.recipe.fingerprint for plan in plans}
    store.write_run_file(run_id, "build.json", json.dumps({"features": features}, indent=1, sort_keys=True))


def _write_feature(
    store: Store, plan: FeaturePlan, on_imported: Callable[[str, int, int], None] | None
) -> ImportedFeature:
    num_rows = num_done = 0
    for batch in plan.reader.batches(plan.todo):
        num_rows += _write_batch(store, plan, batch)
        num_done += len(batch)
        if on_imported is not None:
            on_imported(plan.name, num_done, len(plan.todo))
    located = plan.located
    return ImportedFeature(
        name=plan.name,
        key=plan.recipe.key,
        fingerprint=plan.recipe.fingerprint,
        source=plan.config.file,
        dim=plan.recipe.dim,
        dtype=plan.recipe.dtype,
        num_imported=num_done,
        num_rows=num_rows,
        num_before=plan.num_before,
        num_missing=len(located.missing),
        num_surplus=len(located.surplus),
        missing=located.missing,
        surplus=located.surplus,
        replaced=plan.replaced,
    )


def _write_batch(store: Store, plan: FeaturePlan, batch: Sequence[int]) -> int:
    """Writes a shard, then its commit: the one step that makes it true. Returns the number of rows."""
    items = [plan.reader.items[item] for item in batch]
    found = plan.reader.read(batch)
    key = ShardTask(tuple(item.video for item in items), (plan.recipe,)).key
    stops = list(accumulate(len(one.rows) for one in found))
    spans = [(item.video.id, start, stop) for item, start, stop in zip(items, [0, *stops[:-1]], stops, strict=True)]
    shard = store.write_shard(plan.recipe, key, concatenate([one.rows for one in found]), spans)
    passports = [
        imported_passport(item, plan.origins[number], one.rows)
        for number, item, one in zip(batch, items, found, strict=True)
    ]
    store.write_commit(plan.recipe, key, _commit_table(plan.recipe, shard, items, found, spans, passports))
    return stops[-1]


def _commit_table(
    recipe: Recipe,
    shard: str,
    items: Sequence[Item],
    found: Sequence[ItemRows],
    spans: Sequence[tuple[str, int, int]],
    passports: Sequence[dict[str, Any]],
) -> pa.Table:
    fingerprint = recipe.fingerprint
    rows = [
        {
            "video_id": item.video.id,
            "video_fingerprint": item.video.fingerprint,
            "clips_fingerprint": clips_fingerprint(item.video) if recipe.clips.from_ == "annotations" else "",
            "recipe_fingerprint": fingerprint,
            "shard": shard,
            "row_start": start,
            "row_stop": stop,
            # Without labels, which are the manifest's alone: relabelling imports nothing again.
            "clips": [
                {"start_seconds": clip.start_seconds, "stop_seconds": clip.stop_seconds, "label": None}
                for clip in one.clips
            ],
            "passport": passport,
        }
        for item, one, (_, start, stop), passport in zip(items, found, spans, passports, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=COMMITS)
