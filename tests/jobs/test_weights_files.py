"""``clipmill weights list`` and ``fetch`` as a user runs them; fetch against a server on this machine."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill.jobs.weights.files import FetchProgress, run_fetch, run_list
from clipmill.schemas.errors import NetworkError, UsageError, WeightsError
from clipmill.stores.download import Retry
from tests.file_server import Served, serve

ROOT = Path(__file__).resolve().parents[2]
REAL = "weights/squeezenet1_0_imagenet_decoded.pt"
NAME = "squeezenet1_0_imagenet_decoded.pt"
NO_DIGEST = "c3d-pretrained.pth"


def clipmill(*arguments: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-m", "clipmill", "weights", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"no_proxy": "127.0.0.1"},
        timeout=280,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def real(shared_data: Path) -> bytes:
    return (shared_data / REAL).read_bytes()


@pytest.fixture
def served(real: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A mirror of the one published file that is at hand."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("clipmill.stores.download.Retry", lambda: Retry(attempts=2, first_wait_seconds=0.01))
    with serve(real) as server:
        yield server


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_list_says_what_is_known_and_what_is_not() -> None:
    data = run_list(None).data["files"]
    by_name = {item["name"]: item for item in data if item["name"]}
    real = by_name[NAME]
    assert (real["extractor"], real["use"], real["num_bytes"], real["url"]) == (
        "squeezenet",
        "imagenet-caffe",
        5_011_453,
        None,
    )
    assert by_name["resnet50-0676ba61.pth"]["sha256"] == "0676ba61"
    assert by_name["rgb_imagenet.pt"]["git_blob"] == "73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a"
    assert by_name["model_rgb.pth"]["licence"] == "MIT"
    assert by_name["raft_small_C_T_V2-01064c6d.pth"]["use"].startswith("options.flow")
    text = run_list("c3d").text
    assert "size not known" in text
    assert "digest not known" in text
    assert "by hand only" in text
    assert "no file known for card ucf101-jfzhang95" in text
    assert "vgg16" not in text
    assert json.loads(json.dumps(data)) == data


def test_a_file_is_fetched_verified_and_then_left_alone(served: Served, real: bytes, tmp_path: Path) -> None:
    served.cuts = [1_000_000]
    done = clipmill("fetch", NAME, "--out", str(tmp_path / "new"), "--url", served.url, "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert (tmp_path / "new" / NAME).read_bytes() == real
    assert data["sha256"] == hashlib.sha256(real).hexdigest()
    assert data["verified"] == "size, SHA-256"
    assert data["licence"] == "BSD"
    assert served.requests == [None, "bytes=1000000-"]
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events] == ["fetching", "retry", "fetching"]
    again = run_fetch(NAME, str(tmp_path / "new"), served.url)
    assert again.data["already_there"]
    assert "licence   BSD" in again.text
    assert len(served.requests) == 2


def test_another_file_is_refused_with_both_digests_and_not_kept(served: Served, real: bytes, tmp_path: Path) -> None:
    served.content = real[:-1] + b"x"
    got = hashlib.sha256(served.content).hexdigest()
    with pytest.raises(WeightsError, match=rf"expected SHA-256 2a5bc28f\w+, got {got}"):
        run_fetch(NAME, str(tmp_path), served.url)
    assert left(tmp_path) == []
    served.content = real[:-1]
    with pytest.raises(UsageError, match="expected a file of 5,011,453 bytes, got one of 5,011,452"):
        run_fetch(NAME, str(tmp_path), served.url)
    served.length = False
    with pytest.raises(NetworkError, match="closed after 5,011,452 of 5,011,453"):
        run_fetch(NAME, str(tmp_path), served.url)


def test_a_longer_file_of_untold_size_is_refused(served: Served, real: bytes, tmp_path: Path) -> None:
    served.content, served.length = real + b"x", False
    with pytest.raises(WeightsError, match="expected 5,011,453 bytes, got 5,011,454"):
        run_fetch(NAME, str(tmp_path), served.url)
    assert left(tmp_path) == []


def test_a_digest_that_is_known_in_part_is_compared_in_part(served: Served, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected SHA-256 0676ba61, got 2a5bc28f;"):
        run_fetch("resnet50-0676ba61.pth", str(tmp_path), served.url)
    assert left(tmp_path) == []


def test_a_git_blob_is_compared(served: Served, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected git blob 73a4fd1d87eb"):
        run_fetch("rgb_imagenet.pt", str(tmp_path), served.url)
    assert left(tmp_path) == []


def test_a_file_without_a_known_digest_says_so(served: Served, real: bytes, tmp_path: Path) -> None:
    found = run_fetch(NO_DIGEST, str(tmp_path), served.url)
    assert found.data["verified"] == ""
    assert "nothing to verify it by (not known)" in found.text
    assert found.data["sha256"] == hashlib.sha256(real).hexdigest()


def test_a_cut_fetch_ends_with_4_and_the_next_goes_on(served: Served, real: bytes, tmp_path: Path) -> None:
    served.cuts = [1_000_000, 0, 0]
    with pytest.raises(NetworkError) as caught:
        run_fetch(NAME, str(tmp_path), served.url)
    assert caught.value.exit_code == 4
    assert left(tmp_path) == [f"{NAME}.part", f"{NAME}.part.json"]
    served.cuts.clear()
    assert run_fetch(NAME, str(tmp_path), served.url).data["num_bytes"] == len(real)
    assert left(tmp_path) == [NAME]


def test_another_file_of_that_name_is_not_touched(served: Served, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"mine")
    with pytest.raises(UsageError, match="expected nothing, or the published file, got another .*; delete it"):
        run_fetch(NAME, str(tmp_path), served.url)
    assert (tmp_path / NAME).read_bytes() == b"mine"
    assert served.requests == []


def test_a_wrong_name_ends_the_command_with_2_in_one_line(tmp_path: Path) -> None:
    done = clipmill("fetch", "resnet50-0676ba62.pth", "--out", str(tmp_path))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "clipmill: weights resnet50-0676ba62.pth: expected the name of a published file, got another"
    )
    assert "did you mean 'resnet50-0676ba61.pth'" in line
    assert left(tmp_path) == []


def test_what_cannot_be_fetched_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected an address to fetch it from, got not known; get it by hand"):
        run_fetch(NO_DIGEST, str(tmp_path), None)
    with pytest.raises(UsageError, match="expected an http or https address, got ftp"):
        run_fetch(NO_DIGEST, str(tmp_path), "ftp://host/file")
    with pytest.raises(UsageError, match="did you mean 'i3d'"):
        run_list("i3")


def test_an_out_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="option --out: expected a folder"):
        run_fetch(NAME, str(tmp_path / "file"), "http://127.0.0.1/file")


def test_a_missing_file_on_the_server(served: Served, tmp_path: Path) -> None:
    served.statuses = [404]
    with pytest.raises(UsageError, match="got HTTP 404"):
        run_fetch(NAME, str(tmp_path), served.url)
    assert left(tmp_path) == []


class Terminal:
    """A stream that says it is a terminal, and keeps what it shows."""

    def __init__(self) -> None:
        self.shown = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.shown += text
        return len(text)

    def flush(self) -> None:
        pass


def test_a_terminal_shows_one_line_with_share_rate_and_time_left() -> None:
    terminal: Any = Terminal()
    progress = FetchProgress("file.pth", terminal)
    progress.on_bytes(0, 2_000_000)
    for done in np.linspace(0, 1_900_000, 1000).astype(int):
        progress.on_bytes(int(done), 2_000_000)
    progress.on_retry("the connection closed", 2.0)
    progress.on_bytes(2_000_000, 2_000_000)
    lines = terminal.shown.split("\r")
    assert lines[1].startswith("  0%  file.pth: 0 of 2,000,000 bytes")
    assert lines[-1].startswith("100%  file.pth: 2,000,000 of 2,000,000 bytes")
    assert lines[-1].rstrip().endswith("ETA 00:00")
    assert any(line.startswith("the connection closed; again in 2 s") for line in lines)
    assert len(lines) < 10, "it is redrawn a few times a second, not for every chunk"
