"""`python -m faithful_rl.stop run=DIR [wait_seconds=N] [driver=any|here]`: ask a living run for a checkpoint and its end, and wait.

run=DIR is a run's output directory, or a directory of such directories: then every living run below it is asked (driver=here: only those
whose first process is on this machine). A run counts as living while the beat of its `run.owner.json` moves, which takes up to 20 s to
see for one of another machine. Nothing is written where no run lives. For a pod's preStop hook: cluster/.

exit codes: 0 nothing lived there, or all have ended; 1 a run had not ended after wait_seconds; 2 the command is not right
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from faithful_rl import run_directory, run_lock
from faithful_rl.config import ConfigError
from faithful_rl.run_lock import Owner
from faithful_rl.stop_request import request_stop

POLL_SECONDS = 1.0
WAIT_SECONDS = 1920.0  # the longest step of a recipe as it ships, and two minutes for the checkpoint
EXIT_LATE, EXIT_USAGE = 1, 2
ENDED = ("finished", "failed", "stopped")


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    run: Path
    wait_seconds: float = WAIT_SECONDS
    here: bool = False


def parse(argv: Sequence[str]) -> Request:
    """Raises ConfigError for an unknown word or a value that it cannot have."""
    words = dict(word.partition("=")[::2] for word in argv)
    for word in words:
        if word not in ("run", "wait_seconds", "driver"):
            raise ConfigError("command line", repr(word), "run=DIR, wait_seconds=N, driver=any|here", "See --help.")
    if not words.get("run"):
        raise ConfigError("run", "nothing", "a run's output directory, or one of several", "Add run=/checkpoints/NAME.")
    if words.get("driver", "any") not in ("any", "here"):
        raise ConfigError("driver", repr(words["driver"]), "any or here", "Leave it out to stop every living run there.")
    wait = words.get("wait_seconds", f"{WAIT_SECONDS:g}")
    if not wait.isdigit():
        raise ConfigError("wait_seconds", repr(wait), "a whole number of seconds >= 0", f"Leave it out for {WAIT_SECONDS:g}.")
    return Request(Path(words["run"]), float(wait), words.get("driver") == "here")


def candidates(folder: Path) -> list[Path]:
    """Directories of runs that somebody holds: `folder` itself, else those right below it. Whether they live is not known yet."""
    below = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [path for path in ([folder] if (folder / run_lock.OWNER_FILE).exists() else below) if _held(path)]


def _held(path: Path) -> bool:
    return (path / run_lock.OWNER_FILE).exists() and not _ended(path)


def _ended(path: Path) -> bool:
    """Whether the run says so itself. A record that nobody can read says nothing."""
    try:
        return run_directory.read_json(path / run_directory.RUN).get("status") in ENDED
    except (OSError, ValueError):
        return False


def living(paths: Sequence[Path], wait: Callable[[float], None], clock: Callable[[], float]) -> dict[Path, Owner]:
    """Those of `paths` that are alive, with their owners: of this machine by their kernel's lock, of others by a beat that moves."""
    found: dict[Path, Owner] = {}
    first = {path: record for path in paths if (record := run_lock.read_owner(path)) is not None}
    unknown = {}
    for path, record in first.items():
        alive = run_lock.lives_here(record[0])
        if alive:
            found[path] = record[0]
        elif alive is None:
            unknown[path] = record
    end = clock() + run_lock.LOOK_SECONDS
    while unknown and clock() < end:
        wait(POLL_SECONDS)
        for path, before in list(unknown.items()):
            now = run_lock.read_owner(path)
            if now is not None and now != before:
                found[path] = now[0]
            if now != before:
                del unknown[path]
    return found


def stop(request: Request, say: Callable[[str], None] | None = None, wait: Callable[[float], None] = time.sleep,
         clock: Callable[[], float] = time.monotonic) -> int:  # fmt: skip
    """Ask, wait, and return the exit code."""
    say = say or _say
    me = run_lock.this_process()
    runs = living(candidates(request.run), wait, clock)
    if request.here:
        runs = {path: owner for path, owner in runs.items() if owner.host == me.host}
    for path, owner in runs.items():
        request_stop(path, f"faithful_rl.stop on {me.host}", owner.token)
        say(f"{path}: {owner.described()} was asked for a checkpoint and its end")
    if not runs:
        say(f"{request.run}: no run lives there")
        return 0
    end = clock() + request.wait_seconds
    going = {path: _Watch(path, owner.token, clock()) for path, owner in runs.items()}
    while going and clock() < end:
        for path, watch in list(going.items()):
            outcome = watch.outcome(clock())
            if outcome:
                say(f"{path}: {outcome}")
                del going[path]
        if going:
            wait(POLL_SECONDS)
    for path in going:
        say(f"{path}: still running after {request.wait_seconds:g} s")
    return EXIT_LATE if going else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class _Watch:
    """One run that was asked to end."""

    def __init__(self, path: Path, token: str, now: float) -> None:
        self._path, self._token = path, token
        self._beat, self._moved = -1, now

    def outcome(self, now: float) -> str:
        """What became of it; empty while it goes on."""
        record = run_lock.read_owner(self._path)
        if _ended(self._path):
            return "has ended"
        if record is None or record[0].token != self._token:
            return "is held no more"
        if record[1] != self._beat:
            self._beat, self._moved = record[1], now
        return "beats no more" if now - self._moved > run_lock.LOOK_SECONDS else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        _say(str(__doc__))
        return 0 if words else EXIT_USAGE
    try:
        return stop(parse(words))
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
