"""Affinity by image, and when it gives way."""

import pytest
from doubles import request

from faithful_rl.judge_pool.choice import affinity_key, choose, rendezvous

NAMES = [f"default-grounding-{index}" for index in range(4)]
KEYS = [affinity_key(request(f"q{number}")) for number in range(400)]


def test_one_image_is_one_key() -> None:
    assert affinity_key(request("a", images=(b"png",))) == affinity_key(request("b", images=(b"png",)))
    assert affinity_key(request("a", images=(b"ab", b"c"))) != affinity_key(request("a", images=(b"a", b"bc")))
    assert affinity_key(request("a", scene_json="{}")) == affinity_key(request("b", scene_json="{}"))
    assert affinity_key(request("a")) != affinity_key(request("b"))
    assert affinity_key(request("a", question="\ud800"))  # what UTF-8 cannot carry is no crash


def test_images_spread_and_stay_when_a_replica_goes() -> None:
    first = {key: rendezvous(key, NAMES)[0] for key in KEYS}
    for name in NAMES:
        assert 60 <= list(first.values()).count(name) <= 140
    gone = NAMES[2]
    left = [name for name in reversed(NAMES) if name != gone]
    for key, name in first.items():
        if name != gone:
            assert rendezvous(key, left)[0] == name, "only the images of the replica that went move"


def test_the_preferred_replica_is_kept_until_it_is_overloaded() -> None:
    key = KEYS[0]
    first, second, third, fourth = rendezvous(key, NAMES)
    assert choose(key, dict.fromkeys(NAMES, 0)) == first
    assert choose(key, {first: 5, second: 0, third: 0, fourth: 0}) == first
    assert choose(key, {first: 20, second: 3, third: 2, fourth: 0}) == third, "the less loaded of the next two"
    assert choose(key, {first: 1000}) == first
    with pytest.raises(ValueError, match="no replica"):
        choose(key, {})


def test_no_replica_carries_much_more_than_its_share() -> None:
    loads = dict.fromkeys(NAMES, 0.0)
    for key in KEYS[:16] * 25:  # 400 rollouts about 16 images
        loads[choose(key, loads)] += 1
    assert max(loads.values()) <= 1.25 * 100 + 6
