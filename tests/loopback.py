"""A web server on 127.0.0.1 that can misbehave, for the tests of downloads."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Route:
    """What the server answers. cuts: for each request in turn, after how many bytes it hangs up."""

    data: bytes
    ranges: bool = True
    etag: str = '"1"'
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    declared: int | None = None
    slow: float = 0.0  # seconds between pieces of 64 KiB
    location: str = ""


class Server(ThreadingHTTPServer):
    """routes: {path: Route}. requests: (path, Range header) of everything asked so far."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.routes: dict[str, Route] = {}
        self.requests: list[tuple[str, str | None]] = []

    def add(self, name: str, data: bytes, **options: object) -> str:
        """Serve ``data``; its address."""
        self.routes[f"/{name}"] = Route(data, **options)  # type: ignore[arg-type]
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def ranges(self, name: str) -> list[str | None]:
        """The Range headers of the requests for a file."""
        return [wanted for path, wanted in self.requests if path == f"/{name}"]


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        route = self.server.routes.get(self.path)
        status = 404 if route is None else route.statuses.pop(0) if route.statuses else 200
        if route is None or status != 200:
            self.send_error(status)
            return
        if route.location:
            self.send_response(302)
            self.send_header("Location", route.location)
            self.end_headers()
            return
        start = 0
        if wanted and route.ranges and self.headers.get("If-Range", route.etag) == route.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(route.data) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(route.data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = route.data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(route.data) - 1}/{len(route.data)}")
        self.send_header("ETag", route.etag)
        self.send_header("Content-Length", str(len(body) if route.declared is None else route.declared))
        self.end_headers()
        self._send(route, body[: route.cuts.pop(0)] if route.cuts else body)

    def _send(self, route: Route, body: bytes) -> None:
        for at in range(0, len(body), 1 << 16):
            try:
                self.wfile.write(body[at : at + (1 << 16)])
                self.wfile.flush()
            except OSError:  # the reader was killed
                break
            time.sleep(route.slow)
        self.close_connection = True

    def log_message(self, *args: object) -> None: ...


@contextmanager
def serving() -> Iterator[Server]:
    """A running server."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
