"""Videos on servers: each fetched once, an unchanged one not at all, and whose fault it is when one cannot be had."""

import shutil
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml

from clipmill.pipelines.features import remote_videos
from clipmill.pipelines.features.build import build
from clipmill.pipelines.features.build_report import BuildReport
from clipmill.pipelines.features.planning import plan_build
from clipmill.pipelines.features.remote_videos import RemoteState, address_of, remote_fingerprint, state_of
from clipmill.schemas.config import BuildConfig, VideosConfig
from clipmill.schemas.errors import MachineFaultError, StorageUnavailableError
from clipmill.stores import FeatureStore, storage_faults
from clipmill.stores.store import Store
from tests.command_line import clipmill
from tests.encoded_videos import encode_video
from tests.object_storage import BUCKET, Faults, environment, faulty_proxy, s3_server
from tests.video_server import VideoServer, serve_videos

NAMES = ("a.mp4", "b.mkv", "c.mp4")


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of over a MiB: an index at the end, Matroska, an index far from both ends."""
    folder = tmp_path_factory.mktemp("encoded")
    large = {"crf": "0", "preset": "ultrafast"}
    for name in NAMES[:2]:
        encode_video(folder / name, 24, fps=8, width=320, height=240, pattern="noise", options=large)
        assert (folder / name).stat().st_size > 3 * remote_videos.WHOLE_BYTES / 2
    free = 2 * remote_videos.END_BYTES
    data = (folder / "a.mp4").read_bytes()
    assert data.rindex(b"moov") > len(data) - 2000
    (folder / "c.mp4").write_bytes(data + struct.pack(">I4s", free, b"free") + bytes(free - 8))
    return folder


@pytest.fixture
def server(encoded: Path, tmp_path: Path) -> Iterator[VideoServer]:
    shutil.copytree(encoded, tmp_path / "served")
    with serve_videos(tmp_path / "served") as serving:
        yield serving


def config(server: VideoServer, names: tuple[str, ...] = NAMES, **changes: Any) -> BuildConfig:
    root = server.folder.parent
    (root / "videos.csv").write_text("id,path\n" + "".join(f"{name},{server.url}/{name}\n" for name in names))
    data = {
        "store": {"url": str(root / "store"), "attempts": 1},
        "videos": {"manifest": str(root / "videos.csv")},
        "features": {"rows": {"extractor": "squeezenet", "sampling": {"fps": 1}, "weights": {"random": 0}}},
        "engine": {"device": "cpu", "threads": 1, "batch_windows": 4},
    }
    return BuildConfig.model_validate(data | changes)


def total(server: VideoServer) -> int:
    return sum(path.stat().st_size for path in server.folder.iterdir())


def test_a_build_fetches_each_video_once_and_a_rerun_none(server: VideoServer) -> None:
    plan = plan_build(config(server))
    methods, num_bytes = server.counted()
    # A look at what is new takes ranges alone.
    assert plan.plan.num_videos == len(NAMES)
    assert num_bytes < total(server) / 2
    assert methods["HEAD"] == len(NAMES)
    assert [item.video.header is not None and item.video.header.width for item in plan.probed] == [320] * len(NAMES)
    assert [item.video.num_bytes for item in plan.probed] == [(server.folder / name).stat().st_size for name in NAMES]

    report = build(config(server))
    methods, num_bytes = server.counted()
    assert report.num_complete == len(NAMES)
    # The ranges of planning once more, and each whole once.
    assert total(server) <= num_bytes < 1.5 * total(server)
    assert methods["HEAD"] == 2 * len(NAMES)

    report = build(config(server))
    methods, num_bytes = server.counted()
    assert (report.num_tasks, num_bytes) == (0, 0)
    assert methods == {"HEAD": len(NAMES)}
    assert plan_build(config(server)).plan.tasks == ()
    assert server.counted() == ({"HEAD": len(NAMES)}, 0)


def test_rows_of_remote_videos_are_those_of_local_ones(server: VideoServer) -> None:
    build(config(server))
    remote = FeatureStore(str(server.folder.parent / "store"))["rows"]
    root = server.folder.parent
    (root / "local.csv").write_text("id,path\n" + "".join(f"{name},served/{name}\n" for name in NAMES))
    changes = {"videos": {"manifest": str(root / "local.csv")}, "store": {"url": str(root / "other")}}
    build(config(server, **changes))
    local = FeatureStore(str(root / "other"))["rows"]
    for name in NAMES:
        assert (remote[name].values == local[name].values).all()


def test_a_changed_video_alone_is_fetched_and_built_again(server: VideoServer) -> None:
    build(config(server))
    server.counted()
    data = bytearray((server.folder / "c.mp4").read_bytes())
    (server.folder / "c.mp4").write_bytes(data + b"\0\0\0\x09free1")
    report = build(config(server))
    _, num_bytes = server.counted()
    assert (report.num_complete_before, report.num_complete, report.num_tasks) == (2, 3, 1)
    assert num_bytes < 1.5 * (len(data) + 9)


@pytest.mark.parametrize("how", ["no ranges", "no word of ranges", "small", "Last-Modified alone"])
def test_what_a_server_lacks_costs_one_download_at_most(
    server: VideoServer, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.ranges = "ranges" not in how
    server.says_ranges = how != "no word of ranges"
    if how == "small":
        monkeypatch.setattr(remote_videos, "WHOLE_BYTES", 1 << 30)
    if how == "Last-Modified alone":
        server.tells = ("Last-Modified",)
        monkeypatch.setattr(remote_videos, "CLOCK_STEP", timedelta(0))
    assert build(config(server)).num_complete == len(NAMES)
    _, num_bytes = server.counted()
    # Without ranges the first answer is the whole video, which is kept for the decoder.
    assert num_bytes == total(server) if how != "Last-Modified alone" else num_bytes < 1.5 * total(server)
    assert build(config(server)).num_tasks == 0
    assert server.counted() == ({"HEAD": len(NAMES)}, 0)


def test_large_videos_of_a_server_that_takes_no_notice_of_ranges_do_not_fill_memory(
    server: VideoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_videos, "MEMORY_BYTES", 0)
    plan = plan_build(config(server))
    assert all(item.video.header is not None for item in plan.probed)
    assert server.counted()[1] < total(server) / 2
    server.ranges = server.says_ranges = False
    monkeypatch.setattr(fsspec.get_filesystem_class("http"), "cat_file", None)
    assert build(config(server)).num_complete == len(NAMES)


def test_a_server_without_head_is_asked_by_get(server: VideoServer) -> None:
    server.heads = False
    assert build(config(server)).num_complete == len(NAMES)
    assert build(config(server)).num_tasks == 0


def test_a_server_that_tells_nothing_is_read_by_each_plan_and_once_by_a_build(server: VideoServer) -> None:
    server.tells = ()
    assert build(config(server)).num_complete == len(NAMES)
    assert server.counted()[1] == total(server)
    assert build(config(server)).num_tasks == 0
    assert server.counted()[1] == total(server)


def test_a_store_that_knows_videos_by_their_bytes_goes_on_by_one_download_and_makes_nothing_again(
    server: VideoServer,
) -> None:
    # As versions before asked for nothing but the bytes.
    server.tells = ()
    build(config(server))
    store = Store.open(str(server.folder.parent / "store"))
    before = store.membership().served
    server.tells = ("ETag", "Last-Modified")
    server.counted()
    report = build(config(server))
    assert (report.num_tasks, report.num_complete) == (0, len(NAMES))
    assert server.counted()[1] == total(server)
    assert store.membership().served == before
    assert build(config(server)).num_tasks == 0
    assert server.counted() == ({"HEAD": len(NAMES)}, 0)


class _ReplacesWhenItStarts:
    def __init__(self, path: Path, data: bytes) -> None:
        self._path, self._data = path, data

    def run(self, tasks: Any, worker: Any, observers: Any) -> Any:
        from clipmill.pipelines.features.engines.local import LocalEngine

        self._path.write_bytes(self._data)
        return LocalEngine().run(tasks, worker, observers)


def test_a_video_replaced_between_planning_and_work_is_not_booked_under_its_old_name(server: VideoServer) -> None:
    data = (server.folder / "c.mp4").read_bytes() + b"\0\0\0\x09free2"
    report = build(config(server), engine=_ReplacesWhenItStarts(server.folder / "c.mp4", data))
    assert (report.num_complete, report.reasons) == (2, {"changed_file": 1})
    assert build(config(server)).num_complete == 3


# Whose fault it is.


def ended(server: VideoServer, names: tuple[str, ...]) -> BuildReport | str:
    """Returns the build's report, or the one line it ends with where the machine is at fault."""
    try:
        return build(config(server, names))
    except MachineFaultError as error:
        return str(error)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        pytest.param(401, "access_denied", marks=pytest.mark.slow),
        (403, "access_denied"),
        pytest.param(429, "storage_unavailable", marks=pytest.mark.slow),
        (500, "storage_unavailable"),
        pytest.param(503, "storage_unavailable", marks=pytest.mark.slow),
    ],
)
def test_videos_that_a_server_refuses_end_the_run(server: VideoServer, status: int, reason: str) -> None:
    server.statuses = {"*": status}
    for names in (NAMES[:1], tuple(f"{number}.mp4" for number in range(7))):
        assert f"{reason} {len(names)}" in str(ended(server, names))
    assert not (server.folder.parent / "store").exists()
    # A few among many are booked on them, and tried again by the next run.
    server.statuses = {"x.mp4": status}
    report = ended(server, ("a.mp4", "b.mkv", "x.mp4"))
    assert isinstance(report, BuildReport)
    assert (report.num_complete, report.reasons) == (2, {reason: 1})
    server.statuses = {}
    shutil.copy(server.folder / "a.mp4", server.folder / "x.mp4")
    report = ended(server, ("a.mp4", "b.mkv", "x.mp4"))
    assert isinstance(report, BuildReport)
    assert (report.num_complete, report.reasons) == (3, {})


def test_videos_that_are_not_there_are_the_manifests_fault(server: VideoServer) -> None:
    report = ended(server, ("a.mp4", *(f"{number}.mp4" for number in range(7))))
    assert isinstance(report, BuildReport)
    assert (report.num_complete, report.reasons) == (1, {"missing_file": 7})


def test_a_refusal_ends_the_command_with_exit_code_4_in_one_line(server: VideoServer) -> None:
    server.statuses = {"*": 403}
    path = server.folder.parent / "build.yaml"
    path.write_text(yaml.safe_dump(config(server).model_dump(mode="json", exclude_none=True, exclude_unset=True)))
    done = clipmill("build", "--config", str(path))
    assert done.returncode == 4, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("clipmill: ")]
    assert "videos 3 of 3: expected storage and memory that hold, got access_denied 3" in line


def test_a_server_that_is_down_ends_the_run(server: VideoServer, tmp_path: Path) -> None:
    with serve_videos(tmp_path) as other:
        gone = other.url
    server.url = gone
    assert "storage_unavailable 3" in str(ended(server, NAMES))


# What servers say.


def test_what_drivers_say_of_an_object_becomes_its_state() -> None:
    md5 = "0123456789abcdef0123456789abcdef"
    encoded = "ASNFZ4mrze8BI0VniavN7w=="
    then = datetime(2026, 1, 2, tzinfo=UTC)
    assert state_of({"size": 3, "ETag": f'"{md5}"', "VersionId": "v"}, is_s3=True) == RemoteState(3, f"md5={md5}", True)
    assert state_of({"size": 3, "ETag": f'"{md5}-2"'}, is_s3=True) == RemoteState(3, f"etag={md5}-2")
    assert state_of({"size": 3, "ETag": f'W/"{md5}"'}) == RemoteState(3, f"etag={md5}")
    assert state_of({"size": 3, "etag": "CK", "md5Hash": encoded, "generation": "7"}) == RemoteState(
        3, f"md5={md5}", True
    )
    assert state_of({"size": 3, "generation": "7"}) == RemoteState(3, "version=7")
    content = {"content_md5": bytearray.fromhex(md5)}
    assert state_of({"size": 3, "etag": "0x8D", "content_settings": content}) == RemoteState(3, f"md5={md5}", True)
    assert state_of({"size": 3, "etag": "0x8D", "content_settings": {"content_md5": None}}) == RemoteState(
        3, "etag=0x8D"
    )
    assert state_of({"size": 3, "last_modified": then}) == RemoteState(3, f"modified={then}")
    assert state_of({"size": 3, "last_modified": datetime.now(UTC)}) is None
    assert state_of({"size": 3}) is None


def test_signatures_are_no_part_of_an_address_and_equal_digests_are_equal_videos() -> None:
    signed = "https://host/a%20b.mp4?X-Amz-Date=1&X-Amz-Signature=secret"
    assert address_of(signed) == "https://host/a%20b.mp4"
    assert address_of("https://user:secret@host/a.mp4") == "https://host/a.mp4"
    assert address_of("https://host/watch?v=7") == "https://host/watch?v=7"
    digest, etag = RemoteState(3, "md5=1", True), RemoteState(3, "etag=1")
    assert remote_fingerprint("s3://a/1", digest, None) == remote_fingerprint("s3://b/2", digest, None)
    assert remote_fingerprint("s3://a/1", etag, None) != remote_fingerprint("s3://b/2", etag, None)
    assert remote_fingerprint("s3://a/1", etag, "0") != remote_fingerprint("s3://a/1", etag, None)


# An object store.


def _in_s3(endpoint: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts the videos of `folder` into the bucket and returns the file system."""
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 60, "connect_timeout": 60}})
    s3 = fsspec.get_filesystem_class("s3")
    monkeypatch.setattr(s3, "retries", 1)
    s3.clear_instance_cache()
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    for path in sorted(folder.iterdir()):
        fs.put_file(str(path), f"{BUCKET}/videos/{path.name}")
    fs.put_file(str(folder / "a.mp4"), f"{BUCKET}/videos/again.mp4")
    return fs


def _s3_config(root: Path, **store: Any) -> BuildConfig:
    return BuildConfig.model_validate(
        {
            "store": {"url": str(root / "store"), "attempts": 1, **store},
            "videos": {"folder": f"s3://{BUCKET}/videos"},
            "features": {"rows": {"extractor": "squeezenet", "sampling": {"fps": 1}, "weights": {"random": 0}}},
            "engine": {"device": "cpu", "threads": 1, "batch_windows": 4},
        }
    )


def test_s3_objects_are_fetched_once_and_refusals_end_the_run(
    encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults()
    with s3_server() as endpoint, faulty_proxy(endpoint, faults) as proxy:
        fs = _in_s3(proxy, encoded, monkeypatch)
        size = sum(item["size"] for item in fs.ls(f"{BUCKET}/videos", detail=True))
        faults.num_bytes = 0
        report = build(_s3_config(tmp_path))
        # Two objects of the same bytes are told, though none was read to know it.
        assert (report.num_complete, report.listing.copies) == (4, (("a.mp4", "again.mp4"),))
        assert size <= faults.num_bytes < 1.5 * size
        faults.num_bytes = 0
        assert build(_s3_config(tmp_path)).num_tasks == 0
        assert faults.num_bytes < 20_000  # listings

        # The same object put once more: another time and version, the same ETag.
        fs.put_file(str(encoded / "a.mp4"), f"{BUCKET}/videos/a.mp4")
        assert build(_s3_config(tmp_path)).num_tasks == 0

        # Faults that may pass are tried again, and counted.
        flaky = Faults(share=0.25, kinds=("busy", "reset"), seed=3)
        with faulty_proxy(endpoint, flaky) as other:
            monkeypatch.setenv("AWS_ENDPOINT_URL", other)
            type(fs).clear_instance_cache()
            monkeypatch.setattr(storage_faults.time, "sleep", lambda seconds: None)
            report = build(_s3_config(tmp_path, url=str(tmp_path / "flaky"), attempts=20))
        assert (report.num_complete, report.num_quarantined) == (4, 0)
        assert report.num_storage_retries > 0

        for code in ("AccessDenied", "InvalidAccessKeyId"):
            refusing = Faults(share=1.0, kinds=(code,))
            with faulty_proxy(endpoint, refusing) as other:
                monkeypatch.setenv("AWS_ENDPOINT_URL", other)
                type(fs).clear_instance_cache()
                with pytest.raises(StorageUnavailableError, match=r"videos.folder s3://videos/videos: .*") as caught:
                    build(_s3_config(tmp_path))
                assert caught.value.exit_code == 4
                (tmp_path / "videos.csv").write_text(f"id,path\nx,s3://{BUCKET}/videos/a.mp4\n")
                listed = _s3_config(tmp_path).model_copy(
                    update={"videos": VideosConfig(manifest=str(tmp_path / "videos.csv"))}
                )
                with pytest.raises(MachineFaultError, match="access_denied 1"):
                    build(listed)
    type(fs).clear_instance_cache()
