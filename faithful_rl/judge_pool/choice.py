"""Which replica to ask: affinity by image first, load second. Plain functions.

Rollouts about one image meet in one replica, where its prefix and its verdicts are cached, by rendezvous hashing: when a replica
comes or goes, only its own images move. The preferred replica is passed over while its load is clearly above the mean ("bounded
loads", Mirrokni et al. 2018); then the less loaded of the next two in the image's order is taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from faithful_rl.judges.request import JudgeRequest

LOAD_FACTOR = 1.25  # of the mean load that a preferred replica may carry
LOAD_SLACK = 4.0  # rollouts on top, so that small numbers do not scatter an image


def affinity_key(request: JudgeRequest) -> str:
    """What a replica may have seen before: the images, else the scene, else the question. 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in request.images or ((request.scene_json or request.question).encode("utf-8", "surrogatepass"),):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:32]


def rendezvous(key: str, names: Sequence[str]) -> list[str]:
    """`names` in the order of preference for `key`; the same in every process and for every order of `names`."""

    def weight(name: str) -> bytes:
        return hashlib.blake2b(name.encode(), key=key.encode()[:64], digest_size=8).digest()

    return sorted(names, key=lambda name: (weight(name), name), reverse=True)


def choose(key: str, loads: Mapping[str, float]) -> str:
    """The replica to ask among those in `loads` (rollouts it has now, >= 0).

    Raises:
        ValueError: `loads` is empty.
    """
    if not loads:
        raise ValueError("no replica to choose from")
    first, *others = rendezvous(key, list(loads))
    bound = LOAD_FACTOR * (sum(loads.values()) + 1.0) / len(loads) + LOAD_SLACK
    if loads[first] <= bound or not others:
        return first
    return min(others[:2], key=lambda name: loads[name])
