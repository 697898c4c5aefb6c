"""`mode=check` tells of a judge's endpoint that takes no connection."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from faithful_rl.config import FaithfulRLConfig, JudgeConfig, JudgesConfig
from faithful_rl.preflight import endpoints


def judged(consistency: str, grounding: str, **judges: Any) -> FaithfulRLConfig:
    one, other = (JudgeConfig(backend="openai", options={"base_url": url}) for url in (consistency, grounding))
    return FaithfulRLConfig(recipe="mine", judges=JudgesConfig(consistency=one, grounding=other, **judges))


@pytest.fixture
def dead_port() -> Iterator[int]:
    """Bound, so that nobody else is given it, and nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


def test_an_endpoint_that_listens_is_nothing_to_tell() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        assert endpoints.warnings(judged(url, url)) == []


def test_a_closed_port_is_told_once_for_both_judges(dead_port: int) -> None:
    url = f"http://127.0.0.1:{dead_port}/v1"
    (line,) = endpoints.warnings(judged(url, url))
    assert line.startswith(f"{url}, which judges consistency and grounding, takes no connection from here (Connection refused). Start it")


def test_a_name_that_nobody_knows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(address: tuple[str, int], timeout: float) -> socket.socket:
        assert (address, timeout > 0) == (("judges.example", 443), True)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    (line,) = endpoints.warnings(judged("https://judges.example/v1", "https://judges.example/v1"))
    assert "takes no connection from here (Name or service not known)" in line


def test_a_pool_and_exact_rules_are_not_asked(dead_port: int) -> None:
    url = f"http://127.0.0.1:{dead_port}/v1"
    assert endpoints.warnings(judged(url, url, pool="default")) == []
    assert endpoints.warnings(FaithfulRLConfig(recipe="mine")) == []
