"""One process at a time writes in a run's directory, also where the same job is started twice on two machines.

Two things are held. The kernel's lock on `run.lock`, which a dead process loses at once; some network file systems keep it to one
machine. And a record, `run.owner.json`, made by exclusive creation, which every network file system keeps atomic: host, process,
Ray job, and a beat that its holder raises every few seconds. A record left by a dead process of this machine is replaced at once,
because its kernel lock is free. One of another machine is watched for `LOOK_SECONDS`: a beat that moves is a living run; clocks are
not compared. A holder whose record was taken over (its machine slept) ends at once.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from faithful_rl import run_directory
from faithful_rl.config import ConfigError

LOCK_FILE = "run.lock"
OWNER_FILE = "run.owner.json"
BEAT_SECONDS = 5.0
LOOK_SECONDS = 20.0  # four beats: how long another machine's record must stand still to count as left behind
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # file systems without kernel locks


@dataclass(frozen=True)
class Owner:
    """Who holds a run's directory. `machine` names one boot of one kernel and one space of process ids (a container has its own)."""

    host: str
    machine: str
    pid: int
    job: str  # Ray's submission id, or ""
    token: str

    def described(self) -> str:
        return f"process {self.pid} on {self.host}" + (f" (Ray job {self.job})" if self.job else "")


def this_process() -> Owner:
    """A new record of this process."""
    boot = _read("/proc/sys/kernel/random/boot_id") or socket.gethostname()
    with suppress(OSError):
        boot += " " + os.readlink("/proc/self/ns/pid")
    return Owner(socket.gethostname(), boot, os.getpid(), _ray_job(), secrets.token_hex(8))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _ray_job() -> str:
    """The submission id that `ray job submit` gave this process, from the job's configuration in its environment."""
    try:
        config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        return str((config.get("metadata") or {}).get("job_submission_id", ""))
    except (json.JSONDecodeError, AttributeError):
        return ""


def is_locked(path: Path) -> bool:
    """Whether somebody writes in `path`, as far as can be told without waiting: another machine's record counts as a living one."""
    file = path / LOCK_FILE
    if file.exists():
        with file.open("r") as handle:
            if not kernel_lock(handle):
                return True
    found = read_owner(path)
    return found is not None and found[0].machine != this_process().machine


@contextmanager
def locked(path: Path, wait: Callable[[float], None] = time.sleep, lost: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the run's directory for the block.

    Args:
        path: made when it is absent.
        wait: sleeps for so many seconds; called only where another machine's record is found.
        lost: called with a message when another process has taken the directory over; by default this process ends with code 1.

    Raises:
        ConfigError: if another process holds it.
    """
    path.mkdir(parents=True, exist_ok=True)
    me = this_process()
    with (path / LOCK_FILE).open("a") as handle:
        if not kernel_lock(handle):
            found = read_owner(path)
            raise _in_use(path, found[0].described() if found else "a running process")
        _claim(path, me, wait)
        end = threading.Event()
        beating = threading.Thread(target=_beat, args=(path, me, end, lost or _end_now), name="run lock", daemon=True)
        beating.start()
        try:
            yield
        finally:
            end.set()
            beating.join(timeout=BEAT_SECONDS)
            found = read_owner(path)
            if found is not None and found[0].token == me.token:
                (path / OWNER_FILE).unlink(missing_ok=True)


def kernel_lock(handle: Any) -> bool:
    """Take the lock of an open file; True also where the file system has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def _in_use(path: Path, who: str) -> ConfigError:
    return ConfigError(
        "faithful_rl.output_dir",
        f"{path} in use by {who}",
        "a directory that nobody trains in",
        "Wait for that run, stop it, or choose another faithful_rl.output_dir.",
    )


def read_owner(path: Path) -> tuple[Owner, int] | None:
    """The record and its beat; None where there is none, or one that nobody can read."""
    try:
        content = json.loads((path / OWNER_FILE).read_text(encoding="utf-8"))
        return Owner(**content["owner"]), int(content["beat"])
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError):
        return None


def lives_here(owner: Owner) -> bool | None:
    """Whether the holder's process runs; None where it is of another machine, of which only its beat can tell."""
    return _lives(owner) if owner.machine == this_process().machine else None


def _claim(path: Path, me: Owner, wait: Callable[[float], None]) -> None:
    if _create(path, me):
        return
    found = read_owner(path)
    if found is None or found[0].machine != me.machine:
        wait(LOOK_SECONDS)
        now = read_owner(path)
        if now is not None and now != found:
            raise _in_use(path, now[0].described())
    elif _lives(found[0]):  # of this machine, on a file system without kernel locks
        raise _in_use(path, found[0].described())
    _take_away(path, found[0] if found else None, me)
    if not _create(path, me):
        now = read_owner(path)
        raise _in_use(path, now[0].described() if now else "a process that has just started")


def _lives(owner: Owner) -> bool:
    if owner.pid == os.getpid():
        return False  # an earlier block of this process
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return "faithful_rl" in _read(f"/proc/{owner.pid}/cmdline").replace("\0", " ")  # process ids are used again


def _create(path: Path, me: Owner) -> bool:
    """Make the record; False where there is one."""
    try:
        with (path / OWNER_FILE).open("x", encoding="utf-8") as file:
            json.dump({"owner": asdict(me), "beat": 0}, file)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    return True


def _take_away(path: Path, stale: Owner | None, me: Owner) -> None:
    """Move the record `stale` aside. Another process may do the same: what was moved must be what was judged, else it goes back."""
    aside = path / f".{OWNER_FILE}.{me.token}"
    try:
        os.rename(path / OWNER_FILE, aside)
    except FileNotFoundError:
        return
    try:
        moved = Owner(**json.loads(aside.read_text(encoding="utf-8"))["owner"])
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        moved = None
    if moved is not None and (stale is None or moved.token != stale.token):
        with suppress(OSError):
            os.link(aside, path / OWNER_FILE)
        aside.unlink(missing_ok=True)
        raise _in_use(path, moved.described())
    aside.unlink(missing_ok=True)


def _beat(path: Path, me: Owner, end: threading.Event, lost: Callable[[str], None]) -> None:
    beat = 0
    while not end.wait(BEAT_SECONDS):
        beat += 1
        found = read_owner(path)
        if found is not None and found[0].token != me.token:
            lost(f"{path} was taken over by {found[0].described()}: this process ends, so that only one writes there")
            return
        with suppress(OSError):  # a full disk or a server that is away; the next beat may succeed
            run_directory.write_json(path / OWNER_FILE, {"owner": asdict(me), "beat": beat})


def _end_now(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")
    sys.stderr.flush()
    os._exit(1)
