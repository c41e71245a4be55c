"""A build on a Ray cluster by address: from any folder, with the worker's own errors, and with a head that is lost."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipmill.stores import FeatureStore
from tests.command_line import ROOT, invoke
from tests.held_builds import LIMIT_SECONDS, MARK, build_config, environment, held_build, marked

pytestmark = pytest.mark.ray

Done = subprocess.CompletedProcess[str]

TOKEN = "0123456789abcdef" * 2
SQUEEZENET = {"squeezenet": {"sampling": {"fps": 5}, "weights": {"random": 0}}}


class Head:
    """The head of a cluster on this machine, with token authentication."""

    def __init__(self, root: Path, mark: str) -> None:
        self.mark, self._root = mark, root
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--node-ip-address=127.0.0.1"]
        command += ["--port=0", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"]
        until = time.monotonic() + LIMIT_SECONDS
        # Ray gives its own start half a minute, which is too little on a busy machine.
        while (done := self._start(command)).returncode != 0:
            assert time.monotonic() < until, done.stdout + done.stderr
            self.kill()
        self.address = (root / "ray_current_cluster").read_text().strip()

    def _start(self, command: list[str]) -> Done:
        # Elsewhere, so that a relative path means nothing there. (Paths of sockets are short.)
        return subprocess.run(
            [*command, f"--temp-dir={self._root}"],
            cwd="/",
            env=environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN, **{MARK: self.mark}),
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )

    def kill(self) -> None:
        """Ends every process of it at once."""
        for pid in marked(self.mark):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    started = Head(tmp_path_factory.mktemp("r"), "ray-cluster-of-the-tests")
    try:
        yield started
    finally:
        started.kill()


def build(root: Path, engine: dict[str, Any], features: Any = None, **values: str) -> Done:
    config = build_config(root, {"name": "ray", "connect_seconds": LIMIT_SECONDS} | engine, features or SQUEEZENET)
    return subprocess.run(
        [sys.executable, "-m", "clipmill", "build", "--config", str(config)],
        cwd=root,
        env=environment(**values),
        capture_output=True,
        text=True,
        timeout=2 * LIMIT_SECONDS,
        check=False,
    )


def line_of(done: Done, code: int) -> str:
    """Returns the one line a build ended with."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("clipmill: ")]
    assert "\x1b" not in line
    return line


def test_a_relative_store_url_and_the_token_of_the_cluster(head: Head, tmp_path: Path) -> None:
    done = build(tmp_path, {"address": head.address}, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert FeatureStore(str(tmp_path / "store"))["squeezenet"].video_ids == ["0.mp4"]


def test_without_the_token(head: Head, tmp_path: Path) -> None:
    line = line_of(build(tmp_path, {"address": head.address}, HOME=str(tmp_path), RAY_AUTH_MODE="token"), 2)
    assert line.startswith("clipmill: engine ray: expected a token, as RAY_AUTH_MODE=token asks for one, got none; set")


def test_a_node_without_a_package(head: Head, tmp_path: Path) -> None:
    bare = tmp_path / "bare" / "clipmill"
    bare.mkdir(parents=True)
    (bare / "__init__.py").write_text("import a_package_of_clipmill\n")
    engine = {"address": head.address, "runtime_env": {"env_vars": {"PYTHONPATH": str(bare.parent)}}}
    line = line_of(build(tmp_path, engine, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN), 2)
    assert line.startswith(f"clipmill: node {socket.gethostname()}: expected clipmill and its packages, got No module ")
    assert "'a_package_of_clipmill'; install there what this machine has" in line


@pytest.mark.slow
def test_a_device_that_the_node_lacks(head: Head, tmp_path: Path) -> None:
    engine = {"address": head.address, "device": "cuda:7"}
    line = line_of(build(tmp_path, engine, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN), 2)
    assert line == "clipmill: engine device: expected a CUDA GPU, got none on this machine; use device: auto or cpu"


@pytest.mark.slow
def test_a_store_that_the_node_does_not_see(head: Head, tmp_path: Path) -> None:
    config = build_config(tmp_path, {"name": "ray", "address": head.address}, SQUEEZENET)
    config.write_text(config.read_text().replace("url: store", "url: memory://of-the-driver"))
    done = subprocess.run(
        [sys.executable, "-m", "clipmill", "build", "--config", str(config)],
        cwd=tmp_path,
        env=environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN),
        capture_output=True,
        text=True,
        timeout=2 * LIMIT_SECONDS,
        check=False,
    )
    line = line_of(done, 2)
    assert f"memory://of-the-driver on node {socket.gethostname()}: expected the store of this run, got nothing" in line


def test_nothing_listens_there(tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        line = line_of(build(tmp_path, {"address": address, "connect_seconds": 1}), 4)
    assert f"engine ray: expected a cluster at {address}, got none within 1 s" in line


def test_what_listens_there_says_nothing(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        line = line_of(build(tmp_path, {"address": address, "connect_seconds": 1}), 4)
    assert re.search(f"expected a cluster at {address}, got no answer within 1 s; check engine.address", line)


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "http://127.0.0.1:8265"])
def test_rays_other_protocols_are_refused(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = build_config(tmp_path, {"name": "ray", "address": address}, SQUEEZENET)
    monkeypatch.chdir(tmp_path)
    line = line_of(invoke("build", "--config", str(config)), 2)
    assert f"expected host:port of a cluster's head, or auto, got {address}; run the command on a machine of" in line


@pytest.mark.slow
def test_a_home_that_takes_no_token(tmp_path: Path) -> None:
    done = build(tmp_path, {}, HOME="/dev/null")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_head_is_killed(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    lost = Head(tmp_path_factory.mktemp("k"), "lost-ray-cluster-of-the-tests")
    try:
        shipped = {"env_vars": {"PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}"}}
        engine = {"name": "ray", "address": lost.address, "connect_seconds": 60, "runtime_env": shipped}
        with held_build(tmp_path, engine, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN) as held:
            lost.kill()
            assert held.wait() == 4, held.output()
            last = held.output().strip().splitlines()[-1]
            assert last.startswith(f"clipmill: engine ray: expected a cluster at {lost.address} to go on, got ")
    finally:
        lost.kill()


def test_a_raylet_of_ours_is_killed(tmp_path: Path) -> None:
    with held_build(tmp_path, {"name": "ray", "connect_seconds": LIMIT_SECONDS}) as held:
        (raylet,) = [pid for pid in held.others() if Path(f"/proc/{pid}/comm").read_text().strip() == "raylet"]
        os.kill(raylet, signal.SIGKILL)
        assert held.wait() == 4, held.output()
        last = held.output().strip().splitlines()[-1]
        assert "expected Ray on this machine to go on, got the end of its process raylet" in last
