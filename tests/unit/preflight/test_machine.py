"""What this machine has against what a run takes of it: GPUs and their memory, where roles sit, and a recipe for another machine."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from faithful_rl import main, submit
from faithful_rl.config import ConfigError
from faithful_rl.preflight import gpus, machine, memory, placement, stack
from faithful_rl.preflight.gpus import Gpus

GIB = 2**30
OUT = "faithful_rl.output_dir=/checkpoints/mine"


@functools.cache
def prepared(*words: str) -> tuple[main.Job, dict[str, Any]]:
    job = main.prepare(words)
    return job, main.resolved(job.composed)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


# --- GPUs ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "found"),
    [
        (None, Gpus(2, "NVML", (80 * GIB, 40 * GIB))),
        ("1", Gpus(1, "CUDA_VISIBLE_DEVICES='1' of the 2 that the machine has", (40 * GIB,))),
        ("", Gpus(0, "CUDA_VISIBLE_DEVICES='' of the 2 that the machine has")),
        ("NoDevFiles", Gpus(0, "CUDA_VISIBLE_DEVICES='NoDevFiles' of the 2 that the machine has")),
        ("GPU-1a2b", Gpus(1, "CUDA_VISIBLE_DEVICES='GPU-1a2b' of the 2 that the machine has")),
        ("0,1,2", Gpus(2, "CUDA_VISIBLE_DEVICES='0,1,2' of the 2 that the machine has", (80 * GIB, 40 * GIB))),
    ],
)
def test_gpus_are_counted_as_ray_counts_them(monkeypatch: pytest.MonkeyPatch, named: str | None, found: Gpus) -> None:
    monkeypatch.setattr(gpus, "nvml_memory", lambda: [80 * GIB, 40 * GIB])
    assert gpus.found({} if named is None else {"CUDA_VISIBLE_DEVICES": named}) == found


def test_without_nvml_the_drivers_folder_is_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpus, "nvml_memory", lambda: None)
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "gpus")
    assert gpus.found({}) == Gpus(0, "no NVIDIA driver")
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    assert gpus.found({}) == Gpus(2, str(tmp_path / "gpus"))


class Library:
    """Stands for libnvidia-ml: two GPUs of 3 and 5 bytes; `nvmlShutdown` must be called."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.shut = fails, 0

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any) -> int:
            if name == self.fails:
                return 9
            if name == "nvmlShutdown":
                self.shut += 1
            if name == "nvmlDeviceGetCount_v2":
                given[0]._obj.value = 2
            if name == "nvmlDeviceGetHandleByIndex_v2":
                given[1]._obj.value = 3 + 2 * given[0]
            if name == "nvmlDeviceGetMemoryInfo":
                given[1]._obj.total = given[0].value
            return 0

        return call


def test_nvml_is_asked_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(gpus.ctypes, "CDLL", lambda name: library)
    assert (gpus.nvml_memory(), library.shut) == ([3, 5], 1)
    for fails in ("nvmlInit_v2", "nvmlDeviceGetCount_v2", "nvmlDeviceGetMemoryInfo"):
        monkeypatch.setattr(gpus.ctypes, "CDLL", lambda name, fails=fails: Library(fails))
        assert gpus.nvml_memory() is None
    monkeypatch.setattr(gpus.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError("not found")))
    assert gpus.nvml_memory() is None


def test_too_few_gpus_of_this_machine_are_refused_before_ray_would_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    job, config = prepared("recipe=fgrpo_7b", "hardware=h100x8", "ray_kwargs.ray_init.num_cpus=64")
    need = machine.required_slots(config, job.typed).gpus
    monkeypatch.setattr(gpus, "found", lambda: Gpus(need, "NVML"))
    machine.check_slots(config, job.typed)
    monkeypatch.setattr(gpus, "found", lambda: Gpus(1, "NVML"))
    with pytest.raises(ConfigError) as caught:
        machine.check_slots(config, job.typed)
    told = str(caught.value)
    assert told.startswith(f"GPUs of this machine: found 1 (NVML), expected at least {need} (actor and rollout workers: 24 CPU + 8 GPU, ")
    assert "with fewer the run would wait for ever. Choose a smaller hardware group" in told


def test_the_memory_of_the_gpus_that_are_there_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job, config = prepared("recipe=fgrpo_7b", "hardware=h100x8")
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(memory, "shape", lambda folder: memory.Shape(8_000_000_000, 7_000_000_000, 28, 3584, 152064))
    memory.check(config, job.typed, tmp_path)
    monkeypatch.setattr(gpus, "found", lambda: Gpus(8, "NVML", (80 * GIB, 24 * GIB)))
    assert "GPU memory of 24 GiB, estimated (P = 8.00 billion parameters, T = 7.00 train)" in memory.table(config, job.typed, tmp_path)
    with pytest.raises(ConfigError, match=r"GPUs of this machine: found 24 GiB for the role judge consistency"):
        memory.check(config, job.typed, tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # the cluster's are others
    memory.check(config, job.typed, tmp_path)


def test_what_is_offloaded_is_held_against_this_machines_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job, config = prepared("recipe=fgrpo_7b", "hardware=h100x8")
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(memory, "shape", lambda folder: memory.Shape(8_000_000_000, 7_000_000_000, 28, 3584, 152064))
    for gib, end in ((256.0, "111.8 GiB"), (64.0, "111.8 GiB  MORE THAN THE 64 GiB OF THIS MACHINE")):  # 8 * 8 + 8 * 7 = 120 billion bytes
        monkeypatch.setattr(memory, "_host_memory_gib", lambda gib=gib: gib)
        assert memory.table(config, job.typed, tmp_path)[-1] == f"Host memory of a training node for what is offloaded: {end}"


# --- the plan -----------------------------------------------------------------------------------------------------------------


def test_roles_and_their_nodes_are_told() -> None:
    job, config = prepared("recipe=fgrpo_7b_reference_pool", "hardware=h100x8", "faithful_rl.hardware.node_resource=training")
    lines = [" ".join(line.split()) for line in placement.seats(config, job.typed)]
    assert (
        "actor and rollout workers 1 node(s) x 8 bundle(s) of 3 CPU + 1 GPU: 8 fsdp2 rank(s), 8 vllm server(s) of 1 GPU(s) on the same GPUs"
        in lines
    )
    assert "reference policy workers 1 node(s) x 2 bundle(s) of 3 CPU + 1 GPU: the reference policy alone" in lines
    assert "TransferQueue 1 controller and 8 storage unit(s) on nodes with training" in lines
    assert any(line.startswith("consistency judge 1 actor(s) of 0 CPU + 1 GPU") for line in lines)
    job, config = prepared("recipe=fgrpo_7b_separate_async", "hardware=h100x8")
    lines = [" ".join(line.split()) for line in placement.seats(config, job.typed)]
    assert any(line.endswith("x 8 bundle(s) of 2 CPU + 1 GPU: 8 vllm server(s) of 1 GPU(s)") for line in lines)


def test_what_models_that_judge_are_asked_is_estimated() -> None:
    job, config = prepared("recipe=fgrpo_tiny")
    assert placement.judge_load(config, job.typed) == ""  # exact rules ask no model
    words = ("data.train_batch_size=2", "actor_rollout_ref.rollout.n=5", "data.max_prompt_length=1000", "data.max_response_length=100")
    job, config = prepared("recipe=fgrpo_7b", *words)
    calls, tokens = 10 + 10 * 4, 10 * (360 + 100 + 16) + 10 * 4 * (520 + 100 + 16 + 1000)  # 100 / 25 = 4 sentences
    assert placement.judge_load(config, job.typed).startswith(f"at most {calls} model calls with {tokens:,} tokens")


# --- a recipe for another machine ---------------------------------------------------------------------------------------------


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU world's packages, no GPU, and neither the recipe's model nor its data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stack, "_version", {**stack.PINS["cpu"], "torch": "2.13.0+cpu"}.get)
    monkeypatch.setattr(main, "set_environment", lambda typed, run_dir: None)


def test_a_gpu_recipe_is_planned_on_a_laptop_and_its_installation_told_last(laptop: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["recipe=fgrpo_7b", "mode=check"]) == 2
    printed = capsys.readouterr()
    assert printed.out.startswith("fgrpo_7b: its settings fit together, nothing was started.")
    for line in (
        "one step   128 prompts x 5 rollouts = 640 rollouts",
        "which is not here (trainer.total_epochs: 3)",
        "Ray places",
        "together",
    ):
        assert line in printed.out
    assert "GPU memory  not estimated: " in printed.out
    assert printed.err.startswith("error: installation (hardware world gpu): found torch 2.13.0+cpu, expected torch 2.11.0.")


def test_on_a_laptop_a_wrong_setting_is_told_first_and_alone(laptop: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["recipe=fgrpo_7b", "mode=check", "actor_rollout_ref.actor.ppo_mini_batch_size=50"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(
        "error: actor_rollout_ref.actor.ppo_mini_batch_size: found 50, expected a divisor of data.train_batch_size"
    )


def test_a_dry_submission_prints_the_plan(laptop: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit.main(["recipe=fgrpo_7b", OUT, "upload=image", "dry=true"]) == 0
    printed = capsys.readouterr().out
    assert "output     /checkpoints/mine" in printed
    assert "one step   128 prompts x 5 rollouts" in printed
    assert "Ray reserves" in printed
    assert printed.splitlines()[-1] == "exec python -m faithful_rl.main recipe=fgrpo_7b faithful_rl.output_dir=/checkpoints/mine"


def test_a_dashboard_that_is_gone_is_named_by_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    gone = SimpleNamespace(JobSubmissionClient=lambda address: (_ for _ in ()).throw(ConnectionError("Failed to connect to Ray")))
    monkeypatch.setitem(__import__("sys").modules, "ray.job_submission", gone)
    with pytest.raises(ConfigError) as caught:
        submit._client("http://10.0.0.1:8265")
    assert str(caught.value).startswith("address: found http://10.0.0.1:8265, where no dashboard takes jobs (Failed to connect to Ray)")


# --- a place for checkpoints --------------------------------------------------------------------------------------------------


def test_checkpoints_may_lie_on_another_disk_by_a_link(tmp_path: Path) -> None:
    out, disk = tmp_path / "out", tmp_path / "disk"
    disk.mkdir()
    out.mkdir()
    (out / "checkpoints").symlink_to(disk)
    job, config = prepared("recipe=fgrpo_tiny", f"faithful_rl.output_dir={out}")
    machine.check_checkpoint_dir(config, job.typed)
    for other in (tmp_path / "shared", out / ".." / "shared", tmp_path / "out2"):
        trainer = {**config["trainer"], "default_local_dir": str(other)}
        with pytest.raises(ConfigError, match=r"trainer\.default_local_dir: found .*, expected a folder below faithful_rl\.output_dir"):
            machine.check_checkpoint_dir({**config, "trainer": trainer}, job.typed)


def test_a_run_without_checkpoints_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    from faithful_rl import preflight

    monkeypatch.setattr(preflight.constraints, "warnings", lambda config, typed: [])
    monkeypatch.setattr(preflight.steps, "warnings", lambda config: [])
    for freq, count in ((0, 1), (-1, 1), (20, 0)):
        job, config = prepared("recipe=fgrpo_tiny", f"trainer.save_freq={freq}")
        told = preflight.warnings(config, job.typed)
        assert len(told) == count
        assert all(one.startswith(f"trainer.save_freq is {freq}: no checkpoints but the one that a stop signal asks for") for one in told)
