"""Storage that fails: what is tried again, what is told in one line, and that what was written stands."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator

import fsspec
import pytest
from object_storage import BUCKET, Faults, environment, faulty_proxy, free_port, s3_server

from clipmill.schemas.errors import StorageUnavailableError, StoreError
from clipmill.stores.objects import Objects
from clipmill.stores.storage_faults import RetriedCalls, Retries, fault_of

QUICK = Retries(attempts=12, first_pause_seconds=0.01, longest_pause_seconds=0.05)
DATA = bytes(range(256)) * 400


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


def _use(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)
    limits = {"config_kwargs": {"read_timeout": 2, "connect_timeout": 2}}
    monkeypatch.setitem(fsspec.config.conf, "s3", limits)
    s3 = fsspec.get_filesystem_class("s3")
    # Its own tries hide most faults from ours.
    monkeypatch.setattr(s3, "retries", 1)
    s3.clear_instance_cache()


@pytest.mark.parametrize("kind", ["busy", "reset", "truncated", "lost"])
def test_every_call_is_made_again_when_the_server_or_the_network_fails(
    server: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(share=0.3, kinds=(kind,), seed=1)
    with faulty_proxy(server, faults) as endpoint:
        _use(monkeypatch, endpoint)
        objects = Objects(f"s3://{BUCKET}/{kind}", QUICK)
        for number in range(6):
            objects.write(f"folder/{number}", DATA[number:])
        assert objects.names("folder") == [str(number) for number in range(6)]
        assert [item.num_bytes for item in objects.find()] == [len(DATA) - number for number in range(6)]
        for number in range(6):
            assert objects.read(f"folder/{number}") == DATA[number:]
            assert objects.read(f"folder/{number}", 100, 90_000) == DATA[number:][100:90_000]
        with objects.open("folder/3") as file:
            file.seek(-500, os.SEEK_END)
            assert file.read() == DATA[-500:]
        objects.delete("folder/0")
        assert not objects.exists("folder/0")
        with pytest.raises(FileNotFoundError):
            objects.read("folder/0")
    assert faults.counts[kind] > 3
    assert objects.num_retries > 0


def test_a_server_that_is_down_is_one_line_and_retryable(monkeypatch: pytest.MonkeyPatch) -> None:
    _use(monkeypatch, f"http://127.0.0.1:{free_port()}")
    objects = Objects(f"s3://{BUCKET}/a", Retries(attempts=2, first_pause_seconds=0.01))
    for call in (
        lambda: objects.read("x"),
        lambda: objects.write("x", b"1"),
        lambda: objects.names(),
        lambda: objects.exists("x"),
        lambda: objects.delete("x"),
        lambda: objects.find(),
        lambda: objects.entries(),
        lambda: objects.open("x"),
    ):
        before = objects.num_retries
        with pytest.raises(StorageUnavailableError, match=r"run the same command again when storage answers") as caught:
            call()
        assert "\n" not in str(caught.value)
        assert objects.num_retries == before + 1


def test_a_bucket_that_is_not_there_and_missing_credentials_are_told_at_once(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(monkeypatch, server)
    objects = Objects("s3://no-such-bucket/a", QUICK)
    with pytest.raises(StorageUnavailableError, match="no such bucket"):
        objects.write("x", b"1")
    assert objects.names() == []
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    objects = Objects(f"s3://{BUCKET}/a", QUICK)
    with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID") as caught:
        objects.read("x")
    assert caught.value.exit_code == 2
    assert objects.num_retries == 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionResetError("reset"), "passing"),
        (TimeoutError("slow"), "passing"),
        (OSError(errno.ESTALE, "stale file handle"), "passing"),
        (OSError(errno.ENOSPC, "disk full"), "refused"),
        (PermissionError(errno.EACCES, "denied"), "refused"),
        (FileNotFoundError(errno.ENOENT, "gone"), "absent"),
        (ValueError("a bug of ours"), None),
        (KeyError("a bug of ours"), None),
    ],
)
def test_faults_by_their_meaning(error: Exception, expected: str | None) -> None:
    assert fault_of(error) == expected


def test_pauses_grow_up_to_the_longest_and_differ() -> None:
    retries = Retries(attempts=9, first_pause_seconds=1.0, longest_pause_seconds=10.0)
    for attempt, longest in ((1, 1.0), (2, 2.0), (4, 8.0), (5, 10.0), (60, 10.0)):
        drawn = [retries.pause_seconds(attempt) for _ in range(300)]
        assert 0 <= min(drawn) < max(drawn) <= longest
        assert max(drawn) > 0.9 * longest


def test_faults_that_stay_are_not_tried_again_and_interrupts_pass() -> None:
    calls = []

    def call(error: BaseException) -> None:
        calls.append(error)
        raise error

    for error in (PermissionError(errno.EACCES, "denied"), ValueError("bug"), KeyboardInterrupt()):
        calls.clear()
        with pytest.raises(type(error)):
            RetriedCalls(QUICK)(lambda error=error: call(error))  # type: ignore[misc]
        assert len(calls) == 1


def test_the_module_needs_no_driver() -> None:
    code = "import sys, clipmill.stores.storage_faults\nassert not {'botocore', 's3fs', 'aiohttp'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
