"""verl's own training loop around our trainer, with the workers left out: when rows and checkpoints are written and how a run ends."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("verl")
import numpy as np
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import trainer_base
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from faithful_rl.compose import compose_recipe
from faithful_rl.config import from_node
from faithful_rl.constraints import ConstrainedProblem
from faithful_rl.metrics import read_metrics
from faithful_rl.stop_request import request_stop
from faithful_rl.verl_plugin import checkpoint, queue_io
from faithful_rl.verl_plugin.run_control import RunControl, settings_of
from faithful_rl.verl_plugin.step_guard import StepGuard
from faithful_rl.verl_plugin.trainer import FaithfulTrainerMixin
from faithful_rl.verl_plugin.watchdog import Watchdog


class Host(PPOTrainer):
    """verl's loop over steps that do nothing; `script` maps a step to the gradient norm it reports."""

    script: dict[int, float] = {}  # noqa: RUF012

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> KVBatchMeta:
        batch = KVBatchMeta(partition_id="train", keys=["a_0_0"], tags=[{"response_len": 3}])
        self._update_actor(batch, metrics=metrics)
        return batch

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        metrics["actor/grad_norm"] = self.script.get(self.global_steps, 1.0)
        return batch

    def _compute_metrics(self, *arguments: Any, **named: Any) -> None:
        self.events.append(f"metrics {self.global_steps}")

    def _save_checkpoint(self) -> None:
        self.events.append(f"save {self.global_steps}")
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}" / "actor"
        folder.mkdir(parents=True)
        (folder / "model.pt").write_bytes(b"weights")

    def on_step_end(self) -> None: ...

    def on_sample_end(self) -> None: ...


class Trainer(FaithfulTrainerMixin, Host):
    """Set up without workers."""

    def __init__(self, config: Any, run_dir: Path, mode: str = "sync") -> None:
        self.config, self.run_dir, self.trainer_mode = config, run_dir, mode
        self.settings = from_node(config.faithful_rl)
        self.problem = ConstrainedProblem.from_settings(settings_of(config.faithful_rl.constraints))
        self.guard = StepGuard(self.settings.stop_after_nonfinite_steps)
        self.control = RunControl(run_dir, Watchdog(run_dir, 600.0))
        self.events: list[str] = []
        self.prompts_drawn, self._identity, self._keep = 0, {}, 2
        self._updates, self._save_due, self._saved_step, self._writer, self._began = [], False, -1, None, 0.0
        self.global_steps, self.steps_per_epoch, self.total_training_steps = 0, 100, 6
        self.replay_buffer = SimpleNamespace(_wait_for_next_poll=lambda *arguments: 0.0)
        self._init_dump_executor()


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    monkeypatch.setattr(trainer_base.tq, "kv_clear", lambda **arguments: None)
    config = compose_recipe(
        ["recipe=fgrpo_tiny", f"faithful_rl.output_dir={tmp_path}", "trainer.logger=[]", "trainer.save_freq=3", "trainer.test_freq=-1"]
    )
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    config.faithful_rl.evaluation.at_start = config.faithful_rl.evaluation.at_end = False
    return Trainer(config, tmp_path)


def steps(trainer: Trainer) -> list[int]:
    return [int(row["step"]) for row in read_metrics(trainer.run_dir / "metrics.jsonl")]


def resumable(trainer: Trainer) -> str:
    folder = checkpoint.find_resumable(Path(trainer.config.trainer.default_local_dir))
    return folder.name if folder else ""


def test_a_row_is_on_disk_before_its_steps_checkpoint(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "_save_checkpoint", lambda self: self.events.append(f"rows {steps(self)}"))
    trainer.fit(None)
    assert [event for event in trainer.events if event.startswith("rows")] == ["rows [1, 2, 3]", "rows [1, 2, 3, 4, 5, 6]"]


def test_checkpoints_come_at_the_configured_steps_and_are_complete(trainer: Trainer) -> None:
    trainer.fit(None)
    assert [event for event in trainer.events if event.startswith("save")] == ["save 3", "save 6"]
    assert resumable(trainer) == "global_step_6"
    assert trainer.outcome == "finished"
    state = checkpoint.read_state(trainer.run_dir / "checkpoints" / "global_step_6")
    assert state["problem"]["version"] == 3
    assert state["problem"]["constraints"]["consistency"]["multiplier"] == {"kind": "dual_ascent", "value": 1.0}


def test_a_wish_to_stop_ends_the_run_after_the_step_with_a_checkpoint(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Host.step

    def step(self: Any, *arguments: Any) -> Any:
        if self.global_steps == 4:
            request_stop(self.run_dir, "SIGTERM")
        return original(self, *arguments)

    monkeypatch.setattr(Host, "step", step)
    trainer.fit(None)
    assert trainer.outcome == "stopped"
    assert steps(trainer) == [1, 2, 3, 4]
    assert resumable(trainer) == "global_step_4"


def test_a_step_is_saved_once_even_if_a_stop_and_the_schedule_meet(trainer: Trainer) -> None:
    request_stop(trainer.run_dir, "SIGTERM")
    trainer.config.trainer.save_freq = 1
    trainer.fit(None)
    assert [event for event in trainer.events if event.startswith("save")] == ["save 1"]


def test_three_broken_steps_in_a_row_stop_the_run_with_a_checkpoint(trainer: Trainer) -> None:
    trainer.script = {2: float("nan"), 4: float("inf"), 5: float("nan"), 6: float("nan")}
    trainer.total_training_steps = 20
    trainer.fit(None)
    assert trainer.outcome == "nonfinite"
    rows = read_metrics(trainer.run_dir / "metrics.jsonl")
    assert [row["guard/nonfinite_skipped"] for row in rows] == [0, 1, 0, 1, 1, 1]
    assert resumable(trainer) == "global_step_6"
    assert json.loads((trainer.run_dir / "checkpoints/global_step_6/faithful_rl.json").read_text())["nonfinite_in_a_row"] == 3


def test_a_rejected_step_does_not_reach_the_actor(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "_update_actor", lambda *arguments, **named: pytest.fail("the actor was updated"))
    trainer.guard.begin_step()
    trainer.guard.reject("an advantage is not finite")
    batch = KVBatchMeta(partition_id="train", keys=["a_0_0"], tags=[{}])
    assert trainer._update_actor(batch, metrics={}) is batch


def test_every_phase_is_left_again(trainer: Trainer) -> None:
    trainer.fit(None)
    assert trainer.control.watchdog._phases == []


def test_advantages_go_to_response_tokens_under_the_mask_only(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.nested.as_nested_tensor([torch.tensor([1, 1, 0]), torch.tensor([1])], layout=torch.jagged)
    written: dict[str, Any] = {}
    queue = SimpleNamespace(
        kv_batch_get=lambda **arguments: TensorDict({"response_mask": mask}, batch_size=2),
        kv_batch_put=lambda **arguments: written.update(arguments),
    )
    monkeypatch.setattr(queue_io, "tq", queue)
    queue_io.write_advantages(KVBatchMeta(partition_id="train", keys=["a_0_0", "b_0_0"], tags=[{}, {}]), np.array([0.5, -2.0]))
    for name in ("advantages", "returns"):
        assert [row.tolist() for row in written["fields"][name].unbind()] == [[0.5, 0.5, 0.0], [-2.0]]


def test_sources_are_read_only_where_a_threshold_depends_on_them(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = KVBatchMeta(partition_id="train", keys=["b_0_0", "a_0_0"], tags=[{}, {}])
    rewards = SimpleNamespace(rows=np.array([1, 0]))
    monkeypatch.setattr(queue_io, "read_objects", lambda keys, partition, fields: {"data_source": [f"of {key}" for key in keys]})
    assert trainer._sources(batch, rewards) is None
    node = settings_of(trainer.config.faithful_rl.constraints)
    node["consistency"]["by_source"] = {"vgr": 0.9}
    trainer.problem = ConstrainedProblem.from_settings(node)
    assert trainer._sources(batch, rewards) == ["of a_0_0", "of b_0_0"]
