"""Pages of several runs: whose charts they are, colours that do not repeat, bars under their numbers, wide tables."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.jobs.evaluation_command import evaluate
from tests.pipelines.reports import browser

NUM_RUNS = 9


def several(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    truth = [
        f"v{n},{start},{start + 10},{'jump' if n % 2 else 'run'}" for n, start in enumerate(rng.uniform(0, 40, 24))
    ]
    (folder / "truth.csv").write_text("video_id,start_seconds,stop_seconds,label\n" + "\n".join(truth))
    runs = []
    for k in range(NUM_RUNS):
        lines = []
        for row in truth:
            video, start, _, label = row.split(",")
            moved = float(start) + rng.normal(0, k)
            lines.append(f"{video},{moved},{moved + 10},{label},{rng.random()}")
        path = folder / f"run-{k}.csv"
        path.write_text("video_id,start_seconds,stop_seconds,label,score\n" + "\n".join(lines))
        runs.append({"file": str(path), "name": f"model {k}"})
    durations = {f"v{n}": 60.0 for n in range(24)}
    (folder / "seconds.json").write_text(json.dumps(durations))
    ground_truth = {"file": str(folder / "truth.csv"), "durations": str(folder / "seconds.json")}
    thresholds = [round(0.5 + 0.05 * n, 2) for n in range(10)]
    return {
        "task": "detection",
        "ground_truth": ground_truth,
        "predictions": runs,
        "tiou_thresholds": thresholds,
        "resamples": 10,
        "report": True,
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    done = evaluate(folder, several(folder))
    assert done.exit_code == 0, done.err
    return folder / "out" / "report.html"


def test_charts_of_one_run_are_named_and_those_of_all_are_not(page: Path) -> None:
    titles = re.findall(r"<h3>([^<]*)</h3>", page.read_text())
    assert "mAP against tIoU" in titles
    for start in ("AP at tIoU 0.5 by class", "Precision against recall, all classes", "What the best predictions are"):
        found = [title for title in titles if title.startswith(start)]
        assert found, start
        assert all(title.endswith(", model 0") for title in found), found
    assert "Of model 0. " in page.read_text()
    assert "model 0, 95 %" in page.read_text()


def test_a_page_of_one_run_names_nothing_twice(tmp_path: Path) -> None:
    config = several(tmp_path)
    evaluate(tmp_path, config | {"predictions": config["predictions"][:1]})
    titles = re.findall(r"<h3>([^<]*)</h3>", (tmp_path / "out" / "report.html").read_text())
    assert "AP at tIoU 0.5 by class" in titles


@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium here")
def test_colours_differ_bars_sit_under_their_numbers_and_wide_tables_scroll(page: Path, tmp_path: Path) -> None:
    with browser.browser(tmp_path / "profile") as opened:
        for width, scheme in ((1280, "light"), (390, "dark")):
            opened.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            opened.open(page, width)
            colours = opened.evaluate(
                "[...document.querySelector('#curves figure').querySelectorAll('svg.chart g .line')]"
                ".map(line => getComputedStyle(line).stroke)"
            )
            # The runs, chance and blind.
            assert len(colours) == NUM_RUNS + 2
            assert len(set(colours)) == len(colours), colours
            # Within the padding of its own cell, from the number's edge leftwards.
            cells = opened.evaluate(
                "[...document.querySelectorAll('#results td.bar')].map(cell => { const look = getComputedStyle(cell);"
                "return [look.backgroundOrigin, look.backgroundPositionX, look.textAlign] })"
            )
            assert {tuple(cell) for cell in cells} == {("content-box", "100%", "right")}
            cut = opened.evaluate(
                "[...document.querySelectorAll('table')].filter(table => { const box = table.parentElement;"
                "return table.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX != 'auto' }).length"
            )
            assert cut == 0
            assert opened.evaluate("document.documentElement.scrollWidth") <= width
            moved = opened.evaluate(
                "(() => { const box = document.querySelector('#results .scroll'); box.scrollLeft = 10000;"
                "return [box.scrollLeft > 0, box.scrollLeft + box.clientWidth >= box.scrollWidth - 1] })()"
            )
            assert moved[1]
            assert moved[0] or width > 400
        assert opened.problems == []
