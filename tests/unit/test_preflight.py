"""Bad input gets one exact message and exit code 2 before anything starts, and nothing is written."""

import io
import json
import shutil
import socket
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from faithful_rl import main, preflight
from faithful_rl.config import ConfigError
from faithful_rl.preflight import machine, plugin_active, stack

DiskUsage = namedtuple("DiskUsage", "total used free")


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (10, 20, 30)).save(stream, "PNG")
    return stream.getvalue()


def row(**changes: Any) -> dict[str, Any]:
    good = {
        "data_source": "scenes",
        "prompt": [{"role": "user", "content": "<image>What is left of the red circle?"}],
        "images": [{"bytes": png()}],
        "reward_model": {"style": "rule", "ground_truth": "A"},
        "extra_info": {"index": 0},
    }
    return {**good, **changes}


def boxed(**changes: Any) -> dict[str, Any]:
    return row(
        extra_info={"index": 0, "gt_boxes": [[0.0, 0.0, 2.0, 2.0]], "img_wh": [[4, 4]], "min_pixels": 1, "max_pixels": 10**6}, **changes
    )


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


# Numbers that messages are checked with, whatever the recipe's own are.
SIZES = ("data.train_batch_size=16", "actor_rollout_ref.actor.ppo_mini_batch_size=8", "trainer.total_training_steps=80")


class World:
    """A sound model, sound data and an output directory below one folder; tests break one thing each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model, self.data, self.out = root / "model", root / "train.parquet", root / "out"
        self.model.mkdir()
        (self.model / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl", "vision_config": {}}))
        (self.model / "tokenizer.json").write_text("{}")
        (self.model / "preprocessor_config.json").write_text("{}")
        (self.model / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
        write_rows(self.data, [boxed() for _ in range(48)])
        write_rows(root / "val.parquet", [row() for _ in range(4)])

    def run(self, *overrides: str) -> int:
        return main.main(
            [
                "recipe=fgrpo_tiny",
                "mode=check",
                *SIZES,
                f"actor_rollout_ref.model.path={self.model}",
                "faithful_rl.data.source=parquet",
                f"data.train_files={self.data}",
                f"data.val_files={self.root / 'val.parquet'}",
                f"faithful_rl.output_dir={self.out}",
                *overrides,
            ]
        )


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(stack, "check", lambda *given: None)
    monkeypatch.setattr(preflight, "check_started", lambda config, typed: None)
    monkeypatch.setattr(main, "set_environment", lambda typed, run_dir: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return World(tmp_path)


def test_a_sound_world_passes_and_the_plan_names_what_one_step_asks_for(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.run() == 0
    plan = capsys.readouterr().out
    assert "16 prompts x 5 rollouts = 80 rollouts, at most 17,920 tokens, at most 160 judge requests" in plan  # 80 * (128 + 96)
    assert "constraints consistency >= 0.95 (dual_ascent), semantic_grounding >= 0.95 (dual_ascent), spatial_grounding >= 0.65" in plan
    assert "together" in plan
    assert not world.out.exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["constraints=none", "faithful_rl.method=grpo"], "at most 160 judge requests"),  # asked for the metrics' sake
        (["constraints=consistency", "faithful_rl.judges.grounding_in_training=false"], "at most 80 judge requests"),
        (["trainer.total_training_steps=null", "trainer.total_epochs=4"], "steps      12 (trainer.total_epochs: 4)"),
        (["trainer.total_training_steps=4"], "lr_warmup_steps is 5, the run has 4 updates: its rate stays below optim.lr."),
    ],
)
def test_the_plan_counts_requests_and_steps(words: list[str], line: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.run(*words) == 0
    assert line in capsys.readouterr().out


def remove(name: str) -> Callable[[World], None]:
    return lambda world: (world.model / name).unlink()


def rows_of(*rows: dict[str, Any]) -> Callable[[World], None]:
    return lambda world: write_rows(world.data, [*rows])


def run_of(**fields: Any) -> Callable[[World], None]:
    def put(world: World) -> None:
        world.out.mkdir()
        (world.out / "run.json").write_text(json.dumps({"recipe": "fgrpo_tiny", "fingerprint": "x", "status": "running", **fields}))

    return put


def nothing(world: World) -> None:
    """Only the overrides of the case are wrong."""


ACTOR = "actor_rollout_ref.actor"
SEPARATE = ("trainer.v1.trainer_mode=separate_async",)
MODEL = "actor_rollout_ref.model.path"
MODEL_FIX = "Copy the file(s) from the model that it was trained from."
CASES: dict[str, tuple[Callable[[World], None], list[str], str]] = {
    "group of one": (
        nothing,
        ["actor_rollout_ref.rollout.n=1"],
        "actor_rollout_ref.rollout.n: found 1, expected at least 2 rollouts per prompt, because an advantage compares rollouts of one group. "
        "Set actor_rollout_ref.rollout.n=5.",
    ),
    "LoRA on the CPU": (
        nothing,
        ["actor_rollout_ref.model.lora_rank=8"],
        "actor_rollout_ref.model.lora_rank: found 8, expected 0, because faithful_rl.hardware.world is cpu. "
        "Set actor_rollout_ref.model.lora_rank=0, or choose a hardware group of the world gpu.",
    ),
    "mini-batch does not divide": (
        nothing,
        [f"{ACTOR}.ppo_mini_batch_size=12"],
        f"{ACTOR}.ppo_mini_batch_size: found 12, expected a divisor of data.train_batch_size = 16 (both count prompts). "
        "Choose one of 1, 2, 4, 8, 16.",
    ),
    "workers do not share a mini-batch": (
        nothing,
        ["trainer.n_gpus_per_node=3"],
        f"{ACTOR}.ppo_mini_batch_size: found 8 prompts x 5 rollouts = 40, expected a number of rollouts that 3 workers share equally. "
        "Change the mini-batch, the group or the number of workers.",
    ),
    "micro-batch does not divide": (
        nothing,
        [f"{ACTOR}.ppo_micro_batch_size_per_gpu=32"],
        f"{ACTOR}.ppo_micro_batch_size_per_gpu: found 32, expected a divisor of the 40 rollouts that one worker gets of a mini-batch. "
        "Choose one of 1, 2, 4, 5, 8, 10, 20, 40.",
    ),
    "log-probability micro-batch does not divide": (
        nothing,
        ["actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=160"],
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu: found 160, expected a divisor of the 80 rollouts that one worker gets "
        "of a batch. Choose one of 1, 2, 4, 5, 8, 10, 16, 20, 40, 80.",
    ),
    "reference micro-batch does not divide": (
        nothing,
        ["actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=50"],
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu: found 50, expected a divisor of the 80 rollouts that one worker gets of a "
        "batch. Choose one of 1, 2, 4, 5, 8, 10, 16, 20, 40, 80.",
    ),
    "no steps": (
        nothing,
        ["trainer.total_training_steps=0"],
        "trainer.total_training_steps: found 0, expected a whole number >= 1, or null. Change it.",
    ),
    "unknown trainer mode": (
        nothing,
        ["trainer.v1.trainer_mode=async"],
        "trainer.v1.trainer_mode: found 'async', expected one of sync, colocate_async, separate_async. Set trainer.v1.trainer_mode=sync.",
    ),
    "sequence parallelism": (
        nothing,
        [f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size=2"],
        f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size: found 2, expected 1, because sequence parallelism gives vision-language models "
        "wrong log-probabilities without a word. Leave it out; for long sequences lower the micro-batch, or use fsdp2_offload.",
    ),
    "separate servers without GPUs": (
        nothing,
        [*SEPARATE, "trainer.v1.separate_async.parameter_sync_step=2"],
        "actor_rollout_ref.rollout.nnodes: found 0, expected at least 1, because in the mode separate_async rollout servers have GPUs of "
        "their own. Set actor_rollout_ref.rollout.nnodes.",
    ),
    "separate servers on another machine without a way for weights": (
        nothing,
        [*SEPARATE, "trainer.v1.separate_async.parameter_sync_step=2", "actor_rollout_ref.rollout.nnodes=1"],
        "actor_rollout_ref.rollout.checkpoint_engine.backend: found naive, expected one that carries weights between machines, because in "
        "the mode separate_async servers are not where training is. Set actor_rollout_ref.rollout.checkpoint_engine.backend=nccl.",
    ),
    "local updates that are no mini-batches": (
        nothing,
        [*SEPARATE],
        "trainer.v1.separate_async.parameter_sync_step: found 4, expected data.train_batch_size / "
        f"{ACTOR}.ppo_mini_batch_size = 16 / 8 = 2. Set trainer.v1.separate_async.parameter_sync_step=2.",
    ),
    "a rollout server larger than the machine": (
        nothing,
        ["actor_rollout_ref.rollout.tensor_model_parallel_size=2"],
        "actor_rollout_ref.rollout.tensor_model_parallel_size: found a rollout server of 2 GPUs (2 x 1 x 1), expected a divisor of the 1 GPUs "
        "that generate. Choose one of 1.",
    ),
    "a pool for a reference policy that nobody asks": (
        nothing,
        ["faithful_rl.reference_policy.placement=own_pool", f"{ACTOR}.use_kl_loss=false"],
        "faithful_rl.reference_policy.placement: found 'own_pool', expected colocated, because without a KL penalty "
        f"({ACTOR}.use_kl_loss, kl_loss_coef) there is no reference policy. Set faithful_rl.reference_policy.placement=colocated.",
    ),
    "an unknown rollout server": (
        nothing,
        ["actor_rollout_ref.rollout.name=trt"],
        "actor_rollout_ref.rollout.name: found 'trt', expected one of vllm, sglang. Set actor_rollout_ref.rollout.name=vllm.",
    ),
    "rollouts that are all alike": (
        nothing,
        ["actor_rollout_ref.rollout.temperature=0"],
        "actor_rollout_ref.rollout.temperature: found 0, expected a finite number above 0, because equal rollouts have no advantage. "
        "Change actor_rollout_ref.rollout.temperature.",
    ),
    "a negative learning rate": (
        nothing,
        [f"{ACTOR}.optim.lr=-1"],
        f"{ACTOR}.optim.lr: found -1, expected a finite number above 0, because nothing is learnt otherwise. Change {ACTOR}.optim.lr.",
    ),
    "an unknown way to resume": (
        nothing,
        ["trainer.resume_mode=sometimes"],
        "trainer.resume_mode: found 'sometimes', expected one of auto, disable, resume_path. Set trainer.resume_mode=auto.",
    ),
    "sequences longer than the server's": (
        nothing,
        ["data.max_response_length=200"],
        "actor_rollout_ref.rollout.max_model_len: found 256, expected at least data.max_prompt_length + data.max_response_length = "
        "128 + 200 = 328 tokens. Raise it, or shorten prompt or response.",
    ),
    "threshold above one": (
        nothing,
        ["faithful_rl.constraints.consistency.threshold=1.5"],
        "faithful_rl.constraints.consistency.threshold: found 1.5, expected a number in [0, 1]. "
        "Change faithful_rl.constraints.consistency.threshold.",
    ),
    "a judge without its endpoint": (
        nothing,
        ["faithful_rl.judges.grounding.backend=openai"],
        "faithful_rl.judges.grounding.options.base_url: found nothing, expected text such as http://127.0.0.1:8000/v1. "
        "Set faithful_rl.judges.grounding.options.base_url.",
    ),
    "too few logical CPUs": (
        nothing,
        ["ray_kwargs.ray_init.num_cpus=4"],
        "ray_kwargs.ray_init.num_cpus: found 4 logical CPUs, expected at least 7 (actor and rollout workers: 3 CPU + 1 GPU, TransferQueue: "
        "2 CPU, judge workers: 0 CPU, driver, servers, reward workers: 2 CPU); with fewer the run would wait for ever. "
        "Set ray_kwargs.ray_init.num_cpus=7, or ask for fewer workers.",
    ),
    "too few logical GPUs": (
        nothing,
        ["faithful_rl.reference_policy.placement=own_pool"],
        "ray_kwargs.ray_init.num_gpus: found 1 logical GPUs, expected at least 2 (actor and rollout workers: 3 CPU + 1 GPU, reference policy "
        "workers: 3 CPU + 1 GPU, TransferQueue: 2 CPU, judge workers: 0 CPU, driver, servers, reward workers: 2 CPU); with fewer the run "
        "would wait for ever. Set ray_kwargs.ray_init.num_gpus=2, or ask for fewer workers.",
    ),
    "checkpoints outside the output directory": (
        nothing,
        ["trainer.default_local_dir=/proc/ckpt"],
        "trainer.default_local_dir: found /proc/ckpt, expected a folder below faithful_rl.output_dir = {root}/out, whose lock keeps a second "
        "run from the same checkpoints. Leave it out, and choose faithful_rl.output_dir where checkpoints have room (its folder "
        "`checkpoints` may be a link).",
    ),
    "an output directory that keeps nothing": (
        nothing,
        ["faithful_rl.output_dir=/proc/x"],
        "faithful_rl.output_dir: found /proc/x in /proc, which keeps no files, expected a directory on a disk. Choose another one.",
    ),
    "a file of the user's where the generator would write": (
        nothing,
        ["faithful_rl.data.source=scenes"],
        "data.train_files: found {root}/train.parquet beside faithful_rl.data.source=scenes, expected a file that the generator makes below "
        "outputs/data/scenes. Set faithful_rl.data.source=parquet to use files of your own.",
    ),
    "a file at the root where the generator would write": (
        nothing,
        ["faithful_rl.data.source=scenes", "data.train_files=/nope.parquet"],
        "data.train_files: found /nope.parquet beside faithful_rl.data.source=scenes, expected a file that the generator makes below "
        "outputs/data/scenes. Set faithful_rl.data.source=parquet to use files of your own.",
    ),
    "no model": (
        lambda world: shutil.rmtree(world.model),
        [],
        f"{MODEL}: found {{root}}/model, which is not a directory, expected a model directory with config, weights and tokenizer. "
        "Download the model, or correct the path.",
    ),
    "model without config": (
        remove("config.json"),
        [],
        f"{MODEL}: found {{root}}/model without config.json, expected a complete model directory. Copy the model again, or correct the path.",
    ),
    "model without tokenizer": (
        remove("tokenizer.json"),
        [],
        f"{MODEL}: found {{root}}/model without a tokenizer, expected one of tokenizer.json, vocab.json, tokenizer.model in it. {MODEL_FIX}",
    ),
    "model without image processor": (
        remove("preprocessor_config.json"),
        [],
        f"{MODEL}: found {{root}}/model without an image processor, expected one of preprocessor_config.json, processor_config.json in it. "
        f"{MODEL_FIX}",
    ),
    "model without weights": (
        remove("model.safetensors"),
        [],
        f"{MODEL}: found {{root}}/model without weights, expected weights in *.safetensors. "
        "Copy the model again; pickled weights (*.bin, *.pt) are not read.",
    ),
    "model with a missing shard": (
        lambda world: (
            (world.model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2-of-2.safetensors"}}') and None
        ),
        [],
        f"{MODEL}: found {{root}}/model without model-2-of-2.safetensors, expected every shard that model.safetensors.index.json names. "
        "Copy the model again.",
    ),
    "text model": (
        lambda world: (world.model / "config.json").write_text('{"model_type": "qwen2"}') and None,
        [],
        f"{MODEL}: found {{root}}/model of type 'qwen2' without a vision_config, expected a vision-language model such as qwen2_5_vl. "
        "Choose another model.",
    ),
    "no data": (
        lambda world: world.data.unlink(),
        [],
        "data.train_files: found {root}/train.parquet, which does not exist, expected a parquet file. Correct the path, or make the data first.",
    ),
    "column missing": (
        rows_of({"data_source": "scenes", "prompt": [], "extra_info": {"index": 0}}),
        [],
        "data.train_files: found {root}/train.parquet without the column(s) images, reward_model, expected the columns data_source, prompt, "
        "images, reward_model, extra_info. Make the file again.",
    ),
    "row without image": (
        rows_of(row(), row(images=[])),
        [],
        "data.train_files: found no image in {root}/train.parquet, row 1, expected at least one image in every row. "
        "Drop the row, or add its image.",
    ),
    "wrong number of image tags": (
        rows_of(row(), row(), row(prompt=[{"role": "user", "content": "<image><image>Which?"}])),
        [],
        "data.train_files: found 2 <image> tag(s) for 1 image(s) in {root}/train.parquet, row 2, expected one <image> tag in the prompt for "
        "every image. Correct the prompt.",
    ),
    "row without ground truth": (
        rows_of(row(reward_model={"style": "rule", "ground_truth": ""})),
        [],
        "data.train_files: found no reward_model.ground_truth in {root}/train.parquet, row 0, expected the right answer's text. "
        "Drop the row, or add its answer.",
    ),
    "fewer rows than a batch": (
        rows_of(row(), row()),
        [],
        "data.train_batch_size: found 16, expected at most the 2 rows of data.train_files. Use fewer prompts per step.",
    ),
    "directory of another recipe": (
        run_of(recipe="grpo_tiny"),
        [],
        "faithful_rl.output_dir: found {root}/out with a run of recipe 'grpo_tiny', expected an absent or empty directory, or an unfinished "
        "run of recipe 'fgrpo_tiny' with exactly these settings. Choose another faithful_rl.output_dir, or repeat the settings in "
        "{root}/out/config.yaml to resume.",
    ),
    "directory of a finished run of other settings": (
        run_of(status="finished"),
        [],
        "faithful_rl.output_dir: found {root}/out with a run of recipe 'fgrpo_tiny' and other settings, expected an absent or empty "
        "directory, or an unfinished run of recipe 'fgrpo_tiny' with exactly these settings. Choose another faithful_rl.output_dir, or "
        "repeat the settings in {root}/out/config.yaml to resume.",
    ),
    "output directory is a file": (
        lambda world: world.out.write_text("mine") and None,
        [],
        "faithful_rl.output_dir: found the file {root}/out, expected a directory. Choose another faithful_rl.output_dir.",
    ),
    "an advantage of verl's": (
        nothing,
        ["algorithm.adv_estimator=gae"],
        "algorithm.adv_estimator: found 'gae', expected grpo: the constrained advantage takes its place, and needs verl's critic-free path. "
        "Leave it out; advantages are chosen by faithful_rl.advantage.kind.",
    ),
    "output directory below a file": (
        nothing,
        ["faithful_rl.output_dir=/dev/null/run"],
        "faithful_rl.output_dir: found /dev/null/run below the file /dev/null, expected a directory. Choose another one.",
    ),
    "unknown mode": (nothing, ["mode=dry"], "mode: found 'dry', expected train or check. Leave it out to train."),
    "several runs by the command for one": (
        nothing,
        ["--multirun"],
        "command line: found --multirun, expected one recipe. Several recipes and seeds: python -m faithful_rl.compare recipes=[A,B] "
        "seeds=[0,1,2].",
    ),
    "unknown option": (nothing, ["--dry"], "command line: found --dry, expected --help, --version, --cfg job and key=value. See --help."),
}


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_gets_one_message_and_nothing_is_written(name: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, overrides, message = CASES[name]
    spoil(world)
    before = snapshot(world.root)
    assert world.run(*overrides) == 2
    printed = capsys.readouterr()
    assert printed.err == f"error: {message.format(root=world.root)}\n"
    assert printed.out == ""
    assert snapshot(world.root) == before


def test_a_corrupt_parquet_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.data.write_bytes(b"PAR1 and nothing else")
    assert world.run() == 2
    assert f"data.train_files: found {world.data}, which is not a readable parquet file" in capsys.readouterr().err


def test_a_parquet_that_is_damaged_in_the_middle_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.Table.from_pylist([row() for _ in range(40)]), world.data, compression="NONE", use_dictionary=False)
    content = bytearray(world.data.read_bytes())
    content[4:2000] = bytes(1996)
    world.data.write_bytes(content)
    assert world.run() == 2
    assert f"{world.data}" in capsys.readouterr().err


def test_an_image_that_does_not_open_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(world.data, [row(), row(images=[{"bytes": b"GIF89a but not really"}])])
    assert world.run() == 2
    assert f"data.train_files: found an image that does not open in {world.data}, row 1" in capsys.readouterr().err


def test_scenes_are_made_once_and_refused_when_they_changed(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world.root)
    command = ["recipe=fgrpo_tiny", "mode=check", f"actor_rollout_ref.model.path={world.model}"]
    sizes = [f"faithful_rl.data.scenes.{split}={rows}" for split, rows in (("train", 64), ("val", 4), ("test", 4))]
    assert main.main([*command, *sizes]) == 0
    folder = world.root / "outputs" / "data" / "scenes" / "seed0-64-4-4"
    made = snapshot(folder)
    assert set(made) == {"train.parquet", "val.parquet", "test.parquet", "manifest.json"}
    assert main.main([*command, *sizes]) == 0
    assert snapshot(folder) == made
    (folder / "test.parquet").write_bytes(made["train.parquet"])
    capsys.readouterr()
    assert main.main([*command, *sizes]) == 2
    assert "faithful_rl.data.scenes.directory: found data that is not the recipe's" in capsys.readouterr().err


def test_a_full_disk_is_named(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: DiskUsage(10 * 2**30, 0, 2**29))
    assert world.run() == 2
    assert capsys.readouterr().err == (
        f"error: faithful_rl.output_dir: found 0.5 GiB free in {world.root}, expected at least 1.0 GiB for checkpoints and logs. "
        "Free some space, choose another faithful_rl.output_dir, or lower trainer.max_actor_ckpt_to_keep.\n"
    )


def test_space_for_checkpoints_is_fp32_weights_and_two_moments_times_kept_plus_one() -> None:
    trainer = {"save_freq": 20, "max_actor_ckpt_to_keep": 2, "total_training_steps": 60}
    assert machine.checkpoint_bytes({"trainer": trainer}, 1000) == 3 * 6 * 1000
    assert machine.checkpoint_bytes({"trainer": {**trainer, "max_actor_ckpt_to_keep": None}}, 1000) == 3 * 6 * 1000  # 60 / 20
    assert machine.checkpoint_bytes({"trainer": {**trainer, "save_freq": -1}}, 1000) == 0


def test_a_port_in_use_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        overrides = ["ray_kwargs.ray_init.include_dashboard=true", f"+ray_kwargs.ray_init.dashboard_port={port}"]
        assert world.run(*overrides) == 2
    assert capsys.readouterr().err == (
        f"error: ray_kwargs.ray_init.dashboard_port: found port {port}, which is in use, expected a free port. "
        "Choose another ray_kwargs.ray_init.dashboard_port, or stop what listens there.\n"
    )


def test_an_unwritable_directory_is_named(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(machine.os, "access", lambda folder, how: False)  # tests may run as root, who may write anywhere
    assert world.run() == 2
    assert f"found {world.out} in {world.root}, which cannot be written" in capsys.readouterr().err


def test_a_cluster_with_too_few_cpus_is_refused_by_what_it_offers(world: World) -> None:
    job = main.prepare(["recipe=fgrpo_tiny"])
    config = main.resolved(job.composed)
    machine.check_slots(config, job.typed, {"CPU": 7, "GPU": 1})
    with pytest.raises(ConfigError, match="found 6 logical CPUs"):
        machine.check_slots(config, job.typed, {"CPU": 6, "GPU": 1})


@pytest.mark.parametrize(
    ("installed", "found"),
    [({}, "verl not installed"), ({"verl": "0.8.0"}, "verl 0.8.0"), ({**stack.PINS["cpu"], "torch": "2.12.0+cpu"}, "torch 2.12.0+cpu")],
)
def test_other_versions_than_the_pins_are_named(installed: dict[str, str], found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "_version", installed.get)
    with pytest.raises(ConfigError) as caught:
        stack.check("cpu")
    assert caught.value.found == found
    assert "requirements/cpu.txt" in caught.value.fix


def test_the_pins_allow_a_local_suffix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "_version", {**stack.PINS["cpu"], "torch": "2.13.0+cpu"}.get)
    stack.check("cpu")


def test_parts_that_are_not_ours_are_named() -> None:
    plugin_active.expect_ours("reward manager", "faithful_rl.verl_plugin.reward_manager.FaithfulRewardManager")
    with pytest.raises(ConfigError) as caught:
        plugin_active.expect_ours("reward manager", "verl.experimental.reward_loop.reward_manager.naive.NaiveRewardManager")
    assert str(caught.value).startswith(
        "verl's reward manager: found verl.experimental.reward_loop.reward_manager.naive.NaiveRewardManager, "
        "expected the one of faithful_rl.verl_plugin."
    )
    with pytest.raises(ConfigError, match="found none"):
        plugin_active.expect_ours("engine for FSDP2", "")


LENGTH = "+faithful_rl.constraints.response_tokens"
CONSISTENCY = "faithful_rl.constraints.consistency"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            f"{CONSISTENCY}.multiplier.first_step=81",
            "faithful_rl.constraints.consistency.multiplier.first_step: found 81, expected at most 79: an update acts in the step after it, "
            "and the run has 80 steps. Lower it, or raise trainer.total_training_steps.",
        ),
        (f"{CONSISTENCY}.multiplier={{first_step:80,update_every:20}}", "multiplier.first_step: found 80, expected at most 79"),
        (
            f"{CONSISTENCY}.multiplier.update_every=79",
            "multiplier.update_every: found 79, expected at most 78, so that a second update (after the one at step 1) acts in the run's 80",
        ),
        (
            f"{CONSISTENCY}.threshold_schedule={{kind:relative,share:0.5,measure:79}}",
            "threshold_schedule.measure: found 79 batches, after which the first update comes at step 80, expected a first update before",
        ),
        (
            f"{CONSISTENCY}={{threshold_schedule:{{kind:relative,share:0.5,measure:40}},multiplier:{{update_every:50}}}}",
            "multiplier.update_every: found 50, expected at most 28, so that a second update (after the one at step 51) acts",
        ),
        (
            f"{CONSISTENCY}.multiplier.min_applicable=81",
            "multiplier.min_applicable: found 81, expected at most the 80 rollouts of a step: with more the multiplier never moves. Lower it, "
            "or raise data.train_batch_size.",
        ),
        (
            f"{CONSISTENCY}.threshold_schedule={{kind:linear,start:0.5,begin:50,steps:50}}",
            "faithful_rl.constraints.consistency.threshold_schedule: found a change that ends at step 100, expected an end within the run's 80 "
            "steps. Shorten it, or raise trainer.total_training_steps.",
        ),
        (
            f"{CONSISTENCY}.multiplier={{kind:schedule,schedule:{{kind:linear,start:0,end:1,steps:200}}}}",
            "faithful_rl.constraints.consistency.multiplier.schedule: found a change that ends at step 200",
        ),
        (
            f"{LENGTH}={{threshold:300,mask:none,direction:at_most}}",
            "faithful_rl.constraints.response_tokens.threshold: found 300.0, expected at most data.max_response_length = 96 tokens",
        ),
        (
            f"+{CONSISTENCY}.by_source={{sat:0.5}}",
            "faithful_rl.constraints.consistency.by_source: found 'sat', expected one of the data's sources: scenes. Correct the name",
        ),
    ],
)
def test_constraints_that_would_never_take_effect_are_refused(
    world: World, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.run(override) == 2
    assert message in capsys.readouterr().err


def test_steps_are_counted_from_epochs_where_nobody_says_how_many(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["trainer.total_training_steps=null", "trainer.total_epochs=3", f"{CONSISTENCY}.multiplier.first_step=10"]
    assert world.run(*words) == 2  # 48 rows in batches of 16 are 3 steps an epoch
    assert "and the run has 9 steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        [f"{CONSISTENCY}.multiplier={{first_step:79}}"],
        [f"{CONSISTENCY}.multiplier.update_every=78"],  # steps 1 and 79
        [f"{CONSISTENCY}.multiplier={{first_step:40,update_every:38}}"],  # steps 40 and 78
        [f"{CONSISTENCY}.threshold_schedule={{kind:relative,share:0.5,measure:78}}"],  # first held against a threshold in step 79
        [f"{CONSISTENCY}.multiplier.min_applicable=80"],
        [f"{CONSISTENCY}.multiplier={{kind:fixed,min_applicable:500}}"],  # nothing moves it anyway
        ["trainer.total_training_steps=1"],  # a run of one step is how one tries a recipe
        [f"{CONSISTENCY}.by_source.scenes=0.9"],
    ],
)
def test_what_acts_in_the_last_step_is_taken(world: World, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert world.run("actor_rollout_ref.actor.optim.lr_warmup_steps=0", *words) == 0
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "warning"),
    [
        ([f"{CONSISTENCY}.multiplier.window=80"], "multiplier.window is 80, and the last update that acts has seen 79 batches"),
        (["faithful_rl.constraint_patience=81"], "constraint_patience is 81, the run has 80 steps"),
        ([f"{LENGTH}={{threshold:96,mask:none,direction:<=}}"], "response_tokens is always at most 96, so at_most 96 never binds."),
        ([f"{CONSISTENCY}.multiplier={{kind:fixed,start:0}}"], "consistency.multiplier is fixed at 0: the constraint has no part in the"),
        ([f"{LENGTH}={{threshold:0,mask:none}}"], "response_tokens is always at least 0, so at_least 0 never binds."),
        (
            [f"{CONSISTENCY}={{multiplier:{{kind:fixed}},threshold_schedule:{{kind:linear,start:0.5,steps:9}}}}"],
            "threshold_schedule moves the threshold that is reported and nothing else: a multiplier of kind fixed answers no violation.",
        ),
    ],
)
def test_what_does_less_than_it_says_is_told(world: World, words: list[str], warning: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.run(*words) == 0
    assert warning in capsys.readouterr().out


def without_boxes(world: World) -> None:
    write_rows(world.data, [row() for _ in range(48)])


def test_a_mask_that_holds_for_no_row_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    without_boxes(world)
    assert world.run() == 2
    told = capsys.readouterr().err
    assert "faithful_rl.constraints.spatial_grounding: found a constraint on spatial_grounding with the mask has_reference_boxes" in told
    assert "expected columns that this data gives a value: task, accuracy, format, consistency, semantic_grounding, sentence_count" in told
    assert "leave it out: ~faithful_rl.constraints.spatial_grounding." in told
    assert world.run("~faithful_rl.constraints.spatial_grounding") == 0


@pytest.mark.parametrize(
    ("advantage", "warning"),
    [
        ("additive", "no row of data.train_files has ground-truth boxes: spatial_grounding will have no part in the advantage (additive)."),
        (
            "gdpo",
            "judges are asked about right answers only (faithful_rl.judges.ask_masked=false): consistency, semantic_grounding will be",
        ),
    ],
)
def test_a_signal_that_nobody_will_measure_is_told(advantage: str, warning: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"advantage={advantage}", "constraints=none", "faithful_rl.method=grpo", "faithful_rl.judges.ask_masked=false"]
    without_boxes(world)
    assert world.run(*words) == 0
    assert warning in capsys.readouterr().out
    write_rows(world.data, [row(), *(boxed() for _ in range(47))])
    assert world.run(*words[:3]) == 0
    assert "warning" not in capsys.readouterr().out


def test_more_steps_than_the_epochs_hold_are_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.run("trainer.total_epochs=26") == 2  # 48 rows in batches of 16: 78 of the 80 steps
    assert capsys.readouterr().err == (
        "error: trainer.total_training_steps: found 80, expected at most the 78 steps of trainer.total_epochs = 26, after which verl ends "
        "without a word. Set trainer.total_epochs=27, or train for fewer steps.\n"
    )
    assert world.run("trainer.total_epochs=27") == 0
