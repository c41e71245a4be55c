"""One recipe over several videos: batches, restarts, failures. The extractor is a plain function of the pixels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from clipmill.extractors import registry
from clipmill.extractors.base import EachWindow
from clipmill.extractors.flow_files import FlowFiles
from clipmill.extractors.resolve import resolve_recipe
from clipmill.pipelines.features.device_memory import BatchTooLargeError
from clipmill.pipelines.features.extraction import RecipeExtraction
from clipmill.pipelines.features.machine_faults import is_passing
from clipmill.pipelines.features.windows import ClipWindows
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.errors import VideoError
from clipmill.schemas.recipe import ClipRule, Recipe
from clipmill.schemas.records import Clip, Window

CLIP = Clip(0, 0.0, 10.0)


class MeanOfPixels:
    """Gives each window the mean of its pixels; fails on windows that hold the value 255."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.batches: list[int] = []
        self._failure = failure

    def forward(self, frames: np.ndarray) -> Mapping[str, np.ndarray]:
        self.batches.append(len(frames))
        if self._failure is not None and (frames == 255).any():
            raise self._failure
        values = frames.reshape(len(frames), -1).mean(axis=1, keepdims=True)
        return {"values": np.where(values == 254, np.nan, values)}

    def reducer(self, clip: Clip) -> EachWindow:
        return EachWindow(clip, "float32")


def _recipe(**changes: Any) -> Recipe:
    feature = FeatureConfig(extractor="squeezenet", weights=WeightsConfig(random=0))
    return resolve_recipe("squeezenet", feature, ClipRule(), DecodeConfig()).model_copy(update=changes)


def _windows(count: int) -> list[ClipWindows]:
    return [ClipWindows(tuple(Window(0, (frame,), float(frame), frame + 1.0) for frame in range(count)))]


def _pixels(value: int) -> np.ndarray:
    return np.full((2, 2, 3), value, dtype=np.uint8)


def test_batches_span_videos_and_rows_return_to_their_own() -> None:
    extractor = MeanOfPixels()
    extraction = RecipeExtraction(_recipe(), extractor, 4)
    for video in range(3):
        extraction.start_video(video, [CLIP], _windows(3))
        for frame in range(3):
            extraction.add_frame(video, frame, _pixels(10 * video + frame))
    extraction.flush()
    # The last one is filled up, so that the network sees one shape.
    assert extractor.batches == [4, 4, 4]
    rows = extraction.finished()
    assert {video: item.values[:, 0].tolist() for video, item in rows.items()} == {
        0: [0, 1, 2],
        1: [10, 11, 12],
        2: [20, 21, 22],
    }


def test_an_extractor_that_takes_windows_one_by_one_gets_no_filling(monkeypatch: pytest.MonkeyPatch) -> None:
    card = registry.card("squeezenet")
    monkeypatch.setattr(registry, "card_of", lambda recipe: replace(card, fills_batches=False))
    extractor = MeanOfPixels()
    extraction = RecipeExtraction(_recipe(), extractor, 4)
    extraction.start_video(0, [CLIP], _windows(3))
    for frame in range(3):
        extraction.add_frame(0, frame, _pixels(frame))
    extraction.flush()
    assert extractor.batches == [3]


def test_a_restarted_video_keeps_nothing_of_its_first_attempt() -> None:
    extraction = RecipeExtraction(_recipe(), MeanOfPixels(), 4)
    extraction.start_video(0, [CLIP], _windows(3))
    extraction.add_frame(0, 0, _pixels(99))
    extraction.restart_video(0)
    for frame in range(3):
        extraction.add_frame(0, frame, _pixels(frame))
    extraction.flush()
    assert extraction.finished()[0].values[:, 0].tolist() == [0, 1, 2]


def test_a_dropped_video_leaves_no_rows_and_the_others_are_complete() -> None:
    extraction = RecipeExtraction(_recipe(), MeanOfPixels(), 8)
    for video in range(2):
        extraction.start_video(video, [CLIP], _windows(2))
        for frame in range(2):
            extraction.add_frame(video, frame, _pixels(video))
    extraction.drop_video(0)
    extraction.flush()
    assert list(extraction.finished()) == [1]
    assert extraction.failures() == []


@pytest.mark.parametrize("failure", [RuntimeError("no kernel image"), VideoError("extract", "odd", "odd input")])
def test_a_failing_window_quarantines_its_video_alone(failure: Exception) -> None:
    extraction = RecipeExtraction(_recipe(), MeanOfPixels(failure), 8)
    for video in range(3):
        extraction.start_video(video, [CLIP], _windows(2))
        for frame in range(2):
            extraction.add_frame(video, frame, _pixels(255 if (video, frame) == (1, 1) else video))
    extraction.flush()
    assert list(extraction.finished()) == [0, 2]
    ((video, error),) = extraction.failures()
    assert video == 1
    assert error.reason == ("odd" if isinstance(failure, VideoError) else "extractor_failed")


class Device:
    """An extractor on a device with room for so many windows in a batch."""

    def __init__(self, most: int) -> None:
        self.batches: list[int] = []
        self._most = most

    def forward(self, frames: np.ndarray) -> Mapping[str, np.ndarray]:
        self.batches.append(len(frames))
        if len(frames) > self._most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return {"values": frames.reshape(len(frames), -1).mean(axis=1, keepdims=True)}

    def reducer(self, clip: Clip) -> EachWindow:
        return EachWindow(clip, "float32")


def test_a_batch_that_the_device_has_no_memory_for_is_not_halved_in_silence() -> None:
    extraction = RecipeExtraction(_recipe(), Device(2), 4)
    extraction.start_video(0, [CLIP], _windows(2))
    extraction.add_frame(0, 0, _pixels(1))
    extraction.add_frame(0, 1, _pixels(1))
    with pytest.raises(BatchTooLargeError) as raised:
        extraction.flush()
    assert (raised.value.batch_windows, raised.value.recipe) == (4, extraction.recipe)
    assert not extraction.is_settled(0)


def test_a_single_window_without_memory_is_a_fault_of_the_machine() -> None:
    extraction = RecipeExtraction(_recipe(), Device(0), 1)
    extraction.start_video(0, [CLIP], _windows(1))
    extraction.add_frame(0, 0, _pixels(1))
    [(_, error)] = extraction.failures()
    assert (error.stage, error.reason) == ("extract", "out_of_memory")
    assert is_passing(error.reason)


def test_values_that_are_not_finite_are_refused_by_name() -> None:
    extraction = RecipeExtraction(_recipe(), MeanOfPixels(), 8)
    extraction.start_video(0, [CLIP], _windows(1))
    extraction.add_frame(0, 0, _pixels(254))
    extraction.flush()
    assert extraction.finished() == {}
    assert extraction.failures()[0][1].reason == "non_finite_values"


def test_a_video_that_did_not_get_all_its_frames_is_not_finished() -> None:
    extraction = RecipeExtraction(_recipe(), MeanOfPixels(), 8)
    extraction.start_video(0, [CLIP], _windows(3))
    extraction.add_frame(0, 0, _pixels(1))
    extraction.flush()
    assert extraction.finished() == {}


def test_pooling_gives_one_row_per_clip() -> None:
    extraction = RecipeExtraction(_recipe(pooling="mean"), MeanOfPixels(), 2)
    clips = [Clip(0, 0.0, 2.0), Clip(1, 2.0, 4.0)]
    groups = [ClipWindows(tuple(Window(c, (2 * c + f,), 0.0, 1.0) for f in range(2))) for c in range(2)]
    extraction.start_video(0, clips, groups)
    for frame in range(4):
        extraction.add_frame(0, frame, _pixels(frame))
    extraction.flush()
    rows = extraction.finished()[0]
    assert rows.values[:, 0].tolist() == [0.5, 2.5]
    assert (rows.start_seconds.tolist(), rows.stop_seconds.tolist()) == ([0, 2], [2, 4])
    unit = RecipeExtraction(_recipe(pooling="mean_l2"), MeanOfPixels(), 2)
    unit.start_video(0, [CLIP], _windows(1))
    unit.add_frame(0, 0, _pixels(7))
    unit.flush()
    assert unit.finished()[0].values[:, 0].tolist() == [1.0]


class QueuedMeanOfPixels(MeanOfPixels):
    """The same on a device that works on its own: nothing is done before its outputs are asked for."""

    queues = True

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__(failure)
        self.events: list[str] = []

    def submit(
        self,
        frames: np.ndarray,
        windows: Sequence[Window] | None = None,
        files: Sequence[FlowFiles] | None = None,
    ) -> Callable[[], Mapping[str, np.ndarray]]:
        assert windows is not None
        assert len(windows) == len(frames)
        number = sum(event.startswith("submit") for event in self.events)
        self.events.append(f"submit {number}")

        def outputs() -> Mapping[str, np.ndarray]:
            self.events.append(f"collect {number}")
            return self.forward(frames)

        return outputs


def test_a_device_has_its_next_batch_before_the_last_one_is_waited_for() -> None:
    extractor = QueuedMeanOfPixels()
    extraction = RecipeExtraction(_recipe(), extractor, 2)
    extraction.start_video(0, [CLIP], _windows(7))
    for frame in range(7):
        extraction.add_frame(0, frame, _pixels(frame))
    begun = ["submit 0", "submit 1", "submit 2", "collect 0"]
    assert extractor.events == begun
    assert extraction.finished() == {}
    extraction.flush()
    assert extractor.events == [*begun, "submit 3", "collect 1", "collect 2", "collect 3"]
    np.testing.assert_array_equal(extraction.finished()[0].values[:, 0], range(7))
    assert extraction.take_counts()[2] == 7


def test_a_queued_batch_that_fails_costs_the_window_at_fault_alone() -> None:
    extraction = RecipeExtraction(_recipe(), QueuedMeanOfPixels(ValueError("white")), 3)
    for video, values in enumerate(((1, 2), (3, 255), (4, 5))):
        extraction.start_video(video, [CLIP], _windows(2))
        for frame, value in enumerate(values):
            extraction.add_frame(video, frame, _pixels(value))
    extraction.flush()
    assert {video: rows.values[:, 0].tolist() for video, rows in extraction.finished().items()} == {
        0: [1.0, 2.0],
        2: [4.0, 5.0],
    }
    [(video, error)] = extraction.failures()
    assert (video, error.reason) == (1, "extractor_failed")


def test_what_a_restarted_or_dropped_video_has_on_the_device_is_thrown_away() -> None:
    extraction = RecipeExtraction(_recipe(), QueuedMeanOfPixels(), 2)
    for video in (0, 1):
        extraction.start_video(video, [CLIP], _windows(2))
    extraction.add_frame(0, 0, _pixels(9))
    extraction.add_frame(0, 1, _pixels(9))
    extraction.restart_video(0)
    for frame in range(2):
        extraction.add_frame(0, frame, _pixels(frame))
    extraction.add_frame(1, 0, _pixels(7))
    extraction.add_frame(1, 1, _pixels(7))
    extraction.drop_video(1)
    extraction.flush()
    assert {video: rows.values[:, 0].tolist() for video, rows in extraction.finished().items()} == {0: [0.0, 1.0]}
    assert extraction.take(1) is None


def test_memory_that_ran_out_on_the_device_is_told_when_the_batch_is_waited_for() -> None:
    extraction = RecipeExtraction(_recipe(), QueuedMeanOfPixels(torch.cuda.OutOfMemoryError("CUDA out of memory")), 2)
    extraction.start_video(0, [CLIP], _windows(6))
    for frame in range(5):
        extraction.add_frame(0, frame, _pixels(255))
    with pytest.raises(BatchTooLargeError, match="no memory for 2 windows"):
        extraction.add_frame(0, 5, _pixels(255))
    assert not extraction.is_settled(0)
