"""`python -m faithful_rl.stop`: only a run that lives is asked, and whoever trains there later does not hear it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from faithful_rl import run_lock, stop, stop_request
from faithful_rl.run_lock import Owner

ELSEWHERE = Owner("node-7", "another boot", 4711, "fgrpo_7b-1", "0123456789abcdef")
HOLD = (
    "import sys, pathlib; from faithful_rl import run_lock\n"
    "with run_lock.locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


def put(path: Path, owner: Owner = ELSEWHERE, beat: int = 3, status: str = "running") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / run_lock.OWNER_FILE).write_text(json.dumps({"owner": asdict(owner), "beat": beat}))
    (path / "run.json").write_text(json.dumps({"status": status}))
    return path


class Time:
    """A clock that only moves when somebody waits; `events` happen at their second."""

    def __init__(self, **events: Callable[[], object]) -> None:
        self.now = 0.0
        self._events = {int(name.removeprefix("at_")): event for name, event in events.items()}

    def wait(self, seconds: float) -> None:
        self.now += seconds
        for second in [second for second in self._events if second <= self.now]:
            self._events.pop(second)()

    def clock(self) -> float:
        return self.now


def run(time: Time, folder: Path, **settings: object) -> tuple[int, list[str]]:
    lines: list[str] = []
    return stop.stop(stop.Request(folder, **settings), lines.append, time.wait, time.clock), lines  # type: ignore[arg-type]


def never(seconds: float) -> None:
    raise AssertionError("nothing to wait for")


def test_where_nothing_lives_it_ends_at_once_and_writes_nothing(tmp_path: Path) -> None:
    put(tmp_path / "runs" / "finished", status="stopped")
    (tmp_path / "runs" / "empty").mkdir()
    for folder in (tmp_path / "absent", tmp_path / "runs", tmp_path / "runs" / "finished"):
        assert stop.stop(stop.Request(folder), lambda line: None, never) == 0
    assert not list(tmp_path.rglob(stop_request.STOP_FILE))


def test_what_a_dead_machine_left_is_not_asked(tmp_path: Path) -> None:
    time = Time()
    assert run(time, put(tmp_path / "run"))[0] == 0
    assert time.now == run_lock.LOOK_SECONDS  # four beats without one
    assert not (tmp_path / "run" / stop_request.STOP_FILE).exists()


def test_a_living_run_is_asked_by_its_token_and_waited_for(tmp_path: Path) -> None:
    path = put(tmp_path / "run")

    def end() -> None:
        assert stop_request.stop_requested(path)
        (path / run_lock.OWNER_FILE).unlink()

    code, lines = run(Time(at_4=lambda: put(path, beat=4), at_9=end), path)
    assert (code, lines[-1]) == (0, f"{path}: is held no more")
    assert "process 4711 on node-7 (Ray job fgrpo_7b-1) was asked" in lines[0]
    assert (path / stop_request.STOP_FILE).read_text().startswith("owner 0123456789abcdef: ")


def test_a_run_that_says_it_has_ended_is_not_waited_for(tmp_path: Path) -> None:
    path = put(tmp_path / "run")
    time = Time(at_4=lambda: put(path, beat=4), at_6=lambda: put(path, beat=5, status="stopped"))
    code, lines = run(time, path)
    assert (code, lines[-1]) == (0, f"{path}: has ended")


def test_a_run_that_dies_or_goes_on_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    path = put(tmp_path / "dies")
    code, lines = run(Time(at_4=lambda: put(path, beat=4)), path)
    assert (code, lines[-1]) == (0, f"{path}: beats no more")
    path = put(tmp_path / "goes_on")
    beats = {f"at_{second}": lambda second=second: put(path, beat=second) for second in range(4, 60, 5)}
    code, lines = run(Time(**beats), path, wait_seconds=30.0)
    assert (code, lines[-1]) == (1, f"{path}: still running after 30 s")


def test_of_a_directory_of_runs_the_living_ones_are_asked(tmp_path: Path) -> None:
    one, other = put(tmp_path / "one"), put(tmp_path / "other", replace(ELSEWHERE, host="node-8", token="f" * 16))

    def beat() -> None:
        put(one, beat=4)

    assert run(Time(at_4=beat), tmp_path, wait_seconds=0.0)[0] == 1
    assert (one / stop_request.STOP_FILE).exists()
    assert not (other / stop_request.STOP_FILE).exists()
    (one / stop_request.STOP_FILE).unlink()
    put(one)
    assert run(Time(at_4=beat), tmp_path, here=True)[0] == 0  # its driver is on another machine
    assert not (one / stop_request.STOP_FILE).exists()


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.communicate("", timeout=30)


def test_a_run_of_this_machine_is_known_at_once(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        assert stop.stop(stop.Request(tmp_path, wait_seconds=0.0), lambda line: None, never) == 1
        assert stop_request.stop_requested(tmp_path)
        process.kill()
    assert stop.stop(stop.Request(tmp_path), lambda line: None, never) == 0  # its record stays, its process is gone


def test_a_wish_for_another_holder_is_not_heard_and_one_for_everybody_is(tmp_path: Path) -> None:
    put(tmp_path)
    stop_request.request_stop(tmp_path, "preStop", "f" * 16)
    assert not stop_request.stop_requested(tmp_path)
    stop_request.clear_stop(tmp_path)
    assert not (tmp_path / stop_request.STOP_FILE).exists()
    stop_request.request_stop(tmp_path, "preStop", ELSEWHERE.token)
    stop_request.clear_stop(tmp_path)  # the holder has only begun
    assert stop_request.stop_requested(tmp_path)
    for anybody in ("", "SIGTERM"):
        (tmp_path / stop_request.STOP_FILE).write_text(anybody)
        assert stop_request.stop_requested(tmp_path)
        stop_request.clear_stop(tmp_path)
        assert not stop_request.stop_requested(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["wait_seconds=5"], "run: found nothing, expected a run's output directory, or one of several. Add run=/checkpoints/NAME."),
        (["run=/x", "wait_seconds=soon"], "wait_seconds: found 'soon', expected a whole number of seconds >= 0."),
        (["run=/x", "driver=there"], "driver: found 'there', expected any or here."),
        (["run=/x", "now=true"], "command line: found 'now', expected run=DIR"),
    ],
)
def test_a_mistake_is_one_message(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert stop.main(words) == 2
    assert message in capsys.readouterr().err


def test_it_loads_no_engine() -> None:
    code = "import sys, faithful_rl.stop; print(sorted({'torch', 'ray', 'verl', 'hydra'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout == "[]\n"
