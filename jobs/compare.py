"""``clipmill compare``: two evaluations that lie there, metric by metric, with gates and a page."""

import sys
from collections.abc import Sequence

from clipmill.jobs.output import Outcome
from clipmill.pipelines.evaluation.gates import gates_against, judge
from clipmill.pipelines.evaluation.results_file import read_results
from clipmill.schemas.errors import EXIT_COMPLETE, EXIT_GATE

THING = "compare"


def run_compare(
    first: str, second: str, page: str | None = None, fail_if: Sequence[str] = (), other_data: bool = False
) -> Outcome:
    """Compares the evaluation at `first` with the one at `second`; differences are the first less the second.

    Args:
        page: file to write a page to; None: none is written.
        fail_if: gates, see `clipmill.pipelines.evaluation.gates`; the exit code is 5 if one fails.
        other_data: compare although ground truth or protocol differ.

    Raises:
        UsageError: one of the two is no evaluation, they cannot be compared, or a gate cannot be used.
        StorageUnavailableError: the page cannot be written.
    """
    ours = read_results(first, THING)
    theirs = read_results(second, THING)
    gates = gates_against(theirs, second, fail_if, other_data, THING)
    judgement = judge(ours, gates)
    for verdict in judgement.failed:
        print(f"clipmill: {verdict.line}", file=sys.stderr)
    data = judgement.to_plain() | {"first": first, "second": second, "notes": list(judgement.notes)}
    indented = [*judgement.notes, *(item.line for item in judgement.differences)]
    lines = [f"{ours['task']}: {first} against {second}", *(f"  {line}" for line in indented)]
    lines += [verdict.line for verdict in judgement.verdicts]
    if page is not None:
        from clipmill.pipelines.evaluation.tasks.comparison_page import comparison_page
        from clipmill.pipelines.reports.page import write_page

        num_bytes = write_page(page, comparison_page(ours, theirs, (first, second), judgement))
        data |= {"page": page, "page_bytes": num_bytes}
        lines.append(f"page: {page}")
    return Outcome(data, "\n".join(lines), EXIT_GATE if judgement.failed else EXIT_COMPLETE)
