"""The plugin as a worker of a CPU run has it: the platform is chosen before verl is imported."""

import os
from collections.abc import Iterator

os.environ.setdefault("VERL_PLATFORM", "cpu")

import pytest
import ray

import faithful_rl.verl_plugin.plugin  # noqa: F401


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    """A Ray of the module's own, with `CPUS` processors."""
    ray.init(
        address="local",
        num_cpus=request.module.CPUS,
        include_dashboard=False,
        log_to_driver=False,
        namespace=request.module.__name__,
    )
    yield
    ray.shutdown()
