"""What a cluster offers against what a run reserves, GPU memory by role, checkpoints that cannot be continued, long prompts."""

from __future__ import annotations

import functools
import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from faithful_rl import main
from faithful_rl.config import ConfigError
from faithful_rl.preflight import checkpoints, cluster, machine, memory, stack
from faithful_rl.preflight.cluster import Node
from faithful_rl.preflight.machine import GIB, Group, Slots
from faithful_rl.verl_plugin import checkpoint


def prepared(words: list[str]) -> main.Job:
    """A recipe with overrides; composed once for all tests, which change nothing in it."""
    return _prepared(tuple(words))


@functools.cache
def _prepared(words: tuple[str, ...]) -> main.Job:
    return main.prepare(words)


def settled(job: main.Job) -> dict[str, Any]:
    return _settled(job.argv)


@functools.cache
def _settled(words: tuple[str, ...]) -> dict[str, Any]:
    return main.resolved(_prepared(words).composed)


# --- the cluster --------------------------------------------------------------------------------------------------------------


def node(name: str, cpu: float, gpu: float = 0, **custom: float) -> Node:
    offer = {"CPU": cpu, "GPU": gpu, **custom}
    return Node(name, dict(offer), dict(offer))


def slots(*groups: Group, extra_cpus: int = 0) -> Slots:
    cpus = int(sum(one.nodes * one.cpus for one in groups)) + extra_cpus
    parts = [(one.what, int(one.nodes * one.cpus), int(one.nodes * one.gpus)) for one in groups]
    return Slots(cpus, int(sum(one.nodes * one.gpus for one in groups)), (*parts, ("driver", extra_cpus, 0)), groups)


ACTOR = Group("actor", 1, 24, 8)
JUDGES = Group("judge", 2, 0, 1, (("judges", 1.0),))


def test_a_cluster_that_holds_every_group_passes() -> None:
    cluster.check_fit(slots(ACTOR, JUDGES, extra_cpus=4), [node("a", 64, 8), node("b", 16, 2, judges=2)], 30.0)


@pytest.mark.parametrize(
    ("nodes", "missing"),
    [
        ([node("a", 64, 4), node("b", 64, 4), node("c", 16, 2, judges=2)], "actor"),  # eight GPUs, but on no node together
        ([node("a", 64, 10)], "judge"),  # GPUs enough, but not on a node for judges
        ([node("a", 16, 8), node("c", 16, 2, judges=2)], "actor"),  # too few CPUs beside the GPUs
        ([node("a", 24, 8), node("c", 0, 2, judges=2)], "driver, servers and TransferQueue"),
    ],
)
def test_a_role_without_a_place_is_named_with_a_table(nodes: list[Node], missing: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cluster.check_fit(slots(ACTOR, JUDGES, extra_cpus=4), nodes, 30.0)
    text = str(caught.value)
    assert f"Ray cluster: found no place for: {missing}, after 30 s\n" in text
    assert "actor (1 x)" in text
    assert all(one.name in text for one in nodes)
    assert "the run would wait for ever" in text


def test_what_other_jobs_hold_is_not_free() -> None:
    busy = Node("a", {"CPU": 40.0, "GPU": 0.0}, {"CPU": 64.0, "GPU": 8.0})
    with pytest.raises(ConfigError, match="0/8"):
        cluster.check_fit(slots(ACTOR), [busy], 0.0)


def test_storage_that_could_wait_for_ever_is_named() -> None:
    head, policy = node("head", 0), node("policy", 64, 8, training=1)
    with pytest.raises(ConfigError, match="node head without CPUs, where TransferQueue may put its storage and wait for ever"):
        cluster.check_storage([head, policy], None)
    cluster.check_storage([head, policy], "training")
    cluster.check_storage([policy], None)
    with pytest.raises(ConfigError, match=r"node_resource: found 'trainers', expected a custom resource that some node has"):
        cluster.check_storage([head, policy], "trainers")


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run that joins a cluster whose probe answers what the test says."""
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    answers: dict[str, Any] = {}

    def probe(request: dict[str, Any], seconds: float) -> dict[str, Any]:
        answers["request"], answers["seconds"] = request, seconds
        return answers["answer"]

    monkeypatch.setattr(cluster, "_ask", probe)
    return answers


def answer(**changes: Any) -> dict[str, Any]:
    facts = {"shared_memory": 8 * GIB, "missing": [], "versions": dict(stack.PINS["cpu"])}
    one = {"name": "a", "free": {"CPU": 16.0, "GPU": 1.0}, "total": {"CPU": 16.0, "GPU": 1.0}, "facts": {**facts, **changes}}
    return {"nodes": [one], "pools": ["default"]}


MODEL = str(main.PROJECT_ROOT / "models" / "tiny_warm_start")


def check(*overrides: str) -> None:
    job = prepared(["recipe=fgrpo_tiny", f"actor_rollout_ref.model.path={MODEL}", *overrides])
    cluster.check(settled(job), job.typed)


def test_a_sound_cluster_passes_and_is_asked_for_what_the_run_reserves(joined: Any) -> None:
    joined["answer"] = answer()
    check()
    assert (joined["request"]["cpus"], joined["request"]["gpus"], joined["request"]["wait"]) == (7, 1, 30.0)
    assert joined["seconds"] == 60.0
    assert joined["request"]["paths"] == [MODEL]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"missing": [MODEL]}, f"actor_rollout_ref.model.path: found {MODEL}, which node a does not see"),
        ({"versions": {**stack.PINS["cpu"], "verl": "0.8.0"}}, "node a: found verl 0.8.0, expected verl 0.9.1, as here"),
        ({"versions": {**stack.PINS["cpu"], "transformers": "5.9.0"}}, "node a: found transformers 5.9.0, expected transformers 5.10.4"),
    ],
)
def test_a_node_that_differs_is_named(joined: Any, changes: dict[str, Any], message: str) -> None:
    joined["answer"] = answer(**changes)
    with pytest.raises(ConfigError) as caught:
        check()
    assert message in str(caught.value)


def test_little_shared_memory_beside_gpus_is_named() -> None:
    job = prepared(["recipe=fgrpo_7b"])
    facts = {"shared_memory": 64 * 2**20, "missing": [], "versions": {}}
    one = Node("gpu-node", {"CPU": 64, "GPU": 8}, {"CPU": 64, "GPU": 8}, facts)
    with pytest.raises(ConfigError, match=r"/dev/shm of node gpu-node: found 0\.06 GiB, expected at least 8 GiB, one for each GPU"):
        cluster._check_facts([one], job.typed, {}, {})


def test_a_node_that_does_not_answer_is_named(joined: Any) -> None:
    joined["answer"] = answer()
    joined["answer"]["nodes"][0]["facts"] = {}
    with pytest.raises(ConfigError, match=r"node a: found no answer to a task that takes no processor"):
        check()


def test_a_pool_that_nobody_serves_is_named(joined: Any) -> None:
    joined["answer"] = answer()
    check("judges=pool")
    with pytest.raises(ConfigError, match=r"faithful_rl.judges.pool: found 'lab', expected a pool of this cluster \(default\)"):
        check("judges=pool", "faithful_rl.judges.pool=lab")


class Probe:
    """Stands for the probe's process: says how far it is, ends with an exit code or never."""

    def __init__(self, said: str, ends: bool, text: tuple[str, str] = ("", "")) -> None:
        self.said, self.ends, self.text, self.killed = said, ends, text, False

    def __call__(self, command: list[str], stdout: Any, stderr: Any, env: dict[str, str]) -> Probe:
        Path(json.loads(command[-1])["progress"]).write_text(self.said)
        for stream, text in zip((stdout, stderr), self.text, strict=True):
            stream.write(text)
            stream.flush()
        return self

    def poll(self) -> int | None:
        return 0 if self.ends or self.killed else None

    def kill(self) -> None:
        self.killed = True

    def wait(self) -> int:
        return -9


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (Probe("imported", False), r"found 10\.0\.0\.1:6379, which did not answer within 0\.01 s"),  # it hangs while it joins
        (Probe("joined", False), r"found 10\.0\.0\.1:6379, which did not answer within 0\.02 s"),  # or later
        (Probe("imported", True, ("", "Traceback\nAuthenticationError: no token")), r"cannot be joined \(AuthenticationError: no token\)"),
    ],
)
def test_a_cluster_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch, probe: Probe, message: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(cluster, "_knock", lambda address: None)
    monkeypatch.setattr(cluster.subprocess, "Popen", probe)
    monkeypatch.setattr(cluster, "JOIN_SECONDS", 0.01)
    with pytest.raises(ConfigError, match="RAY_ADDRESS: .*" + message):
        cluster._ask({}, 0.02)
    assert probe.killed != probe.ends


def test_a_head_that_is_gone_is_told_without_asking_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.subprocess, "Popen", lambda *given, **options: pytest.fail("asked"))
    with socket.socket() as bound:  # bound, and nobody listens
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ConfigError, match=rf"RAY_ADDRESS: found {address}, which cannot be joined \(no connection within 5 s: "):
            check()


def test_without_an_address_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "_ask", lambda request, seconds: pytest.fail("asked"))
    check()


def test_separate_rollout_servers_count() -> None:
    job = prepared(["recipe=fgrpo_7b_separate_async"])
    need = machine.required_slots(settled(job), job.typed)
    assert ("rollout servers of their own", 16, 8) in need.parts


# --- shared memory of this machine --------------------------------------------------------------------------------------------


def test_little_shared_memory_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    job = prepared(["recipe=fgrpo_tiny"])
    config = settled(job)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: SimpleNamespace(free=16 * 2**20, total=64 * 2**20, used=0))
    with pytest.raises(ConfigError, match=r"/dev/shm: found 0\.02 GiB free, expected at least 0\.03 GiB of shared memory for 1 worker"):
        machine.check_shared_memory(config, job.typed)  # two buckets of 16 MiB
    machine.check_shared_memory(config, job.typed, folder="/absent")


# --- GPU memory ---------------------------------------------------------------------------------------------------------------


def write_model(folder: Path, tensors: dict[str, list[int]], **config: Any) -> Path:
    folder.mkdir()
    sizes = {"num_hidden_layers": 28, "hidden_size": 3584, "vocab_size": 152064, **config}
    (folder / "config.json").write_text(json.dumps({"vision_config": {}, "text_config": sizes}))
    header = json.dumps({"__metadata__": {}, **{name: {"dtype": "BF16", "shape": shape} for name, shape in tensors.items()}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder


@pytest.fixture
def seven(tmp_path: Path) -> Path:
    """7 billion parameters of language and 1 billion of vision, by their headers alone."""
    return write_model(tmp_path / "seven", {"model.layers.0.weight": [1000, 7_000_000], "visual.patch": [1000, 1_000_000]})


def test_parameters_are_counted_from_headers(seven: Path) -> None:
    assert memory.shape(seven) == memory.Shape(8_000_000_000, 7_000_000_000, 28, 3584, 152064)


def test_the_actors_states_by_hand(seven: Path) -> None:
    job = prepared(["recipe=fgrpo_7b", "hardware=h100x8"])
    actor, server, reference, *judges = memory.estimate(settled(job), job.typed, memory.shape(seven))
    assert actor.certain == pytest.approx((4 * 8e9 / 8 + 4 * 7e9 / 8 + 8 * 7e9 / 8) / GIB)  # 14.5 billion bytes
    tokens = 8192 + 1024
    assert actor.estimated == pytest.approx((2 * 8e9 / 28 + 2 * tokens * (2 * 3584 * 28 + 6 * 152064)) / GIB + 3)
    assert server.certain == pytest.approx(0.6 * 80)
    assert reference.certain == pytest.approx(4 * 8e9 / 8 / GIB)
    assert [one.certain for one in judges] == [pytest.approx(2 * 30e9 / GIB)] * 2
    assert memory.host_gib(settled(job), memory.shape(seven)) == pytest.approx((2 * 4 * 8e9 + 8 * 7e9) / GIB)  # policy, reference, moments


def test_lora_trains_little_and_keeps_bf16(seven: Path) -> None:
    job = prepared(["recipe=fgrpo_7b_lora"])
    config = settled(job)
    training = memory.trainable(config["actor_rollout_ref"]["model"], memory.shape(seven))
    assert training == 64 * 3584 * 28 * 23
    actor = memory.estimate(config, job.typed, memory.shape(seven))[0]
    assert actor.certain == pytest.approx((2 * 8e9 + 12 * training) / GIB)
    memory.check(config, job.typed, seven)


def test_a_run_whose_states_do_not_fit_a_gpu_is_refused(seven: Path) -> None:
    job = prepared(["recipe=fgrpo_7b", "hardware=h100x1"])
    with pytest.raises(ConfigError, match=r"found 80 GiB for the role actor, during the update, which takes 108\.0 GiB of states alone"):
        memory.check(settled(job), job.typed, seven)  # 4 * 8 + 12 * 7 = 116 billion bytes


def test_the_table_says_what_may_not_fit(seven: Path) -> None:
    job = prepared(["recipe=fgrpo_7b", "faithful_rl.hardware.gpu_memory_gib=30"])
    lines = memory.table(settled(job), job.typed, seven)
    assert "GPU memory of 30 GiB, estimated (P = 8.00 billion parameters, T = 7.00 train)" in lines
    assert any(line.endswith("MORE THAN THERE IS") for line in lines)
    tiny = prepared(["recipe=fgrpo_tiny"])
    assert memory.table(settled(tiny), tiny.typed, seven) == []


def test_a_config_without_sizes_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", {})
    (folder / "config.json").write_text('{"vision_config": {}, "hidden_size": 8, "vocab_size": 10}')
    with pytest.raises(ConfigError, match="without 'num_hidden_layers'"):
        memory.shape(folder)


# --- checkpoints --------------------------------------------------------------------------------------------------------------


def saved(folder: Path, *overrides: str) -> Path:
    job = prepared(["recipe=fgrpo_tiny", *overrides])
    target = folder / "global_step_3"
    identity = checkpoint.identity(job.typed, checkpoint.training_facts(job.composed))
    checkpoint.write_state(target, {"step": 3, "identity": identity, "problem": {}})
    checkpoint.mark_complete(target, 3)
    return target


def test_a_checkpoint_of_this_run_passes(tmp_path: Path) -> None:
    target = saved(tmp_path)
    for resume in ([f"trainer.default_local_dir={tmp_path}"], ["trainer.resume_mode=resume_path", f"trainer.resume_from_path={target}"]):
        job = prepared(["recipe=fgrpo_tiny", *resume])
        checkpoints.check(settled(job), job.typed)


@pytest.mark.parametrize(
    ("writer", "named"),
    [
        (
            ["trainer.n_gpus_per_node=2", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=20"],
            "trainer.n_gpus_per_node: 2 in the checkpoint, 1 now",
        ),
        (
            ["faithful_rl.constraints.consistency.threshold=0.5"],
            "faithful_rl.constraints.consistency.threshold: 0.5 in the checkpoint, 0.95 now",
        ),
    ],
)
def test_a_checkpoint_of_other_settings_or_world_size_is_refused_before_workers_start(
    tmp_path: Path, writer: list[str], named: str
) -> None:
    saved(tmp_path, *writer)
    job = prepared(["recipe=fgrpo_tiny", f"trainer.default_local_dir={tmp_path}"])
    with pytest.raises(ConfigError) as caught:
        checkpoints.check(settled(job), job.typed)
    assert named in str(caught.value)


def test_a_checkpoint_that_is_not_there_or_not_whole_is_named(tmp_path: Path) -> None:
    target = saved(tmp_path)
    (target / checkpoint.COMPLETE_FILE).unlink()
    for path, message in ((target, "cannot be resumed: complete.json is missing"), (tmp_path / "absent", "absent, expected the folder")):
        job = prepared(["recipe=fgrpo_tiny", "trainer.resume_mode=resume_path", f"trainer.resume_from_path={path}"])
        with pytest.raises(ConfigError) as caught:
            checkpoints.check(settled(job), job.typed)
        assert message in str(caught.value)


# --- versions of other worlds -------------------------------------------------------------------------------------------------


def test_a_recipe_for_another_world_than_the_installed_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "_version", {**stack.PINS["cpu"], "torch": "2.13.0+cpu"}.get)
    with pytest.raises(ConfigError, match=r"installation \(hardware world gpu\): found torch 2.13.0\+cpu, expected torch 2.11.0"):
        stack.check("gpu")


def test_a_build_for_processors_is_none_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "_version", {**stack.PINS["gpu"], "torch": "2.11.0+cpu"}.get)
    with pytest.raises(ConfigError, match=r"found torch 2.11.0\+cpu, expected torch 2.11.0"):
        stack.check("gpu")
    monkeypatch.setattr(stack, "_version", {**stack.PINS["gpu"], "torch": "2.11.0+cu130", "vllm": "0.24.0+local"}.get)
    stack.check("gpu")
    monkeypatch.setattr(stack, "_version", {**stack.PINS["cpu"], "torch": "2.13.0+cu130"}.get)
    with pytest.raises(ConfigError, match=r"found torch 2.13.0\+cu130"):
        stack.check("cpu")


def test_sglang_and_megatron_have_extras_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"verl": "0.9.1", "sglang": "0.5.12"}
    monkeypatch.setattr(stack, "_version", installed.get)
    stack.check("gpu", "sglang")
    with pytest.raises(
        ConfigError, match=r"installation \(training engine megatron\): found megatron-core not installed.*'\.\[sglang,megatron\]'"
    ):
        stack.check("gpu", "sglang", "megatron")
    monkeypatch.setattr(stack, "_version", {"verl": "0.9.1"}.get)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[sglang\]'"):
        stack.check("gpu", "sglang")
