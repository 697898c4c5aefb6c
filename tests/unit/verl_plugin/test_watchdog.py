"""The phase that hangs is named, and the stacks say where it hangs."""

import json
import threading
from pathlib import Path

import pytest

from faithful_rl.verl_plugin.watchdog import STACKS_FILE, Watchdog, describe_hang


def hang_in(folder: Path, details: dict[str, object] | None = None) -> None:
    hung, released = threading.Event(), threading.Event()

    def on_hang() -> None:
        hung.set()
        released.set()

    watchdog = Watchdog(folder, limit_seconds=0.05, on_hang=on_hang, details=lambda: details or {})
    with watchdog.phase("step"), watchdog.phase("update_actor"):
        watchdog.start()  # here, so that the time cannot run out on the way into the inner phase
        released.wait(timeout=60)  # what a hanging remote call looks like from here
    assert hung.is_set()


def test_the_innermost_phase_is_named_with_its_stacks(tmp_path: Path) -> None:
    hang_in(tmp_path, {"step": 12})
    sentence = describe_hang(tmp_path)
    assert sentence is not None
    assert "hung in phase 'update_actor'" in sentence
    assert "step: 12" in sentence
    assert "hang_in" in (tmp_path / STACKS_FILE).read_text()  # the function that waits


def test_no_hang_no_report(tmp_path: Path) -> None:
    watchdog = Watchdog(tmp_path, limit_seconds=60.0, on_hang=lambda: pytest.fail("nothing hangs"))
    watchdog.start()
    with watchdog.phase("step"):
        assert watchdog.overdue() is None
    watchdog.stop()
    assert describe_hang(tmp_path) is None


def test_a_parent_is_not_blamed_for_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("faithful_rl.verl_plugin.watchdog.time.monotonic", lambda: now[0])
    watchdog = Watchdog(tmp_path, limit_seconds=10.0)
    watchdog.enter("step")
    for _ in range(5):
        watchdog.enter("child")
        now[0] += 9.0
        assert watchdog.overdue() is None
        watchdog.leave("child")
    assert watchdog.overdue() is None
    now[0] += 10.5
    assert watchdog.overdue() == ("step", pytest.approx(10.5))


def test_leaving_another_phase_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("faithful_rl.verl_plugin.watchdog.time.monotonic", lambda: now[0])
    watchdog = Watchdog(tmp_path, limit_seconds=10.0)
    watchdog.enter("step")
    watchdog.leave("generation")
    now[0] += 11.0
    late = watchdog.overdue()
    assert late is not None
    assert late[0] == "step"


def test_a_limit_of_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="above 0 seconds"):
        Watchdog(tmp_path, limit_seconds=0.0)


def test_the_report_is_json(tmp_path: Path) -> None:
    hang_in(tmp_path)
    assert json.loads((tmp_path / "hang.json").read_text())["limit_seconds"] == 0.05
