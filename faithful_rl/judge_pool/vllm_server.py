"""The backend `vllm`: a judge that starts and owns a vLLM server on its share of the cluster, GPU or CPU.

The server is a child process that answers on the loopback interface only and ends with its owner. Questions are those of `LanguageJudge`,
and every answer is bound to the allowed words by guided decoding, so that even a random model gives verdicts. Nothing is restarted here:
a server that ended makes the backend unhealthy, and whoever runs it builds it anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faithful_rl.config import ConfigError
from faithful_rl.judge_pool.vllm_process import HOST, PortReservation, ServerError, ServerProcess
from faithful_rl.judge_pool.vllm_settings import VllmSettings, runs_on_cpu
from faithful_rl.judges import options
from faithful_rl.judges.backend import JudgeFailure, Usage
from faithful_rl.judges.language_judge import LANGUAGE_KEYS, LanguageJudge, LanguageSettings, build_language_judge
from faithful_rl.judges.openai_chat import OWNED_FIELDS, OpenAIChat
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.types import Reason, Score, SentenceVerdict

KEY = "vllm"
CONCURRENCY = 256  # calls at the same time; vLLM itself queues what its batch has no room for
HEALTH_SECONDS = 4.0
FIRST_ANSWER_SECONDS = 30.0  # least time for the first question, which warms the server up


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
        self._server: ServerProcess | None = None
        self._judge: LanguageJudge | None = None

    async def start(self) -> None:
        """Check model and environment, start the server, wait until it answers and ask it one question.

        Raises:
            ConfigError: no vLLM, an incomplete model, or a server that ends or does not answer in time, with the end of its log.
        """
        on_cpu = runs_on_cpu()
        name = await asyncio.to_thread(self._own.served_name)
        end = asyncio.get_running_loop().time() + self._own.start_timeout_seconds
        reservation = PortReservation()
        try:
            self._server = self._launch(reservation.port, name, on_cpu)
            await self._server.wait_until_healthy(self._own.start_timeout_seconds)
            reservation.release()
            left = max(end - asyncio.get_running_loop().time(), FIRST_ANSWER_SECONDS)
            self._judge = self._language_judge(reservation.port, name, left)
            await self._judge.start()
        except ServerError as error:
            failure = self._not_started(error)
            await self._end(keep_log=True)
            raise failure from error
        except BaseException:
            await self._end(keep_log=True)
            raise
        finally:
            reservation.release()

    async def close(self) -> None:
        """End the server with everything that it started; its log goes too, unless `log_directory` is set. Safe to call again."""
        await self._end(keep_log=False)

    async def healthy(self) -> bool:
        """Whether the server lives and says that its engine does."""
        server = self._server
        return self._judge is not None and server is not None and await asyncio.to_thread(server.answers, HEALTH_SECONDS)

    async def consistency(self, request: JudgeRequest, deadline: float) -> Score:
        return await self._running().consistency(request, deadline)

    async def grounding(self, request: JudgeRequest, deadline: float) -> list[SentenceVerdict] | Score:
        return await self._running().grounding(request, deadline)

    def version(self) -> str:
        """As `JudgeBackend.version`; the model counts by its content, so there is none before `start`, which raises RuntimeError."""
        if self._judge is None:
            raise RuntimeError("a vLLM judge has no version before it is started: its model is read then")
        return self._judge.version()

    def usage(self) -> Usage:
        return Usage() if self._judge is None else self._judge.usage()

    @property
    def log(self) -> Path | None:
        """The server's log while there is one."""
        return None if self._server is None else self._server.log.path

    def _launch(self, port: int, name: str, on_cpu: bool) -> ServerProcess:
        own = self._own
        folder = _temporary_folder() if own.log_directory is None else Path(own.log_directory).expanduser().absolute()
        # The same name for the same judge of this process: a pool that tries again and again leaves one log.
        log = folder / f"vllm-{os.getpid()}-{name.rpartition('@')[2]}.log"
        try:
            return ServerProcess(own.command(port, name, on_cpu), port, own.server_environment(os.environ, on_cpu), log)
        except OSError as error:
            problem = f"{folder}, where no server can be started ({error})"
            raise ConfigError(f"{KEY}.log_directory", problem, "a writable directory", "Choose another one.") from error

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
        if self._judge is None or self._server is None:
            raise JudgeFailure(Reason.JUDGE_UNAVAILABLE, "the vLLM judge is not started")
        if not self._server.alive():
            raise JudgeFailure(Reason.JUDGE_UNAVAILABLE, f"the judge's vLLM server has ended, see {self._server.log.path}")
        return self._judge

    def _not_started(self, error: ServerError) -> ConfigError:
        seconds = self._own.start_timeout_seconds
        cause = f" ({error.cause})" if error.cause else ""
        if self._server is not None and self._server.alive():
            found = f"{seconds:g}, in which vLLM did not serve {self._own.model}{cause}"
            return ConfigError(f"{KEY}.start_timeout_seconds", found, "time enough to load the model", f"Raise it, or read why: {error}")
        found = f"{self._own.model}, with which vLLM ended while it started{cause}"
        return ConfigError(f"{KEY}.model", found, "a model that vLLM serves with these settings", f"Correct what its log says: {error}")

    async def _end(self, keep_log: bool) -> None:
        judge, self._judge = self._judge, None
        server, self._server = self._server, None
        try:
            if judge is not None:
                await judge.close()
        finally:
            if server is not None:
                await server.close()
                if not keep_log and self._own.log_directory is None:
                    server.log.path.unlink(missing_ok=True)
                    with contextlib.suppress(OSError):  # another server of this process has its log there
                        server.log.path.parent.rmdir()


@functools.cache
def _temporary_folder() -> Path:
    """For the logs of this process, readable by its user only; made again by whoever writes into it after it was removed."""
    return Path(tempfile.mkdtemp(prefix="faithful-judges-"))
