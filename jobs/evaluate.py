"""``clipmill evaluate``: the task a config asks for, its files and its table, and the gates that follow."""

import json
import sys
from collections.abc import Sequence

from clipmill.jobs.configs import read_text_of
from clipmill.jobs.gates import judge, read_gates
from clipmill.jobs.output import Outcome
from clipmill.pipelines.evaluation.tasks.base import Sources, Task
from clipmill.pipelines.evaluation.tasks.evaluate import evaluate_task, published_rows, write_evaluation
from clipmill.pipelines.evaluation.tasks.registry import parse_task_config
from clipmill.pipelines.evaluation.tasks.table import table_lines
from clipmill.schemas.config import dump_config
from clipmill.schemas.config_evaluate import TaskConfig, task_of_config
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
        fail_if: gates, see `clipmill.jobs.gates`; the exit code is 5 if one fails.
        other_data: compare although ground truth or protocol differ.

    Raises:
        UsageError: the config, a file it names, or a gate cannot be used.
    """
    # Read first: this evaluation may write into the folder it is compared with.
    gates = read_gates(against, fail_if, other_data)
    text = read_text_of(path)
    if task_of_config(text, overrides, path) == "retrieval":
        from clipmill.jobs.evaluate_retrieval import run_evaluate as run_retrieval

        outcome = run_retrieval(path, overrides)
    else:
        task, config = parse_task_config(text, overrides, path)
        print(dump_config(config).rstrip(), file=sys.stderr)
        outcome = _run(task, config)
    return outcome if gates is None else judge(outcome, gates)


def _run(task: Task, config: TaskConfig) -> Outcome:  # type: ignore[type-arg]
    sources = Sources(class_names=class_names)
    evaluation = evaluate_task(task, config, sources)
    written = write_evaluation(task, evaluation, config, sources)
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
    lines = [*table_lines(evaluation.score, published, config.confidence), f"results: {written.results}"]
    if written.report is not None:
        data |= {"report": str(written.report), "report_bytes": written.report_bytes}
        lines.append(f"report: {written.report}")
    return Outcome(data, "\n".join(lines))


def class_names(recipe: Recipe) -> tuple[str, ...]:
    """Returns the names of the classes 1, 2, ... that a recipe's extractor scores; empty where they are not known."""
    from clipmill.extractors.rc3d.releases import DEFAULT_FORM, FORMS

    if recipe.extractor != "rc3d":
        return ()
    return FORMS[recipe.options.get("form", DEFAULT_FORM)].class_names[1:]
