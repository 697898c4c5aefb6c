"""Settings of the property tests, and the peers that our numbers are compared with."""

import pytest
from hypothesis import settings

# The same examples in every run, and no deadline: a busy machine is not a defect.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def peer_stack():
    """torch, verl and torchvision importable side by side, also where torchvision's wheel was built for another torch."""
    from faithful_rl.verl_plugin.guards import torchvision_schema

    return torchvision_schema.apply()
