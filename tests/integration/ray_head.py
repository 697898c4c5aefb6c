"""A Ray cluster as `ray start --head` makes it, on ports and in a folder of its own, with a token; ended by its own process group."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PROJECT = Path(__file__).resolve().parents[2]
SECONDS = 300.0


@dataclass(frozen=True)
class Head:
    """`dashboard` is what jobs are submitted to; `environment` reaches the cluster, token included."""

    dashboard: str
    environment: dict[str, str]

    def run(self, *words: str, seconds: float = SECONDS, **variables: str) -> subprocess.CompletedProcess[str]:
        """A command in the cluster's environment, to its end."""
        environment = {**self.environment, **variables}
        return subprocess.run(words, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=seconds, check=False)

    def ray_job(self, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run("ray", "job", verb, "--address", self.dashboard, *words)

    def status(self, job: str) -> str:
        """Of one job, by the dashboard's own interface: Ray's command costs seconds of a core each time."""
        return str(self._ask(f"/api/jobs/{job}")["status"])

    def answers(self) -> bool:
        try:
            self._ask("/api/jobs/")
        except OSError:
            return False
        return True

    def _ask(self, path: str) -> Any:
        token = self.environment["RAY_AUTH_TOKEN"]
        request = urllib.request.Request(self.dashboard + path, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.loads(reply.read())

    def submit(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "faithful_rl.submit", f"address={self.dashboard}", *words)


@contextmanager
def head(cpus: int, gpus: int) -> Iterator[Head]:
    """A cluster of one node that lives as long as the block."""
    folder = tempfile.mkdtemp(prefix="rh")  # pytest's folders are too long for Ray's sockets
    token = secrets.token_hex(16)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "VERL_")) and name != "PYTHONPATH"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**inherited, "PATH": path, "HOME": folder, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    port, dashboard, agent, agent_grpc, metrics, client = _free_ports(6)
    environment["RAY_ADDRESS"] = f"127.0.0.1:{port}"
    command = [
        *("ray", "start", "--head", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}/ray"),
        *(f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
        *(f"--dashboard-agent-grpc-port={agent_grpc}", f"--metrics-export-port={metrics}", f"--ray-client-server-port={client}"),
        *(f"--num-cpus={cpus}", f"--num-gpus={gpus}", "--object-store-memory=134217728", "--dashboard-host=127.0.0.1"),
    ]
    starting = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    log = Path(folder) / "head.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=starting, stdout=output, stderr=output, start_new_session=True, preexec_fn=_end_with_parent)
    try:
        found = Head(f"http://127.0.0.1:{dashboard}", {name: value for name, value in environment.items() if name != "RAY_ADDRESS"})
        _wait_up(found, process, log)
        yield found
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(number: int) -> list[int]:
    """Below those that the kernel hands out by itself: one of these may go to some connection of this machine before Ray takes it."""
    handed_out = Path("/proc/sys/net/ipv4/ip_local_port_range")
    lowest = int(handed_out.read_text().split()[0]) if handed_out.exists() else 0
    found: list[int] = []
    for port in range((lowest if lowest > 10_000 else 32_768) - 1, 1024, -1):
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == number:
            return found
    raise AssertionError(f"found {len(found)} free ports, expected {number}")


def _wait_up(found: Head, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not found.answers():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the cluster did not come up:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.5)


def _end_with_parent() -> None:
    """The head gets SIGTERM when this process dies, whatever kills it: a cluster that is left over would be joined by other runs."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM: `ray start --block` ends all that it started. What is left of it after that is killed, by process id."""
    with suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        for one in psutil.wait_procs(started, timeout=5)[1]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
    process.kill()
    process.wait(timeout=30)
