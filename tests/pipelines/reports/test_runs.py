"""The pages of builds and trainings: what they say, and how they cut what is long."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipmill.pipelines.evaluation.tasks.histograms import histograms
from clipmill.pipelines.reports.blocks import Charts
from clipmill.pipelines.reports.charts import Axes, Series, line_chart, round_ticks
from clipmill.pipelines.reports.runs import QUARANTINE_SHOWN, render_build, render_training
from clipmill.pipelines.reports.thumbnails import Thumbnail

BUILD: dict[str, Any] = {
    "run_id": "20260101T000000000-abcd",
    "store": "out/store",
    "dataset": "ours <b>",
    "engine": "ray",
    "num_videos": 300,
    "num_left_out": {".txt": 2, "": 1},
    "num_tasks": 3,
    "num_tasks_executed": 2,
    "num_rows": {"c3d-12345678": 1234},
    "num_complete_before": 5,
    "num_complete": 45,
    "num_quarantined": 250,
    "reasons": {"truncated": 249, "deadline": 1},
    "num_frames_decoded": 10_000,
    "num_frames_substituted": 7,
    "num_tail_windows_dropped": 3,
    "num_tail_windows_padded": 0,
    "seconds": {"wall": 61.0, "decode": 30.0, "forward": 120.0},
    "peak_memory_bytes": 3 << 30,
    "speed": {"frames_per_second": 9},
    "speed_of_light": "9 frames/s, limit: model",
}
TRAINING: dict[str, Any] = {
    "out": "out/run",
    "checkpoint": "c.pt",
    "epoch": 0,
    "start_epoch": 0,
    "seconds": 12.0,
    "losses": [],
    "model": "map_ivr",
    "options": {"latent_dim": 64},
    "trainer": "local",
    "num_workers": 1,
    "device": "cpu",
    "num_train": 10,
    "num_test": 3,
    "num_labels": 2,
    "labels_without_training": ["a"],
    "labels_without_test": [],
    "num_only_image": 1,
    "num_only_video": 2,
    "num_validation": 0,
}
RECIPES = [
    {
        "name": "c3d",
        "key": "c3d-12345678",
        "network": "c3d fc6, 4,096 values",
        "weights": "random(0)",
        "fingerprint": "12345678abcdef",
    },
]


def _rows(num: int) -> list[dict[str, Any]]:
    row = {"stage": "decode", "reason": "truncated", "message": "expected all frames, got 3"}
    return [row | {"video_id": f"video {number:03d}"} for number in range(num)]


def test_a_build_has_its_forecast_beside_what_it_cost_and_says_what_limited_it() -> None:
    costs = {"source": "by the last run with these features", "num_videos": 3, "video_hours": 1.0, "num_windows": 90}
    costs |= {"num_bytes": 5000, "wall_hours": 0.5, "cpu_hours": 2.0, "gpu_hours": 0.0, "num_reads": 4, "num_writes": 8}
    line = "limited by device: 80% of the workers' time in the networks"
    limits = {"stage": "device", "seconds": {"device": 80.0, "decode": 20.0, "idle": 0.0}, "line": line}
    did = costs | {"wall_hours": 0.4, "num_windows": 100}
    html = render_build(BUILD | {"forecast": costs, "actual": did, "limits": limits}, RECIPES, [], "")
    for words in (
        "Forecast by the last run",
        "30 min",
        "24 min",
        "1.25",
        "0.90",
        "CPU-hours held",
        "80% of the workers",
    ):
        assert words in html
    assert "GPU-hours" not in html
    # Of a run that did nothing, and of reports of earlier versions.
    assert "forecast / actual" not in render_build(BUILD | {"forecast": None, "actual": None}, RECIPES, [], "")
    assert "forecast / actual" not in render_build(BUILD, RECIPES, [], "")


def test_a_build_has_its_rates_over_its_time_on_an_axis_of_fitting_unit() -> None:
    rates = {"span_seconds": 600.0, "windows_per_second": [0.0, 12.5, 8.25], "videos_per_second": [0.0, 0.02, 0.01]}
    html = render_build(BUILD | {"throughput": rates}, RECIPES, [], "")
    assert html.count('<svg class="chart"') == 2
    assert "windows: 12.5 at minute of the run 15<" in html
    assert "videos: 0.02 at minute of the run 15<" in html
    assert "Means of 10 min 00 s" in html
    short = {"span_seconds": 2.0, "windows_per_second": [1.0, 2.0], "videos_per_second": [0.0, 0.0]}
    assert "windows: 2 at second of the run 3<" in render_build(BUILD | {"throughput": short}, RECIPES, [], "")
    assert "Windows per second" not in render_build(BUILD | {"throughput": None}, RECIPES, [], "")
    assert "Windows per second" not in render_build(BUILD, RECIPES, [], "")


def test_a_build_says_what_was_made_and_what_was_not() -> None:
    html = render_build(BUILD, RECIPES, _rows(3), "store: {url: x}\n")
    for words in (
        "Build of ours &lt;b&gt;",
        "of 300 pairs",
        "c3d fc6, 4,096 values",
        "1,234",
        "7 of 10,000 decoded",
        "1 min 01 s",
        "2 .txt",
        "9 frames/s, limit: model",
        "3.00 GiB",
        "Random weights for c3d",
        "video 002",
        "2 executed of 3",
    ):
        assert words in html, words
    assert "<b>" not in html.replace("<b aria-hidden", "").split("</h1>")[0]
    assert html == render_build(BUILD, RECIPES, _rows(3), "store: {url: x}\n")


def test_a_long_quarantine_is_cut_and_says_so() -> None:
    html = render_build(BUILD, RECIPES, _rows(250), "")
    assert html.count("expected all frames, got 3") == QUARANTINE_SHOWN
    assert f"The first {QUARANTINE_SHOWN} of 250" in html


def test_a_video_in_quarantine_has_its_picture_where_there_is_one() -> None:
    buffer = BytesIO()
    Image.new("RGB", (192, 108), (200, 20, 20)).save(buffer, "JPEG")
    html = render_build(BUILD, RECIPES, _rows(3), "", pictures={"video 001": Thumbnail(buffer.getvalue())})
    assert html.count('aria-label="A frame of ') == 1
    assert 'aria-label="A frame of video 001"></span>' in html
    assert html.count("data:image/jpeg;base64,") == 1


def test_a_build_that_had_nothing_to_do_has_a_page() -> None:
    idle = BUILD | {"num_rows": {}, "reasons": {}, "num_quarantined": 0, "speed": None, "speed_of_light": None}
    html = render_build(idle | {"seconds": {"wall": 0.0}, "num_left_out": {}}, RECIPES, [], "")
    assert "Videos in quarantine" not in html
    assert "Speed of light" not in html


@pytest.mark.parametrize("num_epochs", [0, 1, 2, 500])
def test_a_training_of_any_length_has_a_page(num_epochs: int) -> None:
    losses = [{"total": 1000.0 / (epoch + 1), "kl": -0.5 + epoch} for epoch in range(num_epochs)]
    report = TRAINING | {"epoch": num_epochs, "losses": losses}
    html = render_training(report, "loop: {}\n")
    assert html.count('<svg class="chart"') == (2 if num_epochs else 0)
    assert html.count("<title>total: ") <= 12
    if num_epochs:
        assert f"total: {1000 / num_epochs:.4g} at epoch {num_epochs}" in html
    assert "nan" not in html


def test_a_training_has_its_held_out_losses_beside_those_of_training() -> None:
    losses = [{"total": 8.0}, {"total": 6.0}, {"total": 5.0}]
    report = TRAINING | {"epoch": 3, "losses": losses, "num_validation": 4}
    html = render_training(report, "", [(1, {"total": 9.0}), (2, {"total": 7.0}), (3, {"total": float("nan")})])
    assert "total, held out: 7 at epoch 2" in html
    assert "validation split" in html
    assert "nan" not in html


def test_a_build_says_what_its_videos_are_like() -> None:
    lengths = histograms("Length", "seconds", {"videos": np.array([1.0, 2.0, 2.0, 4.0])}, "share of the videos")
    html = render_build(BUILD, RECIPES, [], "", [Charts((lengths,))])
    assert 'id="videos"' in html
    assert "videos: 2 (50.0 %)" in html
    assert 'id="videos"' not in render_build(BUILD, RECIPES, [], "")


def test_round_ticks_cover_the_range_with_few_round_numbers() -> None:
    assert round_ticks(0, 523.3) == [0, 200, 400, 600]
    assert round_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert round_ticks(-3, 7) == [-4, -2, 0, 2, 4, 6, 8]
    for low, high in ((0, 0), (5, 5), (-2, -2), (0, 1e-9), (0, 3.1e12), (99.5, 100.1)):
        ticks = round_ticks(low, high)
        assert ticks[0] <= low
        assert ticks[-1] >= high
        assert 2 <= len(ticks) <= 9


def test_a_chart_with_its_own_ticks_spans_them() -> None:
    svg = line_chart(
        [Series("loss", [(1, -2.0), (2, 6.0)], [2], 0)], Axes("t", "epoch", "loss", [1, 2], 1, 2, [-2, 2, 6])
    )
    assert 'd="M54.0 262.0L426.0 12.0"' in svg
    assert "loss: 6 at epoch 2" in svg
    assert [text in svg for text in (">-2<", ">2<", ">6<")] == [True, True, True]
