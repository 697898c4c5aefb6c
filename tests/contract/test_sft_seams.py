"""What supervised fine-tuning relies on in verl's SFT trainer and engines, and what our recipes for it say."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from faithful_rl.compose import compose_recipe
from faithful_rl.config import ConfigError, from_node

CPU = {"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "faithful_rl.verl_plugin.plugin"}


def elsewhere(script: str, **environment: str) -> str:
    """Output of a script in a process of its own: platforms and registries would otherwise outlive the test."""
    inherited = {key: value for key, value in os.environ.items() if key not in CPU}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**inherited, **environment}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split("ANSWER")[1].strip()


# --- recipes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_the_warm_starts_have_the_papers_hyperparameters(size: str) -> None:
    composed = compose_recipe([f"recipe=sft_{size}"])
    typed = from_node(composed.faithful_rl)
    optim, data, trainer = composed.optim, composed.data, composed.trainer
    assert (optim.optimizer, optim.lr, optim.weight_decay, optim.lr_warmup_steps_ratio) == ("AdamW", 1e-6, 0.01, 0.03)
    assert (optim.lr_scheduler_type, optim.min_lr_ratio, optim.clip_grad) == ("cosine", 0.0, 1.0)
    assert (trainer.total_epochs, trainer.total_training_steps, data.train_batch_size, data.max_length) == (3, None, 32, 8192)
    assert (trainer.nnodes, trainer.n_gpus_per_node) == (1, 4)
    assert (composed.model.override_config.freeze_vision_tower, composed.model.override_config.train_projector) == (True, True)
    assert composed.engine.strategy == "fsdp2"
    assert "hf_model" in composed.checkpoint.save_contents
    assert typed.method == "sft_verl"


@pytest.mark.parametrize("size", ["3b", "7b", "72b"])
def test_reinforcement_learning_begins_from_what_the_warm_start_makes(size: str) -> None:
    made = from_node(compose_recipe([f"recipe=sft_{size}"]).faithful_rl).sft.model_dir
    assert compose_recipe([f"recipe=fgrpo_{size}"]).actor_rollout_ref.model.path == made


def test_the_small_recipe_differs_from_the_large_one_in_size_only() -> None:
    small, large = (OmegaConf.to_container(compose_recipe([f"recipe={name}"]), resolve=False) for name in ("sft_scenes_tiny", "sft_7b"))
    for part, key in (("engine", "strategy"), ("optim", "lr_scheduler_type"), ("optim", "optimizer"), ("checkpoint", "save_contents")):
        assert small[part][key] == large[part][key]  # type: ignore[index, call-overload]
    for name in ("freeze_vision_tower", "train_projector"):
        assert small["model"]["override_config"][name] == large["model"]["override_config"][name]  # type: ignore[index, call-overload]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.learning_rate=1", "optim.learning_rate: found a key that does not exist"),
        ("+optim.learning_rate=1", "optim.learning_rate: found a key that verl does not have"),
        ("data.train_batch_size=2.5", "data.train_batch_size: found 2.5, expected a whole number"),
        ("sft_model=qwen", "sft_model: found 'qwen', expected one of qwen2_5_vl_3b, qwen2_5_vl_72b, qwen2_5_vl_7b, tiny"),
    ],
)
def test_mistakes_are_named_against_verls_sft_tree(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_recipe(["recipe=sft_scenes_tiny", override])
    assert message in str(caught.value)


# --- verl's SFT trainer -----------------------------------------------------------------------------------------------------


def test_seam_the_trainers_sampler_has_a_seed_of_its_own() -> None:
    from verl.trainer.sft_trainer import SFTTrainer

    source = inspect.getsource(SFTTrainer._build_dataloader)
    assert "self.train_sampler = DistributedSampler(" in source
    assert "seed" not in source, "verl seeds the order of the data itself now: FaithfulSFTTrainer can go"
    assert list(inspect.signature(SFTTrainer.__init__).parameters) == ["self", "config"]


def test_seam_verl_drops_incomplete_batches_and_saves_at_the_last_step_only_if_it_gets_there() -> None:
    from verl.trainer.sft_trainer import SFTTrainer

    assert inspect.getsource(SFTTrainer._build_dataloader).count("drop_last=True") == 4
    assert "is_last_step or (self.save_freq > 0 and is_save_step)" in inspect.getsource(SFTTrainer.fit)


def test_seam_the_file_logger_empties_the_file_that_it_is_given() -> None:
    from verl.utils.tracking import FileLogger

    source = inspect.getsource(FileLogger)
    assert 'os.getenv("VERL_FILE_LOGGER_PATH"' in source
    assert '"wb"' in source, "verl appends now: one file for all starts is enough"
    assert '{"step": step, "data": data}' in source


def test_seam_a_checkpoint_holds_a_model_that_others_can_load() -> None:
    from verl.utils.checkpoint.checkpoint_handler import CheckpointHandler
    from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

    source = inspect.getsource(FSDPCheckpointManager.save_checkpoint)
    assert 'os.path.join(local_path, "huggingface")' in source
    assert "save_model.save_pretrained(hf_local_path, state_dict=state_dict)" in source
    assert 'f"global_step_{step}"' in inspect.getsource(CheckpointHandler.save_checkpoint)


def test_seam_verls_default_for_thinking_is_a_word_that_counts_as_true() -> None:
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    assert "enable_thinking = bool(enable_thinking)" in inspect.getsource(MultiTurnSFTDataset.__getitem__)
    assert compose_recipe(["recipe=sft_7b"]).data.enable_thinking_default is None


# --- engines ----------------------------------------------------------------------------------------------------------------


class Tower(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(2, 3)])
        self.merger = torch.nn.Linear(3, 4)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Module()
        self.model.visual = Tower()
        self.model.language_model = torch.nn.Linear(4, 5)


def test_the_projector_learns_where_it_is_told_to() -> None:
    from faithful_rl.verl_plugin import vision_tower

    def learning(**config: object) -> set[str]:
        model = Model()
        vision_tower.apply(model, config)
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    language = {"model.language_model.weight", "model.language_model.bias"}
    projector = {"model.visual.merger.weight", "model.visual.merger.bias"}
    tower = {"model.visual.blocks.0.weight", "model.visual.blocks.0.bias"}
    assert learning() == language | projector | tower
    assert learning(freeze_vision_tower=True) == language
    assert learning(freeze_vision_tower=True, train_projector=True) == language | projector
    with pytest.raises(ValueError, match="without freeze_vision_tower"):
        learning(train_projector=True)
    with pytest.raises(ValueError, match="expected True or False"):
        learning(freeze_vision_tower=True, train_projector="yes")
    model = Model()
    del model.model.visual.merger
    with pytest.raises(ValueError, match="has no projector"):
        vision_tower.freeze_vision_tower(model, projector=False)


def test_the_shipped_model_has_the_projector_where_we_look() -> None:
    from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

    from faithful_rl.verl_plugin.vision_tower import freeze_vision_tower

    path = Path(__file__).parents[2] / "models" / "tiny_warm_start"
    model = Qwen2_5_VLForConditionalGeneration(AutoConfig.from_pretrained(path))
    freeze_vision_tower(model, projector=False)
    visual = [(name, parameter.requires_grad) for name, parameter in model.named_parameters() if ".visual." in f".{name}"]
    assert {bool(re.search(r"\bmerger\b", name)) for name, trained in visual if trained} == {True}
    assert {bool(re.search(r"\bmerger\b", name)) for name, trained in visual if not trained} == {False}


@pytest.fixture(scope="module")
def on_a_gpu() -> dict[str, str]:
    """What a process says that asks verl's registry as on an NVIDIA machine; nothing of CUDA is touched."""
    script = (
        "import json\nfrom types import SimpleNamespace as N\nimport torch\nfrom verl.workers.engine import EngineRegistry\n"
        "found = {b: EngineRegistry.get_engine_cls('language_model', b) for b in ('fsdp', 'fsdp2')}\n"
        "said = {b: f'{c.__module__}.{c.__name__}' for b, c in found.items()}\n"
        "cls = found['fsdp']\n"
        "cls.__mro__[1]._build_module = lambda self: torch.nn.Linear(1, 1)\n"
        "self = object.__new__(cls)\n"
        "self.model_config = N(override_config={'freeze_vision_tower': True})\n"
        "self.engine_config = N(strategy='fsdp', use_orig_params=False)\n"
        "try:\n    cls._build_module(self)\nexcept ValueError as error:\n    said['error'] = str(error)\n"
        "import faithful_rl.verl_plugin.sft_rank as rank\n"
        "said['trainer'] = rank.FaithfulSFTTrainer.__mro__[1].__module__\n"
        "print('ANSWER' + json.dumps(said))"
    )
    environment = {
        "VERL_USE_EXTERNAL_MODULES": CPU["VERL_USE_EXTERNAL_MODULES"],
        "VERL_ENGINE_DEVICE": "cuda",
        "VERL_ENGINE_VENDOR": "nvidia",
    }
    said: dict[str, str] = json.loads(elsewhere(script, **environment))
    return said


def test_beside_a_gpu_our_engine_is_the_one_that_verl_starts(on_a_gpu: dict[str, str]) -> None:
    ours = "faithful_rl.verl_plugin.gpu_engine.GpuFSDPEngineWithLMHead"
    assert (on_a_gpu["fsdp"], on_a_gpu["fsdp2"]) == (ours, ours)


def test_fsdp1_with_flattened_parameters_is_refused(on_a_gpu: dict[str, str]) -> None:
    """Freezing single parameters of a flattened group does nothing, without a word."""
    assert "set strategy=fsdp2 or use_orig_params=True" in on_a_gpu["error"]


def test_the_rank_runs_our_trainer_on_verls(on_a_gpu: dict[str, str]) -> None:
    assert on_a_gpu["trainer"] == "verl.trainer.sft_trainer"


def test_seam_the_registry_asks_for_the_vendors_engine_first() -> None:
    from verl.workers.engine import EngineRegistry

    source = inspect.getsource(EngineRegistry.get_engine_cls)
    assert source.index("vendor_key in registry") < source.index("if device in registry")
