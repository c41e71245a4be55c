"""Every file of the torture sets ends with frames or with a reason, and the frames are the published ones."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from decoded_events import Outcome, request, run

from clipmill.pipelines.decode.probe import probe
from clipmill.pipelines.decode.session import DecodeSession
from clipmill.schemas.errors import VideoError

MEDIA = {".mp4", ".mov", ".mkv", ".avi", ".webm", ".3gp"}

REASONS = {
    "amr_nb_1f.3gp": "no_video_stream",
    "amr_wb_1f.3gp": "no_video_stream",
    "bipbop-cenc-audioinit.mp4": "no_video_stream",
    "bipbop_480wp_1001kbps-cenc-video-key1-init.mp4": "no_frames",
    "bipbop_cbcs_audio_init.mp4": "no_video_stream",
    "bipbop_cbcs_video_init.mp4": "no_frames",
    "invalid_userdata.mp4": "no_frames",
    "sine-3s-xhe-aac-44khz-mono.mp4": "no_video_stream",
    "test_case_1185230.mp4": "undecodable",
    "afconvert-aac-0.5s.mp4": "no_video_stream",
    "bipbop_audioinit.mp4": "no_video_stream",
    "bipbop_nonfragment_header.mp4": "no_frames",
    "chunk_out_of_range.mp4": "unreadable",
    "opus_audioinit.mp4": "no_video_stream",
    "opus_audioinit_two_desc.mp4": "no_video_stream",
    "short-cenc.mp4": "encrypted",
    "zero_empty_stsc.mp4": "undecodable",
}
"""What cannot be decoded, with the reason; every other file gives all of its frames."""

SUBSTITUTED = {"corrupted.mp4", "no_timescale.mp4"}


def digest(pixels: npt.NDArray[np.uint8]) -> tuple[tuple[int, ...], str]:
    """Returns the shape and a hash: the frames themselves would fill gigabytes."""
    return pixels.shape, hashlib.sha256(np.ascontiguousarray(pixels)).hexdigest()


@pytest.fixture(scope="module")
def outcomes(shared_data: Path) -> dict[Path, Outcome]:
    """Per file, what came of a pass over all frames."""
    files = sorted(path for path in (shared_data / "torture").rglob("*") if path.suffix in MEDIA)
    ends: dict[Path, Outcome] = {}
    requests = {}
    for path in files:
        try:
            probe(str(path))
            requests[path] = request(path)
        except VideoError as error:
            ends[path] = Outcome(error=error)
    with DecodeSession(deadline_seconds=200, deadline_factor=0) as session:
        ends |= dict(zip(requests, run(session, list(requests.values()), digest), strict=True))
    return ends


def test_every_file_ends_with_frames_or_a_reason(outcomes: dict[Path, Outcome]) -> None:
    assert len(outcomes) == 82
    for path, outcome in outcomes.items():
        found = None if outcome.error is None else outcome.error.reason
        assert found == REASONS.get(path.name), path.name
        if outcome.summary is not None:
            assert bool(outcome.summary.substituted) == (path.name in SUBSTITUTED), path.name
            assert len(outcome.frames) > 0


def test_published_frames_are_reproduced_to_the_bit(outcomes: dict[Path, Outcome], shared_data: Path) -> None:
    torch = pytest.importorskip("torch")
    references = sorted((shared_data / "torture" / "torchcodec").glob("*.pt"))
    assert len(references) == 10
    for path in references:
        name, frame = re.fullmatch(r"(.*)\.stream\d\.frame(\d+)\.pt", path.name).groups()
        expected = torch.load(path, weights_only=True).numpy()
        assert outcomes[path.parent / name].frames[0, int(frame)] == digest(expected), path.name


@pytest.fixture(scope="module")
def exact(outcomes: dict[Path, Outcome]) -> Iterator[dict[Path, Outcome]]:
    """The same passes by PyAV alone, for the files decord served."""
    served = [path for path, end in outcomes.items() if end.summary is not None and end.summary.decoder == "decord"]
    with DecodeSession(deadline_seconds=200, deadline_factor=0) as session:
        ends = run(session, [request(path, decoder="pyav") for path in served], digest)
        yield dict(zip(served, ends, strict=True))


def test_what_decord_served_is_what_pyav_gives(outcomes: dict[Path, Outcome], exact: dict[Path, Outcome]) -> None:
    assert len(exact) >= 25
    for path, reference in exact.items():
        assert reference.frames.keys() == outcomes[path].frames.keys()
        for key, pixels in reference.frames.items():
            assert outcomes[path].frames[key] == pixels, (path.name, key)
