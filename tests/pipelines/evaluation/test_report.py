"""The page of a retrieval: what it says, that it stands alone, and how it behaves in a real browser."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery, Queries, evaluate_retrieval
from clipmill.pipelines.evaluation.retrieval.scorers import Cosine
from clipmill.pipelines.evaluation.tasks.page import TaskReport, render_task_report, write_task_report
from clipmill.pipelines.evaluation.tasks.published import published_scores
from clipmill.pipelines.evaluation.tasks.retrieval.confusion import confusion
from clipmill.pipelines.evaluation.tasks.retrieval.dataset import Dataset, DatasetCounts
from clipmill.pipelines.evaluation.tasks.retrieval.examples import choose_examples, thumbnails_needed
from clipmill.pipelines.evaluation.tasks.retrieval.report import Shown
from clipmill.pipelines.reports.charts import Axes, Series, line_chart
from clipmill.pipelines.reports.page import duration_text, score_text
from clipmill.pipelines.reports.thumbnails import Thumbnail
from clipmill.schemas.errors import StorageUnavailableError, UsageError
from tests.pipelines.evaluation.retrieval_page import SPACES, retrieval_page, retrieval_result, shown
from tests.pipelines.reports.browser import CHROMIUM, Page, browser
from tests.pipelines.reports.page_text import page_text

# --- what it says ---------------------------------------------------------------------------------


def test_it_shows_every_number_beside_published_ones_with_their_source() -> None:
    result = retrieval_result()
    text = page_text(render_task_report(retrieval_page()))
    for space in result.spaces:
        for k in result.cutoffs:
            assert f"{space.metrics[f'map@{k}']:.3f}" in text
    assert f"{result.chance['map@10']:.3f}" in text
    published = page_text(render_task_report(_with_published("thumos14")))
    for page in (text, published):
        assert "MAP-IVR combined 7,028 clips of 18 classes. Source: MAP-IVR slides, AAAI 2021" in page
        assert "0.721 0.719 0.717 0.714" in page
        assert "Published rows are from other features" in page
    assert "0.357 0.346 0.329 0.314" in text
    assert "0.357 0.346 0.329 0.314" not in published


def _with_published(dataset: str) -> TaskReport:
    return dataclasses.replace(retrieval_page(), published=published_scores("retrieval", dataset))


def test_plain_cosine_and_chance_are_baselines_and_every_space_has_a_tile() -> None:
    html = render_task_report(retrieval_page())
    tiles = re.findall(r'<div class="tile([^"]*)"><span class="name">([^<]*)</span><b>([^<]*)</b>', html)
    value = {space.space: f"{space.metrics['map@10']:.3f}" for space in retrieval_result().spaces}
    assert tiles == [
        ("", "appearance", value["appearance"]),
        ("", "video", value["video"]),
        (" main", "combined", value["combined"]),
        (" floor", "baseline: chance", f"{retrieval_result().chance['map@10']:.3f}"),
        (" floor", "baseline: own clip first", f"{retrieval_result().own_clip_first['map@10']:.3f}"),
        (" floor", "baseline: cosine", value["cosine"]),
    ]
    assert "mAP@10 of stored vectors as they are, nothing learned" in html
    # The main space has the first colour and the thick line, wherever it stands.
    assert '<tr class="s0 main"><th scope="row">combined</th>' in html
    assert '<tr class="s1"><th scope="row">appearance</th>' in html


def test_it_shows_counts_times_and_lineage() -> None:
    text = page_text(render_task_report(retrieval_page()))
    for part in ("truncated 2", "no_video_stream 1", "3 min 04 s", "412 frames/s, limited", "1,234,567", "24 train"):
        assert part in text, part
    assert "cutoffs: [10, 20] note: <b>not bold</b>" in text
    assert "20261104-map-ivr" in text
    assert "runs.combined.units.values.map@10" in text


def test_random_weights_are_warned_of_and_trained_ones_are_not() -> None:
    beside = shown()
    assert "Random weights: c3d (random(7)), never trained" in page_text(render_task_report(retrieval_page(beside)))
    assert beside.dataset is not None
    trained = dataclasses.replace(beside.dataset, features=beside.dataset.features[:1])
    text = page_text(render_task_report(retrieval_page(dataclasses.replace(beside, dataset=trained))))
    assert "Random weights" not in text


def test_correct_and_incorrect_are_marked_by_shape_and_words_as_the_labels_say() -> None:
    result, examples = retrieval_result(), shown().examples
    html = render_task_report(retrieval_page())
    expected = 0
    for example in examples:
        label = result.query_labels[example.query]
        for space in SPACES:
            top = result.space(space).top[example.query, :10]
            expected += sum(result.gallery_labels[item] == label for item in top)
    assert html.count('aria-hidden="true">✓</span>') == expected
    assert html.count('<li class="correct">') == expected
    assert html.count('<li class="incorrect">') == len(examples) * 3 * 10 - expected
    assert len(re.findall(r'aria-label="Rank \d+, correct: ', html)) == expected


def test_where_approximate_search_found_fewer_there_is_no_other_clip_in_their_place() -> None:
    result = retrieval_result()
    short = {
        space.space: dataclasses.replace(space, top=np.where(np.arange(space.top.shape[1]) < 2, space.top, -1))
        for space in result.spaces
    }
    cut = dataclasses.replace(result, spaces=tuple(short.values()))
    examples = shown().examples
    queries, items = thumbnails_needed(cut, examples, SPACES)
    assert len(queries) == 6
    assert set(items) == {
        result.gallery_ids[item]
        for space in SPACES
        for example in examples
        for item in result.space(space).top[example.query, :2]
    }
    html = render_task_report(retrieval_page(result=cut))
    assert len(re.findall(r'<li class="(?:in)?correct">', html)) == 6 * 3 * 2
    # Of two clips one is not the query's own; of one alone there may be none.
    assert confusion(cut, "combined") == confusion(result, "combined")
    alone = dataclasses.replace(short["combined"], top=np.where(np.arange(100)[:30] < 1, short["combined"].top, -1))
    found = confusion(dataclasses.replace(result, spaces=(alone,)), "combined")
    own = sum(result.gallery_ids[row[0]] == query for row, query in zip(alone.top, result.query_ids, strict=True))
    assert found.num_queries == len(result.query_ids) - own
    assert own > 0


def test_nothing_is_requested_and_nothing_from_the_data_becomes_markup() -> None:
    html = render_task_report(retrieval_page())
    urls = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", html)
    assert all(url.startswith(("#", "data:")) for url in urls), urls
    assert "http" not in html
    assert "clip <0" not in html
    assert "clip &lt;0" in html


def test_an_image_shown_often_is_stored_once_and_a_missing_one_is_named() -> None:
    images, embedding = shown().images, shown().embedding
    html = render_task_report(retrieval_page())
    assert embedding is not None
    stills = {item.data for item in (*images.queries.values(), *embedding.thumbnails.values())}
    assert html.count("data:image/jpeg;base64,") == len(stills)
    assert html.count("data:image/webp;base64,") == len({item.data for item in images.gallery.values()}) == 3
    assert '<span class="pic none' in html


def test_the_same_report_is_the_same_text() -> None:
    assert render_task_report(retrieval_page()) == render_task_report(retrieval_page())


def test_many_labels_are_cut_to_the_best_and_the_worst() -> None:
    html = render_task_report(retrieval_page(shown(120, 60, num_examples=0), retrieval_result(120, 60)))
    assert "The best and the worst 20; 20 in between are left out." in page_text(html)
    assert html.count('class="lab"') == 40
    assert 'href="#examples"' not in html


def test_a_report_of_one_plain_space_without_extras_renders() -> None:
    vectors = {"v": np.eye(3)}
    result = evaluate_retrieval(
        Queries(list("abc"), list("xyz"), vectors), Gallery(list("abc"), list("xyz"), vectors), {"cosine": Cosine("v",
        "v")}, (1,), full_ranks=False,
    )  # fmt: skip
    text = page_text(render_task_report(retrieval_page(Shown(), result)))
    assert "Precision against recall" not in text
    assert "nothing learned" not in text, "alone, plain cosine is no baseline of anything"
    counted = Shown(dataset=Dataset(DatasetCounts("d", 3, 3, 3, 0, 3)))
    assert "no video was quarantined" in page_text(render_task_report(retrieval_page(counted, result)))


# --- examples -------------------------------------------------------------------------------------


def test_examples_are_best_worst_and_random_spread_over_labels() -> None:
    result = retrieval_result()
    examples = choose_examples(result, "combined", 9, seed=3)
    assert [example.kind for example in examples] == ["best"] * 3 + ["worst"] * 3 + ["random"] * 3
    assert len({example.query for example in examples}) == 9
    values = result.space("combined").per_query["map_min@10"]
    best, worst = [[e.query for e in examples if e.kind == kind] for kind in ("best", "worst")]
    assert values[best].min() > values[worst].max()
    for group in (best, worst):
        assert len({result.query_labels[query] for query in group}) == 3
    assert examples == choose_examples(result, "combined", 9, seed=3)
    assert examples != choose_examples(result, "combined", 9, seed=4)


def test_more_examples_than_queries_shows_each_query_once() -> None:
    result = retrieval_result()
    examples = choose_examples(result, "video", 500)
    assert sorted(example.query for example in examples) == list(range(30))
    assert choose_examples(result, "video", 0) == ()


# --- charts and numbers ---------------------------------------------------------------------------


def test_a_chart_puts_points_where_the_axes_say() -> None:
    line = Series("one", [(0.0, 0.0), (1.0, 0.5)], [1.0], 0)
    svg = line_chart([line], Axes("<t>", "x", "y", [0, 1], 0, 1))
    assert 'd="M54.0 262.0L426.0 12.0"' in svg
    assert "one: 0.500 at x 1" in svg
    assert "&lt;t&gt;" in svg


def test_scores_and_durations_read_well() -> None:
    assert [score_text(v) for v in (0.3567, None, float("nan"))] == ["0.357", "–", "–"]
    texts = [duration_text(seconds) for seconds in (0.44, 59.6, 61, 3599.9, 7800)]
    assert texts == ["0.4 s", "1 min 00 s", "1 min 01 s", "1 h 00 min", "2 h 10 min"]


# --- what cannot be written -----------------------------------------------------------------------


def test_a_report_over_twenty_megabytes_is_refused(tmp_path: Path) -> None:
    beside = shown()
    heavy = {name: Thumbnail(bytes(3_000_000) + bytes([i])) for i, name in enumerate(beside.images.queries)}
    images = dataclasses.replace(beside.images, queries=heavy)
    page = retrieval_page(dataclasses.replace(beside, images=images))
    with pytest.raises(UsageError, match=r"expected at most 20 MB, got \d+\.\d MB; show fewer examples"):
        write_task_report(str(tmp_path / "report.html"), page)


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailableError, match="expected a file that can be written, got No such file"):
        write_task_report(str(tmp_path / "nowhere" / "report.html"), retrieval_page())


def test_an_unknown_space_is_named_with_the_near_ones() -> None:
    with pytest.raises(UsageError, match="did you mean 'combined'"):
        retrieval_page(primary="combine")


# --- in a real browser ----------------------------------------------------------------------------


def _use_the_map(page: Page) -> None:
    card, on = "document.querySelector('.mapcard')", "document.querySelector('.pt.on')"
    page.evaluate("document.querySelector('.pt[tabindex=\"0\"]').focus()")
    assert page.evaluate(f"{card}.hidden") is False
    assert page.evaluate(f"getComputedStyle({card}.querySelector('.pic')).backgroundImage").startswith("url(")
    before = page.evaluate(f"{on}.dataset.caption")
    for key, code in (("ArrowLeft", 37), ("ArrowRight", 39), ("ArrowUp", 38), ("ArrowDown", 40)):
        page.press(key, code)
    assert page.evaluate(f"{on}.dataset.caption") != before
    assert page.evaluate(f"{card}.querySelector('small').textContent") == page.evaluate(f"{on}.dataset.caption")
    page.press("Enter", 13)
    assert page.evaluate("document.querySelector('dialog').open") is True
    page.press("Escape", 27)

    shown = "[...document.querySelectorAll('.pt')].filter(e => getComputedStyle(e).display !== 'none').length"
    assert page.evaluate(shown) == 30
    page.evaluate("document.querySelector('[data-group=\"1\"]').click()")
    assert page.evaluate(shown) == 24
    page.evaluate("document.querySelector('[data-every=false]').click()")
    assert page.evaluate(shown) == 0
    page.evaluate("document.querySelector('[data-every=true]').click()")
    assert page.evaluate(shown) == 30
    place = "document.querySelector('.pt').style.transform"
    tsne = page.evaluate(place)
    page.evaluate("document.querySelector('[data-layout=\"1\"]').click()")
    assert page.evaluate(place) != tsne


def _move_clips_only_where_wanted(page: Page) -> None:
    moving = "getComputedStyle(document.querySelector('.moving')).animationName"
    assert page.evaluate(moving) == "moving"
    page.evaluate("document.querySelector('.play').click()")
    assert page.evaluate(moving) == "none"
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    page.evaluate("document.documentElement.className = ''")
    assert page.evaluate(moving) == "none"
    page.call("Emulation.setEmulatedMedia", features=[])
    assert page.evaluate(moving) == "moving"


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_it_works_in_a_browser_wide_and_narrow(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    size = write_task_report(str(path), retrieval_page())
    assert size == path.stat().st_size < 20_000_000
    with browser(tmp_path / "profile") as page:
        for width in (1280, 390):
            page.open(path, width)
            page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
            assert page.evaluate("innerWidth") == width
            assert page.evaluate("document.documentElement.scrollWidth") <= width, width
            assert page.evaluate("document.querySelectorAll('svg.chart').length") == 2
            # A column squeezed to one letter per line does not overflow, and cannot be read.
            assert page.evaluate("Math.min(...[...document.querySelectorAll('tbody th')].map(e => e.offsetWidth))") > 60
        picture = page.evaluate("getComputedStyle(document.querySelector('.query .pic')).backgroundImage")
        assert picture.startswith("url(")

        # Only the keyboard: a result opens, says what it is, and Escape closes it.
        page.evaluate("document.querySelector('.hits button').focus()")
        page.press("Enter", 13)
        assert page.evaluate("document.querySelector('dialog').open") is True
        assert page.evaluate("document.querySelector('dialog p').textContent").startswith("Rank 1 in appearance")
        page.press("Escape", 27)
        assert page.evaluate("document.querySelector('dialog').open") is False

        page.evaluate("document.querySelector('[data-only=worst]').click()")
        visible = "[...document.querySelectorAll('.example')].filter(e => e.offsetParent)"
        assert page.evaluate(f"{visible}.map(e => e.dataset.kind).join()") == "worst,worst"

        _use_the_map(page)
        _move_clips_only_where_wanted(page)

        # A link to a clip's lineage opens it.
        page.evaluate("location.hash = document.querySelector('.query a').getAttribute('href')")
        page.evaluate("new Promise(done => setTimeout(done, 50))")
        opened = "document.getElementById(location.hash.slice(1)).open"
        assert page.evaluate(opened) is True

        page.evaluate("document.getElementById('theme').click()")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
        assert page.problems == []
        assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_browser_check_sees_errors_and_overflow(tmp_path: Path) -> None:
    path = tmp_path / "broken.html"
    head = "<meta name=viewport content='width=device-width'>"
    path.write_text(head + "<div style='width:900px'>x</div><script>nope()</script>")
    with browser(tmp_path / "profile") as page:
        page.open(path, 390)
        assert page.evaluate("document.documentElement.scrollWidth") > 390
        assert any("nope" in problem for problem in page.problems)
