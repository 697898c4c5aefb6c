"""The recipes for GPU machines: verl's own validation takes them, roles sit where they say, one key chooses the attention kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from faithful_rl import compose, main
from faithful_rl.compose import RECIPES, list_recipes
from faithful_rl.preflight import batches, judges, machine

GPU = (  # every recipe that trains a policy on GPUs
    *(info.name for info in list_recipes() if info.name.endswith(("_2b", "_3b", "_7b", "_72b")) and not info.name.startswith("sft_")),
    *("fgrpo_7b_lora", "fgrpo_7b_megatron", "fgrpo_7b_sglang", "fgrpo_7b_reference_pool"),
    *("fgrpo_7b_colocate_async", "fgrpo_7b_separate_async"),
)
# GPUs of the whole run, judges included: one machine of eight, but for those that say so in their description.
GPUS = {
    **dict.fromkeys(GPU, 8),
    **{name: 4 + 1 for name in GPU if name.startswith("cora_")},  # the reward model sits on CPU cores
    "fgrpo_7b_lora": 1,
    "fgrpo_7b_separate_async": 8 + 8 + 4,
    "fgrpo_72b": 64 + 16 + 4,
}
CRM = "faithful_rl.judges.consistency.options.model=models/crm_tiny"  # in place of models/crm_large, which is not shipped
VALIDATE = """
import json, sys
from faithful_rl import main
from faithful_rl.config import ConfigError
from faithful_rl.preflight import plugin_active
found = {}
for recipe in sys.argv[1:]:
    job = main.prepare(["recipe=" + recipe])
    if job.typed.method not in ("grpo", "fgrpo"):  # verl's trainer does not run it
        continue
    try:
        plugin_active.verl_validation(main.resolved(job.composed))
        found[recipe] = ""
    except ConfigError as error:
        found[recipe] = str(error)
print("FOUND" + json.dumps(found))
"""


def composed(recipe: str, *overrides: str) -> tuple[main.Job, dict[str, Any]]:
    job = main.prepare([f"recipe={recipe}", *overrides])
    return job, main.resolved(job.composed)


def test_verls_own_validation_takes_every_recipe() -> None:
    """In one process of its own: importing verl's workers on a CPU needs our platform from the start."""
    environment = {**os.environ, "VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "faithful_rl.verl_plugin.plugin"}
    recipes = [info.name for info in list_recipes()]
    done = subprocess.run(
        [sys.executable, "-c", VALIDATE, *recipes], capture_output=True, text=True, check=False, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("FOUND")).removeprefix("FOUND"))
    assert {recipe: message for recipe, message in found.items() if message} == {}
    assert set(GPU) <= set(found)
    assert len(found) > 0.8 * len(recipes)  # the others are supervised, or train a judge


@pytest.mark.parametrize("recipe", GPU)
def test_batches_divide_judges_build_and_gpus_add_up(recipe: str) -> None:
    job, config = composed(recipe, *([CRM] if recipe.startswith("cora_") else []))
    batches.check(config, job.typed)
    judges.check(job.typed)
    assert job.typed.hardware.world == "gpu"
    assert machine.required_slots(config, job.typed).gpus == GPUS[recipe]


@pytest.mark.parametrize("recipe", GPU)
def test_a_recipe_says_in_its_header_that_it_was_not_run(recipe: str) -> None:
    header = (RECIPES / "recipe" / f"{recipe}.yaml").read_text().split("defaults:")[0].lower()
    assert "not run yet" in header


def test_judges_of_the_7b_recipe_have_gpus_of_their_own() -> None:
    job, config = composed("fgrpo_7b")
    groups = {group.what: (group.nodes, group.gpus) for group in machine.required_slots(config, job.typed).groups}
    assert groups == {"actor and rollout workers": (1, 4), "consistency judge": (1, 1.0), "grounding judge": (3, 1.0)}


@pytest.mark.parametrize("recipe", [name for name in GPU if name.endswith(("_2b", "_3b", "_7b"))])
def test_the_grounding_judge_is_asked_in_training_only_where_its_verdicts_enter_the_advantage(recipe: str) -> None:
    job, _ = composed(recipe)
    uses = {one.column or name for name, one in job.typed.constraints.items()} | set(job.typed.advantage.weights)
    assert job.typed.judges.grounding_in_training == ("semantic_grounding" in uses)


@pytest.mark.parametrize(
    ("installed", "choice", "kernels", "packed"),
    [
        (True, "auto", "flash_attention_2", True),
        (False, "auto", "sdpa", False),
        (True, "sdpa", "sdpa", False),
        (False, "flash_attention_2", "flash_attention_2", True),
    ],
)
def test_one_key_chooses_the_attention_kernels(
    installed: bool, choice: str, kernels: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = compose.importlib.util.find_spec
    monkeypatch.setattr(
        compose.importlib.util, "find_spec", lambda name: (object() if installed else None) if name == "flash_attn" else real(name)
    )
    _, config = composed("fgrpo_7b", f"faithful_rl.hardware.attention={choice}")
    model = config["actor_rollout_ref"]["model"]
    assert (model["override_config"]["attn_implementation"], model["use_remove_padding"]) == (kernels, packed)


def test_lora_leaves_the_vision_tower_alone() -> None:
    _, config = composed("fgrpo_7b_lora")
    model = config["actor_rollout_ref"]["model"]
    assert (model["lora_rank"], model["exclude_modules"]) == (64, ".*visual.*")
    assert model["override_config"]["freeze_vision_tower"] is True


@pytest.mark.parametrize(
    ("words", "gpus"),
    [
        (("hardware=h100x8",), 8 + 4),  # judges on a second machine
        (("hardware=h100x8", "judges=pool"), 8),
        (("hardware=h100x8", "judges=endpoint"), 8),
    ],
)
def test_eight_gpus_can_train_where_judges_are_elsewhere(words: tuple[str, ...], gpus: int) -> None:
    job, config = composed("fgrpo_7b", *words)
    batches.check(config, job.typed)
    assert machine.required_slots(config, job.typed).gpus == gpus


def test_megatron_is_its_own_tree() -> None:
    _, config = composed("fgrpo_7b_megatron")
    actor = config["actor_rollout_ref"]["actor"]
    assert (actor["strategy"], actor["megatron"]["tensor_model_parallel_size"], actor["megatron"]["param_offload"]) == ("megatron", 4, True)
    for role in ("actor", "ref"):  # the keys by which Megatron-Bridge's provider of Qwen2.5-VL freezes
        handed_on = config["actor_rollout_ref"][role]["megatron"]["override_transformer_config"]
        assert (handed_on["freeze_vision_model"], handed_on["freeze_vision_projection"]) == (True, True)
    assert "fsdp_config" not in actor
