"""Weights in buckets and the mailbox between trainer and servers. Without Ray: the mailbox is a plain class."""

import asyncio

import pytest

pytest.importorskip("verl")
import torch

from faithful_rl.verl_plugin.ray_checkpoint_engine import Mailbox, RayCheckpointEngine, buckets

WEIGHTS = [("a", torch.arange(4.0)), ("b", torch.arange(4.0) + 10), ("c", torch.arange(100.0)), ("d", torch.ones(1))]


def test_buckets_keep_order_and_size() -> None:
    packed = list(buckets(WEIGHTS, size=32))
    assert [[name for name, _ in bucket] for bucket in packed] == [["a", "b"], ["c"], ["d"]]
    assert all(torch.equal(tensor, dict(WEIGHTS)[name]) for bucket in packed for name, tensor in bucket)


def test_a_bucket_is_a_copy() -> None:
    weight = torch.zeros(2)
    ((_, packed),) = next(iter(buckets([("w", weight)], size=8)))
    weight += 1  # the optimizer goes on while servers still read
    assert packed.tolist() == [0.0, 0.0]


def test_no_weights_no_bucket() -> None:
    assert list(buckets([], size=8)) == []


def test_the_mailbox_hands_out_everything_in_order_even_to_late_readers() -> None:
    async def scenario() -> list[list[str]]:
        mailbox = Mailbox()
        early = asyncio.gather(*(mailbox.take(index) for index in range(3)))
        await mailbox.post(["first"])
        await mailbox.post(["second"])
        await mailbox.close()
        return [*await early, await mailbox.take(1), await mailbox.take(9)]

    assert asyncio.run(scenario()) == [["first"], ["second"], [], ["second"], []]


def test_a_silent_sender_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faithful_rl.verl_plugin.ray_checkpoint_engine.WAIT_SECONDS", 0.01)
    with pytest.raises(TimeoutError):
        asyncio.run(Mailbox().take(0))


def test_every_worker_gets_the_masters_mailbox() -> None:
    trainers, servers = RayCheckpointEngine.build_topology(2, 3, ["mailbox", None, None, None, None])
    assert trainers == {"rank": [0, 1], "mailbox": ["mailbox"] * 2}
    assert servers["mailbox"] == ["mailbox"] * 3
    with pytest.raises(RuntimeError, match="is_master has changed"):
        RayCheckpointEngine.build_topology(1, 1, [None, None])
