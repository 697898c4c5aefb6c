"""Before a run: a design's tags are asked for by the data, puzzles are made where they are missing, pairs of a consistency model exist."""

import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from data_prep.puzzles.dataset import PuzzleDataSettings, write_puzzles
from faithful_rl.compose import compose_recipe
from faithful_rl.config import ConfigError, FaithfulRLConfig, from_node
from faithful_rl.main import resolved
from faithful_rl.preflight import batches, crm, designs, judges, rows
from faithful_rl.rewards.designs import DESIGNS

SMALL = [f"faithful_rl.data.puzzles.{name}=4" for name in ("train", "val", "test")]


def composed(*overrides: str) -> tuple[dict[str, Any], FaithfulRLConfig]:
    job = compose_recipe(list(overrides))
    return resolved(job), from_node(job.faithful_rl)


def test_puzzles_are_made_at_first_use_and_found_again(tmp_path: Path) -> None:
    config, typed = composed("recipe=puzzles_tiny", f"faithful_rl.data.puzzles.directory={tmp_path}", *SMALL)
    rows.prepare(config, typed)
    train = Path(config["data"]["train_files"])
    assert re.fullmatch(r"seed0-4-4-4-choice-112-none-[0-9a-f]{8}", train.parent.name)
    before = train.stat().st_mtime_ns
    rows.prepare(config, typed)
    assert train.stat().st_mtime_ns == before
    row = pq.read_table(train).to_pylist()[0]
    assert [message["role"] for message in row["prompt"]] == ["user"]
    (train.parent / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a data set of other settings"):
        rows.prepare(config, typed)


@pytest.mark.parametrize("setting", ["kinds=[maze]", "levels=[1]", "seed=1", "side=140", "answers=open", "prompt=think", "val=5"])
def test_puzzles_of_other_settings_lie_elsewhere(setting: str) -> None:
    first, _ = composed("recipe=puzzles_tiny")
    other, _ = composed("recipe=puzzles_tiny", f"faithful_rl.data.puzzles.{setting}")
    assert first["data"]["train_files"] != other["data"]["train_files"]
    assert Path(other["data"]["train_files"]).parent == Path(other["data"]["val_files"]).parent
    moved, _ = composed("recipe=puzzles_tiny", "faithful_rl.data.puzzles.directory=elsewhere")
    assert Path(moved["data"]["train_files"]).parent.name == Path(first["data"]["train_files"]).parent.name


@pytest.mark.parametrize("recipe", ["grpo_tiny", "design_mixture_tiny", "hras_tiny"])
def test_any_tiny_recipe_can_train_on_puzzles(recipe: str, tmp_path: Path) -> None:
    config, typed = composed(f"recipe={recipe}", "dataset=puzzles", f"faithful_rl.data.puzzles.directory={tmp_path}", *SMALL)
    batches.check(config, typed)
    rows.prepare(config, typed)
    designs.check(config, typed)  # the tiny policy reads no prompt
    assert (config["data"]["max_prompt_length"], config["data"]["max_response_length"]) == (384, 96)
    assert (typed.data.puzzles.side, typed.data.puzzles.prompt) == (112, "none")


def test_too_many_rows_for_a_kind_are_named(tmp_path: Path) -> None:
    config, typed = composed(
        "recipe=puzzles_tiny", f"faithful_rl.data.puzzles.directory={tmp_path}", "faithful_rl.data.puzzles.kinds=[clock]",
        "faithful_rl.data.puzzles.levels=[1]", "faithful_rl.data.puzzles.train=100",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="clock at levels"):
        rows.prepare(config, typed)


def test_the_tiny_puzzle_prompts_fit() -> None:
    pytest.importorskip("transformers")
    from data_prep.prompts import user_text
    from data_prep.puzzles.dataset import puzzle_records
    from faithful_rl.tiny.tokenizer import train_tokenizer

    config, typed = composed("recipe=puzzles_tiny")
    tokenizer = train_tokenizer()
    image_tokens = (typed.data.puzzles.side // 28) ** 2
    longest = max(
        len(tokenizer(user_text(record.question, record.options))["input_ids"])
        for record in puzzle_records(PuzzleDataSettings(train=40, side=112, prompt="none"), "train")
    )
    frame = 16  # roles, turns and the image's markers
    assert longest + image_tokens + frame <= config["data"]["max_prompt_length"]
    limits = config["data"]["max_prompt_length"] + config["data"]["max_response_length"]
    assert limits <= config["actor_rollout_ref"]["rollout"]["max_model_len"]


def test_data_that_do_not_ask_for_a_tag_are_refused(tmp_path: Path) -> None:
    write_puzzles(tmp_path / "p", PuzzleDataSettings(train=4, val=0, test=0, side=112, prompt="vanilla"))
    files = [f"data.train_files={tmp_path / 'p' / 'train.parquet'}", f"data.val_files={tmp_path / 'p' / 'train.parquet'}"]
    words = ["recipe=design_mixture_tiny", "faithful_rl.data.source=parquet", *files]
    with pytest.raises(ConfigError) as caught:
        designs.check(*composed(*words))
    assert "mixture, with prompts in" in str(caught.value)
    assert "that do not ask for <description>" in str(caught.value)
    assert "prompt=mixture" in str(caught.value)
    designs.check(*composed(*words, "faithful_rl.rewards.design=vanilla"))
    designs.check(*composed(*words, "faithful_rl.rewards.design=paper"))
    designs.check(*composed("recipe=design_mixture_tiny"))  # scenes: the tiny policy reads no prompt


def test_puzzles_that_do_not_ask_for_a_tag_are_refused(tmp_path: Path) -> None:
    place = [f"faithful_rl.data.puzzles.directory={tmp_path}", "faithful_rl.data.puzzles.side=112", *SMALL]
    tiny = ["recipe=design_mixture_tiny", "dataset=puzzles", *place]
    for words, missing in (
        (["recipe=design_mixture_7b", *place, "faithful_rl.data.puzzles.prompt=think"], "description"),
        ([*tiny, "faithful_rl.data.puzzles.prompt=think"], "description"),
        (["recipe=design_visual_fusion_7b", *place, "faithful_rl.data.puzzles.prompt=none"], "think"),  # a real model reads its prompt
    ):
        config, typed = composed(*words)
        rows.prepare(config, typed)
        with pytest.raises(ConfigError, match=f"that do not ask for <{missing}>") as caught:
            designs.check(config, typed)
        assert f"Set faithful_rl.data.puzzles.prompt={typed.rewards.design}" in str(caught.value)
    for words in (["recipe=design_mixture_7b", *place], tiny, [*tiny, "faithful_rl.data.puzzles.prompt=mixture"]):
        config, typed = composed(*words)
        rows.prepare(config, typed)
        designs.check(config, typed)


def test_an_unknown_design_is_named() -> None:
    with pytest.raises(ConfigError, match=r"faithful_rl.rewards.design: found 'mixtur', expected one of paper, vanilla"):
        composed("recipe=grpo_tiny", "faithful_rl.rewards.design=mixtur")


def test_missing_pairs_are_named() -> None:
    _, typed = composed("recipe=crm_large")
    with pytest.raises(ConfigError, match=r"faithful_rl.crm.pairs: found data/crm/pairs.parquet, which does not exist"):
        crm.check(typed)
    crm.check(composed("recipe=crm_tiny")[1])
    crm.check(composed("recipe=grpo_tiny")[1])


def test_a_missing_or_misplaced_consistency_model_is_named_by_its_key() -> None:
    _, typed = composed("recipe=cora_tiny", "faithful_rl.judges.consistency.options.model=models/absent")
    with pytest.raises(ConfigError) as caught:
        judges.check(typed)
    assert caught.value.key == "faithful_rl.judges.consistency.options.model"
    assert "models/absent, which is not a directory" in str(caught.value)
    _, typed = composed("recipe=grpo_tiny", "faithful_rl.judges.grounding.backend=classifier")
    with pytest.raises(ConfigError, match=r"faithful_rl.judges.grounding"):
        judges.check(typed)


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """Keys in full and values of a plain configuration, interpolations kept."""
    if isinstance(node, dict) and node:
        return {key: value for name, child in node.items() for key, value in leaves(child, f"{prefix}.{name}").items()}
    return {prefix.removeprefix("."): node}


@pytest.mark.parametrize("size", ["tiny", "7b"])
def test_the_six_designs_differ_in_their_design_only(size: str) -> None:
    plain = {name: leaves(OmegaConf.to_container(compose_recipe([f"recipe=design_{name}_{size}"]))) for name in DESIGNS}
    base = plain["vanilla"]
    for name, found in plain.items():
        assert found["faithful_rl.rewards.design"] == name
        different = {key for key in base.keys() | found.keys() if base.get(key) != found.get(key)}
        assert different <= {"faithful_rl.recipe", "faithful_rl.description", "faithful_rl.rewards.design"}


def test_the_designs_hyperparameters_are_the_papers() -> None:
    config, typed = composed("recipe=design_mixture_7b")
    actor, rollout, data = config["actor_rollout_ref"]["actor"], config["actor_rollout_ref"]["rollout"], config["data"]
    assert (actor["use_kl_loss"], config["algorithm"]["use_kl_in_reward"]) == (False, False)
    assert (actor["optim"]["lr"], data["train_batch_size"], config["trainer"]["total_training_steps"]) == (1e-6, 128, 500)
    assert (data["max_prompt_length"], data["max_response_length"], rollout["temperature"]) == (2048, 2048, 1.0)
    assert typed.data.puzzles.prompt == "mixture"
    assert compose_recipe(["recipe=design_mixture_tiny"]).actor_rollout_ref.actor.use_kl_loss is False


@pytest.mark.parametrize("size", ["tiny", "7b"])
def test_cora_is_hras_with_a_trained_judge(size: str) -> None:
    _, cora = composed(f"recipe=cora_{size}")
    _, hras = composed(f"recipe=hras_{size}")
    assert cora.advantage == hras.advantage
    assert cora.advantage.kind == "hras"
    assert cora.judges.consistency.backend == "classifier"
    assert cora.judges.ask_masked
    assert not cora.constraints
