"""One server process: started without a shell on a reserved port, watched until it answers, and ended with all that it started."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
KEEPER = Path(__file__).with_name("keeper.py")
POLL_SECONDS = 0.25
TERMINATE_SECONDS = 8.0  # from SIGTERM to SIGKILL
KILL_SECONDS = 5.0  # for the kernel to end a killed group
PROBE_SECONDS = 5.0  # for an answer of /health
TAIL_BYTES = 64 * 1024
TAIL_LINES = 12
LINE_CHARACTERS = 300
CAUSE_CHARACTERS = 160
_PREFIX = re.compile(r"^(?:\(\w+(?: pid=\d+)?\) )?(?:(?:ERROR|CRITICAL) [^\]]*\] )?\s*")
_FAULT = re.compile(r"(?:[\w.]*(?:Error|Exception|Interrupt|Exit): |Value error, |\S+: error: |keeper: cannot start )")
_EMPTY_FAULT = re.compile(r"root cause above|^\S*ValidationError: \d+ validation error")


class ServerError(RuntimeError):
    """The server is not there: it ended, or it did not answer in time. The message quotes its log; `cause` is the one line of the log that
    tells most, or empty."""

    def __init__(self, what: str, log: Log) -> None:
        self.cause = log.cause()
        super().__init__(f"{what}. {log.quote()}")


class Log:
    """What a process has written into a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[str]:
        """The last ones that are not empty, each cut to `LINE_CHARACTERS`. Raises OSError."""
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - TAIL_BYTES))
            text = file.read(TAIL_BYTES).decode("utf-8", "replace")
        return [line.rstrip()[:LINE_CHARACTERS] for line in text.splitlines() if line.strip()]

    def cause(self) -> str:
        """The first error that says something; empty where there is none. Later ones follow from it or repeat it."""
        try:
            words = [_PREFIX.sub("", line) for line in self.lines()]
        except OSError:
            return ""
        found = next((line for line in words if _FAULT.match(line) and not _EMPTY_FAULT.search(line)), "")
        return found if len(found) <= CAUSE_CHARACTERS else found[: CAUSE_CHARACTERS - 3] + "..."

    def quote(self) -> str:
        """Where it is, and its last lines."""
        try:
            lines = self.lines()[-TAIL_LINES:]
        except OSError as error:
            return f"Its log {self.path} cannot be read: {error}"
        return f"The end of its log {self.path}:\n" + "\n".join(lines) if lines else f"Its log {self.path} is empty."


class PortReservation:
    """A free port of one address, the loopback interface by default, that no other program is given until `release`.

    The socket is bound and does not listen. Both it and the server set SO_REUSEADDR, with which Linux lets the server bind beside it,
    while the kernel hands the port out to nobody who asks for any free one.
    """

    def __init__(self, host: str = HOST) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((host, 0))
        self.port: int = self._socket.getsockname()[1]

    def release(self) -> None:
        self._socket.close()


class ServerProcess:
    """A child process in a group of its own that ends with its owner, however the owner ends (`keeper`)."""

    def __init__(self, command: Sequence[str], port: int, environment: Mapping[str, str], log: Path, host: str = HOST) -> None:
        """
        Args:
            command: program and arguments; no shell reads them.
            port: where it will answer `GET /health`.
            environment: all of its variables.
            log: file for its output, emptied first; its folder is the process's working directory.
            host: the address that it listens on, the loopback interface by default.

        Raises:
            OSError: the log cannot be written or the process cannot be started.
        """
        self.host, self.port = host, port
        self._swept = False
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        log.write_bytes(b"")
        self.log = Log(log)
        with log.open("ab") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(KEEPER), str(TERMINATE_SECONDS), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env=dict(environment),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the keeper, which is also the id of the process group."""
        return self._keeper.pid

    def alive(self) -> bool:
        """Whether the server has not ended. Kills what is left of a group whose keeper is gone."""
        if self._keeper.poll() is None:
            return True
        self._sweep()
        return False

    async def wait_until_healthy(self, seconds: float) -> None:
        """Return as soon as /health answers.

        Raises:
            ServerError: it ended, or did not answer within `seconds`; the process is left to `close`.
        """
        end = time.monotonic() + seconds
        while not await asyncio.to_thread(self.answers, min(PROBE_SECONDS, max(0.1, end - time.monotonic()))):
            if not self.alive():
                raise ServerError("it ended while it started", self.log)
            if time.monotonic() >= end:
                raise ServerError(f"it did not answer within {seconds:g} s", self.log)
            await asyncio.sleep(POLL_SECONDS)

    def answers(self, seconds: float = PROBE_SECONDS) -> bool:
        """Whether the process lives and says that it is healthy. Blocks for up to `seconds`."""
        if not self.alive():
            return False
        connection = http.client.HTTPConnection(self.host, self.port, timeout=seconds)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    async def close(self) -> None:
        """End the whole group: asked first, killed after `TERMINATE_SECONDS`. Safe to call again."""
        await asyncio.to_thread(self.close_now)

    def close_now(self) -> None:
        """`close`, blocking."""
        if self._keeper.stdin is not None:
            with contextlib.suppress(OSError):
                self._keeper.stdin.close()
        try:
            self._keeper.wait(TERMINATE_SECONDS + KILL_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("server group %d does not end, killing it", self.pid)
            self._kill_group()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._keeper.wait(KILL_SECONDS)
        self._sweep()

    def _sweep(self) -> None:
        """Once, right after the keeper has ended: later its number may be another group's."""
        if not self._swept:
            self._swept = True
            self._kill_group()  # nothing is left of it, unless somebody killed the keeper alone

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
