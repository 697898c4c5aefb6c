"""One writer per directory: the kernel's lock, the record of another machine, and two that take over at once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from faithful_rl import run_lock
from faithful_rl.config import ConfigError
from faithful_rl.run_lock import Owner, locked

ELSEWHERE = Owner("node-7", "another boot", 4711, "fgrpo_7b-1", "0123456789abcdef")


def put(path: Path, owner: Owner, beat: int = 3) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / run_lock.OWNER_FILE).write_text(json.dumps({"owner": asdict(owner), "beat": beat}))


def never(seconds: float) -> None:
    raise AssertionError("nothing to wait for")


def test_a_free_directory_is_held_at_once_and_left_clean(tmp_path: Path) -> None:
    with locked(tmp_path / "run", wait=never):
        record = json.loads((tmp_path / "run" / run_lock.OWNER_FILE).read_text())
        assert record["owner"]["pid"] > 0
        assert run_lock.is_locked(tmp_path / "run")
    assert not (tmp_path / "run" / run_lock.OWNER_FILE).exists()
    assert not run_lock.is_locked(tmp_path / "run")
    with locked(tmp_path / "run", wait=never):
        pass


def test_a_second_process_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    hold = (
        "import sys, pathlib; from faithful_rl import run_lock\n"
        "with run_lock.locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"in use by process {holder.pid} on "), locked(tmp_path, wait=never):
            pass
        holder.kill()
        holder.wait(timeout=60)
    assert (tmp_path / run_lock.OWNER_FILE).exists()  # killed: it could not clean up
    with locked(tmp_path, wait=never):  # and yet nobody waits: its kernel lock is free, and it was of this machine
        pass


def beating(path: Path, owner: Owner) -> Callable[[float], None]:
    """Stands for the time that passes: the other machine's process raises its beat meanwhile."""

    def wait(seconds: float) -> None:
        assert seconds == run_lock.LOOK_SECONDS
        put(path, owner, beat=4)

    return wait


def test_a_living_run_of_another_machine_is_not_taken_over(tmp_path: Path) -> None:
    put(tmp_path, ELSEWHERE)
    with (
        pytest.raises(ConfigError, match=r"in use by process 4711 on node-7 \(Ray job fgrpo_7b-1\)"),
        locked(tmp_path, beating(tmp_path, ELSEWHERE)),
    ):
        pass
    assert json.loads((tmp_path / run_lock.OWNER_FILE).read_text())["owner"] == asdict(ELSEWHERE)


def test_what_a_dead_machine_left_behind_is_taken_over_after_a_look(tmp_path: Path) -> None:
    put(tmp_path, ELSEWHERE)
    assert run_lock.is_locked(tmp_path)  # without a look it counts as living
    looked: list[float] = []
    with locked(tmp_path, wait=looked.append):
        assert json.loads((tmp_path / run_lock.OWNER_FILE).read_text())["owner"]["host"] != "node-7"
    assert looked == [run_lock.LOOK_SECONDS]
    assert sorted(path.name for path in tmp_path.iterdir()) == [run_lock.LOCK_FILE]


def test_of_two_that_take_over_at_once_one_gets_it(tmp_path: Path) -> None:
    third = Owner("node-9", "third boot", 12, "", "f" * 16)
    put(tmp_path, ELSEWHERE)

    def overtaken(path: Path, stale: Owner | None, me: Owner) -> None:
        put(path, third, beat=0)  # node-9 was faster: its new record stands where the stale one was
        take_away(path, stale, me)

    take_away = run_lock._take_away
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_lock, "_take_away", overtaken)
        with pytest.raises(ConfigError, match="in use by process 12 on node-9"), locked(tmp_path, wait=lambda seconds: None):
            pass
    assert json.loads((tmp_path / run_lock.OWNER_FILE).read_text())["owner"] == asdict(third)  # put back


def test_a_half_written_record_is_looked_at_twice(tmp_path: Path) -> None:
    (tmp_path / run_lock.OWNER_FILE).write_text('{"owner": {')
    with locked(tmp_path, wait=lambda seconds: None):
        pass
    (tmp_path / run_lock.OWNER_FILE).write_text('{"owner": {')
    with pytest.raises(ConfigError, match="node-7"), locked(tmp_path, wait=lambda seconds: put(tmp_path, ELSEWHERE, 0)):
        pass


def test_a_holder_whose_record_was_taken_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.01)
    # A beat that has looked just before the other's record is there would write over it.
    monkeypatch.setattr(run_lock.run_directory, "write_json", lambda path, value: None)
    told = threading.Event()
    messages: list[str] = []

    def lost(message: str) -> None:
        messages.append(message)
        told.set()

    with locked(tmp_path, wait=never, lost=lost):
        put(tmp_path, ELSEWHERE)
        assert told.wait(timeout=60)
    assert "was taken over by process 4711 on node-7" in messages[0]
    assert (tmp_path / run_lock.OWNER_FILE).exists()  # the other one's, so it stays


def test_the_record_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.01)
    beaten = threading.Event()
    write = run_lock.run_directory.write_json

    def write_once(path: Path, value: Any) -> None:
        """A second beat could be slower than the end of the block is patient, and leave its record behind."""
        if not beaten.is_set():
            write(path, value)
            beaten.set()

    monkeypatch.setattr(run_lock.run_directory, "write_json", write_once)
    with locked(tmp_path, wait=never):
        assert beaten.wait(timeout=60)
    assert not (tmp_path / run_lock.OWNER_FILE).exists()


def test_a_ray_job_is_named_by_its_submission_id(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"runtime_env": {}, "metadata": {"job_submission_id": "fgrpo_tiny-1a2b3c4d-2"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(config))
    assert run_lock.this_process().described().endswith("(Ray job fgrpo_tiny-1a2b3c4d-2)")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "not json")
    assert run_lock.this_process().job == ""
