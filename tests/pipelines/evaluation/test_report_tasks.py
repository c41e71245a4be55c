"""The pages of detection and the other tasks: that they say the numbers, stand alone, and work in a real browser."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from clipmill.pipelines.evaluation.metrics.detection_errors import false_positives
from clipmill.pipelines.evaluation.metrics.detection_hits import hits_at
from clipmill.pipelines.evaluation.tasks.class_confusion import confusion_blocks
from clipmill.pipelines.evaluation.tasks.detection.report import chosen_thresholds
from clipmill.pipelines.evaluation.tasks.detection.timelines import (
    APART,
    choose,
    detection_timelines,
    found_share,
    lanes_of,
)
from clipmill.pipelines.evaluation.tasks.histograms import bin_edges, histograms
from clipmill.pipelines.evaluation.tasks.page import TaskReport, render_task_report, write_task_report
from clipmill.pipelines.evaluation.tasks.published import PUBLISHED_SCORES
from clipmill.pipelines.reports.blocks import Segment, time_text, time_ticks
from clipmill.pipelines.reports.charts_bars import Layer, Steps, histogram_chart, matrix_picture, stacked_chart
from clipmill.schemas.errors import StorageUnavailableError
from tests.pipelines.evaluation.task_pages import HOSTILE, PAGES, detection_page, evaluated_detections
from tests.pipelines.reports.browser import CHROMIUM, browser
from tests.pipelines.reports.page_text import page_text


@pytest.fixture(scope="module")
def reports() -> dict[str, TaskReport]:
    return {name: page() for name, page in PAGES.items()}


@pytest.fixture(scope="module")
def pages(reports: dict[str, TaskReport]) -> dict[str, str]:
    return {name: render_task_report(report) for name, report in reports.items()}


# --- what they say --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_well_formed_stands_alone_and_lets_no_name_become_markup(
    pages: dict[str, str], name: str
) -> None:
    html = pages[name]
    text = page_text(html)
    assert "ab" * 8 in text  # the digest of a file read
    assert "1,234,567" in text
    assert "note: <b>not bold</b>" in text
    urls = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", html)
    assert all(url.startswith(("#", "data:")) for url in urls), urls
    assert "http" not in html
    assert HOSTILE not in html
    assert html.count("<script>") == 1
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", text.lower())


@pytest.mark.parametrize("name", ["detection", "items"])
def test_the_same_evaluation_is_the_same_page(pages: dict[str, str], name: str) -> None:
    evaluated_detections.cache_clear()
    assert render_task_report(PAGES[name]()) == pages[name]


@pytest.mark.parametrize("name", PAGES)
def test_every_page_shows_its_metrics_baselines_and_intervals(
    pages: dict[str, str], reports: dict[str, TaskReport], name: str
) -> None:
    report = reports[name]
    run = report.score.runs[0]
    text = page_text(pages[name])
    for metric in report.columns:
        assert f"{run.metrics[metric]:.3f}" in text, metric
    for metric, value in run.metrics.items():
        assert metric.startswith("num_") or f"{metric} {value:.4f}" in text, metric
    for baseline, values in run.baselines.items():
        assert f"baseline: {baseline.replace('_', ' ')}" in text
        assert any(f"{value:.3f}" in text for value in values.values())
    interval = run.intervals[report.tiles[0]]
    assert f"95 %: {interval.low:.3f} to {interval.high:.3f}" in text


def test_a_detection_page_says_where_the_map_is_lost(pages: dict[str, str]) -> None:
    evaluation = evaluated_detections()
    text = page_text(pages["detection"])
    assert "Published, elsewhere Method <P> NMS at 0.4. Source: A. Nother, 2019 0.123" in text
    hits = hits_at(evaluation.truth.segments, evaluation.predictions, 0.5)
    found = false_positives(hits)
    counts = " ".join(f"{count:,}" for count in found.counts[-1].tolist())
    assert f"10G {counts}" in text
    assert f"without localisation {found.counts[-1, 3]:,} {found.without[3]:.3f}" in text
    for label, values in evaluation.run.per_class.items():
        assert f"{label} {values['ap@0.5']:.3f} {values['ap@0.55']:.3f}" in text
    counts = evaluation.score.counts
    assert f"videos {counts.num_videos}" in text
    assert f"missing videos {counts.num_missing_videos}" in text


def test_without_a_named_dataset_published_rows_are_there_to_be_opened(
    pages: dict[str, str], reports: dict[str, TaskReport]
) -> None:
    assert "Published results" not in page_text(pages["proposals"])
    bare = page_text(render_task_report(dataclasses.replace(reports["detection"], published=(), sections=())))
    assert "Published results, on their own data" in bare
    rows = [row for row in PUBLISHED_SCORES if row.task == "detection"]
    assert rows
    for row in rows:
        assert f"{row.method} {f'{row.protocol}. ' if row.protocol else ''}Source: {row.source}" in bare


# --- timelines ------------------------------------------------------------------------------------


def test_timelines_mark_correct_and_incorrect_as_the_matching_says() -> None:
    evaluation = evaluated_detections()
    hits = hits_at(evaluation.truth.segments, evaluation.predictions, 0.5)
    lines, num_videos = detection_timelines(hits, evaluation.truth.durations, 9)
    assert num_videos == 30
    assert [line.kind for line in lines] == ["best"] * 3 + ["worst"] * 3 + ["random"] * 3
    share, sizes = found_share(hits)
    for line in lines:
        video = hits.ground_truth.video_ids.index(line.title)
        marks = [bar.mark for lane in line.lanes if lane.is_truth for bar in lane.segments]
        own = hits.ground_truth.video == video
        assert (len(marks), marks.count("truth")) == (sizes[video], (hits.found_by[own] >= 0).sum())
        drawn = [bar for lane in line.lanes if not lane.is_truth for bar in lane.segments]
        # The ranks told in words are those of the video's predictions, best first.
        for bar in drawn:
            rank = int(re.search(r"rank (\d+)", bar.text).group(1))  # type: ignore[union-attr]
            row = [row for row in hits.order.tolist() if hits.predictions.video[row] == video][rank - 1]
            assert (bar.mark == "correct") == (hits.target[row] >= 0)
            assert f"score {hits.predictions.score[row]:.4g}," in bar.text
        right = sum(
            bar.mark == "correct" and int(bar.text.split("rank ")[1].split(",")[0]) <= sizes[video] for bar in drawn
        )
        assert right / sizes[video] == pytest.approx(share[video])


def test_best_and_worst_are_chosen_by_value_then_size_then_name() -> None:
    values = np.array([0.5, 1.0, 1.0, 0.0, 0.0, np.nan])
    names = ["a", "b", "c", "d", "e", "f"]
    sizes = np.array([1, 1, 4, 1, 2, 9])
    chosen = choose(values, sizes, names, 6)
    assert chosen[:2] == (("best", 2), ("worst", 4))
    assert [kind for kind, _ in chosen[2:]] == ["random"] * 3
    assert {position for _, position in chosen} == {0, 1, 2, 3, 4}
    assert chosen == choose(values, sizes, names, 6)
    assert choose(values, sizes, names, 3)[:2] == (("best", 2), ("worst", 4))
    assert choose(values, sizes, names, 0) == ()
    assert choose(values[5:], sizes[5:], names[5:], 3) == ()


def test_bars_of_one_line_keep_apart_and_stay_within_the_video() -> None:
    random = np.random.default_rng(0)
    bars = [Segment(float(s), float(s + w), "incorrect", "") for s, w in random.uniform((-5, 0), 60, (40, 2))]
    lanes, hidden = lanes_of(bars, 100.0, "class", False)
    drawn = [lane.segments for lane in lanes]
    assert sum(map(len, drawn)) + hidden == 40
    assert len(drawn) == 6
    assert hidden > 0
    assert [lane.name for lane in lanes] == ["class"] + [""] * 5
    for line in drawn:
        for one, other in zip(line, line[1:], strict=False):
            assert other.start_seconds >= max(one.stop_seconds, one.start_seconds + 100 * APART)
        assert all(0 <= bar.start_seconds <= bar.stop_seconds <= 100 for bar in line)
    assert lanes_of(bars, 100.0, "class", True)[1] == 0


def test_times_are_round_and_few() -> None:
    for length in (0.4, 3.0, 59.0, 150.0, 3600.0, 86400.0):
        ticks = time_ticks(length)
        assert ticks[0] == 0
        assert ticks[-1] <= length
        assert 1 <= len(ticks) <= 6
    assert time_ticks(150.0) == (0, 30, 60, 90, 120, 150)
    assert [time_text(seconds) for seconds in (0, 90, 120, 3725)] == ["0 s", "90 s", "2:00", "62:05"]


# --- charts ---------------------------------------------------------------------------------------


def test_histograms_lose_no_value_and_tell_shares() -> None:
    random = np.random.default_rng(0)
    groups = {"right": np.exp(random.normal(0, 2, 500)), "wrong": np.r_[np.exp(random.normal(-2, 2, 300)), np.nan]}
    edges, logarithmic = bin_edges(np.concatenate(list(groups.values())))
    assert logarithmic
    assert len(edges) == 21
    chart = histograms("Scores", "score", groups, "share")
    assert chart.numbers is not None
    columns = [[int(cell.text.replace(",", "")) for cell in row.cells] for row in chart.numbers.groups[0][1]]
    assert np.sum(columns, axis=0).tolist() == [500, 300]
    assert "logarithmic scale" in chart.svg
    for values in (np.zeros(0), np.full(3, np.nan), np.ones(4), np.array([-1e308, 1e308]), np.array([0.0, 1e-300])):
        assert histograms("t", "x", {"all": values}, "share").svg.count("<path") > 3


def test_a_histogram_puts_heights_where_the_axis_says() -> None:
    svg = histogram_chart([Steps("one", [0.5, 0.25], [2, 1], 0)], ["a", "b"], [(0, "0")], "<t>", "x", "y")
    # 70 to 426 wide in two bins, 262 (0 %) to 12 (50 %) high.
    assert 'class="line" d="M70 262V12.0H248.0V137.0H426.0V262"' in svg
    assert "a: one: 2 (50.0 %)" in svg
    assert "&lt;t&gt;" in svg


def test_stacked_columns_are_whole_and_an_empty_one_is_nothing() -> None:
    svg = stacked_chart([Layer("good", "✓", [3, 0]), Layer("bad", "B", [1, 0])], ["1G", "2G"], "t", "x", "y")
    heights = [float(value) for value in re.findall(r'class="block"[^>]*height="([\d.]+)"', svg)]
    assert heights == [187.5, 62.5]
    assert "1G, good: 3 of 4 (75.0 %)" in svg


def test_a_matrix_is_numbers_for_few_classes_and_a_picture_for_many() -> None:
    few = confusion_blocks(np.array([[3, 1], [0, 2]]), ["a", "b"], "Confusion", "")
    assert [block.kind for block in few] == ["matrix", "table"]
    many = np.diag(np.full(100, 5)) + np.eye(100, k=1, dtype=np.int64)
    blocks = confusion_blocks(many, [f"c{n:03d}" for n in range(100)], "Confusion", "")
    assert [block.kind for block in blocks] == ["charts", "matrix", "table"]
    assert matrix_picture(many / many.sum(axis=1, keepdims=True), "t").count("h1v1h-1z") == 199
    pairs = blocks[-1].groups[0][1]  # type: ignore[union-attr]
    assert (pairs[0].name, [cell.text for cell in pairs[0].cells]) == ("c000 → c001", ["1", "6", "16.7 %"])
    right = confusion_blocks(np.diag(np.full(100, 5)), [f"c{n:03d}" for n in range(100)], "Confusion", "")
    assert [block.kind for block in right] == ["charts"]


def test_curves_are_drawn_at_the_ends_and_the_middle() -> None:
    assert chosen_thresholds(tuple(np.linspace(0.5, 0.95, 10).tolist())) == (0.5, 0.75, 0.95)
    assert chosen_thresholds((0.1, 0.2, 0.3, 0.4, 0.5)) == (0.1, 0.3, 0.5)
    assert chosen_thresholds((0.5,)) == (0.5,)


# --- files ----------------------------------------------------------------------------------------


def test_a_page_that_cannot_be_written_is_one_clear_line(tmp_path: Path, reports: dict[str, TaskReport]) -> None:
    with pytest.raises(StorageUnavailableError, match="expected a file that can be written"):
        write_task_report(str(tmp_path / "nowhere" / "report.html"), reports["highlights"])


@pytest.mark.slow
def test_a_page_of_activitynets_size_is_small_and_quick(tmp_path: Path) -> None:
    evaluation = evaluated_detections(num_videos=4728, num_labels=200, per_video=100)
    assert write_task_report(str(tmp_path / "report.html"), detection_page(evaluation)) < 5_000_000


# --- in a real browser ----------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_detection_page_works_in_a_browser_wide_and_narrow(pages: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(pages["detection"])
    with browser(tmp_path / "profile") as page:
        for width in (1280, 390):
            page.open(path, width)
            page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, width
            narrow = "Math.min(...[...document.querySelectorAll('tbody th, .lab .who, .lane .who')]"
            assert page.evaluate(narrow + ".filter(e => e.offsetParent).map(e => e.offsetWidth))") > 55

        # One chart of the choice at a time.
        shown = "[...document.querySelectorAll('#precision figure')].filter(e => e.offsetParent).length"
        assert page.evaluate(shown) == 1
        pick = "s.value = '2'; s.dispatchEvent(new Event('change'))"
        page.evaluate(f"(s => {{ {pick} }})(document.querySelector('#precision select'))")
        assert page.evaluate(shown) == 1
        title = ".find(e => e.offsetParent).querySelector('h3').textContent"
        assert (
            page.evaluate("[...document.querySelectorAll('#precision figure')]" + title)
            == "Precision against recall, class 1"
        )

        # Only the keyboard: Tab stops once per timeline, arrows go on, and the line under the title tells.
        stops = ".map(t => t.querySelectorAll('.lane button[tabindex=\"0\"]').length)"
        assert set(page.evaluate("[...document.querySelectorAll('.timeline')]" + stops)) == {1}
        page.evaluate("document.querySelector('.timeline .lane button').focus()")
        told = "document.querySelector('.timeline .told').textContent"
        first = page.evaluate(told)
        assert first.startswith(("● Ground truth: ", "○ Ground truth: "))
        page.press("End", 35)
        last = page.evaluate(told)
        assert last != first
        assert re.match(r"[✓✗–] (Correct|Incorrect, |Ignored).*, score [\d.e-]+, rank \d+, [\d.]+ to [\d.]+ s", last)
        page.press("ArrowLeft", 37)
        assert page.evaluate(told) != last
        assert page.evaluate("document.activeElement.matches('.lane button.on')") is True

        page.evaluate("document.querySelector('[data-only=worst]').click()")
        kinds = "[...document.querySelectorAll('.timeline')].filter(e => e.offsetParent).map(e => e.dataset.kind)"
        assert set(page.evaluate(kinds)) == {"worst"}
        page.evaluate("document.getElementById('theme').click()")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
        assert page.problems == []
        assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_every_page_fits_wide_and_narrow_without_problems(pages: dict[str, str], tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as page:
        for name, html in pages.items():
            path = tmp_path / f"{name}.html"
            path.write_text(html)
            for width in (1280, 390):
                page.open(path, width)
                page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
                assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
        assert page.problems == []
