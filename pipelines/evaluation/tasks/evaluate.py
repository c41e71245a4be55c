"""One evaluation from its config to its files, the same for every task."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipmill.pipelines.evaluation.fusion import what_was_fused
from clipmill.pipelines.evaluation.gates import Judgement
from clipmill.pipelines.evaluation.inputs import fused_names, run_names
from clipmill.pipelines.evaluation.tasks.base import Evaluation, Sources, Task
from clipmill.pipelines.evaluation.tasks.measures import measures_of, with_measures
from clipmill.pipelines.evaluation.tasks.published import PublishedScore, published_scores
from clipmill.pipelines.evaluation.tasks.result import REPORT, RESULTS, task_results_json
from clipmill.schemas.config_evaluate import PredictionsConfig, TaskConfig
from clipmill.schemas.errors import StorageUnavailableError, UsageError, describe


@dataclass(frozen=True, slots=True)
class Written:
    """The files of an evaluation; without a page `report` is None."""

    results: Path
    report: Path | None
    report_bytes: int = 0


def evaluate_task(task: Task[Any, Any], config: TaskConfig, sources: Sources) -> Evaluation[Any]:
    """Returns what `task` finds for `config`; writes nothing.

    Raises:
        UsageError: a file is something else than the task reads, ids have nothing in common, there are no published
            rows of the dataset or no metric that the config names, or it names a run that the task cannot score.
    """
    # What does not exist is refused before any work.
    published_rows(task, config)
    measures = measures_of(config)
    _check_runs(task, getattr(config, "predictions", ()))
    predict = task.predict
    if predict is not None:
        sources = replace(sources, predict=lambda item: predict(item, config))
    return with_measures(_with_fusion(task.evaluate(config, sources), config), config, measures)


def _with_fusion(evaluation: Evaluation[Any], config: TaskConfig) -> Evaluation[Any]:
    """Returns the evaluation with what was fused among the notes and details of the runs that are of several files."""
    given: Sequence[PredictionsConfig] = getattr(config, "predictions", ())
    if not any(item.fuse for item in given):
        return evaluation
    told = {name: item for name, item in zip(run_names(given), given, strict=True) if item.fuse}
    runs = []
    for run in evaluation.score.runs:
        if run.name in told:
            note, details = what_was_fused(told[run.name], fused_names(told[run.name]))
            run = replace(run, notes=(note, *run.notes), details={**run.details, **details})
        runs.append(run)
    return replace(evaluation, score=replace(evaluation.score, runs=tuple(runs)))


def published_rows(task: Task[Any, Any], config: TaskConfig) -> tuple[PublishedScore, ...]:
    """Returns the published rows of the dataset that `config` names; none where it names none.

    Raises:
        UsageError: there are no rows of that dataset.
    """
    return published_scores(task.name, config.published, task.published)


def write_evaluation(
    task: Task[Any, Any],
    evaluation: Evaluation[Any],
    config: TaskConfig,
    sources: Sources,
    judgement: Judgement | None = None,
) -> Written:
    """Writes ``results.json`` and, where there is one, the page into the config's `out`.

    Args:
        judgement: how the evaluation compares with another, and what gates say: it stands in both.

    Raises:
        StorageUnavailableError: the folder cannot be written.
    """
    out = Path(config.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / RESULTS).write_bytes(
            task_results_json(evaluation.score, None if judgement is None else judgement.to_results())
        )
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageUnavailableError(
            describe("evaluation", str(out), "a folder that can be written", reason, "choose another out")
        ) from None
    if task.report is None or not config.report:
        return Written(out / RESULTS, None)
    from clipmill.pipelines.evaluation.tasks.page import write_task_report

    report = task_report(task, evaluation, config, sources)
    if judgement is not None:
        from clipmill.pipelines.evaluation.tasks.comparison_page import comparison_section

        report = replace(report, sections=(comparison_section(judgement), *report.sections))
    num_bytes = write_task_report(str(out / REPORT), report)
    return Written(out / RESULTS, out / REPORT, num_bytes)


def task_report(task: Task[Any, Any], evaluation: Evaluation[Any], config: TaskConfig, sources: Sources) -> Any:
    """Returns the task's report, with published rows and lineage where the task gave none of its own.

    Raises:
        ValueError: the task has no page.
    """
    from clipmill.pipelines.evaluation.tasks.lineage import lineage_of, random_weights_notes
    from clipmill.pipelines.evaluation.tasks.page import Lineage

    if task.report is None:
        raise ValueError(f"task {task.name}: expected one with a page, got none")
    report = task.report(evaluation, config, sources)
    if not report.published:
        report = replace(report, published=published_rows(task, config))
    measures = measures_of(config)
    if measures:
        more = tuple(name for name in report.score.runs[report.main].shown if name not in report.columns)
        titles = {metric: title for measure in measures for metric, title in measure.titles.items()}
        report = replace(report, columns=(*report.columns, *more), names={**titles, **report.names})
    if report.lineage == Lineage():
        report = replace(report, lineage=lineage_of(config))
    return replace(report, notes=(*random_weights_notes(config), *report.notes))


def _check_runs(task: Task[Any, Any], predictions: Sequence[PredictionsConfig]) -> None:
    for item in predictions:
        if item.run is not None and task.predict is None:
            expected = f"a file or store, since task {task.name} scores no trained runs"
            raise UsageError(
                describe("predictions", "run", expected, item.run, "write the run's predictions to a file")
            )
