"""One real run with everything that can go wrong in it: poisoned steps, the judges' node killed and back, SIGTERM.

Actor, reference policy (in a pool of its own) and storage are on one node, judges on the other. The run's named actors are seen from another
process, and every rollout is accounted for.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import training_harness as harness

pytest.importorskip("vllm")
pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

JUDGES = ("consistency", "grounding")
RUN = (
    "trainer.total_training_steps=340",
    "trainer.save_freq=-1",
    "faithful_rl.hardware.node_resource=training",
    "faithful_rl.reference_policy.placement=own_pool",
    "faithful_rl.ui.rollouts_every=1",
    "faithful_rl.ui.rollouts_per_step=20",
    *(f"+faithful_rl.judges.{judge}.resources.judges=1" for judge in JUDGES),
    *(f"faithful_rl.judges.{judge}.timeout_seconds=4" for judge in JUDGES),
)
COVERAGE = "constraint/consistency/coverage"


class TwoNodes:
    """The cluster's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.nodes = self._answer()

    def ask(self, word: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("ANSWER"):
                return json.loads(line.removeprefix("ANSWER"))
        raise AssertionError("the cluster's process has ended")


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    folder = tempfile.mkdtemp(prefix="tn")  # pytest's folders are too long for Ray's sockets
    environment = {**os.environ, "PYTHONPATH": f"{harness.PROJECT}{os.pathsep}{harness.FOLDER}"}
    command = [sys.executable, str(harness.FOLDER / "two_nodes.py"), folder]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield TwoNodes(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=60)
        finally:
            process.kill()
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Story:
    run_dir: Path
    code: int
    log: str
    store: dict[str, Any]
    first: str
    second: str
    actors: dict[str, str]
    judges_afterwards: set[str]
    new_second: str
    lost_at: int
    back_at: int


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    root = tmp_path_factory.mktemp("two_nodes")
    run_dir, log = root / "run", root / "log.txt"
    # Steps 2 and 3 are poisoned; then another process joins the cluster and looks around, then the judges' node goes and comes back.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        with two_nodes() as cluster:
            patch.setenv("RAY_ADDRESS", cluster.nodes["address"])
            process = harness.start(harness.command_line(root / "scenes", run_dir, *RUN), log, runner="poisoned")
            try:
                harness.wait_until(lambda: len(harness.rows(run_dir)) >= 4, process, log)
                store = look_around(run_dir)
                actors = cluster.ask("where")
                cluster.ask("remove")
                harness.wait_until(lambda: harness.rows(run_dir)[-1][COVERAGE] < 1.0, process, log)
                lost_at = harness.rows(run_dir)[-1]["step"]
                back = cluster.ask("add")
                harness.wait_until(lambda: harness.rows(run_dir)[-1][COVERAGE] == 1.0, process, log)
                back_at = harness.rows(run_dir)[-1]["step"]
                after = cluster.ask("where")
                os.kill(process.pid, signal.SIGTERM)
                code = harness.finish(process, log)
            finally:
                if process.poll() is None:
                    harness.kill(process)
    nodes = cluster.nodes
    judges = {node for name, node in after.items() if name.endswith(("consistency-0", "grounding-0"))}
    text = log.read_text(errors="replace")
    return Story(run_dir, code, text, store, nodes["first"], nodes["second"], actors, judges, back["second"], lost_at, back_at)


def look_around(run_dir: Path) -> dict[str, Any]:
    """What another process of this machine finds by name."""
    command = [sys.executable, "-m", "faithful_rl.verl_plugin.multiplier_store", str(run_dir)]
    found = subprocess.run(command, cwd=harness.PROJECT, capture_output=True, text=True, timeout=300, check=True)
    store: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return store


def test_judges_have_a_node_of_their_own_and_training_the_other(story: Story) -> None:
    judges = {name: node for name, node in story.actors.items() if name.endswith(("consistency-0", "grounding-0"))}
    assert len(judges) == 2
    assert set(judges.values()) == {story.second}
    training = {name: node for name, node in story.actors.items() if "WorkerDict" in name or "ActorRollout" in name or "HttpServer" in name}
    assert training
    assert set(training.values()) == {story.first}
    others = {
        name: node for name, node in story.actors.items() if name not in judges and "Registry" not in name and not name.startswith("run-")
    }
    assert set(others.values()) == {story.first}  # storage, agent loops, reward workers, driver: nothing of training dies with the judges


def test_judges_come_back_on_the_new_node(story: Story) -> None:
    assert story.judges_afterwards == {story.new_second}
    assert story.back_at > story.lost_at


def test_the_run_went_on_without_judges_and_ended_with_a_checkpoint(story: Story) -> None:
    rows = harness.rows(story.run_dir)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert story.code == 0, story.log[-3000:]
    assert (story.run_dir / "checkpoints" / f"global_step_{len(rows)}" / "complete.json").exists()


def test_multipliers_of_judged_constraints_stand_still_while_nobody_judges(story: Story) -> None:
    lost = [row for row in harness.rows(story.run_dir) if row.get(COVERAGE, 1.0) < 0.9]
    assert lost
    for row in lost:
        assert row["constraint/consistency/frozen"] == 1.0
        assert row["constraint/consistency/multiplier_next"] == row["constraint/consistency/multiplier"]


def test_every_rollout_is_accounted_for(story: Story) -> None:
    """Each step has its 20 rollouts; each verdict is there or counted as missing, and none of them is a zero."""
    for row in harness.rows(story.run_dir):
        if row["guard/nonfinite_skipped"]:
            continue
        lines = (story.run_dir / "rollouts" / f"step_{row['step']:06d}.jsonl").read_text().splitlines()
        records = [json.loads(line)["columns"] for line in lines]
        assert len(records) == 20
        applicable = [one for one in records if one["accuracy"] > 0]
        scored = [one for one in applicable if one["consistency_scored"] == 1.0]
        assert row["constraint/consistency/applicable"] == len(scored)
        if applicable:
            assert row[COVERAGE] == pytest.approx(len(scored) / len(applicable))


def test_multipliers_are_read_by_another_process_with_their_step(story: Story) -> None:
    rows = harness.rows(story.run_dir)
    assert story.store["step"] >= 4
    (row,) = [row for row in rows if row["step"] == story.store["step"]]
    for name, value in story.store["multipliers"].items():
        assert row[f"constraint/{name}/multiplier_next"] == value


def test_judges_are_named_actors_of_their_own(story: Story) -> None:
    assert "multiplier-store" in set(story.store["actors"])
    judges = {name for name in set(story.store["actors"]) if re.fullmatch(r"run-\w+-(consistency|grounding)-0", name)}
    assert len(judges) == 2  # in a pool that bears the Ray job's name


def test_steps_with_nan_are_skipped_named_and_leave_the_weights_alone(story: Story) -> None:
    rows = {row["step"]: row for row in harness.rows(story.run_dir)}
    assert [rows[step]["guard/nonfinite_skipped"] for step in (1, 2, 3, 4)] == [0.0, 1.0, 1.0, 0.0]
    assert rows[3]["guard/nonfinite_in_a_row"] == 2.0
    assert [rows[step]["test/weights_changed"] for step in (1, 2, 3, 4)] == [1.0, 0.0, 0.0, 1.0]
    text = (story.run_dir / "logs" / "trainer.log").read_text(errors="replace")
    assert "step 2: update skipped, reward column 'task'" in text
    assert "step 3: update skipped, actor/" in text


def test_a_poisoned_step_moves_no_multiplier(story: Story) -> None:
    rows = {row["step"]: row for row in harness.rows(story.run_dir)}
    name = "constraint/spatial_grounding/multiplier"
    assert rows[3][name] == rows[2][name]


def test_the_reference_policy_had_a_pool_of_its_own_and_was_asked(story: Story) -> None:
    rows = harness.rows(story.run_dir)
    assert all(row["timing_s/ref"] > 0 for row in rows)
    assert any(row.get("actor/kl_loss", 0.0) > 0 for row in rows)
    assert "the reference policy runs in its own pool of [1] workers" in (story.run_dir / "logs" / "trainer.log").read_text(
        errors="replace"
    )
