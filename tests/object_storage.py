"""An S3 server on the loopback, and a proxy before it that fails as networks and busy servers do."""

import contextlib
import http.client
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUCKET = "videos"
_STARTS_WITHIN_SECONDS = 240.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def environment(endpoint: str) -> dict[str, str]:
    """Returns what a process needs to find the server at `endpoint` by ``s3://`` URLs."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key-of-the-tests",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
        "FSSPEC_S3": '{"config_kwargs": {"read_timeout": 3, "connect_timeout": 3}}',
    }


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Yields the endpoint of a server with one bucket, `BUCKET`."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _answers(port, server)
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request(
            "PUT", f"/{BUCKET}", headers={"Authorization": "AWS4-HMAC-SHA256 Credential=a/b/us-east-1/s3"}
        )
        assert connection.getresponse().status == 200
        connection.close()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def _answers(port: int, server: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + _STARTS_WITHIN_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if server.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"the S3 server did not start (exit code {server.poll()})")
        time.sleep(0.05)


@dataclass
class Faults:
    """Which share of requests fails, and how; drawn in a fixed order from `seed`.

    Attributes:
        share: of requests, evenly over `kinds`.
        kinds: ``busy`` (503 SlowDown), ``reset`` (the connection is cut without an answer), ``truncated`` (half of the
            promised body), ``stalled`` (no answer for `stall_seconds`), ``lost`` (done, but the answer is cut);
            ``AccessDenied`` and ``InvalidAccessKeyId`` (403).
        counts: of what was done, by kind.
        num_bytes: of bodies that were sent in answer to GET.
    """

    share: float = 0.0
    kinds: Sequence[str] = ("busy", "reset", "truncated", "lost")
    seed: int = 0
    stall_seconds: float = 6.0
    counts: Counter[str] = field(default_factory=Counter)
    num_bytes: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    def draw(self) -> str:
        """Returns the kind of the next request's fault, or ``none``."""
        with self._lock:
            kind = self._random.choice(list(self.kinds)) if self._random.random() < self.share else "none"
            self.counts[kind] += 1
            return kind


@contextlib.contextmanager
def faulty_proxy(endpoint: str, faults: Faults) -> Iterator[str]:
    """Yields the endpoint of a proxy before `endpoint`."""
    port = int(endpoint.rpartition(":")[2])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *values: object) -> None:
            pass

        def _handle(self) -> None:
            body = self._body()
            fault = faults.draw()
            if fault == "reset":
                self._cut()
                return
            if fault == "busy":
                text = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
                self._answer(503, {"Content-Type": "application/xml"}, text, len(text))
                return
            if fault in ("AccessDenied", "InvalidAccessKeyId"):
                text = f"<Error><Code>{fault}</Code><Message>No.</Message></Error>".encode()
                self._answer(403, {"Content-Type": "application/xml"}, text, len(text))
                return
            if fault == "stalled":
                time.sleep(faults.stall_seconds)
            upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=280)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            data = answer.read()
            upstream.close()
            if fault == "lost":
                self._cut()
                return
            num_bytes = int(answer.headers["Content-Length"] or 0) if self.command == "HEAD" else len(data)
            sent = data[: len(data) // 2] if fault == "truncated" else data
            self._answer(answer.status, dict(answer.headers.items()), sent, num_bytes)
            if fault == "truncated":
                self._cut()

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _answer(self, status: int, headers: Mapping[str, str], data: bytes, num_bytes: int) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(num_bytes))
            self.end_headers()
            if self.command == "GET":
                faults.num_bytes += len(data)
            if self.command != "HEAD":
                # A client that has given up, or was killed, reads no answer.
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(data)
                    self.wfile.flush()

        def _cut(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
