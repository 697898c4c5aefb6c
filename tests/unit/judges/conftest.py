"""What the tests of the judges' core share: a request with a picture, a chat that follows a script, and an endpoint on the loopback."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image

from faithful_rl.judges.chat import Completion
from faithful_rl.judges.request import JudgeRequest


def encoded(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (28, 14), form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, form)
    return buffer.getvalue()


def make_request(**changes: Any) -> JudgeRequest:
    values: dict[str, Any] = {
        "uid": "u1",
        "question": "Is the red circle left or right of the blue square?",
        "options": ("left", "right"),
        "reasoning": "The red circle is on the left.",
        "answer": "A",
        "images": (encoded(),),
        **changes,
    }
    return JudgeRequest(**values)


class ScriptedChat:
    """Answers by a function of the last message's text; `calls` are the messages it got."""

    model = "scripted"

    def __init__(self, answer: Callable[[str], Any]) -> None:
        self._answer = answer
        self.calls: list[dict[str, Any]] = []
        self.closed = False

    async def complete(self, messages: list[dict[str, Any]], **wishes: Any) -> Completion:
        self.calls.append({"messages": messages, **wishes})
        content = messages[-1]["content"]
        answer = self._answer(content if isinstance(content, str) else content[-1]["text"])
        if hasattr(answer, "__await__"):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return Completion(answer, 100, 2)

    async def healthy(self) -> bool:
        return True

    async def start(self) -> None: ...

    async def close(self) -> None:
        self.closed = True


class Endpoint:
    """An HTTP server on 127.0.0.1. `reply(path, body)` gives (status, body); its default is a well-behaved endpoint of one model."""

    def __init__(self) -> None:
        self.models: list[str] = ["judge-model"]
        self.say = "YES"
        self.retry_after = ""  # header of every answer; empty: none
        self.key = ""  # wanted in the Authorization header; empty: none
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.ended = threading.Event()
        self.reply: Callable[[str, dict[str, Any]], tuple[int, Any]] = self.well_behaved
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer({})

            def do_POST(self) -> None:
                self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def answer(self, body: dict[str, Any]) -> None:
                endpoint.requests.append((self.path, body))
                endpoint.headers.append({name.lower(): value for name, value in self.headers.items()})
                status, content = endpoint.reply(self.path, body)
                if endpoint.key and self.headers.get("Authorization") != f"Bearer {endpoint.key}":
                    status, content = 401, {"error": {"message": f"bad key {self.headers.get('Authorization')}"}}
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    if endpoint.retry_after:
                        self.send_header("Retry-After", endpoint.retry_after)
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # the client has gone, as in the tests of deadlines

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def well_behaved(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]}
        return 200, self.completion(self.say)

    @staticmethod
    def completion(text: Any) -> dict[str, Any]:
        return {
            "id": "c",
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13},
        }

    def close(self) -> None:
        self.ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    yield server
    server.close()


@pytest.fixture
def scripted() -> type[ScriptedChat]:
    return ScriptedChat


@pytest.fixture
def ask() -> Callable[..., JudgeRequest]:
    """A function that builds a request; keyword arguments replace its fields."""
    return make_request


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """A function that gives an encoded image: `picture(colour, size, form)`."""
    return encoded
