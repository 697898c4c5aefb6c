"""One real run with everything that can go wrong in it, and the run's named actors seen from another process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import training_harness as harness

pytest.importorskip("vllm")
pytestmark = pytest.mark.integration

RUN = (
    "trainer.total_training_steps=50",
    "trainer.save_freq=-1",
    "faithful_rl.reference_policy.placement=own_pool",
    "ray_kwargs.ray_init.num_gpus=2",
    "ray_kwargs.ray_init.num_cpus=40",
)


@dataclass(frozen=True)
class Observed:
    run_dir: Path
    code: int
    log: str
    store: dict[str, Any]
    actors: set[str]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Observed:
    """Steps 2 and 3 are poisoned, then this process joins the cluster and looks around, then SIGTERM in the middle of the run."""
    root = tmp_path_factory.mktemp("guards")
    run_dir, log = root / "run", root / "log.txt"
    process = harness.start(harness.command_line(root / "scenes", run_dir, *RUN), log, runner="poisoned")
    harness.wait_until(lambda: len(harness.rows(run_dir)) >= 4, process, log)
    store, actors = look_around(run_dir)
    os.kill(process.pid, signal.SIGTERM)
    code = harness.finish(process, log)
    return Observed(run_dir, code, log.read_text(errors="replace"), store, actors)


def look_around(run_dir: Path) -> tuple[dict[str, Any], set[str]]:
    """What another process of this machine finds by name."""
    command = [sys.executable, "-m", "faithful_rl.verl_plugin.multiplier_store", str(run_dir)]
    environment = {**os.environ, "RAY_AUTH_MODE": "token"}
    found = subprocess.run(command, cwd=harness.PROJECT, env=environment, capture_output=True, text=True, timeout=300, check=True)
    store = json.loads(found.stdout.splitlines()[-1])
    return store, set(store["actors"])


def test_multipliers_are_read_by_another_process_with_their_step(observed: Observed) -> None:
    rows = harness.rows(observed.run_dir)
    assert observed.store["step"] >= 4
    (row,) = [row for row in rows if row["step"] == observed.store["step"]]
    for name, value in observed.store["multipliers"].items():
        assert row[f"constraint/{name}/multiplier_next"] == value


def test_judges_are_named_actors_of_their_own(observed: Observed) -> None:
    assert "multiplier-store" in observed.actors
    judges = {name for name in observed.actors if re.fullmatch(r"run-\w+-(consistency|grounding)-0", name)}
    assert len(judges) == 2  # in a pool that bears the Ray job's name


def test_steps_with_nan_are_skipped_named_and_leave_the_weights_alone(observed: Observed) -> None:
    rows = {row["step"]: row for row in harness.rows(observed.run_dir)}
    assert [rows[step]["guard/nonfinite_skipped"] for step in (1, 2, 3, 4)] == [0.0, 1.0, 1.0, 0.0]
    assert rows[3]["guard/nonfinite_in_a_row"] == 2.0
    assert [rows[step]["test/weights_changed"] for step in (1, 2, 3, 4)] == [1.0, 0.0, 0.0, 1.0]
    text = (observed.run_dir / "logs" / "trainer.log").read_text(errors="replace")
    assert "step 2: update skipped, reward column 'task'" in text
    assert "step 3: update skipped, actor/" in text


def test_a_poisoned_step_moves_no_multiplier(observed: Observed) -> None:
    rows = {row["step"]: row for row in harness.rows(observed.run_dir)}
    name = "constraint/spatial_grounding/multiplier"
    assert rows[3][name] == rows[2][name]


def test_sigterm_ends_with_a_checkpoint_of_the_last_step(observed: Observed) -> None:
    last = harness.rows(observed.run_dir)[-1]["step"]
    assert observed.code == 0, observed.log[-3000:]
    assert last < 50
    folder = observed.run_dir / "checkpoints" / f"global_step_{last}"
    assert json.loads((folder / "complete.json").read_text())["step"] == last


def test_the_reference_policy_had_a_pool_of_its_own_and_was_asked(observed: Observed) -> None:
    rows = harness.rows(observed.run_dir)
    assert all(row["timing_s/ref"] > 0 for row in rows)
    assert any(row.get("actor/kl_loss", 0.0) > 0 for row in rows)
    assert "the reference policy runs in its own pool of [1] workers" in (observed.run_dir / "logs" / "trainer.log").read_text(
        errors="replace"
    )
