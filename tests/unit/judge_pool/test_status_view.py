"""The status table fits a terminal and names what is wrong."""

import io
import json

import pytest

pytest.importorskip("ray")
from rich.console import Console

from faithful_rl.judge_pool import status_view
from faithful_rl.judge_pool.messages import Description, Health, State
from faithful_rl.judge_pool.metrics import Tally
from faithful_rl.judge_pool.pool import PoolStatus
from faithful_rl.types import Reason, Score


def found() -> PoolStatus:
    tally = Tally("default", "consistency", "default-consistency-0", export=False)
    for number in range(1200):
        tally.request("job-1")
        tally.answer(Score(float(number % 2)), 0.05, ("none", "1,000"))
    tally.failure(Reason.JUDGE_TIMEOUT, 60.0, ("none", "16,000"))
    replicas = [
        Health(
            "default-consistency-0",
            State.READY,
            "",
            "a" * 16,
            up_seconds=7200.0,
            running=64,
            queued=3,
            waiting={"job-1": 3},
            counts=tally.counts(),
        ),
        Health("default-consistency-1", State.UNREACHABLE, "no answer within 5 s"),
    ]
    names = {"consistency": [one.name for one in replicas]}
    return PoolStatus("default", Description({"consistency": {"backend": "openai"}}, names, True, "2026-01-01T00:00:00+00:00"), replicas)


def shown(status: PoolStatus) -> str:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(status_view.table(status))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_table() -> None:
    text = shown(found())
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    assert "pool default: consistency by openai; serving since 2026-01-01" in text
    row = next(line for line in text.splitlines() if line.startswith("consistency-0"))
    assert row.split() == ["consistency-0", "ready", "2.0", "h", "64+3", "1,200", "1", "0", "0", "50/50"]
    for told in (
        "version of consistency aaaa",
        "consistency-1: no answer within 5 s",
        "verdicts: no 600, yes 600",
        "unscored: judge_timeout 1",
        "failed on 1 of 1 rollouts with images none, text <= 16,000",
    ):
        assert told in text
    assert "waiting: job-1 3" in text


def test_plain_is_json() -> None:
    plain = json.loads(json.dumps(status_view.plain(found())))
    assert (plain["name"], plain["serving"]) == ("default", True)
    assert [one["state"] for one in plain["replicas"]] == ["ready", "unreachable"]


def test_a_registry_that_is_gone() -> None:
    lost = PoolStatus("default", None, [Health("default-consistency-0", State.UNREACHABLE, "the pool's registry does not answer")])
    assert "pool default: its registry does not answer" in shown(lost)
    assert status_view.plain(lost)["serving"] is False
