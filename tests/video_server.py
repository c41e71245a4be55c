"""A real HTTP server on this machine for a folder of videos: it counts what it is asked and what it sends."""

import email.utils
import hashlib
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class VideoServer:
    """What the server does. Tests change it while it runs.

    Attributes:
        statuses: by path below `folder`, an answer to give instead of the file; ``*``: for all others.
        tells: which headers say what the bytes are: ``ETag``, ``Last-Modified``.
        ranges, says_ranges: whether a Range header is honoured, and whether the answer says so.
        heads: whether HEAD is allowed (else 405).
        requests: (method, path) of every request so far.
        num_bytes: of bodies sent so far.
    """

    folder: Path
    url: str = ""
    statuses: dict[str, int] = field(default_factory=dict)
    tells: tuple[str, ...] = ("ETag", "Last-Modified")
    ranges: bool = True
    says_ranges: bool = True
    heads: bool = True
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    num_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def counted(self) -> tuple[Counter[str], int]:
        """Returns the requests by method and the bytes sent since the last call."""
        with self.lock:
            methods: Counter[str] = Counter()
            for (method, _), count in self.requests.items():
                methods[method] += count
            found = methods, self.num_bytes
            self.requests, self.num_bytes = Counter(), 0
            return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    serving: VideoServer

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        serving = self.serving
        name = unquote(urlsplit(self.path).path).lstrip("/")
        with serving.lock:
            serving.requests[self.command, name] += 1
        status = serving.statuses.get(name, serving.statuses.get("*"))
        path = serving.folder / name
        if status is None and self.command == "HEAD" and not serving.heads:
            status = 405
        if status is None and not path.is_file():
            status = 404
        if status is not None:
            self._answer(status, b"")
            return
        data = path.read_bytes()
        match = re.match(r"bytes=(\d+)-(\d+)?$", self.headers.get("Range") or "") if serving.ranges else None
        if match is None:
            self._answer(200, data, path)
            return
        start, stop = int(match[1]), min(int(match[2]) + 1 if match[2] else len(data), len(data))
        if start >= len(data):
            self._answer(416, b"")
            return
        self._answer(206, data[start:stop], path, f"bytes {start}-{stop - 1}/{len(data)}")

    def _answer(self, status: int, body: bytes, path: Path | None = None, content_range: str = "") -> None:
        self.send_response(status)
        if path is not None:
            whole = path.read_bytes()
            headers = {
                "ETag": f'"{hashlib.sha256(whole).hexdigest()[:20]}"',
                "Last-Modified": email.utils.formatdate(path.stat().st_mtime, usegmt=True),
            }
            for header in self.serving.tells:
                self.send_header(header, headers[header])
            if self.serving.says_ranges:
                self.send_header("Accept-Ranges", "bytes" if self.serving.ranges else "none")
        if content_range:
            self.send_header("Content-Range", content_range)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            with self.serving.lock:
                self.serving.num_bytes += len(body)
            with suppress(ConnectionError):
                self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing of readers that have seen enough."""


@contextmanager
def serve_videos(folder: Path) -> Iterator[VideoServer]:
    """Yields the server of the files in `folder`, at its `url`, until the context ends."""
    serving = VideoServer(folder)
    handler = type("Handler", (_Handler,), {"serving": serving})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    serving.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield serving
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
