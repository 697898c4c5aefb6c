"""Values of verl's tree that verl would take, or meet in the middle of a sum: each is refused by its key."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest

from faithful_rl import main
from faithful_rl.config import ConfigError
from faithful_rl.preflight import values

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
UNITS = "transfer_queue.backend.SimpleStorage.num_data_storage_units"


@functools.cache
def job() -> main.Job:
    return main.prepare(["recipe=fgrpo_tiny"])


def config(**changes: Any) -> dict[str, Any]:
    """The recipe's tree with `changes`, whose dots are written as `__`."""
    tree = copy.deepcopy(main.resolved(job().composed))
    for name, value in changes.items():
        *parents, leaf = name.split("__")
        functools.reduce(dict.__getitem__, parents, tree)[leaf] = value
    return tree


CASES: dict[str, tuple[str, Any, str]] = {
    # What had been a traceback.
    "a server of no GPU": (f"{ROLLOUT}.tensor_model_parallel_size", 0, "found 0, expected a whole number >= 1. Change it."),
    "workers by null": ("trainer.n_gpus_per_node", None, "found null, expected a whole number >= 1. Change it."),
    "a group by null": (f"{ROLLOUT}.n", None, "found null, expected a whole number >= 1. Change it."),
    "a batch by null": ("data.train_batch_size", None, "found null, expected a whole number >= 1. Change it."),
    "checkpoints by null": ("trainer.save_freq", None, "found null, expected a whole number >= -1. Change it."),
    "processors by a word": ("ray_kwargs.ray_init.num_cpus", "abc", "found 'abc', expected a number >= 1, or null. Change it."),
    "a truth value is no number": (f"{ACTOR}.ppo_mini_batch_size", True, "found True, expected a whole number >= 1. Change it."),
    # What had passed.
    "no epoch of updates": (f"{ACTOR}.ppo_epochs", 0, "found 0, expected a whole number >= 1. Change it."),
    "a negative clip": (f"{ACTOR}.clip_ratio", -3, "found -3, expected a number > 0. Change it."),
    "a negative penalty": (f"{ACTOR}.kl_loss_coef", -1, "found -1, expected a number >= 0. Change it."),
    "a penalty that is none": (f"{ACTOR}.kl_loss_coef", float("nan"), "found nan, expected a number >= 0. Change it."),
    "fewer than no checkpoints": ("trainer.max_actor_ckpt_to_keep", -1, "found -1, expected a whole number >= 1, or null. Change it."),
    "a queue without storage": (UNITS, 0, "found 0, expected a whole number >= 1. Change it."),
    "more than the whole GPU": (f"{ROLLOUT}.gpu_memory_utilization", 1.5, "found 1.5, expected a number in (0, 1]. Change it."),
    "an unknown logger": ("trainer.logger", ["wandbx"], "found 'wandbx', expected one of tensorboard, console, file, wandb, mlflow"),
    "one logger that is unknown": ("trainer.logger", "wandbx", "found 'wandbx', expected one of tensorboard, console, file, wandb, mlflow"),
    "a mode that verl has removed": (f"{ROLLOUT}.mode", "sync", f"found 'sync', expected one of async. Set {ROLLOUT}.mode=async."),
    "a type that no server has": (f"{ROLLOUT}.dtype", "int3", "found 'int3', expected one of auto, float32, float, bfloat16"),
    "a type that no worker has": (f"{ACTOR}.fsdp_config.model_dtype", "bf17", "found 'bf17', expected one of fp32, float32, bf16"),
    "an engine that a CPU lacks": (f"{ACTOR}.strategy", "fsdp3", "found 'fsdp3', expected fsdp2, because the CPU world has only FSDP2."),
}


@pytest.mark.parametrize("name", CASES)
def test_a_value_out_of_range_is_named(name: str) -> None:
    key, value, message = CASES[name]
    with pytest.raises(ConfigError) as caught:
        values.check(config(**{key.replace(".", "__"): value}), job().typed)
    assert str(caught.value).startswith(f"{key}: {message}")


def test_what_the_recipe_says_passes_and_so_do_verls_ways_to_say_never() -> None:
    values.check(config(), job().typed)
    values.check(config(trainer__save_freq=0, trainer__test_freq=-1, trainer__max_actor_ckpt_to_keep=None), job().typed)
    values.check(config(trainer__logger="console", trainer__total_training_steps=None), job().typed)


@pytest.mark.parametrize("recipe", ["fgrpo_7b", "fgrpo_7b_megatron", "fgrpo_7b_sglang", "fgrpo_7b_separate_async"])
def test_recipes_for_gpus_pass(recipe: str) -> None:
    other = main.prepare([f"recipe={recipe}"])
    values.check(main.resolved(other.composed), other.typed)


def test_engines_of_gpus_are_those_that_exist() -> None:
    other = main.prepare(["recipe=fgrpo_7b"])
    tree = main.resolved(other.composed)
    tree["actor_rollout_ref"]["actor"]["strategy"] = "fsdp3"
    with pytest.raises(ConfigError, match=r"actor\.strategy: found 'fsdp3', expected one of fsdp2, fsdp, megatron"):
        values.check(tree, other.typed)


@pytest.fixture
def environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command sets variables for the rest of its process, which here is that of other tests as well."""
    monkeypatch.setattr(main, "set_environment", lambda typed, run_dir: None)


@pytest.mark.usefixtures("environment_stays")
def test_a_mistake_ends_the_command_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["recipe=fgrpo_tiny", "mode=check", f"{ROLLOUT}.n=null"]) == 2
    assert capsys.readouterr().err == f"error: {ROLLOUT}.n: found null, expected a whole number >= 1. Change it.\n"


@pytest.mark.usefixtures("environment_stays")
def test_megatron_on_a_cpu_is_named_for_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["recipe=fgrpo_tiny", "mode=check", "training_engine=megatron"]) == 2
    assert "training_engine: found 'megatron', expected fsdp2, because the CPU world has only FSDP2." in capsys.readouterr().err


def test_an_unknown_recipe_gets_its_proposal_before_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["recipe=fgrpo_tini"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: recipe: found 'fgrpo_tini', expected the name of a recipe. Did you mean fgrpo_tiny? There are ")
    assert "gdpo_(3b|7b|tiny)" in told
