"""Two runs that take turns: real processes that write steps, hand-worked ratios."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("verl")
from benchmarks.step import processes, turns
from benchmarks.step.__main__ import UsageError

ANSWER = 60.0  # seconds; only a broken test waits so long
# Writes `steps` rows, each after a piece of work; a child of its own sleeps beside it, as a run's workers do.
CHILD = """
import json, pathlib, subprocess, sys, time
folder, steps, code = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
folder.mkdir(parents=True)
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
for number in range(steps):
    time.sleep(0.1)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": number}) + "\\n")
helper.kill()
sys.exit(code)
"""


def runner(folder: Path, steps: int, code: int = 0, name: str = "run") -> turns.Runner:
    return turns.Runner(name, [sys.executable, "-c", CHILD, str(folder), str(steps), str(code)], folder, folder.with_suffix(".log"))


@pytest.fixture
def started(tmp_path: Path) -> Iterator[turns.Runner]:
    found = runner(tmp_path / "run", steps=1000)
    yield found
    found.end()


def stands_still(one: turns.Runner) -> bool:
    """A process that was told to stop does so when the kernel runs it next, which on a busy machine is a moment later."""
    end = time.monotonic() + ANSWER
    while {member.status() for member in one._members()} != {psutil.STATUS_STOPPED}:
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_a_run_stands_still_with_all_its_processes_when_it_is_not_its_turn(started: turns.Runner) -> None:
    deadline = time.monotonic() + ANSWER
    first = started.take_turn(2, deadline)
    assert first["wall"] > 0.0
    assert stands_still(started)
    assert len(started._members()) == 2
    rows = processes.count_lines(started._rows)
    second = started.take_turn(rows + 1, deadline)
    assert second["wall"] > 0.0
    assert second["cpu_total"] >= 0.0
    assert stands_still(started)


def test_turns_alternate_and_every_step_is_counted(tmp_path: Path) -> None:
    order: list[str] = []

    class Fake:
        def __init__(self, name: str) -> None:
            self.name, self.finished = name, False

        def take_turn(self, rows: int, deadline: float) -> dict[str, float]:
            order.append(f"{self.name}{rows}")
            return {"wall": float(rows)}

        def finish(self) -> None:
            self.finished = True

    ours, peer = Fake("a"), Fake("b")
    said: list[str] = []
    rows = turns.alternate([ours, peer], 10, ANSWER, said.append)  # type: ignore[list-item]
    assert order[:6] == ["b2", "a2", "a3", "b3", "b4", "a4"]
    assert [row["wall"] for row in rows["a"]] == [float(number) for number in range(2, 11)]
    assert said == ["step 10 of 10"]
    assert ours.finished
    assert peer.finished


def test_a_run_ends_by_itself_after_its_last_step(tmp_path: Path) -> None:
    one = runner(tmp_path / "run", steps=1)
    try:
        one.take_turn(1, time.monotonic() + ANSWER)
        one.finish()
        assert one._child.returncode == 0
    finally:
        one.end()


def test_a_run_that_dies_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    one = runner(tmp_path / "run", steps=1, code=3, name="stock")
    try:
        with pytest.raises(processes.ChildFailedError, match="stock: exit code 3, step 2"):
            one.take_turn(2, time.monotonic() + ANSWER)
    finally:
        one.end()


def test_a_step_that_does_not_end_is_named(started: turns.Runner) -> None:
    with pytest.raises(processes.ChildFailedError, match="run: no step in time, step 900"):
        started.take_turn(900, time.monotonic() + 0.3)


def test_overhead_is_the_mean_ratio_of_neighbours() -> None:
    peer = [{"wall": seconds} for seconds in (1.0, 2.0, 4.0, 8.0)]  # a machine that gets slower
    ours = [{"wall": 1.1 * row["wall"]} for row in peer]
    found = turns.overhead(ours, peer, "wall")
    assert found["value"] == pytest.approx(0.1)
    assert (found["low"], found["high"]) == pytest.approx((0.1, 0.1))
    swapped = [{"wall": 1.25}, {"wall": 1.6}, {"wall": 5.0}, {"wall": 6.4}]  # a quarter more and a fifth less, as often
    even = turns.overhead(swapped, peer, "wall")
    assert even["value"] == pytest.approx(0.0)
    assert even["low"] < 0.0 < even["high"]
    with pytest.raises(ValueError, match="two or more, got 1 and 1"):
        turns.overhead(ours[:1], peer[:1], "wall")


def test_the_result_says_what_each_pair_found_and_keeps_the_others(tmp_path: Path) -> None:
    options = turns.parse(["arms=instant"])
    rows = {"instant": [{"wall": 1.02, "cpu_total": 2.2}] * 4, "verl": [{"wall": 1.0, "cpu_total": 2.0}] * 4}
    found = turns.entry("instant", options, rows)
    assert (found["rounds"], found["within_limit"]) == (4, "yes")
    assert found["wall"]["value"] == pytest.approx(0.02)
    assert found["processor"]["value"] == pytest.approx(0.1)
    assert found["mean_seconds"] == pytest.approx({"instant": 1.02, "verl": 1.0})
    text = turns.sentence("instant", found)
    assert "1.02 s a step, stock verl, GRPO 1.00 s; wall +2.0% (+2.0% to +2.0%), processor +10.0%" in text
    assert text.endswith("over 4 rounds; at most 5%: yes")
    out = tmp_path / "results" / "turns.json"
    turns.add(out, "fgrpo", {"rounds": 1})
    turns.add(out, "instant", found)
    pairs = json.loads(out.read_text())["pairs"]
    assert pairs["fgrpo"] == {"rounds": 1}
    assert pairs["instant"]["rows"] == rows


def test_stock_verl_is_paired_with_ours_only() -> None:
    assert turns.parse([]).chosen == ("instant", "fgrpo")
    with pytest.raises(UsageError, match="trl is no run of ours; expected some of seeded, fgrpo, instant"):
        turns.parse(["arms=instant,trl"])
    with pytest.raises(UsageError, match="steps=4 with warm_up=3: expected 2 or more rounds"):
        turns.parse(["steps=4"])
