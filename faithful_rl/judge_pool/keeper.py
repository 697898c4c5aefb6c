"""Runs one command and ends it, with everything that it started, as soon as its owner is gone. Standard library only.

    python keeper.py GRACE_SECONDS COMMAND [ARGUMENT ...]

Started by its owner as the leader of a process group of its own, with a pipe as standard input that the owner never writes to. The
kernel closes the pipe's other end however the owner ends, kill -9 included: that is the order to stop. The group then gets SIGTERM and,
after GRACE_SECONDS or as soon as the command has ended, SIGKILL, this process with it. A command that ends by itself takes the rest of
its group along in the same way. A signal that the kernel sends when a parent dies would reach the command alone, not what it started,
and would come as soon as the *thread* ends that started it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import NoReturn

USAGE_EXIT = 2
NOT_STARTED_EXIT = 127
KILLED_EXIT = 128 + signal.SIGKILL


class _Stop(Exception):
    """Somebody asked this process to end."""


def _stop(signum: int, frame: FrameType | None) -> None:
    raise _Stop


def _ignore(signum: int, frame: FrameType | None) -> None:
    """A handler instead of SIG_IGN, which the command would inherit."""


def keep(grace_seconds: float, command: list[str]) -> NoReturn:
    """Run `command` until it ends or the owner does; never returns, because the whole group is killed at the end."""
    group = os.getpgid(0)
    if group != os.getpid():
        say("is not the leader of its process group, so it must not end that group")
        sys.exit(USAGE_EXIT)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        say(f"cannot start {command[0]}: {error}")
        sys.exit(NOT_STARTED_EXIT)
    ended = threading.Thread(target=_after, args=(child, group), daemon=True)
    ended.start()
    with contextlib.suppress(_Stop):
        sys.stdin.buffer.read()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ignore)
    os.killpg(group, signal.SIGTERM)
    ended.join(grace_seconds)
    os.killpg(group, signal.SIGKILL)  # this process is of the group
    os._exit(KILLED_EXIT)  # in case another thread is the one that meets the signal


def _after(child: subprocess.Popen[bytes], group: int) -> None:
    code = child.wait()
    say(f"the command ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}")
    os.killpg(group, signal.SIGKILL)


def say(what: str) -> None:
    """One line into the log that the command writes to as well."""
    sys.stderr.write(f"keeper: {what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.stderr.write("usage: keeper.py GRACE_SECONDS COMMAND [ARGUMENT ...]\n")
        sys.exit(USAGE_EXIT)
    keep(float(sys.argv[1]), sys.argv[2:])
