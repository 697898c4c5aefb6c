"""One vLLM server on a node of a cluster, for a driver elsewhere that sends its questions by HTTP. Plain asyncio; `server_group` makes a
Ray actor of it.

The server listens on the node's own address and asks for a key that the driver has drawn for this group of servers. It ends with its
actor's process, however that ends (`keeper`).
"""

from __future__ import annotations

import asyncio
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray.util

from faithful_rl.config import ConfigError
from faithful_rl.judge_pool.owned_server import OwnedServer
from faithful_rl.judge_pool.vllm_settings import VllmSettings

SETTLE_SECONDS = 3.0
LOG_BYTES = 2**20  # of the end of a server's log that the driver is given
KEY_VARIABLE = "VLLM_API_KEY"  # an argument would stand in the list of processes


@dataclass(frozen=True, slots=True)
class Started:
    """What came of a start: where the server answers and what requests call the model, or the `problem`, never both."""

    node: str
    url: str = ""
    name: str = ""
    problem: ConfigError | None = None
    log: bytes = b""  # the end of the server's log, where there is a problem


@dataclass(frozen=True, slots=True)
class Look:
    """Whether the server lives; `cause` is what its log says most tellingly of its end."""

    alive: bool
    cause: str = ""


class ModelServer:
    """Owns one server. Nothing is restarted here: the driver makes another actor."""

    def __init__(self, settings: VllmSettings, expected: str, secret: str, host: str = "", build: Callable[..., Any] = OwnedServer) -> None:
        """
        Args:
            settings: with the model's absolute path, or a hub id; where the log goes is decided here.
            expected: name of the model as the driver knows it (`VllmSettings.served_name`), which holds a digest of its content.
            secret: the key that the server asks for.
            host: address to listen on; "" takes that of this node.
            build: makes the server, for tests.
        """
        self._settings, self._expected, self._secret, self._build = settings, expected, secret, build
        self._host = host or str(ray.util.get_node_ip_address())
        self._folder: Path | None = None
        self._server: Any = None
        self._port = 0

    async def start(self) -> Started:
        """Look at the model's files, start the server and wait until it answers. Never raises for what a user can correct."""
        node = f"{platform.node()} ({self._host})"
        try:
            await self._start()
        except ConfigError as problem:
            return Started(node, problem=problem, log=self._log())
        return Started(node, f"http://{self._host}:{self._port}/v1", self._expected)

    async def look(self) -> Look:
        """Whether the server has not ended."""
        if self._server is None:
            return Look(False, "it was not started")
        process = self._server.process
        if self._server.alive() and not await asyncio.to_thread(process.answers):
            # Its socket is closed a moment before its process is seen to have ended.
            end = asyncio.get_running_loop().time() + SETTLE_SECONDS
            while self._server.alive() and asyncio.get_running_loop().time() < end:
                await asyncio.sleep(SETTLE_SECONDS / 20)
        if self._server.alive():
            return Look(True)
        return Look(False, "" if process is None else process.log.cause())

    async def end(self) -> bytes:
        """End the server with all that it started; returns the end of its log and removes it here. Safe to call again."""
        server, self._server = self._server, None
        if server is not None:
            await server.close(keep_log=True)
        log = self._log()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        return log

    async def _start(self) -> None:
        name = await asyncio.to_thread(self._settings.served_name)
        if name != self._expected:
            found = f"{self._settings.model}, whose content or vLLM settings differ from where the evaluation was started"
            raise ConfigError(
                f"{self._settings.key}.model", found, f"the same model ({self._expected})", "Copy the model to this node again."
            )
        self._folder = Path(tempfile.mkdtemp(prefix="faithful-server-"))
        own = replace(self._settings, log_directory=str(self._folder))
        self._server = self._build(own, host=self._host, private={KEY_VARIABLE: self._secret})
        await self._server.start(self._connected)

    async def _connected(self, port: int, name: str, seconds: float) -> None:
        self._port = port

    def _log(self) -> bytes:
        """The end of what the server has written; b"" where it wrote nothing."""
        files = sorted(self._folder.glob("*.log")) if self._folder is not None else []
        return b"\n".join(file.read_bytes() for file in files)[-LOG_BYTES:]
