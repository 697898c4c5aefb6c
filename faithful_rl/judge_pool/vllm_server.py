"""The backend `vllm`: a judge that starts and owns a vLLM server on its share of the cluster, GPU or CPU.

The server is a child process that answers on the loopback interface only and ends with its owner. Questions are those of `LanguageJudge`,
and every answer is bound to the allowed words by guided decoding, so that even a random model gives verdicts. Nothing is restarted here:
a server that ended makes the backend unhealthy, and whoever runs it builds it anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faithful_rl.config import ConfigError
from faithful_rl.judge_pool.owned_server import FIRST_ANSWER_SECONDS, OwnedServer
from faithful_rl.judge_pool.vllm_process import HOST
from faithful_rl.judge_pool.vllm_settings import VllmSettings
from faithful_rl.judges import options
from faithful_rl.judges.backend import JudgeFailure, Usage
from faithful_rl.judges.language_judge import LANGUAGE_KEYS, LanguageJudge, LanguageSettings, build_language_judge
from faithful_rl.judges.openai_chat import OWNED_FIELDS, OpenAIChat
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.types import Reason, Score, SentenceVerdict

KEY = "vllm"
CONCURRENCY = 256  # calls at the same time; vLLM itself queues what its batch has no room for
HEALTH_SECONDS = 4.0


class VllmBackend:
    """A `JudgeBackend` from the keys of `VllmSettings`, `language_judge.LANGUAGE_KEYS`, `concurrency` and `extra_body` (further fields
    of every request)."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Check every key; look at no file and start nothing.

        Raises:
            ConfigError: a key is missing, unknown or wrong.
        """
        self._own, others = VllmSettings.take(settings, KEY)
        options.refuse_unknown(others, (*VllmSettings.names(), *LANGUAGE_KEYS, "concurrency", "extra_body"), KEY)
        LanguageSettings.take(others, KEY)
        self._others = others
        self._concurrency = options.whole(others, KEY, "concurrency", CONCURRENCY, 1)
        self._extra_body = options.mapping(others, KEY, "extra_body")
        owned = [name for name in OWNED_FIELDS if name in self._extra_body]
        if owned:
            raise ConfigError(f"{KEY}.extra_body", ", ".join(owned), "fields that no other setting decides", "Remove them.")
        self._server = OwnedServer(self._own)
        self._judge: LanguageJudge | None = None

    async def start(self) -> None:
        """Check model and environment, start the server, wait until it answers and ask it one question.

        Raises:
            ConfigError: no vLLM, an incomplete model, or a server that ends or does not answer in time, with the end of its log.
        """
        try:
            await self._server.start(self._connect)
        except BaseException:
            await self._end(keep_log=True)
            raise

    async def close(self) -> None:
        """End the server with everything that it started; its log goes too, unless `log_directory` is set. Safe to call again."""
        await self._end(keep_log=False)

    async def healthy(self) -> bool:
        """Whether the server lives and says that its engine does."""
        process = self._server.process
        return self._judge is not None and process is not None and await asyncio.to_thread(process.answers, HEALTH_SECONDS)

    async def consistency(self, request: JudgeRequest, deadline: float) -> Score:
        return await self._running().consistency(request, deadline)

    async def grounding(self, request: JudgeRequest, deadline: float) -> list[SentenceVerdict] | Score:
        return await self._running().grounding(request, deadline)

    def version(self) -> str:
        """As `JudgeBackend.version`. The model counts by its content, so that a judge that is not started looks at its files.

        Raises:
            ConfigError: the model's directory is incomplete.
        """
        if self._judge is not None:
            return self._judge.version()
        # Where the server will answer is no part of the version.
        return self._language_judge(0, self._own.served_name(), FIRST_ANSWER_SECONDS).version()

    def usage(self) -> Usage:
        return Usage() if self._judge is None else self._judge.usage()

    @property
    def log(self) -> Path | None:
        """The server's log while there is one."""
        return self._server.log

    async def _connect(self, port: int, name: str, seconds: float) -> None:
        self._judge = self._language_judge(port, name, seconds)
        await self._judge.start()

    def _language_judge(self, port: int, name: str, seconds: float) -> LanguageJudge:
        chat = OpenAIChat(
            f"http://{HOST}:{port}/v1",
            name,
            guided="structured_outputs",
            concurrency=self._concurrency,
            extra_body=self._extra_body,
            start_timeout_seconds=seconds,
            key=KEY,
        )
        return build_language_judge(chat, self._others, KEY, chat.identity())

    def _running(self) -> LanguageJudge:
        if self._judge is None or self._server.process is None:
            raise JudgeFailure(Reason.JUDGE_UNAVAILABLE, "the vLLM judge is not started")
        if not self._server.alive():
            raise JudgeFailure(Reason.JUDGE_UNAVAILABLE, f"the judge's vLLM server has ended, see {self._server.log}")
        return self._judge

    async def _end(self, keep_log: bool) -> None:
        judge, self._judge = self._judge, None
        try:
            if judge is not None:
                await judge.close()
        finally:
            await self._server.close(keep_log)
