"""An OpenAI-compatible endpoint on 127.0.0.1 that answers by rule, or misbehaves as a test says."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any

MODEL = "judge"


class Endpoint:
    """`moods` come in turn, one per question: ok, 500, garbage, timeout, busy. Equal questions get equal verdicts."""

    def __init__(self, moods: Sequence[str] = ("ok",)) -> None:
        self.calls: Counter[str] = Counter()
        self._moods = itertools.cycle(moods)
        self._lock = threading.Lock()
        self.closing = threading.Event()
        self.base_url = ""

    def behave(self, *moods: str) -> None:
        with self._lock:
            self._moods = itertools.cycle(moods)

    def mood(self) -> str:
        with self._lock:
            mood = next(self._moods)
            self.calls[mood] += 1
        return mood


def verdict(body: dict[str, Any]) -> str:
    """One of the allowed words, by a hash of the messages."""
    words = body["structured_outputs"]["choice"]
    digest = hashlib.sha256(json.dumps(body["messages"], sort_keys=True).encode()).digest()
    return str(words[digest[0] % len(words)])


@contextmanager
def endpoint(*moods: str) -> Iterator[Endpoint]:
    """Serve until the block ends; questions that hang are let go then."""
    state = Endpoint(moods or ("ok",))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply(200, {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "test"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            mood = state.mood()
            if mood == "timeout":
                state.closing.wait()
                self.close_connection = True
            elif mood == "busy":
                self._reply(429, {"error": {"message": "too many requests"}}, {"Retry-After": "0.2"})
            elif mood == "500":
                self._reply(500, {"error": {"message": "out of memory", "type": "server_error"}})
            else:
                text = "I would rather not say" if mood == "garbage" else verdict(body)
                choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                usage = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
                reply = {"id": "x", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice], "usage": usage}
                self._reply(200, reply)

        def _reply(self, code: int, body: dict[str, Any], headers: Mapping[str, str] = MappingProxyType({})) -> None:
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 512

        def handle_error(self, *_: Any) -> None:
            """A client that went away is what these tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    state.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=30)
