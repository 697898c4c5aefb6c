"""The peers that our numbers are compared with."""

import pytest


@pytest.fixture(scope="session")
def peer_stack():
    """torch, verl and torchvision importable side by side, also where torchvision's wheel was built for another torch."""
    from faithful_rl.verl_plugin.guards import torchvision_schema

    return torchvision_schema.apply()
