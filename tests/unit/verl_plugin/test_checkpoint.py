"""Which checkpoint may be resumed, and that its state comes back bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest

from faithful_rl.config import ConstraintConfig, FaithfulRLConfig, MultiplierConfig, RewardsConfig
from faithful_rl.verl_plugin import checkpoint
from faithful_rl.verl_plugin.checkpoint import CheckpointError

IDENTITY = {"faithful_rl.recipe": "fgrpo_tiny", "faithful_rl.seed": 0}


def make(root: Path, step: int, complete: bool = True, **state: Any) -> Path:
    folder = root / f"global_step_{step}"
    checkpoint.write_state(folder, {"step": step, "identity": IDENTITY, **state})
    (folder / "actor").mkdir()
    (folder / "actor" / "model.pt").write_bytes(b"w" * 100)
    (folder / "data.pt").write_bytes(b"d" * 10)
    if complete:
        checkpoint.mark_complete(folder, step)
    return folder


def test_the_newest_complete_checkpoint_is_chosen(tmp_path: Path) -> None:
    make(tmp_path, 3)
    newest = make(tmp_path, 20)
    assert checkpoint.find_resumable(tmp_path) == newest  # 20 > 3 as numbers, not as text


def test_a_kill_before_the_marker_leaves_the_older_checkpoint_in_charge(tmp_path: Path) -> None:
    older = make(tmp_path, 3)
    half = make(tmp_path, 6, complete=False)
    assert checkpoint.find_resumable(tmp_path) == older
    with pytest.raises(CheckpointError, match=r"global_step_6 cannot be resumed: complete.json is missing"):
        checkpoint.read_usable(half, IDENTITY)


@pytest.mark.parametrize("damage", ["truncate", "remove", "marker"])
def test_a_damaged_checkpoint_is_never_chosen(tmp_path: Path, damage: str) -> None:
    older, newer = make(tmp_path, 3), make(tmp_path, 6)
    if damage == "truncate":
        (newer / "actor" / "model.pt").write_bytes(b"w" * 99)
    elif damage == "remove":
        (newer / "data.pt").unlink()
    else:
        (newer / checkpoint.COMPLETE_FILE).write_text('{"version": 1, "fil')
    assert checkpoint.find_resumable(tmp_path) == older


def test_verls_own_marker_is_not_consulted(tmp_path: Path) -> None:
    folder = make(tmp_path, 3)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("")  # a kill while verl writes it in place
    assert checkpoint.find_resumable(tmp_path) == folder


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert checkpoint.find_resumable(tmp_path) is None
    assert checkpoint.find_resumable(tmp_path / "absent") is None


def test_writing_a_folder_again_makes_it_incomplete_until_the_end(tmp_path: Path) -> None:
    folder = make(tmp_path, 3)
    checkpoint.write_state(folder, {"step": 3, "identity": IDENTITY})
    assert checkpoint.why_incomplete(folder) is not None


def test_another_recipes_checkpoint_is_refused_by_key(tmp_path: Path) -> None:
    folder = make(tmp_path, 3)
    mine = {"faithful_rl.recipe": "grpo_tiny", "faithful_rl.seed": 0, "faithful_rl.new": 1}
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read_usable(folder, mine)
    assert "faithful_rl.recipe: 'fgrpo_tiny' in the checkpoint, 'grpo_tiny' now" in str(caught.value)
    assert "faithful_rl.new: 'absent' in the checkpoint, 1 now" in str(caught.value)
    assert "faithful_rl.seed" not in str(caught.value)


def test_missing_multipliers_are_an_error(tmp_path: Path) -> None:
    folder = make(tmp_path, 3, complete=False)
    (folder / checkpoint.STATE_FILE).unlink()
    checkpoint.mark_complete(folder, 3)
    with pytest.raises(CheckpointError, match="multipliers are lost"):
        checkpoint.read_usable(folder, IDENTITY)


def test_floats_come_back_bit_for_bit(tmp_path: Path) -> None:
    value = 0.1 + 0.2 * 3**0.5
    folder = make(tmp_path, 3, value=value)
    assert checkpoint.read_usable(folder, IDENTITY)["value"] == value


def test_pruning_keeps_the_newest_complete_ones(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        make(tmp_path, step)
    make(tmp_path, 4, complete=False)
    removed = checkpoint.prune(tmp_path, keep=2)
    assert [folder.name for folder in removed] == ["global_step_1"]
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["global_step_2", "global_step_3", "global_step_4"]
    assert checkpoint.prune(tmp_path, keep=None) == []


def test_the_design_is_part_of_the_identity_where_there_is_one() -> None:
    plain, designed = FaithfulRLConfig(recipe="grpo_tiny"), FaithfulRLConfig(recipe="grpo_tiny", rewards=RewardsConfig("vanilla"))
    assert checkpoint.identity(designed, {}) == {**checkpoint.identity(plain, {}), "faithful_rl.rewards.design": "vanilla"}


def test_identity_holds_every_setting_of_every_constraint() -> None:
    constraint = ConstraintConfig(threshold=0.95, mask="accuracy", multiplier=MultiplierConfig(step_size=0.05))
    config = FaithfulRLConfig(recipe="fgrpo_tiny", constraints={"consistency": constraint})
    facts = checkpoint.identity(config, {"data.train_batch_size": 32})
    assert facts["faithful_rl.constraints.consistency.threshold"] == 0.95
    assert facts["faithful_rl.constraints.consistency.multiplier.step_size"] == 0.05
    assert facts["faithful_rl.constraints.consistency.threshold_schedule.kind"] == "constant"
    assert facts["faithful_rl.advantage.kind"] == "constrained"
    assert facts["data.train_batch_size"] == 32
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": {"adv_estimator": "gae"}}, "algorithm.adv_estimator: found 'gae', expected grpo"),
        ({"algorithm": {"use_kl_in_reward": True}}, "algorithm.use_kl_in_reward: found True, expected false"),
        ({"actor_rollout_ref": {"actor": {"checkpoint": {"async_save": True}}}}, "async_save: found True, expected false"),
    ],
)
def test_settings_that_would_break_a_promise_are_refused(change: dict[str, Any], message: str) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    base = {"algorithm": {"adv_estimator": "grpo", "use_kl_in_reward": False}, "actor_rollout_ref": {"actor": {"checkpoint": {}}}}
    checkpoint.refuse_unsupported(omegaconf.OmegaConf.create(base))
    with pytest.raises(ValueError, match=message):
        checkpoint.refuse_unsupported(omegaconf.OmegaConf.merge(base, change))


def test_a_checkpoint_written_by_an_older_version_is_refused_kindly(tmp_path: Path) -> None:
    folder = make(tmp_path, 3, complete=False)
    state = json.loads((folder / checkpoint.STATE_FILE).read_text())
    (folder / checkpoint.STATE_FILE).write_text(json.dumps({**state, "version": 1}))
    checkpoint.mark_complete(folder, 3)
    with pytest.raises(
        CheckpointError, match="has version 1, this code reads 2: continue the run with the version of faithful_rl that began it"
    ):
        checkpoint.read_usable(folder, IDENTITY)
