"""``clipmill evaluate``: the task a config asks for, its files and its table, and the gates that follow."""

import json
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

from clipmill.jobs.configs import keep_config, read_text_of, tell_config
from clipmill.jobs.output import Outcome
from clipmill.pipelines.evaluation.gates import Gates, Judgement, judge, read_gates
from clipmill.pipelines.evaluation.tasks.base import Sources, Task
from clipmill.pipelines.evaluation.tasks.clip_views import ClipViews
from clipmill.pipelines.evaluation.tasks.evaluate import evaluate_task, published_rows, write_evaluation
from clipmill.pipelines.evaluation.tasks.registry import parse_task_config
from clipmill.pipelines.evaluation.tasks.result import task_results_json
from clipmill.pipelines.evaluation.tasks.table import table_lines
from clipmill.schemas.config_evaluate import TaskConfig
from clipmill.schemas.errors import EXIT_GATE, UsageError
from clipmill.schemas.recipe import Recipe


def run_evaluate(
    path: str,
    overrides: Sequence[str],
    against: str | None = None,
    fail_if: Sequence[str] = (),
    other_data: bool = False,
) -> Outcome:
    """Evaluates as the config at `path` says; writes ``results.json`` (and ``report.html``) into its `out`.

    Args:
        against: another evaluation to compare with.
        fail_if: gates, see `clipmill.pipelines.evaluation.gates`; the exit code is 5 if one fails.
        other_data: compare although ground truth or protocol differ.

    Raises:
        UsageError: the config, a file it names, or a gate cannot be used.
    """
    # Read first: this evaluation may write into the folder it is compared with.
    gates = read_gates(against, fail_if, other_data)
    task, config = parse_task_config(read_text_of(path), overrides, path)
    tell_config(config)
    return _run(task, config, gates)


def _run(task: Task[Any, Any], config: TaskConfig, gates: Gates | None) -> Outcome:
    started = time.monotonic()
    sources = Sources(class_names=class_names, clip_views=clip_views)
    evaluation = evaluate_task(task, config, sources)
    try:
        judgement = None if gates is None else judge(json.loads(task_results_json(evaluation.score)), gates)
    except UsageError:
        # What was scored is kept, though it cannot be compared.
        write_evaluation(task, evaluation, config, sources)
        raise
    written = write_evaluation(task, evaluation, config, sources, judgement)
    keep_config(config, config.out, "evaluate")
    published = published_rows(task, config)
    data = json.loads(written.results.read_bytes())
    for run in data["runs"].values():
        run.pop("units", None)
        run.pop("resampled", None)
    data["published"] = [
        {"method": row.method, "metrics": dict(row.metrics), "source": row.source, "protocol": row.protocol}
        for row in published
    ]
    data["results"] = str(written.results)
    data["seconds"] = round(time.monotonic() - started, 3)
    data["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    lines = [*table_lines(evaluation.score, published, config.confidence), f"results: {written.results}"]
    if written.report is not None:
        data |= {"report": str(written.report), "report_bytes": written.report_bytes}
        lines.append(f"report: {written.report}")
    outcome = Outcome(data, "\n".join(lines))
    return outcome if judgement is None else _judged(outcome, judgement)


def class_names(recipe: Recipe) -> tuple[str, ...]:
    """Returns the names of a recipe's classes; imports the registry of extractors."""
    from clipmill.extractors import registry

    return registry.class_names(recipe)


def clip_views() -> ClipViews:
    """Returns who makes images and lineage of stored clips; imports decoders."""
    from clipmill.jobs import report_clips

    return report_clips


def _judged(outcome: Outcome, judgement: Judgement) -> Outcome:
    """Returns `outcome` with the comparison and the verdicts; its exit code is 5 if a gate failed."""
    for verdict in judgement.failed:
        print(f"clipmill: {verdict.line}", file=sys.stderr)
    return Outcome(
        outcome.data | judgement.to_plain(),
        "\n".join([outcome.text, *judgement.lines]),
        EXIT_GATE if judgement.failed else outcome.exit_code,
    )
