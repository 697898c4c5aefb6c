"""What a replica counts: for `status`, and as Prometheus metrics on Ray's endpoint (`ray_faithful_judges_...`)."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import numpy as np

from faithful_rl.judge_pool.messages import Verdicts
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.types import FAILURES, Reason, Score

LATENCY_BOUNDS = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]  # seconds
LATENCIES_KEPT = 1024
USAGE = ("calls", "prompt_tokens", "completion_tokens", "cache_hits", "shared")
TAGS = ("pool", "judge", "replica")
IMAGE_BYTES = ((0, "none"), (2**18, "256 KiB"), (2**20, "1 MiB"), (2**22, "4 MiB"))  # upper ends of classes, all images together
TEXT_CHARACTERS = ((1000, "1,000"), (4000, "4,000"), (16_000, "16,000"))
LARGER = "more"


def size_class(request: JudgeRequest) -> tuple[str, str]:
    """Upper ends of the classes that a rollout's images (bytes) and reasoning (characters) fall in. Whether judges drop large rollouts
    rather than small ones is seen by them: those that are left would be a biased sample."""
    found = (sum(map(len, request.images)), len(request.reasoning))
    classes = (IMAGE_BYTES, TEXT_CHARACTERS)
    images, text = (next((name for end, name in ends if size <= end), LARGER) for size, ends in zip(found, classes, strict=True))
    return images, text


def verdict_kinds(verdict: Verdicts) -> Counter[str]:
    """How often each word was said: yes and no of the consistency judge, or the sentence verdicts in small letters."""
    if isinstance(verdict, Score):
        return Counter({"yes" if verdict.value else "no": 1}) if verdict.scored else Counter()
    return Counter(one.verdict.name.lower() for one in verdict)


def _size_name(images: str, text: str) -> str:
    ends = {"images": images, "text": text}
    return ", ".join(f"{what} {'' if end == 'none' else '<= '}{end}".replace(f"<= {LARGER}", LARGER) for what, end in ends.items())


class Tally:
    """Counters of one replica since its process started. `export=False` keeps them out of Ray's metrics."""

    def __init__(self, pool: str, judge: str, replica: str, export: bool) -> None:
        self.requests = 0
        self.refused = 0
        self.verdicts: Counter[str] = Counter()
        self.unscored: Counter[str] = Counter()
        self.usage: Counter[str] = Counter()
        self.ended: Counter[tuple[str, str]] = Counter()  # by size class, with a verdict or without
        self.failed: Counter[tuple[str, str]] = Counter()
        self._latencies: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._exported = _Exported({"pool": pool, "judge": judge, "replica": replica}) if export else None

    def request(self, client: str) -> None:
        """A question came in."""
        self.requests += 1
        if self._exported:
            self._exported.requests.inc(1.0, {"client": client})

    def refusal(self) -> None:
        """It was turned away: full, starting or draining."""
        self.refused += 1
        if self._exported:
            self._exported.refused.inc()

    def answer(self, verdict: Verdicts, seconds: float, size: tuple[str, str]) -> None:
        """It was answered, also with an unscored `Score`, `seconds` after it came in. `size`: its `size_class`."""
        if isinstance(verdict, Score) and not verdict.scored:
            self.failure(verdict.reason, seconds, size)
            return
        self._end(size, failed=False)
        kinds = verdict_kinds(verdict)
        self.verdicts.update(kinds)
        self._latencies.append(seconds)
        if self._exported:
            for kind, number in kinds.items():
                self._exported.verdicts.inc(float(number), {"kind": kind})
            self._exported.latency.observe(seconds)

    def failure(self, reason: Reason, seconds: float, size: tuple[str, str]) -> None:
        """It ended without a verdict."""
        self._end(size, failed=reason in FAILURES)
        self.unscored[reason.name.lower()] += 1
        self._latencies.append(seconds)
        if self._exported:
            self._exported.unscored.inc(1.0, {"reason": reason.name.lower()})
            self._exported.latency.observe(seconds)

    def _end(self, size: tuple[str, str], failed: bool) -> None:
        self.ended[size] += 1
        self.failed[size] += failed
        if self._exported:
            tags = dict(zip(("images", "text"), size, strict=True))
            self._exported.ended.inc(1.0, tags)
            if failed:
                self._exported.failed.inc(1.0, tags)

    def used(self, usage: Any) -> None:
        """Take over a backend's cumulative counters (`Usage`); a backend that was built anew starts again at 0."""
        for name in USAGE:
            now = int(getattr(usage, name, 0))
            grown = now - self.usage[f"seen_{name}"]
            self.usage[f"seen_{name}"] = now
            grown = grown if grown >= 0 else now
            self.usage[name] += grown
            if grown and self._exported:
                self._exported.usage[name].inc(float(grown))

    def gauges(self, queued: int, running: int) -> None:
        """Publish what waits and what runs now."""
        if self._exported:
            self._exported.queued.set(queued)
            self._exported.running.set(running)

    def counts(self) -> dict[str, Any]:
        """Everything as plain data; `latency_p50` and `latency_p99` are in seconds over the newest 1,024 requests, `by_size` holds for
        each size class how many rollouts ended and how many of these failed."""
        seconds = np.array(self._latencies) if self._latencies else np.zeros(1)
        return {
            "requests": self.requests,
            "refused": self.refused,
            "verdicts": dict(self.verdicts),
            "unscored": dict(self.unscored),
            "by_size": {
                _size_name(images, text): [number, self.failed[images, text]] for (images, text), number in sorted(self.ended.items())
            },
            **{name: self.usage[name] for name in USAGE},
            "latency_p50": float(np.percentile(seconds, 50)),
            "latency_p99": float(np.percentile(seconds, 99)),
        }


class _Exported:
    """Ray's metrics of one replica; importing Ray is put off until a replica runs in it."""

    def __init__(self, tags: dict[str, str]) -> None:
        from ray.util.metrics import Counter as RayCounter
        from ray.util.metrics import Gauge, Histogram

        def build(kind: Any, name: str, description: str, *keys: str, **more: Any) -> Any:
            metric = kind(f"faithful_judges_{name}", description=description, tag_keys=(*TAGS, *keys), **more)
            metric.set_default_tags(tags)
            return metric

        self.requests = build(RayCounter, "requests", "Rollouts that a replica was asked about", "client")
        self.refused = build(RayCounter, "refused", "Rollouts turned away: full, starting or draining")
        self.verdicts = build(RayCounter, "verdicts", "Verdicts by kind", "kind")
        self.unscored = build(RayCounter, "unscored", "Rollouts without a verdict by reason", "reason")
        self.ended = build(RayCounter, "ended_by_size", "Rollouts that ended, by size of images (bytes) and text", "images", "text")
        self.failed = build(RayCounter, "failed_by_size", "Rollouts that a judge failed on, by size of images and text", "images", "text")
        self.usage = {
            "calls": build(RayCounter, "model_calls", "Calls of the judge's model"),
            "prompt_tokens": build(RayCounter, "prompt_tokens", "Tokens read by the judge's model"),
            "completion_tokens": build(RayCounter, "completion_tokens", "Tokens written by the judge's model"),
            "cache_hits": build(RayCounter, "cache_hits", "Verdicts that came from the cache"),
            "shared": build(RayCounter, "shared", "Verdicts that came from an equal question already on its way"),
        }
        self.queued = build(Gauge, "queue_depth", "Rollouts that wait in a replica")
        self.running = build(Gauge, "running", "Rollouts being judged in a replica")
        self.latency = build(Histogram, "latency_seconds", "Seconds from question to reply, waiting included", boundaries=LATENCY_BOUNDS)
