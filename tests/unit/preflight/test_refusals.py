"""Bad input gets one exact message and exit code 2 before anything starts, and nothing is written."""

import shutil
from collections.abc import Callable

import pytest
from preflight_world import World, nothing, remove, row, rows_of, run_of, snapshot

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
