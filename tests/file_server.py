"""A real HTTP server on this machine that serves one file as badly as a test wants."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """What the server does. Tests change it while it runs.

    Attributes:
        silent: a connection that is cut stays open without a word until its reader closes it.
        cuts: of each request in turn, after how many bytes of its body the connection is closed (None: it is not).
        statuses: of each request in turn, an answer to give instead of the file (None: the file).
        total_in_range: what a partial answer says the size is; None: the truth.
        requests: the Range header of every request for the file so far.
    """

    content: bytes
    ranges: bool = True
    etag: str | None = '"one"'
    modified: str | None = None
    length: bool = True
    chunked: bool = False
    content_type: str = "application/octet-stream"
    silent: bool = False
    cuts: list[int | None] = field(default_factory=list)
    statuses: list[int | None] = field(default_factory=list)
    retry_after: str | None = None
    total_in_range: str | None = None
    requests: list[str | None] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Served

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        """Serves the file, a part of it, or what the test ordered."""
        served = self.served
        self.close_connection = True
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        served.requests.append(self.headers.get("Range"))
        status = served.statuses.pop(0) if served.statuses else None
        if status is not None:
            self._answer(status)
            return
        self._send_file()

    def _answer(self, status: int) -> None:
        self.send_response(status)
        if self.served.retry_after is not None:
            self.send_header("Retry-After", self.served.retry_after)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_file(self) -> None:
        served, total = self.served, len(self.served.content)
        match = re.match(r"bytes=(\d+)-$", self.headers.get("Range") or "") if served.ranges else None
        start = int(match[1]) if match else 0
        if start >= total and match:
            self._answer(416)
            return
        body = served.content[start:]
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{served.total_in_range or total}")
        for name, value in (("ETag", served.etag), ("Last-Modified", served.modified)):
            if value is not None:
                self.send_header(name, value)
        self.send_header("Content-Type", served.content_type)
        if served.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif served.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = served.cuts.pop(0) if served.cuts else None
        sent = body if cut is None else body[:cut]
        # A reader may have seen enough, or have no more room.
        with suppress(ConnectionError):
            if served.chunked:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(sent), sent) if sent else b"")
                self.wfile.write(b"0\r\n\r\n" if cut is None else b"")
            else:
                self.wfile.write(sent)
        if cut is not None and served.silent:
            with suppress(ConnectionError):
                self.connection.recv(1)


@contextmanager
def serve(content: bytes) -> Iterator[Served]:
    """Yields what is served at its `url` until the context ends."""
    served = Served(content)
    handler = type("Handler", (_Handler,), {"served": served})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}/file"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
