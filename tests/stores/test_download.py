"""Fetching a file from a real server on this machine, whatever happens to the connection, the file or the disk."""

import fcntl
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clipmill.schemas.errors import EXIT_RETRYABLE, NetworkError, StorageUnavailableError, UsageError, WeightsError
from clipmill.stores.download import Retry, download
from tests.file_server import Served, serve

CONTENT = np.random.default_rng(0).bytes(1_000_000)
OTHER = np.random.default_rng(1).bytes(1_000_000)
HALF = 400_000
QUICK = Retry(attempts=3, first_wait_seconds=0.01)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(CONTENT) as server:
        yield server


class Heard:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.done: list[tuple[int, int | None]] = []
        self.retries: list[tuple[str, float]] = []

    def on_bytes(self, done: int, total: int | None) -> None:
        self.done.append((done, total))

    def on_retry(self, reason: str, wait_seconds: float) -> None:
        self.retries.append((reason, wait_seconds))


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def give_up_half_way(served: Served, path: Path, cuts: tuple[int, ...] = (HALF, 0, 0)) -> None:
    """Leaves a part of `HALF` bytes, as a run that was cut for good does."""
    served.cuts = list(cuts)
    with pytest.raises(NetworkError) as caught:
        download(served.url, str(path), retry=QUICK)
    assert caught.value.exit_code == EXIT_RETRYABLE
    assert f"run again to go on after {HALF:,} bytes" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left(path.parent) == [f"{path.name}.part", f"{path.name}.part.json"]
    assert Path(f"{path}.part").stat().st_size == HALF
    served.requests.clear()
    served.cuts.clear()


def test_a_file_arrives_whole_and_nothing_else_is_left(served: Served, tmp_path: Path) -> None:
    heard = Heard()
    path = tmp_path / "new" / "folder" / "file"
    download(served.url, str(path), num_bytes=len(CONTENT), observer=heard)
    assert path.read_bytes() == CONTENT
    assert left(path.parent) == ["file"]
    assert heard.done[0] == (0, len(CONTENT))
    assert heard.done[-1] == (len(CONTENT), len(CONTENT))
    assert heard.done == sorted(heard.done)
    assert served.requests == [None]


def test_cut_connections_go_on_where_they_were_cut(served: Served, tmp_path: Path) -> None:
    served.cuts = [HALF, 0, 100_000, 0]
    heard = Heard()
    download(served.url, str(tmp_path / "file"), observer=heard, retry=QUICK)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert served.requests == [None, *["bytes=400000-"] * 2, *["bytes=500000-"] * 2]
    assert heard.retries[0] == ("the connection closed after 400,000 of 1,000,000 bytes", 0.01)
    assert [wait for _, wait in heard.retries] == [0.01, 0.02, 0.01, 0.02], "bytes begin the count anew"


def test_a_later_run_goes_on(served: Served, tmp_path: Path) -> None:
    give_up_half_way(served, tmp_path / "file")
    download(served.url, str(tmp_path / "file"), retry=QUICK)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert served.requests == ["bytes=400000-"]
    assert left(tmp_path) == ["file"]


def test_a_part_that_is_complete_asks_for_nothing(served: Served, tmp_path: Path) -> None:
    give_up_half_way(served, tmp_path / "file")
    with open(tmp_path / "file.part", "ab") as part:
        part.write(CONTENT[HALF:])
    download(served.url, str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert served.requests == []


def test_a_server_without_ranges_begins_anew(served: Served, tmp_path: Path) -> None:
    served.ranges = False
    give_up_half_way(served, tmp_path / "file", cuts=(HALF, HALF, HALF))
    download(served.url, str(tmp_path / "file"), retry=QUICK)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert served.requests == ["bytes=400000-"]


@pytest.mark.parametrize("change", ["etag", "size", "date", "address", "no record", "too long"])
def test_a_changed_file_begins_anew(served: Served, tmp_path: Path, change: str) -> None:
    served.modified = "Sat, 21 Nov 2020 10:00:00 GMT"
    give_up_half_way(served, tmp_path / "file")
    served.content = OTHER
    url = served.url
    if change == "etag":
        served.etag = '"two"'
    elif change == "size":
        served.content = OTHER[:-1]
    elif change == "date":
        served.modified = "Sat, 21 Nov 2020 10:00:01 GMT"
    elif change == "address":
        url = served.url + "?mirror"
    elif change == "no record":
        (tmp_path / "file.part.json").write_text("no record of where it came from")
    else:
        with open(tmp_path / "file.part", "ab") as part:
            part.write(CONTENT)
    download(url, str(tmp_path / "file"), retry=QUICK)
    assert (tmp_path / "file").read_bytes() == served.content


def test_a_server_that_says_nothing_by_which_to_tell_a_change_begins_anew(served: Served, tmp_path: Path) -> None:
    served.etag = None
    give_up_half_way(served, tmp_path / "file", cuts=(HALF, HALF, HALF))
    served.content = OTHER
    download(served.url, str(tmp_path / "file"), retry=QUICK)
    assert (tmp_path / "file").read_bytes() == OTHER
    assert served.requests == [None]


def test_a_file_that_became_shorter_than_the_part_begins_anew(served: Served, tmp_path: Path) -> None:
    give_up_half_way(served, tmp_path / "file")
    served.content = OTHER[:1000]
    download(served.url, str(tmp_path / "file"), retry=QUICK)
    assert (tmp_path / "file").read_bytes() == OTHER[:1000]
    assert served.requests == ["bytes=400000-", None]


def test_a_server_that_cuts_every_connection_at_one_place_is_given_up(served: Served, tmp_path: Path) -> None:
    served.ranges = False
    served.cuts = [HALF] * 50
    with pytest.raises(NetworkError, match="3 times in a row without a byte"):
        download(served.url, str(tmp_path / "file"), retry=QUICK)
    assert len(served.requests) == 3


def test_sizes_that_are_not_told(served: Served, tmp_path: Path) -> None:
    served.length = False
    heard = Heard()
    download(served.url, str(tmp_path / "file"), observer=heard)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert {total for _, total in heard.done} == {None}
    served.chunked = True
    download(served.url, str(tmp_path / "chunked"))
    assert (tmp_path / "chunked").read_bytes() == CONTENT
    served.cuts = [HALF]
    download(served.url, str(tmp_path / "cut"), num_bytes=len(CONTENT), retry=QUICK)
    assert (tmp_path / "cut").read_bytes() == CONTENT


def test_a_redirect_is_followed_with_its_range(served: Served, tmp_path: Path) -> None:
    moved = served.url.replace("/file", "/moved")
    served.cuts = [HALF]
    download(moved, str(tmp_path / "file"), retry=QUICK)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert served.requests == [None, "bytes=400000-"]


@pytest.mark.parametrize("status", [401, 403, 404, 410, 501])
def test_a_final_refusal_is_not_tried_again(served: Served, tmp_path: Path, status: int) -> None:
    served.statuses = [status]
    with pytest.raises(UsageError, match=rf"expected a file, got HTTP {status} .*; give --url of a mirror"):
        download(served.url, str(tmp_path / "file"), retry=QUICK)
    assert len(served.requests) == 1
    assert left(tmp_path) == []


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_passing_refusal_is_tried_again(served: Served, tmp_path: Path, status: int) -> None:
    served.statuses = [status, status]
    heard = Heard()
    download(served.url, str(tmp_path / "file"), observer=heard, retry=QUICK)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert all(reason.startswith(f"HTTP {status}") for reason, _ in heard.retries)


def test_the_servers_own_waiting_time_is_kept(served: Served, tmp_path: Path) -> None:
    served.statuses, served.retry_after = [503], "1"
    heard = Heard()
    download(served.url, str(tmp_path / "file"), observer=heard, retry=QUICK)
    assert [wait for _, wait in heard.retries] == [1.0]


def test_nobody_there_is_retryable(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(NetworkError, match="Connection refused") as caught:
        download(f"http://127.0.0.1:{port}/file", str(tmp_path / "file"), retry=QUICK)
    assert caught.value.exit_code == EXIT_RETRYABLE
    assert left(tmp_path) == [], "an empty part is no part"


def test_a_web_page_is_no_file(served: Served, tmp_path: Path) -> None:
    served.content_type = "text/html; charset=utf-8"
    with pytest.raises(UsageError, match="got a web page"):
        download(served.url, str(tmp_path / "file"))
    assert left(tmp_path) == []


def test_a_web_page_in_its_place_costs_nothing_of_what_is_there(served: Served, tmp_path: Path) -> None:
    give_up_half_way(served, tmp_path / "file")
    served.content_type, served.ranges, served.content = "text/html", False, b"<title>log in first</title>"
    with pytest.raises(UsageError, match="got a web page"):
        download(served.url, str(tmp_path / "file"), retry=QUICK)
    served.content_type, served.ranges, served.content = "application/octet-stream", True, CONTENT
    served.requests.clear()
    download(served.url, str(tmp_path / "file"), retry=QUICK)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert served.requests == ["bytes=400000-"]


def test_a_silent_connection_counts_as_cut(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipmill.stores.download.TIMEOUT_SECONDS", 2.0)
    served.cuts, served.silent = [HALF], True

    class Patient(Heard):
        def on_retry(self, reason: str, wait_seconds: float) -> None:
            super().on_retry(reason, wait_seconds)
            monkeypatch.undo()

    heard = Patient()
    download(served.url, str(tmp_path / "file"), observer=heard, retry=QUICK)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert served.requests == [None, "bytes=400000-"]
    assert "timed out" in heard.retries[0][0]


def test_a_file_of_another_size_is_refused_before_it_is_fetched(served: Served, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a file of 999 bytes, got one of 1,000,000"):
        download(served.url, str(tmp_path / "file"), num_bytes=999)
    assert left(tmp_path) == []


def test_a_file_that_does_not_pass_is_not_kept(served: Served, tmp_path: Path) -> None:
    seen: list[bytes] = []

    def refuse(path: str) -> None:
        seen.append(Path(path).read_bytes())
        raise WeightsError("another file")

    with pytest.raises(WeightsError, match="another file"):
        download(served.url, str(tmp_path / "file"), check=refuse)
    assert seen == [CONTENT]
    assert left(tmp_path) == []


def test_a_file_is_replaced_only_by_a_whole_one(served: Served, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    served.cuts = [HALF, 0, 0]
    with pytest.raises(NetworkError):
        download(served.url, str(tmp_path / "file"), retry=QUICK)
    assert (tmp_path / "file").read_bytes() == b"old"
    download(served.url, str(tmp_path / "file"), retry=QUICK)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_full_disk_keeps_what_is_there_and_says_so(served: Served, tmp_path: Path) -> None:
    """The kernel refuses to write a file beyond a limit, as it refuses to write on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, hard))
    try:
        with pytest.raises(StorageUnavailableError, match="File too large") as caught:
            download(served.url, str(tmp_path / "file"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == EXIT_RETRYABLE
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:HALF]
    download(served.url, str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert served.requests[-1] == f"bytes={HALF}-"


def test_more_than_the_disk_holds_is_not_begun(served: Served, tmp_path: Path) -> None:
    give_up_half_way(served, tmp_path / "file")
    (tmp_path / "file.part.json").unlink()
    served.length = False
    with pytest.raises(StorageUnavailableError, match=r"expected 1,000,000,000,000,000,000 bytes free"):
        download(served.url, str(tmp_path / "file"), num_bytes=10**18)
    assert left(tmp_path) == []


def test_two_processes_do_not_mix_their_bytes(served: Served, tmp_path: Path) -> None:
    with open(tmp_path / "file.part", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(CONTENT[:1000])
        other.flush()
        with pytest.raises(StorageUnavailableError, match="another process that fetches it"):
            download(served.url, str(tmp_path / "file"))
        assert os.path.getsize(tmp_path / "file.part") == 1000
    assert served.requests == []


def test_a_place_that_cannot_be_written(served: Served, tmp_path: Path) -> None:
    (tmp_path / "folder").write_bytes(b"a file")
    with pytest.raises(StorageUnavailableError, match="expected to be written, got"):
        download(served.url, str(tmp_path / "folder" / "file"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/hostname", "expected an http or https address, got file"),
        ("weights.pth", "got no scheme"),
        ("http://", "expected an http or https address"),
        ("http://host:port/file", "expected an http or https address"),
        ("http://host/a file", "write them as %XX"),
        ("http://host/fichier\u00e9", "write them as %XX"),
        ("http://host/a\r\nX: y", "write them as %XX"),
    ],
)
def test_what_is_no_address(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        download(url, str(tmp_path / "file"))
    assert "\n" not in str(caught.value)
    assert left(tmp_path) == []
