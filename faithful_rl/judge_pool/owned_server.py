"""A vLLM server that its owner starts, waits for and ends: behind a judge of the pool, and behind an evaluation, here or on a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from faithful_rl.config import ConfigError
from faithful_rl.judge_pool.vllm_process import HOST, PortReservation, ServerError, ServerProcess
from faithful_rl.judge_pool.vllm_settings import VllmSettings, runs_on_cpu

FIRST_ANSWER_SECONDS = 30.0  # least time for the first question, which warms the server up
Connect = Callable[[int, str, float], Awaitable[None]]


class OwnedServer:
    """One server of `VllmSettings`. Nothing is restarted here: who owns it builds it anew."""

    def __init__(self, settings: VllmSettings, host: str = HOST, private: Mapping[str, str] | None = None) -> None:
        """
        Args:
            host: the address that it listens on, the loopback interface by default.
            private: variables of the server that are no part of which model it is, such as the key that it asks for.
        """
        self._own, self._host, self._private = settings, host, dict(private or {})
        self.process: ServerProcess | None = None

    async def start(self, connect: Connect) -> None:
        """Check model and environment, start the server, wait until it answers, and await `connect(port, name, seconds left)`.

        Raises:
            ConfigError: no vLLM, an incomplete model, or a server that ends or does not answer in time, with the end of its log.
        """
        on_cpu = runs_on_cpu()
        name = await asyncio.to_thread(self._own.served_name)
        end = asyncio.get_running_loop().time() + self._own.start_timeout_seconds
        reservation = PortReservation(self._host)
        try:
            self.process = self._launch(reservation.port, name, on_cpu)
            await self.process.wait_until_healthy(self._own.start_timeout_seconds)
            reservation.release()
            left = max(end - asyncio.get_running_loop().time(), FIRST_ANSWER_SECONDS)
            await connect(reservation.port, name, left)
        except ServerError as error:
            failure = self._not_started(error)
            await self.close(keep_log=True)
            raise failure from error
        except BaseException:
            await self.close(keep_log=True)
            raise
        finally:
            reservation.release()

    def alive(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self.process is not None and self.process.alive()

    @property
    def log(self) -> Path | None:
        """The server's log while there is one."""
        return None if self.process is None else self.process.log.path

    async def close(self, keep_log: bool = False) -> None:
        """End the server with everything that it started; its log goes too, unless `log_directory` is set. Safe to call again."""
        server, self.process = self.process, None
        if server is None:
            return
        await server.close()
        if not keep_log and self._own.log_directory is None:
            server.log.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another server of this process has its log there
                server.log.path.parent.rmdir()

    def _launch(self, port: int, name: str, on_cpu: bool) -> ServerProcess:
        own = self._own
        folder = _temporary_folder() if own.log_directory is None else Path(own.log_directory).expanduser().absolute()
        # The same name for the same server of this process: an owner that tries again and again leaves one log.
        log = folder / f"vllm-{os.getpid()}-{name.rpartition('@')[2]}.log"
        try:
            words = own.command(port, name, on_cpu, self._host)
            return ServerProcess(words, port, own.server_environment(os.environ, on_cpu) | self._private, log, self._host)
        except OSError as error:
            problem = f"{folder}, where no server can be started ({error})"
            raise ConfigError(f"{own.key}.log_directory", problem, "a writable directory", "Choose another one.") from error

    def _not_started(self, error: ServerError) -> ConfigError:
        key, seconds = self._own.key, self._own.start_timeout_seconds
        cause = f" ({error.cause})" if error.cause else ""
        if self.alive():
            found = f"{seconds:g}, in which vLLM did not serve {self._own.model}{cause}"
            return ConfigError(f"{key}.start_timeout_seconds", found, "time enough to load the model", f"Raise it, or read why: {error}")
        found = f"{self._own.model}, with which vLLM ended while it started{cause}"
        return ConfigError(f"{key}.model", found, "a model that vLLM serves with these settings", f"Correct what its log says: {error}")


@functools.cache
def _temporary_folder() -> Path:
    """For the logs of this process, readable by its user only; made again by whoever writes into it after it was removed."""
    return Path(tempfile.mkdtemp(prefix="faithful-judges-"))
