"""Any OpenAI-compatible endpoint as a `Chat`. The key comes from the environment, or from
whoever has started the server, and is in no setting, message, repr or log.

Retries are the pool's: the client makes none, so that one call is one call and a deadline holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import ipaddress
import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import urlsplit

from faithful_rl.config import ConfigError
from faithful_rl.judges import options
from faithful_rl.judges.backend import JudgeFailure
from faithful_rl.judges.chat import Completion
from faithful_rl.judges.language_judge import LANGUAGE_KEYS, LanguageJudge, build_language_judge
from faithful_rl.types import Reason

GUIDED = ("structured_outputs", "response_format", "none")
OWNED_FIELDS = ("messages", "model", "temperature", "max_tokens", "stream", "n", "structured_outputs", "response_format")
RETRY_SECONDS = 0.5  # between two looks at an endpoint that does not answer yet
HEALTH_SECONDS = 5.0
EXCERPT_CHARACTERS = 200  # of an endpoint's own words in a message
PROBE = [{"role": "user", "content": "Reply with the word YES."}]
PROBE_CHOICES = ("YES", "NO")
TOO_MANY_REQUESTS = 429
BUSY_SECONDS = (0.1, 1.0, 30.0)  # shortest wait for a busy endpoint, the one for an endpoint that names none, and the longest
BUSY_OR_GONE = frozenset({404, 408, 429, 502, 503, 504})  # the endpoint, not the question, is at fault

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONG_RUN = re.compile(r"[A-Za-z0-9+/=_-]{80,}")  # image data, keys


class OpenAIChat:
    """One model of one endpoint.

    `guided` says how answers are bound: `structured_outputs` as vLLM does (a word out of a list, or a JSON schema),
    `response_format` (JSON schemas only; single words are asked for and parsed strictly), or `none`.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str | None = None,
        guided: str = "structured_outputs",
        concurrency: int = 64,
        extra_body: Mapping[str, Any] | None = None,
        start_timeout_seconds: float = 30.0,
        probe: bool = True,
        key: str = "openai",
        temperature: float = 0.0,
        secret: str | None = None,
    ) -> None:
        """
        Args:
            base_url: with its version, such as http://127.0.0.1:8000/v1.
            api_key_env: name of the environment variable that holds the key; None: the endpoint wants none.
            concurrency: calls on their way at the same time, >= 1; others wait within their deadline.
            extra_body: further fields of each request, such as {chat_template_kwargs: {enable_thinking: false}}.
            probe: ask one question at start, so that a wrong `guided` is found before a run and not in it.
            key: where these settings stand, for messages.
            temperature: of every answer, >= 0. A judge answers at 0; data preparation draws at 1.
            secret: the key of a server that this process has started itself, in place of one from the environment. It is reached without
                a proxy.

        Raises:
            ConfigError: an argument is of no use.
        """
        self.base_url, self.model, self.guided = base_url.rstrip("/"), model, guided
        self._key_name, self._extra = api_key_env, dict(extra_body or {})
        self._start_seconds, self._probe, self._at = start_timeout_seconds, probe, key
        self._temperature, self._own_secret = temperature, secret
        self._slots = asyncio.Semaphore(concurrency)
        self._openai: Any = None
        self._client: Any = None
        self._secret = ""
        self._check()

    def __repr__(self) -> str:
        return f"OpenAIChat({self.base_url!r}, model={self.model!r}, guided={self.guided!r})"

    def identity(self) -> dict[str, Any]:
        """What besides the model's name decides its answers."""
        return {"guided": self.guided, "extra_body": self._extra}

    async def complete(
        self,
        messages: list[dict[str, Any]],
        *,
        choices: tuple[str, ...] | None,
        json_schema: dict[str, Any] | None,
        max_tokens: int,
        deadline: float,
        seed: int | None = None,
    ) -> Completion:
        """As `Chat.complete`; `seed` of the draw, for a temperature above 0.

        Reasons: JUDGE_TIMEOUT for the deadline; JUDGE_UNAVAILABLE for no connection, a refused key and a busy or missing endpoint (404,
        408, 429, 502, 503, 504); JUDGE_ERROR for other statuses and answers that are no completion. A refused key and a question that
        the endpoint calls wrong (other 4xx) are not worth asking again."""
        if self._client is None:
            raise JudgeFailure(Reason.JUDGE_UNAVAILABLE, "the judge was not started")
        guidance = self._guidance(choices, json_schema)
        try:
            return await self._create(messages, guidance, max_tokens, deadline, seed)
        except TimeoutError:
            raise JudgeFailure(Reason.JUDGE_TIMEOUT, f"{self.base_url} did not answer within {deadline:.1f} s") from None
        except self._openai.OpenAIError as error:
            raise self._failure(error) from None  # its chain would hold the request, and with it the key

    async def healthy(self) -> bool:
        """Whether the endpoint answers at all; one that is busy does."""
        if self._client is None:
            return False
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await self._client.models.with_raw_response.list(timeout=HEALTH_SECONDS)
        except TimeoutError:
            return False
        except self._openai.OpenAIError as error:
            return getattr(error, "status_code", None) in (404, 405, 429)
        return True

    async def start(self) -> None:
        """Read the key, wait for the endpoint, look for the model and ask it one question.

        Raises:
            ConfigError: what is wrong with which setting, and the fix.
        """
        self._secret = self._read_key()
        self._openai = options.require("openai", f"backend {self._at}")
        self._client = self._openai.AsyncOpenAI(
            base_url=self.base_url, api_key=self._secret or "none", max_retries=0, http_client=self._http_client()
        )
        end = asyncio.get_running_loop().time() + self._start_seconds
        try:
            await self._check_model(end)
            if self._probe:
                await self._ask_once(end)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _create(
        self, messages: list[dict[str, Any]], guidance: dict[str, Any], max_tokens: int, deadline: float, seed: int | None = None
    ) -> Completion:
        async with asyncio.timeout(deadline), self._slots:
            reply = await self._client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=messages,
                temperature=self._temperature,
                max_tokens=max_tokens,
                **({} if seed is None else {"seed": seed}),
                extra_body={**self._extra, **guidance},
                timeout=deadline,
            )
        return _completion(reply.content)

    def _guidance(self, choices: tuple[str, ...] | None, json_schema: dict[str, Any] | None) -> dict[str, Any]:
        if self.guided == "structured_outputs":
            if json_schema is not None:
                return {"structured_outputs": {"json": json_schema}}
            return {"structured_outputs": {"choice": list(choices)}} if choices else {}
        if self.guided == "response_format" and json_schema is not None:
            return {"response_format": {"type": "json_schema", "json_schema": {"name": "verdicts", "strict": True, "schema": json_schema}}}
        return {}

    def _failure(self, error: Any) -> JudgeFailure:
        if isinstance(error, self._openai.APITimeoutError):
            return JudgeFailure(Reason.JUDGE_TIMEOUT, f"{self.base_url} did not answer in time")
        if isinstance(error, self._openai.APIStatusError):
            status = int(error.status_code)
            message = f"{self.base_url} answered {status}: {self._excerpt(error)}"
            if status in (401, 403):
                return JudgeFailure(Reason.JUDGE_UNAVAILABLE, message, retryable=False)
            if status in BUSY_OR_GONE:
                return JudgeFailure(Reason.JUDGE_UNAVAILABLE, message, retry_after=_retry_after(status, error.response.headers))
            return JudgeFailure(Reason.JUDGE_ERROR, message, retryable=status >= 500)
        if isinstance(error, self._openai.APIConnectionError):
            return JudgeFailure(Reason.JUDGE_UNAVAILABLE, f"no connection to {self.base_url} ({self._excerpt(error.__cause__ or error)})")
        return JudgeFailure(Reason.JUDGE_ERROR, f"{self.base_url}: {type(error).__name__}: {self._excerpt(error)}")

    def _excerpt(self, error: object) -> str:
        """An endpoint may quote anything that it was sent: the key and long runs without a space are taken out."""
        text = str(error)
        if self._secret:
            text = text.replace(self._secret, "<key>")
        text = " ".join(_LONG_RUN.sub("<...>", text).split())
        return text if len(text) <= EXCERPT_CHARACTERS else text[: EXCERPT_CHARACTERS - 3] + "..."

    async def _check_model(self, end: float) -> None:
        listed = await self._list_models(end)
        if listed is None or self.model in listed:
            return
        close = difflib.get_close_matches(self.model, listed, n=1)
        shown = ", ".join(listed[:10]) + (", ..." if len(listed) > 10 else "") if listed else "none"
        fix = f"Did you mean {close[0]}?" if close else f"Set {self._at}.model to one of them, or serve the model there."
        self._refuse("model", repr(self.model), f"a model that {self.base_url} serves ({shown})", fix)

    async def _list_models(self, end: float) -> list[str] | None:
        """Names of the endpoint's models; None where it keeps no list. Asks again until `end` while there is no connection."""
        loop = asyncio.get_running_loop()
        while True:
            left = end - loop.time()
            try:
                async with asyncio.timeout(max(left, 0.1)):
                    reply = await self._client.models.with_raw_response.list(timeout=max(left, 0.1))
                return self._names(reply.content)
            except TimeoutError:
                problem = "no answer"
            except self._openai.OpenAIError as error:
                status = getattr(error, "status_code", None)
                if status in (401, 403):
                    self._refuse_key(status)
                if status in (404, 405):
                    if self._probe:
                        return None
                    self._refuse_address(f"{self.base_url}, which answered {status} to {self.base_url}/models")
                problem = f"answer {status}" if status else self._excerpt(error.__cause__ or error)
            if loop.time() + RETRY_SECONDS >= end:
                self._refuse(
                    "base_url",
                    f"{self.base_url}, which did not answer within {self._start_seconds:g} s ({problem})",
                    "the address of a running OpenAI-compatible endpoint",
                    f"Start the endpoint, or correct {self._at}.base_url.",
                )
            await asyncio.sleep(RETRY_SECONDS)

    def _names(self, content: bytes) -> list[str]:
        try:
            return [str(model["id"]) for model in json.loads(content)["data"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            self._refuse_address(f"{self.base_url}, whose list of models is no JSON of the expected form")

    async def _ask_once(self, end: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            left, failure = max(end - loop.time(), 1.0), None
            try:
                completion = await self._create(PROBE, self._guidance(PROBE_CHOICES, None), 16, left)
            except TimeoutError:
                failure = JudgeFailure(Reason.JUDGE_TIMEOUT, f"no answer within {left:.1f} s")
            except JudgeFailure as nonsense:
                failure = nonsense
            except self._openai.OpenAIError as error:
                status, failure = getattr(error, "status_code", None), self._failure(error)
                if status in (401, 403):
                    self._refuse_key(status)
                if status == 404:
                    self._refuse_address(f"{self.base_url}, where {self.model!r} cannot be asked ({failure})")
            if failure is None or failure.retry_after is None or loop.time() + failure.retry_after >= end:
                break
            await asyncio.sleep(failure.retry_after)
        if failure is not None:
            expected = f"an answer to one question before the run (guided: {self.guided})"
            fix = f"Read its answer; an endpoint that knows no structured_outputs takes {self._at}.guided: response_format or none."
            self._refuse("base_url", f"a failure ({failure})", expected, fix)
        if self.guided == "structured_outputs" and completion.text.strip() not in PROBE_CHOICES:
            found = f"an endpoint that answered {completion.text[:40]!r} where only YES and NO are allowed"
            fix = f"Set {self._at}.guided to response_format or none for this endpoint."
            self._refuse("guided", found, "an endpoint that keeps to structured_outputs", fix)

    def _check(self) -> None:
        address = urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            expected = "an address such as http://127.0.0.1:8000/v1"
            self._refuse("base_url", repr(self.base_url), expected, f"Correct {self._at}.base_url.")
        if address.username or address.password:
            self.base_url = "hidden"  # so that no message or repr shows it
            self._refuse("base_url", "an address with a password in it", "an address without one", f"Use {self._at}.api_key_env.")
        if self.guided not in GUIDED:
            self._refuse("guided", repr(self.guided), f"one of {', '.join(GUIDED)}", f"Change {self._at}.guided.")
        if self._key_name is not None and not _VARIABLE.fullmatch(self._key_name):
            found = "something that is no variable's name (it is not shown, in case it is a key)"
            self._refuse(
                "api_key_env", found, "the name of an environment variable, such as OPENAI_API_KEY", "Export the key, and name it."
            )
        owned = [name for name in OWNED_FIELDS if name in self._extra]
        if owned:
            self._refuse("extra_body", ", ".join(owned), "fields that no other setting decides", "Remove them.")

    def _read_key(self) -> str:
        if self._own_secret is not None:
            return self._own_secret
        if self._key_name is None:
            return ""
        secret = os.environ.get(self._key_name, "").strip()
        if not secret:
            found = f"{self._key_name}, which is not set in the environment"
            fix = f"Export {self._key_name} where the judge runs, or leave {self._at}.api_key_env out for an endpoint without a key."
            self._refuse("api_key_env", found, "an environment variable that holds the endpoint's key", fix)
        return secret

    def _refuse_key(self, status: int) -> NoReturn:
        if self._key_name is None:
            found, fix = f"no key, and {self.base_url} answered {status}", f"Set {self._at}.api_key_env to the variable that holds one."
        else:
            found, fix = f"a key in {self._key_name} that {self.base_url} refused ({status})", f"Correct the key in {self._key_name}."
        self._refuse("api_key_env", found, "a key that the endpoint accepts", fix)

    def _refuse_address(self, found: str) -> NoReturn:
        expected = "the address of an OpenAI-compatible endpoint, with its version"
        self._refuse("base_url", found, expected, f"Correct {self._at}.base_url; most end in /v1.")

    def _refuse(self, name: str, found: str, expected: str, fix: str) -> NoReturn:
        # `from None`: the client's errors hold the request, and with it the key.
        raise ConfigError(f"{self._at}.{name}", found, expected, fix) from None

    def _http_client(self) -> Any:
        """A proxy of the environment is for the outside world: it cannot reach servers of this machine or cluster."""
        host = urlsplit(self.base_url).hostname or ""
        ours = host == "localhost" or self._own_secret is not None
        with contextlib.suppress(ValueError):
            ours = ours or ipaddress.ip_address(host).is_loopback
        return self._openai.DefaultAsyncHttpxClient(trust_env=not ours)


def build_openai_judge(settings: Mapping[str, Any]) -> LanguageJudge:
    """The backend `openai`.

    Keys: `base_url`, `model`, the optional arguments of `OpenAIChat`, `revision` (any text; set it when the same name serves other weights)
    and `language_judge.LANGUAGE_KEYS`.

    Raises:
        ConfigError: a key is missing, unknown or wrong.
    """
    if settings.get("api_key") is not None:
        fix = "Remove it, export the key, and set openai.api_key_env to the variable's name."
        raise ConfigError("openai.api_key", "a key in the settings (not shown)", "a key in the environment only", fix)
    own = ("base_url", "model", "api_key_env", "guided", "concurrency", "extra_body", "start_timeout_seconds", "probe", "revision")
    options.refuse_unknown(settings, (*own, *LANGUAGE_KEYS), "openai")
    needed = {name: options.text(settings, "openai", name, "text") for name in ("base_url", "model")}
    for name, value in needed.items():
        if value is None:
            example = "http://127.0.0.1:8000/v1" if name == "base_url" else "Qwen/Qwen2.5-VL-7B-Instruct"
            raise ConfigError(f"openai.{name}", "nothing", f"text such as {example}", f"Set openai.{name}.")
    chat = OpenAIChat(
        base_url=str(needed["base_url"]),
        model=str(needed["model"]),
        api_key_env=options.text(settings, "openai", "api_key_env", "the name of an environment variable, or null"),
        guided=options.word(settings, "openai", "guided", "structured_outputs", GUIDED),
        concurrency=options.whole(settings, "openai", "concurrency", 64, 1),
        extra_body=options.mapping(settings, "openai", "extra_body"),
        start_timeout_seconds=options.real(settings, "openai", "start_timeout_seconds", 30.0),
        probe=options.flag(settings, "openai", "probe", True),
    )
    revision = options.text(settings, "openai", "revision", "text, or null")
    return build_language_judge(chat, settings, "openai", {**chat.identity(), "revision": revision})


def _retry_after(status: int, headers: Mapping[str, str]) -> float | None:
    """Seconds that a busy endpoint wants to be left alone: of its Retry-After header (not in the form of a date), or the usual ones for a
    429 without. None for an endpoint that is rather gone than busy."""
    low, usual, high = BUSY_SECONDS
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        seconds = math.nan
    if math.isfinite(seconds):
        return min(max(seconds, low), high)
    return usual if status == TOO_MANY_REQUESTS else None


def _completion(content: bytes) -> Completion:
    """A completion out of an endpoint's answer; JudgeFailure, JUDGE_ERROR, for anything else."""
    try:
        answer = json.loads(content)
        choice = answer["choices"][0]
        text, finish = choice["message"]["content"], str(choice.get("finish_reason") or "")
        usage = answer.get("usage") or {}
        counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        message = f"the endpoint's answer is no completion ({type(error).__name__}, {len(content)} bytes)"
        raise JudgeFailure(Reason.JUDGE_ERROR, message) from None
    if not isinstance(text, str):
        raise JudgeFailure(Reason.JUDGE_ERROR, "the endpoint's answer holds no text")
    return Completion(text, counts[0], counts[1], finish)
