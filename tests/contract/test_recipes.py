"""Every recipe composes on verl's tree and validates, is a small diff, and holds the paper's numbers where it says so."""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from faithful_rl import compose
from faithful_rl.compose import RECIPES, compose_recipe, list_recipes
from faithful_rl.config import DESIGNS, ConfigError, ScheduleConfig, from_node

TINY = ("fgrpo_tiny", "grpo_tiny", "fgrpo_fixed_tiny", "fgrpo_consistency_tiny", "fgrpo_pid_tiny")
# Rows of the paper's tables and the baselines beside them: they differ in the advantage too.
COMPOSED = ("additive", "multiplicative", "gdpo", "hras")
SIZES = ("tiny", "3b", "7b")
# How much the same judges are asked: as much as the method uses their verdicts. Nothing of it changes what they say.
ASKED = {f"faithful_rl.judges.{key}" for key in ("ask_masked", "grounding_in_training", "consistency.replicas", "grounding.replicas")}
# One recipe that uses each file of the groups, to see what the file changes there.
USERS = {
    "main.yaml": "fgrpo_tiny",
    "constraints/fgrpo.yaml": "fgrpo_tiny",
    "constraints/fixed.yaml": "fgrpo_fixed_tiny",
    "constraints/consistency.yaml": "fgrpo_consistency_tiny",
    "constraints/pid.yaml": "fgrpo_pid_tiny",
    "advantage/constrained.yaml": "fgrpo_tiny",
    "advantage/dr_grpo.yaml": "dr_grpo_tiny",
    "advantage/summed.yaml": "cora_summed_tiny",
    **{f"advantage/{kind}.yaml": f"{kind}_tiny" for kind in COMPOSED},
    "dataset/scenes.yaml": "fgrpo_tiny",
    "dataset/rl_49k.yaml": "fgrpo_7b",
    "dataset/puzzles.yaml": "design_vanilla_7b",
    "fit/puzzles_tiny.yaml": "puzzles_tiny",
    "hardware/cpu.yaml": "fgrpo_tiny",
    "training_engine/fsdp2.yaml": "fgrpo_tiny",
    "training_engine/fsdp2_offload.yaml": "fgrpo_7b",
    "training_engine/megatron.yaml": "fgrpo_7b_megatron",
    "hardware/gpu.yaml": "fgrpo_7b",
    "hardware/h100x4.yaml": "fgrpo_7b",
    "hardware/h100x8.yaml": "fgrpo_7b_separate_async",
    "hardware/h100x1.yaml": "fgrpo_7b_lora",
    "hardware/h100x64.yaml": "fgrpo_72b",
    "judges/endpoint.yaml": "fgrpo_7b_lora",
    "model/qwen2_5_vl_72b.yaml": "fgrpo_72b",
    "model/qwen2_5_vl_3b.yaml": "fgrpo_3b",
    "model/qwen2_vl_7b.yaml": "cora_qwen2_vl_7b",
    "model/qwen2_vl_2b.yaml": "cora_qwen2_vl_2b",
    "judges/scene.yaml": "fgrpo_tiny",
    "judges/qwen3_vl_30b.yaml": "fgrpo_7b",
    "judges/qwen3_vl_30b_consistency.yaml": "grpo_7b",
    "judges/crm_tiny.yaml": "cora_tiny",
    "judges/crm_large.yaml": "cora_7b",
    "model/tiny.yaml": "fgrpo_tiny",
    "model/qwen2_5_vl_7b.yaml": "fgrpo_7b",
    "recipe/rl_tiny.yaml": "fgrpo_tiny",
    "recipe/rl_7b.yaml": "fgrpo_7b",
    "recipe/designs_tiny.yaml": "design_vanilla_tiny",
    "recipe/designs_3b.yaml": "design_vanilla_3b",
    "recipe/designs_7b.yaml": "design_vanilla_7b",
    "sft.yaml": "sft_scenes_tiny",
    "sft_hardware/cpu.yaml": "sft_scenes_tiny",
    "sft_hardware/a100x4.yaml": "sft_7b",
    "sft_model/tiny.yaml": "sft_scenes_tiny",
    "sft_model/qwen2_5_vl_3b.yaml": "sft_3b",
    "sft_model/qwen2_5_vl_7b.yaml": "sft_7b",
    "sft_model/qwen2_5_vl_72b.yaml": "sft_72b",
    "recipe/sft_qwen.yaml": "sft_7b",
    **{f"recipe/{info.name}.yaml": info.name for info in list_recipes()},
}


@functools.cache
def whole(recipe: str) -> DictConfig:
    """A recipe as it is, composed once for all tests; not to be changed by them."""
    return compose_recipe([f"recipe={recipe}"])


def test_the_recipes_that_were_promised_are_there() -> None:
    assert {info.name for info in list_recipes()} >= {*TINY, "sft_tiny", "fgrpo_7b", "grpo_7b"}
    assert all(20 < len(info.description) < 120 for info in list_recipes())


@pytest.mark.parametrize("recipe", [info.name for info in list_recipes()])
def test_a_recipe_composes_resolves_and_validates(recipe: str) -> None:
    composed = whole(recipe)
    typed = from_node(composed.faithful_rl)
    assert typed.recipe == recipe
    OmegaConf.to_container(composed, resolve=True)  # raises where an interpolation points nowhere


@pytest.mark.parametrize("size", SIZES)
def test_every_row_of_the_papers_tables_is_a_recipe(size: str) -> None:
    rows = ("grpo", "dr_grpo", "additive", "multiplicative", "fgrpo_consistency", "fgrpo_fixed", "fgrpo", "fgrpo_pid")
    cora = ("cora", "cora_summed", "hras")  # the whole of it, without HRAS, and without its reward model
    designs = tuple(f"design_{name}" for name in DESIGNS if name != "paper")
    assert {f"{row}_{size}" for row in (*rows, *COMPOSED, *cora, *designs)} <= {info.name for info in list_recipes()}


def test_the_table_of_rows_in_the_docs_names_recipes_that_exist_and_every_row() -> None:
    text = (RECIPES.parents[1] / "docs" / "methods" / "README.md").read_text()
    table = text.split("## Which row of which table is which recipe")[1].split("\n## ")[0]
    named = [name for line in table.splitlines() if line.startswith("|") for name in re.findall(r"`([a-z0-9_]+(?:_SIZE)?)`", line)]
    assert all(name.endswith(("_SIZE", "_2b", "_7b")) for name in named)
    spelled = {name.replace("SIZE", size) for name in named for size in SIZES}
    recipes = {info.name for info in list_recipes()}
    assert spelled <= recipes
    rows = ("grpo", "additive", "multiplicative", "fgrpo_consistency", "fgrpo_fixed", "fgrpo", "cora", "cora_summed", "hras")
    wanted = {*rows, *(f"design_{name}" for name in DESIGNS if name != "paper")}
    assert {f"{row}_{size}" for row in wanted for size in SIZES} <= spelled
    # and no other method of these sizes is left out
    assert {
        name for name in recipes if name.startswith(("cora", "hras", "design", "grpo", "additive", "multiplicative", "gdpo"))
    } <= spelled


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_designs_take_the_steps_that_their_paper_names(size: str) -> None:
    composed = whole(f"design_vanilla_{size}")
    typed = from_node(composed.faithful_rl)
    steps = typed.data.puzzles.train // composed.data.train_batch_size  # of one epoch
    assert composed.trainer.total_epochs * steps >= composed.trainer.total_training_steps == 500
    assert (composed.data.train_batch_size, composed.data.max_prompt_length, composed.data.max_response_length) == (128, 2048, 2048)
    assert not composed.actor_rollout_ref.actor.use_kl_loss
    assert typed.data.puzzles.prompt == typed.rewards.design == "vanilla"  # the policy is asked for what it is paid for


@pytest.mark.parametrize("size", SIZES)
def test_cora_without_hras_differs_from_cora_in_the_advantage_only(size: str) -> None:
    ours, base = raw(whole(f"cora_summed_{size}")), raw(whole(f"cora_{size}"))
    different = {key for key in ours.keys() | base.keys() if ours.get(key) != base.get(key)}
    assert {key for key in different if not key.startswith("faithful_rl.advantage")} == {"faithful_rl.recipe", "faithful_rl.description"}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", COMPOSED)
def test_a_composed_baseline_differs_from_grpo_in_the_advantage_only(kind: str, size: str) -> None:
    ours, base = raw(whole(f"{kind}_{size}")), raw(whole(f"grpo_{size}"))
    different = {key for key in ours.keys() | base.keys() if ours.get(key) != base.get(key)}
    allowed = {"faithful_rl.recipe", "faithful_rl.description", *ASKED}
    assert {key for key in different if not key.startswith("faithful_rl.advantage")} <= allowed


def test_any_recipe_can_use_a_pool_that_serves_already() -> None:
    typed = from_node(compose_recipe(["recipe=fgrpo_tiny", "judges=pool"]).faithful_rl)
    assert typed.judges.pool == "default"
    assert not typed.judges.ask_masked  # its verdicts may cost something
    assert typed.judges.consistency.timeout_seconds is typed.judges.grounding.timeout_seconds is None  # the pool knows how slow it is


def files() -> Iterator[str]:
    for path in sorted(RECIPES.rglob("*.yaml")):
        if path.name not in ("none.yaml", "pool.yaml"):  # chosen on the command line, by no recipe
            yield path.relative_to(RECIPES).as_posix()


def leaves(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def raw(composed: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(plain, dict)
    return dict(leaves({str(name): value for name, value in plain.items()}))


@pytest.mark.parametrize("file", list(files()))
def test_a_recipe_repeats_no_default(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the file's own lines every one of its keys must have another value."""
    recipe = USERS[file]
    text = (RECIPES / file).read_text()
    body = yaml.safe_load(text)
    defaults = body.pop("defaults", None)
    package = "faithful_rl." if "# @package faithful_rl" in text else ""
    changed = tmp_path / "recipes"
    shutil.copytree(RECIPES, changed)
    header = text.splitlines()[0] if text.startswith("# @package") else ""
    (changed / file).write_text(header + "\n" + (yaml.safe_dump({"defaults": defaults}, sort_keys=False) if defaults else "{}\n"))
    method = compose._method([f"recipe={recipe}"])  # the tree stays the one that the recipe stands on
    monkeypatch.setattr(compose, "RECIPES", changed)
    monkeypatch.setattr(compose, "_check_recipe_name", lambda overrides: None)
    monkeypatch.setattr(compose, "_method", lambda overrides: method)
    without = raw(compose_recipe([f"recipe={recipe}"]))
    repeated = [key for key, value in leaves(body, package) if key in without and without[key] == value]
    assert repeated == [], f"{file} repeats what holds without it"


def test_fgrpo_7b_has_the_papers_hyperparameters() -> None:
    composed = compose_recipe(["recipe=fgrpo_7b"])
    typed = from_node(composed.faithful_rl)
    assert {name: c.threshold for name, c in typed.constraints.items()} == {
        "consistency": 0.95,
        "semantic_grounding": 0.95,
        "spatial_grounding": 0.65,
    }
    assert {name: c.mask for name, c in typed.constraints.items()} == {
        "consistency": "accuracy",
        "semantic_grounding": "accuracy",
        "spatial_grounding": "has_reference_boxes",
    }
    for constraint in typed.constraints.values():
        m = constraint.multiplier
        assert (m.kind, m.start, m.step_size, m.maximum, m.min_applicable) == ("dual_ascent", 1.0, 0.05, 5.0, 8)
    for judge in (typed.judges.consistency, typed.judges.grounding):
        assert (judge.backend, judge.options["model"], judge.num_gpus) == ("vllm", "Qwen/Qwen3-VL-30B-A3B-Instruct", 1)
    assert not typed.judges.ask_masked
    actor, rollout, data = composed.actor_rollout_ref.actor, composed.actor_rollout_ref.rollout, composed.data
    assert (rollout.n, rollout.temperature) == (5, 1.0)
    assert (data.train_batch_size, actor.ppo_mini_batch_size) == (128, 64)
    assert (actor.optim.optimizer, actor.optim.lr, actor.optim.weight_decay, actor.optim.clip_grad) == ("AdamW", 1e-6, 0.01, 1.0)
    assert (actor.clip_ratio_low, actor.clip_ratio_high) == (0.2, 0.28)
    assert (actor.use_kl_loss, actor.kl_loss_coef, actor.kl_loss_type) == (True, 0.01, "low_var_kl")
    assert (data.max_prompt_length, data.max_response_length) == (8192, 1024)
    assert composed.trainer.total_epochs == 3
    assert composed.trainer.total_training_steps is None
    assert composed.actor_rollout_ref.model.override_config.freeze_vision_tower is True


def test_grpo_7b_differs_from_fgrpo_7b_in_the_constraints_and_in_how_much_is_judged() -> None:
    ours, baseline = raw(compose_recipe(["recipe=fgrpo_7b"])), raw(compose_recipe(["recipe=grpo_7b"]))
    different = {key for key in ours.keys() | baseline.keys() if ours.get(key) != baseline.get(key)}
    assert {key for key in different if not key.startswith("faithful_rl.constraints")} == {
        "faithful_rl.recipe",
        "faithful_rl.description",
        "faithful_rl.method",
        *(ASKED - {"faithful_rl.judges.ask_masked"}),
    }


@pytest.mark.parametrize("recipe", TINY)
def test_the_tiny_recipes_share_everything_but_their_constraints(recipe: str) -> None:
    ours, base = raw(whole(recipe)), raw(whole("fgrpo_tiny"))
    different = {key for key in ours.keys() | base.keys() if ours.get(key) != base.get(key)}
    names = {"faithful_rl.recipe", "faithful_rl.description", "faithful_rl.method"}
    assert {key for key in different if not key.startswith("faithful_rl.constraints")} <= names


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "recipe: found nothing, expected one of "),
        (["recipe=fgrpo_tini"], "Did you mean fgrpo_tiny?"),
        (["recipe=rl_tiny"], "recipe: found 'rl_tiny', expected the name of a recipe. Did you mean "),
        (
            ["recipe=fgrpo_tiny", "constraints=fgrp"],
            "constraints: found 'fgrp', expected one of consistency, fgrpo, fixed, none, pid, or a file",
        ),
        (["recipe=fgrpo_tiny", "trainer.total_training_stepz=5"], "trainer.total_training_stepz: found a key that does not exist"),
        (["recipe=fgrpo_tiny", "trainer.total_training_stepz=5"], "Did you mean total_training_steps?"),
        (["recipe=fgrpo_tiny", "faithful_rl.sed=5"], "faithful_rl.sed: found a key that does not exist"),
        (
            ["recipe=fgrpo_tiny", "faithful_rl.constraints.consistancy.threshold=0.5"],
            "without mask, expected one of consistency, semantic_",
        ),
        (["recipe=fgrpo_tiny", "faithful_rl.constraints.consistancy.threshold=0.5"], "Did you mean consistency?"),
        (["recipe=fgrpo_tiny", "faithful_rl.constraints.consistency.multiplier.schedule.knd=linear"], "Did you mean kind?"),
        (["recipe=fgrpo_tiny", "faithful_rl.constraints.consistency.threshold=high"], "found 'high', expected a value of its type"),
        (["recipe=fgrpo_tiny", "faithful_rl.constraints.consistency.threshold=0.5,0.9"], "found '0.5,0.9', expected one value"),
        (["recipe=fgrpo_tiny", "faithful_rl.constraints.consistency=null"], "constraints.consistency: found None, expected a value"),
        (["recipe=fgrpo_tiny", "faithful_rl.constraints.consistency.treshold=0.5"], "Did you mean threshold?"),
        (["recipe=fgrpo_tiny", "faithful_rl.seed=abc"], "faithful_rl.seed: found 'abc', expected a value of its type"),
        (
            ["recipe=fgrpo_tiny", "trainer.total_training_steps=many"],
            "trainer.total_training_steps: found 'many', expected a whole number.",
        ),
        (["recipe=fgrpo_tiny", "data.train_batch_size=2.5"], "data.train_batch_size: found 2.5, expected a whole number."),
        (
            ["recipe=fgrpo_tiny", "actor_rollout_ref.actor.use_kl_loss=1"],
            "actor_rollout_ref.actor.use_kl_loss: found 1, expected true or false.",
        ),
        (["recipe=fgrpo_tiny", "+data.train_batchsize=2"], "data.train_batchsize: found a key that verl does not have"),
        (["recipe=fgrpo_tiny", "a b"], "command line: found 'a b', expected key=value."),
    ],
)
def test_a_mistake_on_the_command_line_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_recipe(overrides)
    assert message in str(caught.value)


def test_a_constraint_of_ones_own_can_be_declared_on_the_command_line() -> None:
    name = "faithful_rl.constraints.response_tokens"
    words = ["recipe=fgrpo_tiny", f"+{name}={{threshold:60,mask:none,direction:at_most}}", f"+{name}.multiplier.step_size=0.1"]
    own = from_node(compose_recipe(words).faithful_rl).constraints["response_tokens"]
    assert (own.threshold, own.mask, own.direction, own.multiplier.step_size, own.multiplier.maximum) == (60.0, "none", "at_most", 0.1, 5.0)
    for wrong, message in (
        (f"+{name}={{treshold:60}}", f"{name}.treshold: found a key that does not exist, expected one of threshold, mask"),
        (f"{name}.threshold=60", "found a constraint that the recipe does not have, without mask"),
        (f"+{name}={{threshold:60", "expected key=value"),
    ):
        with pytest.raises(ConfigError) as caught:
            compose_recipe(["recipe=fgrpo_tiny", wrong])
        assert message in str(caught.value)


@pytest.mark.parametrize("plus", ["", "+"])
def test_entries_of_the_users_own_need_no_plus(plus: str) -> None:
    """A node that is unset by default, names of the user's own, and a new constraint, whole or key by key."""
    ours, own, length = (f"{plus}faithful_rl.constraints.{name}" for name in ("consistency", "semantic_grounding", "response_tokens"))
    words = [
        f"{ours}.multiplier.kind=schedule", f"{ours}.multiplier.schedule={{kind: linear, start: 0, end: 1, steps: 20}}",
        f"{own}.multiplier.kind=schedule", f"{own}.multiplier.schedule.kind=cosine", f"{own}.multiplier.schedule.end=2",
        f"{own}.multiplier.schedule.steps=9", f"{own}.by_source.scenes=0.9",
        f"{length}={{threshold: 60, mask: none, direction: <=}}",
        f"{plus}faithful_rl.constraints.box_count.column=predicted_box_count", f"{plus}faithful_rl.constraints.box_count.threshold=1",
        f"{plus}faithful_rl.constraints.box_count.mask=none", f"{plus}faithful_rl.constraints.box_count.direction=<=",
    ]  # fmt: skip
    found = from_node(compose_recipe(["recipe=fgrpo_tiny", *words]).faithful_rl).constraints
    assert found["consistency"].multiplier.schedule == ScheduleConfig("linear", 0.0, 1.0, 0, 20)
    assert found["semantic_grounding"].multiplier.schedule == ScheduleConfig("cosine", 1.0, 2.0, 0, 9)
    assert found["semantic_grounding"].by_source == {"scenes": 0.9}
    assert (found["response_tokens"].threshold, found["response_tokens"].direction) == (60.0, "at_most")
    assert (found["box_count"].column, found["box_count"].direction) == ("predicted_box_count", "at_most")
    assert list(found) == ["consistency", "semantic_grounding", "spatial_grounding", "response_tokens", "box_count"]


@pytest.mark.parametrize("plus", ["", "+"])
def test_what_the_message_about_a_missing_schedule_advises_works(plus: str) -> None:
    words = ["recipe=fgrpo_tiny", "faithful_rl.constraints.consistency.multiplier.kind=schedule"]
    with pytest.raises(ConfigError) as caught:
        from_node(compose_recipe(words).faithful_rl)
    advised = re.search(r"'(faithful_rl\..*)'", caught.value.fix)
    assert advised is not None
    assert from_node(compose_recipe([*words, plus + advised.group(1)]).faithful_rl).constraints["consistency"].multiplier.schedule


OWN = """# Mine.
defaults: [consistency, _self_]
constraints:
  response_tokens: {threshold: 60, mask: none, direction: <=}
  consistency: {multiplier: {kind: schedule, schedule: {kind: linear, start: 0, end: 1, steps: 20}}}
"""


def test_constraints_may_lie_in_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(OWN)
    words = ["recipe=fgrpo_tiny", f"constraints={path}", "faithful_rl.constraints.response_tokens.threshold=50"]
    found = from_node(compose_recipe(words).faithful_rl).constraints
    assert {name: (one.threshold, one.direction, one.multiplier.kind) for name, one in found.items()} == {
        "consistency": (0.95, "at_least", "schedule"), "response_tokens": (50.0, "at_most", "dual_ascent"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "mine.yaml (No such file or directory)"),
        ("constraints: [", "which is no YAML"),
        ("response_tokens: {threshold: 60}", "without a mapping constraints:"),
        ("faithful_rl: {}\nconstraints: {}", "Leave out faithful_rl: keys stand at the file's top."),
        (OWN.replace("threshold", "treshold"), "constraints.response_tokens.treshold: found a key that does not exist in "),
        (OWN.replace("60", "sixty"), "response_tokens.threshold: found a problem"),
        (OWN.replace("[consistency", "[consistence"), "expected _self_ and some of consistency, fgrpo, fixed, none, pid"),
    ],
)
def test_a_file_of_constraints_that_is_not_right_is_named(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        compose_recipe(["recipe=fgrpo_tiny", f"constraints={path}"])
    assert message in str(caught.value)
    assert "mine.yaml" in str(caught.value)


def test_a_typing_error_in_a_recipe_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = tmp_path / "recipes"
    shutil.copytree(RECIPES, changed)
    file = changed / "recipe" / "rl_tiny.yaml"
    file.write_text(file.read_text().replace("train_batch_size", "train_batch_sise"))
    monkeypatch.setattr(compose, "RECIPES", changed)
    with pytest.raises(ConfigError) as caught:
        compose_recipe(["recipe=grpo_tiny"])
    assert caught.value.key == "data.train_batch_sise"
    assert "Did you mean train_batch_size?" in str(caught.value)


def test_open_nodes_and_fields_without_yaml_are_handed_on() -> None:
    composed = compose_recipe(
        ["recipe=fgrpo_tiny", "+actor_rollout_ref.rollout.engine_kwargs.vllm.seed=1", "+ray_kwargs.ray_init.dashboard_port=8300"]
    )
    assert composed.ray_kwargs.ray_init.dashboard_port == 8300


def test_fields_without_yaml_are_fields_of_verls_dataclasses() -> None:
    """In a process of its own: importing verl's workers on a CPU needs our platform from the start."""
    code = (
        "from verl.workers.config import FSDPEngineConfig, RolloutConfig\n"
        "print(*FSDPEngineConfig.__dataclass_fields__, *(f'rollout.{name}' for name in RolloutConfig.__dataclass_fields__))"
    )
    environment = {**os.environ, "VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "faithful_rl.verl_plugin.plugin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300, env=environment)
    fields = set(done.stdout.split())
    for key in compose.FIELDS_WITHOUT_YAML:
        name = key.rpartition(".")[2]
        assert (f"rollout.{name}" if ".rollout." in key else name) in fields
