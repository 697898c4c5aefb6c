"""A server process and its keeper, with small stand-ins for the server: start, failure, death of either side, end."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from faithful_rl.judge_pool import owned_server, vllm_process
from faithful_rl.judge_pool.vllm_process import HOST, KEEPER, Log, PortReservation, ServerError, ServerProcess
from faithful_rl.judge_pool.vllm_settings import VllmSettings

SECONDS = 60.0  # for anything that a test waits for, on a busy machine
Start = Callable[[str, Path], ServerProcess]

# Answers every GET with 200 and has a child of its own, whose number it prints; both set SO_REUSEADDR as vLLM does.
SERVER = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print("child", child.pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *words):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
# The same without a reaction to SIGTERM, in either process.
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER
FAILING = """
import sys
print("ValueError: no such quantisation", file=sys.stderr)
print("\\n".join(f"line {number}" for number in range(40)))
sys.exit(3)
"""
OWNER = """
import asyncio, os, sys
from pathlib import Path
from faithful_rl.judge_pool.vllm_process import PortReservation, ServerProcess
port = PortReservation()
server = ServerProcess([sys.executable, "-c", sys.argv[1], str(port.port)], port.port, dict(os.environ), Path(sys.argv[2]))
asyncio.run(server.wait_until_healthy(60))
print(server.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that starts a program on a port of its own, which nobody else is given before the test has ended."""
    reservations = []

    def started(program: str, log: Path) -> ServerProcess:
        reservations.append(PortReservation())
        port = reservations[-1].port
        return ServerProcess([sys.executable, "-c", program, str(port)], port, dict(os.environ), log)

    yield started
    for reservation in reservations:
        reservation.release()


def group(leader: int) -> list[psutil.Process]:
    """Members of a process group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def gone(members: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(members, timeout=SECONDS)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def test_a_healthy_server_answers_and_close_ends_all_of_it(start: Start, tmp_path: Path) -> None:
    server = start(SERVER, tmp_path / "logs" / "server.log")
    asyncio.run(server.wait_until_healthy(SECONDS))
    assert server.alive()
    assert server.answers()
    members = group(server.pid)
    assert len(members) == 3, "keeper, server and its child"
    asyncio.run(server.close())
    assert gone(members)
    assert not server.alive()
    assert not server.answers()
    asyncio.run(server.close())


def test_a_server_of_another_address_answers_there_alone_and_knows_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`OwnedServer` on the address of a cluster's node, here a second loopback address."""
    said: list[tuple[int, str, str]] = []
    monkeypatch.setenv("VLLM_API_KEY", "of training")

    def command(self: VllmSettings, port: int, name: str, on_cpu: bool, host: str) -> list[str]:
        told = "import os, sys; print(os.environ['VLLM_API_KEY'], flush=True)\n"
        return [sys.executable, "-c", told + SERVER.replace("127.0.0.1", host), str(port)]

    async def connect(port: int, name: str, seconds: float) -> None:
        assert server.process is not None
        here, there = (socket.socket() for _ in range(2))
        with here, there:
            said.append((here.connect_ex(("127.0.0.1", port)), name, str(there.connect_ex(("127.0.0.2", port)))))

    monkeypatch.setattr(VllmSettings, "command", command)
    monkeypatch.setattr(owned_server, "runs_on_cpu", lambda: True)
    settings = VllmSettings("org/name", log_directory=str(tmp_path))
    server = owned_server.OwnedServer(settings, "127.0.0.2", {"VLLM_API_KEY": "of this group"})

    async def use() -> None:
        await server.start(connect)
        assert server.log is not None
        assert server.log.read_text().startswith("of this group\n")
        await server.close()

    asyncio.run(use())
    assert said == [(errno.ECONNREFUSED, settings.served_name(), "0")], "the key is no part of the model's name"


def test_a_server_that_ignores_the_request_to_end_is_killed(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_process, "TERMINATE_SECONDS", 0.5)
    server = start(STUBBORN, tmp_path / "server.log")
    asyncio.run(server.wait_until_healthy(SECONDS))
    members = group(server.pid)
    server.close_now()
    assert gone(members)


def test_a_server_that_ends_takes_its_children_along(start: Start, tmp_path: Path) -> None:
    server = start(SERVER, tmp_path / "server.log")
    asyncio.run(server.wait_until_healthy(SECONDS))
    members = group(server.pid)
    (main,) = psutil.Process(server.pid).children()
    main.kill()
    assert gone(members)
    assert not server.alive()
    assert "keeper: the command ended with signal 9" in server.log.quote()
    server.close_now()


def test_a_keeper_that_is_killed_leaves_nothing_behind(start: Start, tmp_path: Path) -> None:
    server = start(SERVER, tmp_path / "server.log")
    asyncio.run(server.wait_until_healthy(SECONDS))
    members = group(server.pid)
    psutil.Process(server.pid).kill()
    server._keeper.wait(SECONDS)
    assert not server.alive()
    assert gone(members)


def test_the_server_dies_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, SERVER, str(tmp_path / "server.log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdin is not None
    assert owner.stdout is not None
    try:
        leader = int(owner.stdout.readline())
        members = group(leader)
        assert len(members) == 3
        owner.send_signal(signal.SIGKILL)
        assert gone(members)
    finally:
        owner.kill()
        owner.wait(SECONDS)
        owner.stdin.close()
        owner.stdout.close()


def test_a_failed_start_quotes_cause_and_end_of_this_start_only(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("RuntimeError: of an earlier start\n")  # is emptied
    server = start(FAILING, log)
    with pytest.raises(ServerError) as failed:
        asyncio.run(server.wait_until_healthy(SECONDS))
    server.close_now()
    assert failed.value.cause == "ValueError: no such quantisation"
    message = str(failed.value)
    assert message.startswith(f"it ended while it started. The end of its log {log}:\nline 29\n")
    assert message.endswith("line 39\nkeeper: the command ended with exit code 3")


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (
            (
                "(APIServer pid=1) WARNING 11-21 11:42:41 [system_utils.py:299] This can cause errors like `OSError: [Errno 24]`",
                "(APIServer pid=1) pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
                "(APIServer pid=1)   Value error, Unknown quantization method: no_such_method.",
            ),
            "Value error, Unknown quantization method: no_such_method.",
        ),
        (
            (
                "(EngineCore pid=2) ERROR 11-21 11:42:41 [core.py:1108] torch.OutOfMemoryError: CUDA out of memory.",
                "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.",
            ),
            "torch.OutOfMemoryError: CUDA out of memory.",
        ),
        (("api_server.py: error: unrecognized arguments: --nonsense",), "api_server.py: error: unrecognized arguments: --nonsense"),
        (("INFO all is well",), ""),
        (("ValueError: " + "x" * 200,), "ValueError: " + "x" * 145 + "..."),
    ],
)
def test_the_line_of_a_log_that_tells_most(tmp_path: Path, lines: tuple[str, ...], cause: str) -> None:
    log = tmp_path / "server.log"
    log.write_text("\n".join(lines))
    assert Log(log).cause() == cause
    assert Log(tmp_path / "absent").cause() == ""


def test_a_server_that_never_answers_is_given_up(start: Start, tmp_path: Path) -> None:
    server = start("import signal; signal.pause()", tmp_path / "server.log")
    with pytest.raises(ServerError) as failed:
        asyncio.run(server.wait_until_healthy(0.2))
    assert str(failed.value) == f"it did not answer within 0.2 s. Its log {tmp_path / 'server.log'} is empty."
    assert server.alive()
    members = group(server.pid)
    server.close_now()
    assert gone(members)


def test_a_command_that_cannot_be_started(tmp_path: Path) -> None:
    server = ServerProcess([str(tmp_path / "absent")], 1, dict(os.environ), tmp_path / "server.log")
    with pytest.raises(ServerError, match=r"keeper: cannot start .*absent"):
        asyncio.run(server.wait_until_healthy(SECONDS))
    server.close_now()


def test_a_reserved_port_is_given_to_nobody_else_and_can_be_served_beside_the_reservation() -> None:
    reservation = PortReservation()
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind((HOST, reservation.port))
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((HOST, reservation.port))
        server.listen()
        with socket.create_connection((HOST, reservation.port), timeout=SECONDS):
            connection, _ = server.accept()
            connection.close()
        reservation.release()
    assert PortReservation().port > 0


def test_the_keeper_refuses_to_end_a_group_that_is_not_its_own() -> None:
    ended = subprocess.run(
        [sys.executable, str(KEEPER), "1", sys.executable, "-c", ""], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (ended.returncode, ended.stderr) == (2, "keeper: is not the leader of its process group, so it must not end that group\n")
    ended = subprocess.run([sys.executable, str(KEEPER)], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (ended.returncode, ended.stderr) == (2, "usage: keeper.py GRACE_SECONDS COMMAND [ARGUMENT ...]\n")
