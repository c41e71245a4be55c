"""What extractors do on a device that works on its own, as far as a machine without one can tell."""

from typing import Any

import numpy as np
import pytest
import torch

from clipmill.extractors import registry
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.transfers import forget_uploads, on_device
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.recipe import ClipRule
from clipmill.schemas.records import Window

META = torch.device("meta")
"""A device without memory: what comes there is as if it were uploaded."""


def build(name: str, **written: Any) -> Any:
    feature = FeatureConfig.model_validate({"weights": {"random": 0}} | written)
    return registry.build(resolve_recipe(name, feature, ClipRule(), DecodeConfig()), "cpu")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_i3d_queues_the_steps_of_windows_cut_as_their_clip_is() -> None:
    preprocess = {"crop": [32, 32], "size": [36]}
    extractor = build("i3d", options={"steps": True}, sampling={"frames": 32, "step": 16}, preprocess=preprocess)
    frames = noise(2, 32, 32, 32, 3)
    windows = [Window(0, tuple(range(32)), 0.0, 1.0), Window(0, tuple(range(16, 48)), 0.5, 1.5, num_padded_frames=9)]
    expected = extractor.forward_windows(frames, windows)["values"]
    assert not expected[1, -1].any()
    assert not np.array_equal(expected, extractor.forward(frames)["values"])
    np.testing.assert_array_equal(extractor.submit(frames, windows)()["values"], expected)


def test_crops_are_queued_together() -> None:
    extractor = build("squeezenet", preprocess={"resize": "exact", "size": [40, 52], "crop": [32, 32], "crops": "ten"})
    frames = noise(2, 1, 40, 52, 3)
    assert not extractor.queues
    np.testing.assert_array_equal(extractor.submit(frames)()["values"], extractor.forward(frames)["values"])


def test_rc3ds_next_trunk_is_queued_before_proposals_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"form": "caffe-thumos14", "buffer_frames": 16}
    extractor = build("rc3d", options=options, preprocess={"resize_precision": None})
    events: list[str] = []
    begin, end = extractor.begin, extractor.end
    monkeypatch.setattr(extractor, "begin", lambda *given: (events.append("trunk"), begin(*given))[1])
    monkeypatch.setattr(extractor, "end", lambda begun: (events.append("heads"), end(begun))[1])
    frames = noise(2, 1, 16, 32, 32, 3)
    waiting = [extractor.submit(batch) for batch in frames]
    # So the device has the second trunk to work at while proposals of the first are chosen, and the first one's heads.
    assert events == ["trunk", "trunk", "heads"]
    given = [outputs() for outputs in waiting]
    assert events == ["trunk", "trunk", "heads", "heads"]
    for batch, outputs in zip(frames, given, strict=True):
        np.testing.assert_array_equal(outputs["values"], extractor.forward(batch)["values"])


def test_what_fails_in_the_middle_of_rc3ds_pass_fails_its_own_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"form": "caffe-thumos14", "buffer_frames": 16}
    extractor = build("rc3d", options=options, preprocess={"resize_precision": None})
    end, failing = extractor.end, []

    def failing_once(begun: Any) -> Any:
        if not failing or failing[0] is begun:
            failing.append(begun)
            raise ValueError("odd proposals")
        return end(begun)

    monkeypatch.setattr(extractor, "end", failing_once)
    first, second = (extractor.submit(batch) for batch in noise(2, 1, 16, 32, 32, 3))
    with pytest.raises(ValueError, match="odd proposals"):
        first()
    assert second()["values"].shape[0] == 1


def test_networks_that_take_the_same_frames_share_their_upload() -> None:
    forget_uploads()
    frames = noise(2, 1, 8, 8, 3)
    first = on_device(frames, META)
    assert on_device(frames.copy(), META) is first
    other = frames.copy()
    other[1, 0, 7, 7, 2] ^= 1
    assert on_device(other, META) is not first
    assert on_device(frames[:1], META).shape == (1, 1, 8, 8, 3)
    assert on_device(frames[:1].astype(np.float32), META).dtype == torch.float32
    last = on_device(frames, META)
    forget_uploads()
    assert on_device(frames, META) is not last
    forget_uploads()


def test_a_network_leaves_the_frames_that_others_share_as_they_are() -> None:
    extractor = build("resnet50", preprocess={"resize": "exact", "size": [40, 52], "crop": None})
    frames = noise(2, 1, 40, 52, 3)
    before = frames.copy()
    extractor.forward(frames)
    np.testing.assert_array_equal(frames, before)
