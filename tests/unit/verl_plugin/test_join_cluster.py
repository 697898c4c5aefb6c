"""A run that joins a Ray cluster: what only a new cluster takes is left out, and the workers get the driver's environment."""

import pickle

import pytest

pytest.importorskip("verl")
from omegaconf import OmegaConf, open_dict

from faithful_rl.compose import compose_recipe
from faithful_rl.config import ConfigError
from faithful_rl.verl_plugin import task_runner


def prepared(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> dict:
    config = compose_recipe(["recipe=fgrpo_tiny", "faithful_rl.output_dir=outputs/x", *overrides])
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with open_dict(config):
        task_runner.prepare(config)
    return OmegaConf.to_container(config.ray_kwargs.ray_init)


def test_a_cluster_of_its_own_gets_its_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    found = prepared(monkeypatch)
    assert (found["num_cpus"], found["num_gpus"]) == (16, 1)
    assert found["address"] == "local"  # not whatever cluster somebody started on this machine
    assert not (found.get("runtime_env") or {}).get("env_vars")


def test_a_cluster_that_runs_already_keeps_its_own_and_gets_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    found = prepared(
        monkeypatch, "+ray_kwargs.ray_init.runtime_env.env_vars.MINE=1", "+ray_kwargs.ray_init.runtime_env.env_vars.OMP_NUM_THREADS=3"
    )
    assert found["address"] == "127.0.0.1:6379"
    assert not set(found) & set(task_runner.LOCAL_CLUSTER_KEYS)
    variables = found["runtime_env"]["env_vars"]
    assert variables["VERL_PLATFORM"] == "cpu"  # of the driver
    assert str(variables["MINE"]) == "1"  # of the user
    assert str(variables["OMP_NUM_THREADS"]) == "3"  # the user's word counts more than the driver's


def test_transfer_queues_storage_stays_on_the_nodes_that_train(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose_recipe(["recipe=fgrpo_tiny", "faithful_rl.output_dir=outputs/x", "faithful_rl.hardware.node_resource=training"])
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    task_runner.prepare(config)
    assert config.transfer_queue.backend.SimpleStorage.required_node_resource == "training"


def test_seam_transfer_queue_pins_storage_to_any_node_and_waits_without_end() -> None:
    """The reason for `hardware.node_resource` and for preflight's check of nodes without CPUs."""
    import inspect

    from transfer_queue.storage.bootstrap import simple_storage_bootstrap
    from transfer_queue.utils import common

    assert 'simple_storage_config.get("required_node_resource")' in inspect.getsource(simple_storage_bootstrap)
    source = inspect.getsource(common.get_node_round_robin_scheduling_strategies)
    assert "soft=False" in source
    assert 'get("CPU"' not in source


def test_an_address_in_the_recipe_names_a_cluster_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    found = prepared(monkeypatch, "+ray_kwargs.ray_init.address=auto")
    assert found["address"] == "auto"
    assert "num_cpus" not in found


def test_a_users_mistake_crosses_processes_as_itself() -> None:
    error = ConfigError("key", "this", "that", "Do it.")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.key) == (str(error), "key")
