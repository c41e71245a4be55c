"""The report: what it says, that it stands alone, and how it behaves in a real browser."""

import dataclasses
import re
from functools import cache
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery, Queries, RetrievalResult, evaluate_retrieval
from clipmill.pipelines.evaluation.retrieval.scorers import Combined, Cosine
from clipmill.pipelines.evaluation.tasks.retrieval.embedding_map import EmbeddingMap, lay_out
from clipmill.pipelines.evaluation.tasks.retrieval.examples import choose_examples, thumbnails_needed
from clipmill.pipelines.evaluation.tasks.retrieval.report import (
    DatasetCounts,
    FeatureLine,
    RetrievalReport,
    SpeedOfLight,
    StageTime,
    render_report,
    write_report,
)
from clipmill.pipelines.reports.charts import Axes, Series, line_chart
from clipmill.pipelines.reports.lineage import ClipLineage, FeatureLineage
from clipmill.pipelines.reports.page import duration_text, score_text
from clipmill.pipelines.reports.pictures import Strip, strip
from clipmill.schemas.errors import StorageUnavailableError, UsageError
from tests.pipelines.evaluation.browser import CHROMIUM, Page, browser

VOID = {"meta", "link", "br", "path", "circle", "rect"}
LONG_LABEL = "a label without any break " + "x" * 60


def _jpeg(seed: int) -> bytes:
    colour = tuple(int(c) for c in np.random.default_rng(seed).integers(0, 255, 3))
    buffer = BytesIO()
    Image.new("RGB", (32, 20), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def _strip(seed: int) -> Strip:
    return strip([_jpeg(10 * seed + i) for i in range(3)])


@cache
def _result(num: int = 30, num_labels: int = 5) -> RetrievalResult:
    rng = np.random.default_rng(0)
    labels = [f"label {i % num_labels}" if i % num_labels else LONG_LABEL for i in range(num)]
    ids = [f"{label[:9]}/clip <{i:03d}> & więcej.mp4" for i, label in enumerate(labels)]
    centres = rng.standard_normal((num_labels, 8))
    codes = np.arange(num) % num_labels
    vectors = {name: centres[codes] + rng.standard_normal((num, 8)) for name in ("a", "b")}
    queries = {name: centres[codes] + rng.standard_normal((num, 8)) for name in ("a", "b")}
    scorers = {
        "cosine": Cosine("a", "b"),
        "appearance": Cosine("a", "a"),
        "video": Cosine("b", "b"),
        "combined": Combined({"appearance": 0.5, "video": 0.5}),
    }
    return evaluate_retrieval(Queries(ids, labels, queries), Gallery(ids, labels, vectors), scorers)


@cache
def _report(num: int = 30, num_labels: int = 5, num_examples: int = 6) -> RetrievalReport:
    result = _result(num, num_labels)
    examples = choose_examples(result, "combined", num_examples)
    queries, items = thumbnails_needed(result, examples, ("appearance", "video", "combined"))
    layouts, explained = lay_out(np.random.default_rng(1).standard_normal((len(result.gallery_ids), 8)))
    feature = FeatureLineage(
        "frames", "gallery", "frames-12345678", "1" * 32, "3 of this clip", "2 frames: 0, 5 at 0.00, 0.20 s",
        "squeezenet1_0, SHA-256 abc", {"decoded by": "pyav 18.1.0"},
    )  # fmt: skip
    lineage = {
        clip: ClipLineage(
            clip, f"{clip}-video", f"videos/{clip}", "f" * 32, 12345, 0.0, 61.25, "same bytes", (feature,)
        )
        for clip in dict.fromkeys([*queries, *items])
    }
    return RetrievalReport(
        title="MAP-IVR on a test set",
        result=result,
        dataset=DatasetCounts("test set", 31, 30, 5, 24, 6, "Split by video."),
        baselines=("cosine",),
        features=(
            FeatureLine("squeezenet", "squeezenet", "pool10", "query", 400, 1000, "squeezenet1_0", "abcdef0123456789"),
            FeatureLine("c3d", "c3d", "fc6", "gallery", 1234567, 4096, "random(7)", "", "decord 0.6.0"),
        ),
        examples=examples,
        query_thumbnails={name: _jpeg(i) for i, name in enumerate(queries)},
        gallery_thumbnails={name: _strip(100 + i % 3) for i, name in enumerate(items[1:])},
        spans=dict.fromkeys(items, (0.0, 61.25)),
        embedding=EmbeddingMap(
            result.gallery_ids,
            result.gallery_labels,
            layouts,
            explained,
            "vectors",
            99,
            {name: _jpeg(i % 4) for i, name in enumerate(result.gallery_ids)},
        ),
        lineage=lineage,
        quarantine={"truncated": 2, "no_video_stream": 1},
        stages=(StageTime("build", 184.2, "70 videos"), StageTime("train", 12.0)),
        speed_of_light=SpeedOfLight(
            "412 frames/s, limited by the model", (("achieved", 412.0), ("model", 452.0)), "frames/s"
        ),
        config="at: [10, 20]\nnote: <b>not bold</b>\n",
        provenance=(("Run", "20261104-map-ivr"),),
        next_steps=("clipmill build --config mine.yaml --set " + "a" * 80,),
    )


class _Balance(HTMLParser):
    """Collects the text and checks that every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.stack.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] not in ("style", "script"):
            self.text.append(data)


def _text(html: str) -> str:
    parser = _Balance()
    parser.feed(html)
    parser.close()
    assert parser.stack == []
    return re.sub(r"\s+", " ", " ".join(parser.text))


# --- what it says ---------------------------------------------------------------------------------


def test_it_shows_every_number_beside_published_ones_with_their_source() -> None:
    report = _report()
    text = _text(render_report(report))
    for space in report.result.spaces:
        for k in report.result.at:
            assert f"{space.metrics[f'map@{k}']:.3f}" in text
    assert f"{report.result.chance['map@10']:.3f}" in text
    assert "MAP-IVR combined 0.357 0.346 0.329 0.314" in text
    assert "MAP-IVR video 0.691 0.689 0.682 0.677" in text
    assert "MAP-IVR slides, AAAI 2021" in text
    assert "Published rows are from other datasets" in text


def test_it_shows_counts_times_and_lineage() -> None:
    text = _text(render_report(_report()))
    for part in ("truncated 2", "no_video_stream 1", "3 min 04 s", "412 frames/s, limited", "1,234,567", "24 train"):
        assert part in text, part
    assert "at: [10, 20] note: <b>not bold</b>" in text
    assert "20261104-map-ivr" in text


def test_random_weights_are_warned_of_and_trained_ones_are_not() -> None:
    report = _report()
    assert "Random weights. c3d (random(7)) was never trained" in _text(render_report(report))
    trained = dataclasses.replace(report, features=report.features[:1])
    assert "Random weights" not in _text(render_report(trained))


def test_right_and_wrong_are_marked_by_shape_and_words_as_the_labels_say() -> None:
    report = _report()
    html = render_report(report)
    expected = 0
    for example in report.examples:
        label = report.result.query_labels[example.query]
        for space in ("appearance", "video", "combined"):
            top = report.result.space(space).top[example.query, :10]
            expected += sum(report.result.gallery_labels[item] == label for item in top)
    assert html.count("✓</span>\n") == expected
    assert html.count('<li class="right">') == expected
    assert html.count('<li class="wrong">') == 6 * 3 * 10 - expected
    assert len(re.findall(r'aria-label="Rank \d+, right: ', html)) == expected


def test_nothing_is_requested_and_nothing_from_the_data_becomes_markup() -> None:
    html = render_report(_report())
    urls = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", html)
    assert all(url.startswith(("#", "data:")) for url in urls), urls
    assert "http" not in html
    assert "clip <0" not in html
    assert "clip &lt;0" in html


def test_a_thumbnail_shown_often_is_stored_once_and_a_missing_one_is_named() -> None:
    report = _report()
    html = render_report(report)
    assert report.embedding is not None
    stills = {*report.query_thumbnails.values(), *report.embedding.thumbnails.values()}
    assert html.count("data:image/jpeg;base64,") == len(stills)
    assert html.count("data:image/webp;base64,") == len({item.data for item in report.gallery_thumbnails.values()}) == 3
    assert '<span class="pic none' in html


def test_the_same_report_is_the_same_text() -> None:
    assert render_report(_report()) == render_report(_report())


def test_many_labels_are_cut_to_the_best_and_the_worst() -> None:
    report = _report(120, 60, num_examples=0)
    html = render_report(dataclasses.replace(report, dataset=DatasetCounts("many", 1, 1, 60, 1, 1)))
    assert "The best and the worst 20; 20 in between are left out." in _text(html)
    assert html.count('class="lab"') - len(report.stages) - 2 == 40
    assert "Examples" not in _text(html)


def test_a_report_of_one_plain_space_without_extras_renders() -> None:
    vectors = {"v": np.eye(3)}
    result = evaluate_retrieval(
        Queries(list("abc"), list("xyz"), vectors), Gallery(list("abc"), list("xyz"), vectors), {"cosine": Cosine("v",
        "v")}, (1,), full_ranks=False,
    )  # fmt: skip
    report = RetrievalReport("plain", result, DatasetCounts("d", 3, 3, 3, 0, 3), baselines=("cosine",))
    text = _text(render_report(report))
    assert "No video was quarantined." in text
    assert "Precision against recall" not in text


# --- examples -------------------------------------------------------------------------------------


def test_examples_are_best_worst_and_random_spread_over_labels() -> None:
    result = _result()
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
    result = _result()
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
    report = _report()
    heavy = {name: _jpeg(i) + bytes(3_000_000) + bytes([i]) for i, name in enumerate(report.query_thumbnails)}
    with pytest.raises(UsageError, match=r"expected at most 20 MB, got \d+\.\d MB; show fewer examples"):
        write_report(str(tmp_path / "report.html"), dataclasses.replace(report, query_thumbnails=heavy))


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailableError, match="expected a file that can be written, got No such file"):
        write_report(str(tmp_path / "nowhere" / "report.html"), _report())


def test_an_unknown_space_is_named_with_the_near_ones() -> None:
    with pytest.raises(UsageError, match="did you mean 'combined'"):
        render_report(dataclasses.replace(_report(), primary="combine"))


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
    moving = "getComputedStyle(document.querySelector('.strip')).animationName"
    assert page.evaluate(moving) == "strip"
    page.evaluate("document.getElementById('play').click()")
    assert page.evaluate(moving) == "none"
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    page.evaluate("document.documentElement.className = ''")
    assert page.evaluate(moving) == "none"
    page.call("Emulation.setEmulatedMedia", features=[])
    assert page.evaluate(moving) == "strip"


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_it_works_in_a_browser_wide_and_narrow(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    size = write_report(str(path), _report())
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

        page.evaluate("document.querySelector('[data-kind=worst]').click()")
        visible = "[...document.querySelectorAll('.example')].filter(e => e.offsetParent)"
        assert page.evaluate(f"{visible}.map(e => e.closest('.group').id).join()") == "worst,worst"

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
