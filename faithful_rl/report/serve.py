"""The rollout viewer as a local page: bound to 127.0.0.1, deaf to other host names, images read from the run's files when looked at."""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from faithful_rl.report import records, viewer, viewer_data
from faithful_rl.report.viewer_data import Bundle, Place

ADDRESS = "127.0.0.1"
REQUEST_SECONDS = 30.0  # after which a silent connection is closed


@dataclass
class Source:
    """The rollouts of runs and evaluations, read again when their files have changed, so that a reload follows a run that trains."""

    run_dirs: Sequence[Path]
    names: Mapping[Path, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seen: tuple[Any, ...] = ()
    _page: bytes = b""
    _places: tuple[Place, ...] = ()

    def page(self) -> bytes:
        with self._lock:
            files = [file for run_dir in self.run_dirs for file in records.rollout_files(run_dir)]
            seen = tuple((file, status.st_mtime_ns, status.st_size) for file in files if (status := file.stat()))
            if seen != self._seen or not self._page:
                runs = viewer.viewed(self.run_dirs, self.names)
                bundle: Bundle = viewer_data.collect(runs, embed_images=False)
                self._page = viewer.page(runs, bundle, images="'self'").encode()
                self._places, self._seen = bundle.places, seen
            return self._page

    def image(self, number: int) -> bytes | None:
        """The image file of that number on the page that was served last; None where there is none."""
        with self._lock:
            place = self._places[number] if 0 <= number < len(self._places) else None
        if place is None:
            return None
        try:
            return base64.b64decode(records.image_of(records.read_line(place.file, place.offset)), validate=True) or None
        except (OSError, ValueError, binascii.Error):
            return None


class _Handler(BaseHTTPRequestHandler):
    """GET / and GET /image/<number>; everything else is not found."""

    server: ViewerServer
    timeout = REQUEST_SECONDS
    server_version, sys_version = "faithful_rl", ""

    def do_GET(self) -> None:
        host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
        if host not in (ADDRESS, "localhost"):  # a page elsewhere that has its name resolve to this machine gets nothing
            self._send(HTTPStatus.FORBIDDEN, "text/plain; charset=utf-8", b"only for 127.0.0.1\n")
        elif self.path == "/":
            self._page()
        elif self.path.startswith("/image/") and self.path[7:].isdecimal():
            content = self.server.source.image(int(self.path[7:]))
            if content is None:
                self._send(HTTPStatus.NOT_FOUND, "text/plain", b"no image\n")
            else:
                self._send(HTTPStatus.OK, "image/jpeg" if content.startswith(b"\xff\xd8") else "image/png", content)
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"not found\n")

    def _page(self) -> None:
        try:
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.source.page())
        except (OSError, ValueError) as error:
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", f"error: {error}\n".encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: a terminal full of requests helps nobody."""


class ViewerServer(ThreadingHTTPServer):
    """Serves `source` on 127.0.0.1; `url` says where."""

    daemon_threads = True

    def __init__(self, run_dirs: Sequence[Path], port: int = 0, names: Mapping[Path, str] | None = None) -> None:
        """
        Args:
            run_dirs: directories of runs and evaluations.
            port: 0 takes a free one.
            names: of evaluations that should not go by their model.

        Raises:
            FileNotFoundError: a directory holds neither.
            OSError: the port is taken.
        """
        viewer.viewed(run_dirs, names)  # a directory that holds nothing is told before anything is served
        self.source = Source(run_dirs, names or {})
        super().__init__((ADDRESS, port), _Handler)

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_address[1]}/"
