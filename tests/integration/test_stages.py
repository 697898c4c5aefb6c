"""Scenes -> tree search with the scripted teacher -> supervised fine-tuning through verl -> reinforcement learning, each a few steps.

Every stage begins from what the one before it wrote, and its record repeats what the manifest there says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import training_harness as harness

from data_prep.__main__ import main as data_prep
from faithful_rl.provenance import sha256

pytest.importorskip("vllm")
pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

QUESTIONS = 24
SFT_STEPS, RL_STEPS = 4, 2


@dataclass(frozen=True)
class Stages:
    scenes: Path
    chains: Path
    sft: Path
    rl: Path


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    root = tmp_path_factory.mktemp("stages")
    log = root / "log.txt"
    assert data_prep(["scenes", f"out={root / 'scenes'}", f"train={QUESTIONS}", "val=2", "test=2"]) == 0
    # Direct chains only: the sentence that turns back is no word of the tiny model's language, and four steps cannot teach it.
    assert data_prep(["mcts", f"in={root / 'scenes'}", f"out={root / 'chains'}", "teacher=scene", "corrected=0", "pages=1"]) == 0
    supervised = [
        "recipe=sft_scenes_tiny",
        "faithful_rl.data.source=parquet",
        f"data.train_files={root / 'chains' / 'train.parquet'}",
        "data.train_batch_size=8",
        f"trainer.total_training_steps={SFT_STEPS}",
        "trainer.total_epochs=4",
        f"faithful_rl.output_dir={root / 'sft'}",
        f"faithful_rl.sft.model_dir={root / 'model'}",
    ]
    assert harness.finish(harness.start(supervised, log), log) == 0, log.read_text()[-3000:]
    policy = (f"actor_rollout_ref.model.path={root / 'model'}", f"trainer.total_training_steps={RL_STEPS}")
    reinforced = harness.start(harness.command_line(root / "rl_scenes", root / "rl", *policy), log)
    assert harness.finish(reinforced, log) == 0, log.read_text()[-3000:]
    return Stages(root / "scenes", root / "chains", root / "sft", root / "rl")


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_every_stage_names_the_one_before_it(stages: Stages) -> None:
    chains, model, run = (
        read(stages.chains / "manifest.json"),
        read(stages.sft.parent / "model" / "manifest.json"),
        read(stages.rl / "run.json"),
    )
    assert chains["sources"]["questions"]["sha256"] == sha256(stages.scenes / "train.parquet")
    assert chains["sources"]["questions"]["manifest"]["settings"]["train"] == QUESTIONS
    (data,) = model["data"]
    assert data["sha256"] == chains["files"]["train.parquet"]["sha256"]
    assert data["manifest"]["counts"] == chains["counts"]
    assert model["base_model"]["manifest"]["recipe"] == "sft_tiny"
    (policy,) = run["begins_from"]["model"]
    assert (policy["manifest"]["stage"], policy["manifest"]["steps"]) == ("sft", SFT_STEPS)
    assert policy["manifest"]["data"] == model["data"]


def test_supervised_steps_are_in_the_metrics(stages: Stages) -> None:
    rows = harness.rows(stages.sft)
    assert [row["step"] for row in rows] == list(range(1, SFT_STEPS + 1))
    assert all(0 < row["train/loss"] < 5 and row["train/grad_norm"] > 0 for row in rows)


def test_the_vision_tower_stayed_and_projector_and_language_model_learned(stages: Stages) -> None:
    from safetensors.torch import load_file

    before = load_file(harness.PROJECT / "models" / "tiny_warm_start" / "model.safetensors")
    after = load_file(stages.sft.parent / "model" / "model.safetensors")
    assert set(before) == set(after)
    changed = {name for name in before if not before[name].equal(after[name])}
    visual = {name for name in before if "visual." in name}
    projector = {name for name in visual if "merger." in name}
    assert projector
    assert visual - projector
    assert changed & visual == projector
    assert changed - visual


def test_reinforcement_learning_ran_on_the_warm_start(stages: Stages) -> None:
    rows = harness.rows(stages.rl)
    assert [row["step"] for row in rows] == list(range(1, RL_STEPS + 1))
    # The chains have the form that the reward wants: the policy still writes it.
    assert all(row["actor/grad_norm"] > 0 for row in rows)
