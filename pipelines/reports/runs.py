"""What a build or a training did, as a page like an evaluation's, made of what their report.json holds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from clipmill.pipelines.reports.blocks import (
    Block,
    Cell,
    Chart,
    Charts,
    Code,
    Facts,
    Page,
    Row,
    Section,
    Table,
    Tile,
    legend,
    numbers,
    render_blocks,
)
from clipmill.pipelines.reports.charts import Axes, Series, line_chart, round_ticks
from clipmill.pipelines.reports.page import duration_text
from clipmill.pipelines.reports.thumbnails import Thumbnail

QUARANTINE_SHOWN = 200
"""ours: videos listed by name; all are in ``clipmill status``."""
MARKED_POINTS = 10
"""ours: points of a curve with a tooltip, and lines of a loss's table."""
STAGES = {
    "scan": "packet scan, before decoding",
    "decode": "in the decode child",
    "decode_wait": "waiting for it",
    "forward": "in the networks",
    "write": "shards and commits",
}


TIME_UNITS = (("hour", 3600.0), ("minute", 60.0), ("second", 1.0))
"""What a time axis counts in: the first that makes five of a run."""

COSTS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "wall_hours": ("time of the run", lambda hours: duration_text(hours * 3600)),
    "cpu_hours": ("CPU-hours held", lambda hours: f"{hours:.3g}"),
    "gpu_hours": ("GPU-hours held", lambda hours: f"{hours:.3g}"),
    "num_windows": ("windows", lambda count: f"{count:,}"),
    "num_bytes": ("bytes stored", lambda count: f"{count:,}"),
    "num_reads": ("storage reads", lambda count: f"{count:,}"),
    "num_writes": ("storage writes and listings", lambda count: f"{count:,}"),
}
"""What a forecast of a build foretells, in words, and how it is written."""


@dataclass(frozen=True, slots=True)
class StageTime:
    """Wall time of one stage; `detail` says how much work it was, and a part is one of a stage above it."""

    stage: str
    seconds: float
    detail: str = ""
    is_part: bool = False


@dataclass(frozen=True, slots=True)
class SpeedOfLight:
    """A build's rate beside what bounds it: `line` as printed, `rates` as (name, frames per second)."""

    line: str
    rates: tuple[tuple[str, float], ...] = ()


def build_stages(report: Mapping[str, Any], name: str = "the whole run", detail: str = "") -> tuple[StageTime, ...]:
    """Returns the stages of a build by its report, the whole of it first."""
    seconds = report["seconds"]
    parts = (StageTime(stage, seconds[stage], text, True) for stage, text in STAGES.items() if stage in seconds)
    return (StageTime(name, seconds.get("wall", 0.0), detail), *parts)


def speed_of_light(report: Mapping[str, Any]) -> SpeedOfLight | None:
    """Returns a build's speed by its report; None where it decoded nothing."""
    speed = report["speed"]
    if not speed:
        return None
    rates = [("this build", float(speed["frames_per_second"]))]
    if speed.get("raw_decoder_frames_per_second"):
        rates.append(("raw decoder", float(speed["raw_decoder_frames_per_second"])))
    return SpeedOfLight(report["speed_of_light"], tuple(rates))


def stages_table(stages: Sequence[StageTime]) -> Table:
    """Returns where time went, as bars."""
    longest = max((stage.seconds for stage in stages), default=0.0) or 1.0
    rows = tuple(
        Row(
            stage.stage,
            (Cell(duration_text(stage.seconds), stage.seconds / longest),),
            1 if stage.is_part else 0,
            note=stage.detail,
        )
        for stage in stages
    )
    parts = any(stage.is_part for stage in stages)
    note = "Parts of a build are summed over workers, and decoding runs beside the networks: they need not add up."
    return Table("Time per stage", ("stage", "time"), (("", rows),), note if parts else "")


def speed_table(speed: SpeedOfLight) -> Table:
    """Returns a build's rate beside what bounds it."""
    fastest = max((rate for _, rate in speed.rates), default=0.0) or 1.0
    rows = tuple(
        Row(name, (Cell(f"{rate:.3g}" if rate < 100 else f"{rate:,.0f}", rate / fastest),), 0 if number == 0 else 3)
        for number, (name, rate) in enumerate(speed.rates)
    )
    return Table("Speed of light", ("", "frames/s"), (("", rows),), speed.line)


def reasons_table(reasons: Mapping[str, int], note: str = "") -> Table:
    """Returns why videos are in quarantine, the most frequent reason first."""
    counts = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    rows = tuple(Row(reason, (Cell(f"{count:,}"),)) for reason, count in counts)
    return Table("Quarantined videos: why", ("reason", "videos"), (("", rows),), note)


def render_build(
    report: Mapping[str, Any],
    recipes: Sequence[Mapping[str, str]],
    quarantine: Sequence[Mapping[str, Any]],
    config: str,
    videos: Sequence[Block] = (),
    pictures: Mapping[str, Thumbnail] = MappingProxyType({}),
) -> str:
    """Returns the page of a build.

    Args:
        report: as report.json holds it (`clipmill.pipelines.features.build_report.BuildReport`).
        recipes: per feature of the build: ``name``, ``key``, ``network``, ``weights`` and ``fingerprint``, as text.
        quarantine: rows of the quarantine in force for the build's videos.
        config: the resolved config.
        videos: what the videos are like.
        pictures: a frame of videos in quarantine, by id, where one could be had.
    """
    quarantined = report["num_quarantined"]
    wanted = report["num_videos"] * len(recipes)
    tiles = (
        Tile("videos", f"{report['num_videos']:,}", report["dataset"], "main"),
        Tile("complete", f"{report['num_complete']:,}", f"of {wanted:,} pairs of video and feature"),
        Tile("new", f"{report['num_complete'] - report['num_complete_before']:,}", "pairs made by this run"),
        Tile("quarantined", f"{quarantined:,}", "videos, with their reasons below" if quarantined else "videos"),
        Tile("time", duration_text(report["seconds"].get("wall", 0.0)), f"on the {report['engine']} engine"),
    )
    random = [recipe["name"] for recipe in recipes if recipe["weights"].startswith("random")]
    notes = (
        (f"⚠ Random weights for {', '.join(random)}: rows are real outputs of an untrained network.",) if random else ()
    )
    speed = speed_of_light(report)
    sections = (
        Section("results", "Results", (_features(report, recipes), *((speed_table(speed),) if speed else ()))),
        *((Section("videos", "Videos", tuple(videos)),) if videos else ()),
        Section("quarantine", "Quarantine", _quarantine(report, quarantine, pictures)),
        Section("time", "Time", (*_throughput(report), stages_table(build_stages(report)), *_costs(report))),
        Section("run", "Run", (_build_facts(report), Code("Resolved config", config))),
    )
    return render_blocks(Page(f"Build of {report['dataset']}", f"Run {report['run_id']}", tiles, sections, notes))


def _features(report: Mapping[str, Any], recipes: Sequence[Mapping[str, str]]) -> Table:
    rows = tuple(
        Row(
            recipe["name"],
            (
                Cell(recipe["network"]),
                Cell(recipe["weights"]),
                Cell(f"{report['num_rows'].get(recipe['key'], 0):,}"),
                Cell(recipe["fingerprint"][:8]),
            ),
        )
        for recipe in recipes
    )
    return Table("Features", ("feature", "network", "weights", "new rows", "recipe"), (("", rows),))


def _quarantine(
    report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], pictures: Mapping[str, Thumbnail]
) -> tuple[Block, ...]:
    substituted = (
        "substituted frames",
        f"{report['num_frames_substituted']:,} of {report['num_frames_decoded']:,} decoded",
    )
    tails = f"{report['num_tail_windows_dropped']:,} dropped, {report['num_tail_windows_padded']:,} padded"
    outside = (
        f"{report.get('num_segments_emptied', 0):,} wholly outside their video, "
        f"{report.get('num_segments_clamped', 0):,} in part"
    )
    left_out = ", ".join(
        f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(report["num_left_out"].items())
    )
    # Reports of earlier versions do not count these.
    kept = ("truncated videos kept", f"{report.get('num_truncated_kept', 0):,}")
    joined = ("joined end to end", f"{report.get('num_joined', 0):,} videos, laid one after the other")
    unlisted = f"{report.get('num_unlisted', 0):,} of the store, {report.get('num_renamed', 0):,} of them renamed"
    groups = "; ".join(" = ".join(group) for group in report.get("copies", ()))
    copies = f"{report.get('num_copies', 0):,} videos whose bytes another id has{': ' if groups else ''}{groups}"
    facts = Facts(
        "What did not work as asked",
        (
            substituted,
            ("short tails", tails),
            kept,
            joined,
            ("annotated segments", outside),
            ("files left out", left_out or "none"),
            ("annotations", _matched(report.get("annotations"))),
            ("videos no longer in the manifest", unlisted),
            ("copies", copies),
        ),
    )
    if not rows:
        return (facts,)
    shown = tuple(
        Row(
            row["video_id"],
            (Cell(row["stage"]), Cell(row["reason"])),
            note=row["message"],
            thumbnail=pictures.get(row["video_id"]),
        )
        for row in rows[:QUARANTINE_SHOWN]
    )
    note = "clipmill requeue puts them back; a video whose file has changed is tried again anyway."
    if len(rows) > QUARANTINE_SHOWN:
        note = f"The first {QUARANTINE_SHOWN} of {len(rows):,}; clipmill status has all. {note}"
    listed = Table("Videos in quarantine", ("video", "stage", "reason"), (("", shown),), note)
    return facts, reasons_table(report["reasons"]), listed


def _matched(annotations: Mapping[str, Any] | None) -> str:
    if annotations is None:
        return "none given"
    without, others = len(annotations["without_file"]), len(annotations["not_annotated"])
    return (
        f"{annotations['num_annotated']:,} videos, {without:,} of them without a file; {others:,} files not annotated"
    )


def _throughput(report: Mapping[str, Any]) -> tuple[Block, ...]:
    """Returns how fast a build was while it went on; nothing for short ones, and reports of earlier versions."""
    rates = report.get("throughput")
    if not rates:
        return ()
    span, num = rates["span_seconds"], len(rates["windows_per_second"])
    unit, seconds = next(item for item in TIME_UNITS if span * num >= 5 * item[1] or item[1] == 1)
    middles = [round(span * (number + 0.5) / seconds, 2) for number in range(num)]
    stop = span * num / seconds
    charts = []
    for name in ("windows", "videos"):
        values = rates[f"{name}_per_second"]
        axes = Axes(
            f"{name.capitalize()} per second over the run",
            f"{unit} of the run",
            f"{name} per second",
            [tick for tick in round_ticks(0.0, stop) if tick <= stop],
            0.0,
            stop,
            round_ticks(0.0, max(values)),
        )
        marked = [middles[int(number) - 1] for number in _marked(num)]
        chart = line_chart([Series(name, list(zip(middles, values, strict=True)), marked, 0)], axes)
        note = f"Means of {duration_text(span)}, of all workers together."
        charts.append(Chart(f"{name.capitalize()} per second", chart, note=note))
    return (Charts(tuple(charts)),)


def _costs(report: Mapping[str, Any]) -> tuple[Block, ...]:
    """Returns what limited a build and its forecast beside what it cost; nothing for reports of earlier versions."""
    found: list[Block] = []
    limits, expected, did = (report.get(name) for name in ("limits", "forecast", "actual"))
    if limits:
        total = sum(limits["seconds"].values()) or 1.0
        stages = sorted(limits["seconds"].items(), key=lambda item: -item[1])
        rows = tuple(Row(name, (Cell(duration_text(seconds), seconds / total),)) for name, seconds in stages if seconds)
        found.append(Table("Where the workers' time went", ("stage", "time"), (("", rows),), limits["line"]))
    if expected and did:
        lines = tuple(
            Row(text, (Cell(shown(expected[name])), Cell(shown(did[name])), Cell(_ratio(expected[name], did[name]))))
            for name, (text, shown) in COSTS.items()
            if expected[name] or did[name]
        )
        note = f"Forecast {expected['source']}."
        found.append(Table("Forecast", ("", "forecast", "actual", "forecast / actual"), (("", lines),), note))
    return tuple(found)


def _ratio(expected: float, did: float) -> str:
    return f"{expected / did:.2f}" if did else "–"


def _build_facts(report: Mapping[str, Any]) -> Facts:
    facts = (
        ("store", report["store"]),
        ("run", report["run_id"]),
        ("tasks", f"{report['num_tasks_executed']} executed of {report['num_tasks']}"),
        ("peak memory", f"{report['peak_memory_bytes'] / 2**30:.2f} GiB in the largest worker"),
    )
    return Facts("Run", facts)


def render_training(
    report: Mapping[str, Any], config: str, held_out: Sequence[tuple[int, Mapping[str, float]]] = ()
) -> str:
    """Returns the page of a training: its losses by epoch, its data and its settings.

    Args:
        report: as report.json holds it (`clipmill.pipelines.training.train.TrainReport`).
        config: the resolved config.
        held_out: epochs with their losses on the validation split, ascending.
    """
    losses = report["losses"]
    names = sorted(losses[-1], key=lambda name: (name != "total", name)) if losses else []
    last = f"{losses[-1]['total']:.4g}" if losses and "total" in losses[-1] else "–"
    tiles = (
        Tile("total loss", last, f"mean of epoch {report['epoch']}", "main"),
        Tile("epochs", f"{report['epoch']:,}", f"{report['epoch'] - report['start_epoch']:,} of them by the last call"),
        Tile("train", f"{report['num_train']:,}", "clips"),
        Tile("test", f"{report['num_test']:,}", "clips kept out"),
        Tile("time", duration_text(report["seconds"]), f"of the last call, on {report['device']}"),
    )
    curves = tuple(
        _curve(
            name,
            [float(line[name]) for line in losses if name in line],
            [(float(epoch), float(line[name])) for epoch, line in held_out if name in line],
        )
        for name in names
    )
    without = [
        ("labels without a training clip", ", ".join(report["labels_without_training"]) or "none"),
        ("labels without a test clip", ", ".join(report["labels_without_test"]) or "none"),
        ("left out: one feature alone", f"{_num_left_out(report):,} clips"),
        ("left out: for validation", f"{report['num_validation']:,} clips"),
    ]
    options = tuple((name, str(value)) for name, value in sorted(report["options"].items()))
    run = (
        ("run", report["out"]),
        ("checkpoint", report["checkpoint"]),
        ("trainer", f"{report['trainer']}, {report['num_workers']} workers, {report['device']}"),
    )
    sections = (
        Section("losses", "Losses", (Charts(curves), _losses(names, losses)) if losses else ()),
        Section("data", "Data", (Facts("Clips", (("labels", f"{report['num_labels']:,}"), *without)),)),
        Section("run", "Run", (Facts("Run", run), Facts("Model", options), Code("Resolved config", config))),
    )
    return render_blocks(Page(f"Training of {report['model']}", report["out"], tiles, sections))


def _curve(name: str, values: Sequence[float], held_out: Sequence[tuple[float, float]]) -> Chart:
    num = len(values)
    marks = _marked(num)
    points = [(float(epoch), value) for epoch, value in enumerate(values, start=1)]
    known = [value for value in (*values, *(value for _, value in held_out)) if math.isfinite(value)]
    axes = Axes(
        f"{name} loss by epoch",
        "epoch",
        "loss",
        _ends(num),
        1,
        max(num, 2),
        round_ticks(min(0.0, *known), max(known)) if known else round_ticks(0.0, 1.0),
    )
    lines = [Series(name, points, marks, 0)]
    if held_out:
        inside = [(epoch, value) for epoch, value in held_out if math.isfinite(value)]
        shown = [epoch for epoch, _ in inside if epoch in marks]
        lines.append(Series(f"{name}, held out", inside, shown, 1))
        return Chart(name, line_chart(lines, axes), legend([(0, "training"), (1, "validation split")]))
    return Chart(name, line_chart(lines, axes))


def _marked(num: int) -> list[float]:
    """Returns at most about ten numbers spread over 1 to `num`, the first and the last among them."""
    step = max(1, -(-num // MARKED_POINTS))
    return [float(number) for number in sorted({1, *range(step, num + 1, step), num})]


def _ends(num: int) -> list[float]:
    return [float(epoch) for epoch in sorted({1, (num + 1) // 2, num})]


def _losses(names: Sequence[str], losses: Sequence[Mapping[str, float]]) -> Table:
    rows = [(f"{epoch:g}", [f"{losses[int(epoch) - 1].get(name, float('nan')):.4g}" for name in names]) for epoch in
            _marked(len(losses))]  # fmt: skip
    return numbers(("epoch", *names), rows, "The losses as numbers")


def _num_left_out(report: Mapping[str, Any]) -> int:
    return sum(count for name, count in report.items() if name.startswith("num_only_"))
