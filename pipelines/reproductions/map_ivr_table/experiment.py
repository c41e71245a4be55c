"""MAP-IVR's first table (AAAI 2021) on whatever clips are at hand: every system trained and evaluated, several seeds.

A row that the clips do not serve (no labels, no bags) says why, and the others go on.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipmill.models import registry
from clipmill.pipelines.evaluation.tasks.published import published_scores
from clipmill.pipelines.reproductions.map_ivr_table.rows import ROWS, SystemRow, chosen_rows
from clipmill.pipelines.sweeps.planning import Planner
from clipmill.pipelines.sweeps.points import Point
from clipmill.pipelines.sweeps.summary import PointSummary, Spread, baselines_of, summaries
from clipmill.pipelines.sweeps.trials import Runner, Tell, Trial, TrialResult, run_all
from clipmill.schemas.config import TrainConfig
from clipmill.schemas.config_table import MapIvrTableConfig
from clipmill.schemas.errors import ClipmillError, UsageError, describe, near
from clipmill.schemas.inputs import Bag

NAME = "map-ivr-table"
SOURCE = "MAP-IVR slides, AAAI 2021 (proceedings pp. 2145-2153), table 1"
CAVEAT = (
    "The evaluator that was released with APIVR never clears its list of average precisions: what it prints for K = 20 "
    "is the mean over K = 10 and 20, and so on. Whether the published table was made with it is not known. If it was, "
    "the published mAP@K are those under 'published, undone'."
)
PROTOCOL = (
    "Published values were measured on other clips with other features. Compare the order of the methods and their "
    "distance from chance, not the values."
)


@dataclass(frozen=True, slots=True)
class TableRow:
    """A line of the table.

    Attributes:
        system: name of the `SystemRow`; empty: a baseline that nothing is trained for.
        ours: metric (``map@10``) to mean and spread; empty: it was not run.
        cumulative: the same as the released evaluator prints them.
        published: metric to value.
        note: why there is nothing, or what to know.
    """

    title: str
    system: str
    is_floor: bool
    ours: Mapping[str, Spread]
    cumulative: Mapping[str, Spread]
    published: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True, slots=True)
class TableResult:
    """What the reproduction found.

    Attributes:
        rows: floors first, then in the order of the publication.
        columns: the metrics.
        cannot_run: system to why the clips do not serve it.
        failed: system to seed to error.
        num_train, num_test: clips of the first seed, by system.
    """

    config: MapIvrTableConfig
    rows: tuple[TableRow, ...]
    columns: tuple[str, ...]
    cannot_run: Mapping[str, str]
    failed: Mapping[str, Mapping[int, str]]
    summaries: Mapping[str, PointSummary]
    num_clips: Mapping[str, tuple[int, int]]

    @property
    def num_failed(self) -> int:
        """Trials that failed."""
        return sum(len(errors) for errors in self.failed.values())


def reproduce(config: MapIvrTableConfig, run: Runner, tell: Tell) -> TableResult:
    """Trains and evaluates every row with every seed and returns the table.

    Raises:
        UsageError: a row or key that the config names does not exist, or no row can be run on these clips.
        StorageUnavailableError: the folder cannot be written.
    """
    rows = chosen_rows(config.systems)
    _check_set(config)
    planner, cannot_run = Planner(), {}
    planned: dict[str, list[Trial]] = {}
    for row in rows:
        try:
            planned[row.name] = _trials(row, config, planner)
        except ClipmillError as error:
            cannot_run[row.name] = str(error).splitlines()[0]
    if not planned:
        raise UsageError(next(iter(cannot_run.values())))
    results = run_all([trial for trials in planned.values() for trial in trials], Path(config.out), run, tell)
    # Rows of one training (none so far) would have the same key, so results are told apart by their point's name.
    found = {summary.point.name: summary for summary in summaries([Point(name, {}) for name in planned], results)}
    return _table(config, rows, found, cannot_run, results)


def _trials(row: SystemRow, config: MapIvrTableConfig, planner: Planner) -> list[Trial]:
    """Returns a row's trials.

    Raises:
        ClipmillError: the clips do not serve it.
    """
    data = config.data.model_dump(mode="json", by_alias=True, exclude_none=True)
    if not row.chooses_epoch:
        data["split"]["validation_fraction"] = 0.0
    if config.bags is not None and isinstance(registry.registration(row.model).card.inputs["video"], Bag):
        data["video"] = config.bags
    keys = {"data": data, "model": {"name": row.model}, "out": config.out}
    settings = {**row.settings, **config.set.get("all", {}), **config.set.get(row.name, {})}
    if row.chooses_epoch and not _validates(config, data, row, planner):
        settings.pop("loop.select", None)
    if registry.registration(row.model).card.closed_form:
        # A loop that is set for all is for those that have one.
        loop = [key for key in config.set.get("all", {}) if key.startswith("loop.") and key not in _SOLUTION_KEYS]
        settings = {key: value for key, value in settings.items() if key not in loop}
    return planner.trials(keys, [Point(row.name, settings)], config, f"reproduce {NAME}")


def _validates(config: MapIvrTableConfig, data: Mapping[str, Any], row: SystemRow, planner: Planner) -> bool:
    """Returns whether there are clips to choose an epoch on."""
    keys = {"data": data, "model": {"name": row.model}, "out": config.out}
    return bool((planner.items(TrainConfig.model_validate(keys)).part == "validation").any())


_SOLUTION_KEYS = ("loop.seed", "loop.device", "loop.threads")


def _check_set(config: MapIvrTableConfig) -> None:
    known = ["all", *(row.name for row in ROWS)]
    for name in config.set:
        if name not in known:
            raise UsageError(describe(f"reproduce {NAME}", "set", "a row of the table", name, near(name, known)))


def _table(
    config: MapIvrTableConfig,
    rows: Sequence[SystemRow],
    found: Mapping[str, PointSummary],
    cannot_run: Mapping[str, str],
    results: Sequence[TrialResult],
) -> TableResult:
    published = {score.method: score for score in published_scores("retrieval", config.published)}
    columns = _columns(config, found)
    ways = ("", "backwards ") if config.backwards else ("",)
    lines: list[TableRow] = []
    for name, spreads in _floors(found).items():
        lines.append(TableRow(name, "", True, spreads, {}, {}, ""))
    for row in sorted(rows, key=lambda row: not row.is_floor):
        summary = found.get(row.name)
        note = cannot_run.get(row.name, "")
        if summary is not None and summary.errors:
            note = f"{len(summary.errors)} of {len(config.seeds)} seeds failed: {next(iter(summary.errors.values()))}"
        titles = row.spaces or {_only_space(summary): row.title}
        for space, title in titles.items():
            for way in ways:
                ours = _of_space(summary.metrics, f"{way}{space}") if summary is not None else {}
                if way and not ours:
                    continue
                method = title if title in published else row.published
                lines.append(
                    TableRow(
                        f"{title}, backwards" if way else title,
                        row.name,
                        row.is_floor,
                        ours,
                        _of_space(summary.cumulative, space) if summary is not None and not way else {},
                        published[method].metrics if method in published and not way else {},
                        note,
                    )
                )
    clips = {result.point: (result.num_train, result.num_test) for result in reversed(results) if result.error is None}
    failed = {name: dict(summary.errors) for name, summary in found.items() if summary.errors}
    return TableResult(config, tuple(lines), columns, cannot_run, failed, found, clips)


def _only_space(summary: PointSummary | None) -> str:
    return summary.headline.rpartition("/")[0] if summary is not None else ""


def _of_space(spreads: Mapping[str, Spread], space: str) -> dict[str, Spread]:
    beginning = f"{space}/"
    return {name.removeprefix(beginning): item for name, item in spreads.items() if name.startswith(beginning)}


def _floors(found: Mapping[str, PointSummary]) -> dict[str, dict[str, Spread]]:
    floors: dict[str, dict[str, Spread]] = {}
    for name, spread in baselines_of(list(found.values())).items():
        baseline, _, metric = name.partition("/")
        floors.setdefault(baseline, {})[metric] = spread
    return floors


def _columns(config: MapIvrTableConfig, found: Mapping[str, PointSummary]) -> tuple[str, ...]:
    names = dict.fromkeys(
        name.rpartition("/")[2] for summary in found.values() for name in summary.metrics if "/map@" in name
    )
    return tuple(sorted(names, key=lambda name: int(name.partition("@")[2])))


def undone(published: Mapping[str, float]) -> dict[str, float]:
    """Returns mAP@K from what the released evaluator prints for them: n m_n - (n - 1) m_(n - 1) of the n-th cut-off."""
    found, before = {}, 0.0
    for number, (name, value) in enumerate(published.items(), start=1):
        found[name] = number * value - (number - 1) * before
        before = value
    return found


def to_plain(result: TableResult) -> dict[str, Any]:
    """Returns the result as plain types, for JSON."""
    return {
        "version": 1,
        "name": NAME,
        "source": SOURCE,
        "published_dataset": result.config.published,
        "caveat": CAVEAT,
        "protocol": PROTOCOL,
        "seeds": list(result.config.seeds),
        "seed_keys": list(result.config.seed_keys),
        "spread": "sample standard deviation over seeds",
        "columns": list(result.columns),
        "rows": [_row_to_plain(row) for row in result.rows],
        "cannot_run": dict(result.cannot_run),
        "failed": {name: {str(seed): text for seed, text in errors.items()} for name, errors in result.failed.items()},
        "num_clips": {name: {"train": train, "test": test} for name, (train, test) in result.num_clips.items()},
        "config": result.config.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def _row_to_plain(row: TableRow) -> dict[str, Any]:
    return {
        "title": row.title,
        "system": row.system,
        "is_floor": row.is_floor,
        "ours": _plain(row.ours),
        "ours_as_released_evaluator": _plain(row.cumulative),
        "published": dict(row.published),
        "published_undone": {name: round(value, 6) for name, value in undone(row.published).items()},
        "note": row.note,
    }


def _plain(spreads: Mapping[str, Spread]) -> dict[str, Any]:
    return {
        name: {
            "mean": round(item.mean, 10),
            "std": None if math.isnan(item.std) else round(item.std, 10),
            "values": [round(value, 10) for value in item.values],
        }
        for name, item in spreads.items()
    }
