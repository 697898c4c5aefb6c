"""The OpenAI-compatible client against a server on the loopback: what it sends, what failures become, what start says."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from faithful_rl.config import ConfigError
from faithful_rl.judges import openai_chat
from faithful_rl.judges.backend import JudgeFailure, build_backend
from faithful_rl.judges.chat import Completion
from faithful_rl.judges.openai_chat import OpenAIChat
from faithful_rl.types import Reason, Score, Verdict

SECRET = "sk-very-secret-0123456789"
MESSAGES = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(openai_chat, "HEALTH_SECONDS", 60.0)  # an endpoint of these tests that lives says so, if late


def complete(chat: OpenAIChat, deadline: float = 30.0, **wishes: Any) -> Completion:
    async def once() -> Completion:
        await chat.start()
        try:
            return await chat.complete(MESSAGES, **{"choices": None, "json_schema": None, "max_tokens": 5, **wishes}, deadline=deadline)
        finally:
            await chat.close()

    return asyncio.run(once())


def started(chat: OpenAIChat) -> ConfigError:
    async def once() -> None:
        try:
            await chat.start()
        finally:
            await chat.close()

    with pytest.raises(ConfigError) as caught:
        asyncio.run(once())
    return caught.value


def test_what_is_sent_and_what_comes_back(endpoint: Any) -> None:
    answer = complete(OpenAIChat(endpoint.url, "judge-model"), choices=("YES", "NO"))

    assert answer == Completion("YES", 11, 2)
    path, body = endpoint.requests[-1]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "judge-model",
        "messages": MESSAGES,
        "temperature": 0,
        "max_tokens": 5,
        "structured_outputs": {"choice": ["YES", "NO"]},
    }


@pytest.mark.parametrize(
    ("guided", "wishes", "expected"),
    [
        ("structured_outputs", {"json_schema": SCHEMA}, {"structured_outputs": {"json": SCHEMA}}),
        ("structured_outputs", {}, {}),
        ("response_format", {"choices": ("YES",)}, {}),
        (
            "response_format",
            {"json_schema": SCHEMA},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "verdicts", "strict": True, "schema": SCHEMA}}},
        ),
        ("none", {"choices": ("YES",)}, {}),
        ("none", {"json_schema": SCHEMA}, {}),
    ],
)
def test_guidance_is_sent_the_way_the_endpoint_understands(endpoint: Any, guided: str, wishes: Any, expected: Any) -> None:
    complete(OpenAIChat(endpoint.url, "judge-model", guided=guided, extra_body={"top_k": 1}), **wishes)

    body = endpoint.requests[-1][1]
    assert {key: value for key, value in body.items() if key not in ("model", "messages", "temperature", "max_tokens")} == {
        "top_k": 1,
        **expected,
    }


def failing(endpoint: Any, status: int, content: Any) -> Callable[[str, dict[str, Any]], tuple[int, Any]]:
    """Answers well until it has been started, then so."""

    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        well = path == "/v1/models" or body["messages"] != MESSAGES
        return endpoint.well_behaved(path, body) if well else (status, content)

    return reply


@pytest.mark.parametrize(
    ("status", "reason", "retryable"),
    [
        (400, Reason.JUDGE_ERROR, False),
        (401, Reason.JUDGE_UNAVAILABLE, False),
        (403, Reason.JUDGE_UNAVAILABLE, False),
        (404, Reason.JUDGE_UNAVAILABLE, True),
        (413, Reason.JUDGE_ERROR, False),
        (422, Reason.JUDGE_ERROR, False),
        (429, Reason.JUDGE_UNAVAILABLE, True),
        (500, Reason.JUDGE_ERROR, True),
        (502, Reason.JUDGE_UNAVAILABLE, True),
        (503, Reason.JUDGE_UNAVAILABLE, True),
        (504, Reason.JUDGE_UNAVAILABLE, True),
    ],
)
def test_statuses_become_failures(endpoint: Any, status: int, reason: Reason, retryable: bool) -> None:
    endpoint.reply = failing(endpoint, status, {"error": {"message": "no luck " + "QUJD" * 100}})
    with pytest.raises(JudgeFailure) as caught:
        complete(OpenAIChat(endpoint.url, "judge-model"))

    assert (caught.value.reason, caught.value.retryable) == (reason, retryable)
    assert f"{endpoint.url} answered {status}" in str(caught.value)
    assert "QUJDQUJD" not in str(caught.value)
    assert sum(body.get("messages") == MESSAGES for _, body in endpoint.requests) == 1  # no retry of its own


@pytest.mark.parametrize(
    ("status", "header", "wait"),
    [
        (429, "", 1.0),
        (429, "7", 7.0),
        (429, "0", 0.1),
        (429, "86400", 30.0),
        (429, "Wed, 21 Oct 2026 07:28:00 GMT", 1.0),
        (429, "nan", 1.0),
        (503, "2.5", 2.5),
        (503, "", None),
        (500, "3", None),
    ],
)
def test_a_busy_endpoint_says_when_to_come_back(endpoint: Any, status: int, header: str, wait: float | None) -> None:
    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        well = path == "/v1/models" or body["messages"] != MESSAGES
        endpoint.retry_after = "" if well else header
        return endpoint.well_behaved(path, body) if well else (status, {})

    endpoint.reply = reply
    with pytest.raises(JudgeFailure) as caught:
        complete(OpenAIChat(endpoint.url, "judge-model"))
    assert caught.value.retry_after == wait


def test_start_waits_for_an_endpoint_that_is_busy(endpoint: Any) -> None:
    turns = iter([(429, {}), (429, {})])
    endpoint.retry_after = "0.01"
    endpoint.reply = lambda path, body: (
        next(turns, None) or endpoint.well_behaved(path, body) if body else endpoint.well_behaved(path, body)
    )
    assert complete(OpenAIChat(endpoint.url, "judge-model")).text == "YES"
    rests = iter(["0.01", "0.01", "30"])  # the last one is longer than the start may take

    def busy(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if not body:
            return endpoint.well_behaved(path, body)
        endpoint.retry_after = next(rests)
        return 429, {}

    endpoint.reply = busy
    assert "answered 429" in str(started(OpenAIChat(endpoint.url, "judge-model", start_timeout_seconds=20.0)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"<html>",
        b"[]",
        b"null",
        b'"YES"',
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": {}}]}',
        b"\xff\xfe\x00",
        b"[" * 50_000,
        Ellipsis,
        7,
        ["YES"],
    ],
)
def test_nonsense_is_a_judge_error(endpoint: Any, content: Any) -> None:
    """Bytes are a whole answer; the others stand where a completion's text should be (an ellipsis: null)."""
    body = content if isinstance(content, bytes) else endpoint.completion(None if content is Ellipsis else content)
    endpoint.reply = failing(endpoint, 200, body)
    with pytest.raises(JudgeFailure) as caught:
        complete(OpenAIChat(endpoint.url, "judge-model"))
    assert (caught.value.reason, caught.value.retryable) == (Reason.JUDGE_ERROR, True)


def test_usage_may_be_missing(endpoint: Any) -> None:
    endpoint.reply = failing(endpoint, 200, {"choices": [{"message": {"content": "NO"}}], "usage": None})
    assert complete(OpenAIChat(endpoint.url, "judge-model")) == Completion("NO", 0, 0)


def test_a_slow_endpoint_is_a_timeout(endpoint: Any) -> None:
    def hang(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if body.get("messages") == MESSAGES:
            endpoint.ended.wait(60)
        return endpoint.well_behaved(path, body)

    endpoint.reply = hang
    with pytest.raises(JudgeFailure) as caught:
        complete(OpenAIChat(endpoint.url, "judge-model"), deadline=0.2)
    assert (caught.value.reason, caught.value.retryable) == (Reason.JUDGE_TIMEOUT, True)


def test_waiting_for_a_slot_counts_against_the_deadline(endpoint: Any) -> None:
    held = threading.Event()

    def hang(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if body.get("messages") == MESSAGES:
            held.set()
            endpoint.ended.wait(60)
        return endpoint.well_behaved(path, body)

    endpoint.reply = hang

    async def run() -> list[Any]:
        chat = OpenAIChat(endpoint.url, "judge-model", concurrency=1)
        await chat.start()

        def asked(deadline: float) -> Awaitable[Completion]:
            return chat.complete(MESSAGES, choices=None, json_schema=None, max_tokens=5, deadline=deadline)

        holder = asyncio.ensure_future(asked(600.0))
        assert await asyncio.to_thread(held.wait, 60)
        found = await asyncio.gather(asked(0.2), asked(0.2), return_exceptions=True)
        holder.cancel()
        await asyncio.gather(holder, return_exceptions=True)
        await chat.close()
        return found

    assert [one.reason for one in asyncio.run(run())] == [Reason.JUDGE_TIMEOUT] * 2
    assert sum(body.get("messages") == MESSAGES for _, body in endpoint.requests) == 1


@pytest.fixture
def dead_port() -> Iterator[int]:
    """Bound, so that nobody else is given it, and nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


def test_an_endpoint_that_goes_away_is_unavailable(endpoint: Any, dead_port: int) -> None:
    async def run() -> tuple[JudgeFailure, bool, bool]:
        chat = OpenAIChat(endpoint.url, "judge-model")
        await chat.start()
        before = await chat.healthy()
        await chat._client.close()
        chat._client = chat._openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{dead_port}/v1", api_key="none", max_retries=0)
        with pytest.raises(JudgeFailure) as caught:
            await chat.complete(MESSAGES, choices=None, json_schema=None, max_tokens=5, deadline=30.0)
        after = await chat.healthy()
        await chat.close()
        return caught.value, before, after

    failure, before, after = asyncio.run(run())
    assert (failure.reason, failure.retryable) == (Reason.JUDGE_UNAVAILABLE, True)
    assert (before, after) == (True, False)


def test_before_start_and_after_close_it_is_unavailable(endpoint: Any) -> None:
    async def run() -> tuple[Reason, bool]:
        chat = OpenAIChat(endpoint.url, "judge-model")
        await chat.close()
        with pytest.raises(JudgeFailure) as caught:
            await chat.complete(MESSAGES, choices=None, json_schema=None, max_tokens=5, deadline=1.0)
        return caught.value.reason, await chat.healthy()

    assert asyncio.run(run()) == (Reason.JUDGE_UNAVAILABLE, False)


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (429, True), (404, True), (500, False), (401, False), (503, False)])
def test_health(endpoint: Any, status: int, healthy: bool) -> None:
    async def run() -> bool:
        chat = OpenAIChat(endpoint.url, "judge-model")
        await chat.start()
        endpoint.reply = lambda path, body: (status, {"data": []})
        found = await chat.healthy()
        await chat.close()
        return found

    assert asyncio.run(run()) is healthy


def test_the_key_goes_into_the_header_and_nowhere_else(
    endpoint: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", f" {SECRET}\n")
    endpoint.key = SECRET
    chat = OpenAIChat(endpoint.url, "judge-model", api_key_env="MY_KEY")
    with caplog.at_level("DEBUG", logger="faithful_rl"):
        complete(chat)

    assert endpoint.headers[-1]["authorization"] == f"Bearer {SECRET}"
    assert repr(chat) == f"OpenAIChat('{endpoint.url}', model='judge-model', guided='structured_outputs')"
    assert SECRET not in str(chat.identity()) + caplog.text


def test_the_key_of_a_server_of_ours_is_sent_without_the_environment_and_without_a_proxy(endpoint: Any) -> None:
    endpoint.key = SECRET
    chat = OpenAIChat(endpoint.url, "judge-model", secret=SECRET)
    complete(chat)
    assert endpoint.headers[-1]["authorization"] == f"Bearer {SECRET}"
    assert SECRET not in repr(chat) + str(chat.identity())
    for secret, proxies in ((SECRET, False), (None, True)):
        node = OpenAIChat("http://10.0.0.1:8000/v1", "m", secret=secret)
        node._openai = pytest.importorskip("openai")
        assert node._http_client().trust_env is proxies


def test_a_key_that_an_endpoint_quotes_is_taken_out(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    endpoint.reply = failing(endpoint, 500, {"error": {"message": f"internal: key {SECRET} in use"}})
    with pytest.raises(JudgeFailure, match="key <key> in use"):
        complete(OpenAIChat(endpoint.url, "judge-model", api_key_env="MY_KEY"))


def test_a_missing_key_is_said_kindly(endpoint: Any) -> None:
    error = started(OpenAIChat(endpoint.url, "judge-model", api_key_env="NOT_SET_ANYWHERE", key="grounding"))

    assert str(error) == (
        "grounding.api_key_env: found NOT_SET_ANYWHERE, which is not set in the environment, expected an environment variable that holds the "
        "endpoint's key. Export NOT_SET_ANYWHERE where the judge runs, or leave grounding.api_key_env out for an endpoint without a key."
    )
    assert endpoint.requests == []


def test_a_refused_key_is_said_kindly(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    endpoint.key = "another"
    error = started(OpenAIChat(endpoint.url, "judge-model", api_key_env="MY_KEY"))
    assert str(error) == (
        f"openai.api_key_env: found a key in MY_KEY that {endpoint.url} refused (401), expected a key that the endpoint accepts. "
        "Correct the key in MY_KEY."
    )
    none = started(OpenAIChat(endpoint.url, "judge-model"))
    assert str(none) == (
        f"openai.api_key_env: found no key, and {endpoint.url} answered 401, expected a key that the endpoint accepts. "
        "Set openai.api_key_env to the variable that holds one."
    )


def test_an_endpoint_that_is_down_is_said_kindly(dead_port: int) -> None:
    address = f"http://127.0.0.1:{dead_port}/v1"
    error = started(OpenAIChat(address, "judge-model", start_timeout_seconds=0.3))
    assert str(error).startswith(f"openai.base_url: found {address}, which did not answer within 0.3 s (")
    assert str(error).endswith(
        "expected the address of a running OpenAI-compatible endpoint. Start the endpoint, or correct openai.base_url."
    )


def test_an_endpoint_that_hangs_is_said_kindly(endpoint: Any) -> None:
    endpoint.reply = lambda path, body: (endpoint.ended.wait(60), (200, {}))[1]
    error = started(OpenAIChat(endpoint.url, "judge-model", start_timeout_seconds=0.3))
    assert f"found {endpoint.url}, which did not answer within 0.3 s" in str(error)


def test_start_waits_for_an_endpoint_that_comes_up(endpoint: Any) -> None:
    answers = [(503, {}), (500, {})]
    endpoint.reply = lambda path, body: answers.pop() if answers else endpoint.well_behaved(path, body)
    assert complete(OpenAIChat(endpoint.url, "judge-model")).text == "YES"


def test_a_model_that_is_not_served_is_said_kindly(endpoint: Any) -> None:
    endpoint.models = ["judge-model-7b", "other"]
    error = started(OpenAIChat(endpoint.url, "judge-model"))
    assert str(error) == (
        f"openai.model: found 'judge-model', expected a model that {endpoint.url} serves (judge-model-7b, other). Did you mean judge-model-7b?"
    )
    endpoint.models = []
    assert "serves (none). Set openai.model to one of them, or serve the model there." in str(started(OpenAIChat(endpoint.url, "m")))


@pytest.mark.parametrize("content", [b"garbage", b"[]", b'{"data": 3}', b'{"data": [{}]}'])
def test_an_address_that_is_something_else_is_said_kindly(endpoint: Any, content: bytes) -> None:
    endpoint.reply = lambda path, body: (200, content)
    assert str(started(OpenAIChat(endpoint.url, "m"))) == (
        f"openai.base_url: found {endpoint.url}, whose list of models is no JSON of the expected form, expected the address of an "
        "OpenAI-compatible endpoint, with its version. Correct openai.base_url; most end in /v1."
    )


def test_an_endpoint_without_a_list_of_models_is_judged_by_one_question(endpoint: Any) -> None:
    endpoint.reply = lambda path, body: (404, {}) if path == "/v1/models" else endpoint.well_behaved(path, body)
    assert complete(OpenAIChat(endpoint.url, "unlisted")).text == "YES"
    assert "which answered 404" in str(started(OpenAIChat(endpoint.url, "unlisted", probe=False)))
    endpoint.reply = lambda path, body: (404, {})
    error = started(OpenAIChat(endpoint.url, "unlisted"))
    assert error.key == "openai.base_url"
    assert str(error).endswith("Correct openai.base_url; most end in /v1.")


def test_an_endpoint_that_does_not_know_the_guidance_is_found_at_start(endpoint: Any) -> None:
    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if "structured_outputs" in body:
            return 400, {"error": {"message": "Unrecognized request argument: structured_outputs"}}
        return endpoint.well_behaved(path, body)

    endpoint.reply = reply
    error = started(OpenAIChat(endpoint.url, "judge-model"))
    assert "Unrecognized request argument: structured_outputs" in str(error)
    assert str(error).endswith("an endpoint that knows no structured_outputs takes openai.guided: response_format or none.")
    assert complete(OpenAIChat(endpoint.url, "judge-model", guided="none")).text == "YES"


def test_an_endpoint_that_ignores_the_guidance_is_found_at_start(endpoint: Any) -> None:
    endpoint.say = "Sure! YES"
    assert str(started(OpenAIChat(endpoint.url, "judge-model"))) == (
        "openai.guided: found an endpoint that answered 'Sure! YES' where only YES and NO are allowed, expected an endpoint that keeps to "
        "structured_outputs. Set openai.guided to response_format or none for this endpoint."
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": None}, "openai.base_url: found nothing, expected text such as http://127.0.0.1:8000/v1. Set openai.base_url."),
        ({"model": None}, "openai.model: found nothing, expected text such as Qwen/Qwen2.5-VL-7B-Instruct. Set openai.model."),
        (
            {"base_url": "localhost:8000"},
            "openai.base_url: found 'localhost:8000', expected an address such as http://127.0.0.1:8000/v1. Correct openai.base_url.",
        ),
        (
            {"base_url": "http://me:secret@host/v1"},
            "openai.base_url: found an address with a password in it, expected an address without one. Use openai.api_key_env.",
        ),
        (
            {"api_key": SECRET},
            "openai.api_key: found a key in the settings (not shown), expected a key in the environment only. "
            "Remove it, export the key, and set openai.api_key_env to the variable's name.",
        ),
        (
            {"api_key_env": SECRET},
            "openai.api_key_env: found something that is no variable's name (it is not shown, in case it is a key), expected the name of an "
            "environment variable, such as OPENAI_API_KEY. Export the key, and name it.",
        ),
        (
            {"guided": "yes"},
            "openai.guided: found 'yes', expected one of structured_outputs, response_format, none. Change openai.guided.",
        ),
        ({"concurrency": 0}, "openai.concurrency: found 0, expected a whole number >= 1. Change openai.concurrency."),
        (
            {"start_timeout_seconds": 0},
            "openai.start_timeout_seconds: found 0, expected a finite number > 0. Change openai.start_timeout_seconds.",
        ),
        ({"probe": "no"}, "openai.probe: found 'no', expected true or false. Change openai.probe."),
        (
            {"extra_body": {"temperature": 1}},
            "openai.extra_body: found temperature, expected fields that no other setting decides. Remove them.",
        ),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_backend({"backend": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "m", **settings})
    assert str(caught.value) == message


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^openai.modell: found an unknown key, expected one of .* Did you mean model\?$"):
        build_backend({"backend": "openai", "base_url": "http://127.0.0.1:1/v1", "modell": "m"})


def test_a_missing_package_names_the_extra(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    error = started(OpenAIChat(endpoint.url, "judge-model"))
    assert "expected the extra `judges`. Install it: pip install 'faithful_rl[judges]'." in str(error)


def test_a_whole_backend_judges_over_http(endpoint: Any, ask: Any) -> None:
    endpoint.reply = lambda path, body: (
        endpoint.well_behaved(path, body)
        if path == "/v1/models" or "YES" in body["structured_outputs"]["choice"]
        else (200, endpoint.completion("INCORRECT"))
    )

    async def run() -> Any:
        backend = build_backend({"backend": "openai", "base_url": endpoint.url, "model": "judge-model", "replicas": 2, "cache": {}})
        await backend.start()
        found = await backend.consistency(ask(), 30.0), await backend.grounding(ask(), 30.0), backend.usage(), await backend.healthy()
        await backend.close()
        return found

    score, verdicts, usage, healthy = asyncio.run(run())
    assert score == Score(1.0)
    assert [one.verdict for one in verdicts] == [Verdict.INCORRECT]
    assert (usage.calls, usage.prompt_tokens, usage.completion_tokens, healthy) == (2, 22, 4, True)
    content = endpoint.requests[-2][1]["messages"][1]["content"]  # the last one is the look at its health
    assert content[0]["image_url"]["url"].startswith("data:image/png;base64,")


def test_a_revision_is_part_of_the_version() -> None:
    plain = {"backend": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "m"}
    versions = {
        build_backend({**plain, **more}).version()
        for more in (
            {},
            {"revision": "2"},
            {"guided": "none"},
            {"extra_body": {"top_k": 1}},
            {"mode": "per_rollout"},
            {"base_url": "http://a/v1"},
        )
    }
    assert len(versions) == 5  # the address does not count: the same model elsewhere is the same judge


def test_a_sampler_of_data_preparation_draws_at_its_temperature_with_its_seed(endpoint: Any) -> None:
    from data_prep.sampling import endpoint_sampler

    async def once() -> Completion:
        sampler = endpoint_sampler(endpoint.url, "judge-model")
        await sampler.start()
        try:
            return await sampler.sample(MESSAGES, max_tokens=7, seed=41)
        finally:
            await sampler.close()

    asyncio.run(once())
    _, body = endpoint.requests[-1]
    assert body == {"model": "judge-model", "messages": MESSAGES, "temperature": 1.0, "max_tokens": 7, "seed": 41}
