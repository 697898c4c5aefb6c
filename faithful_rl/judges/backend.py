"""What stands behind a judge: one small protocol, the failures it may report, and the registry that builds one from settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from faithful_rl.config import ConfigError
from faithful_rl.judges import options
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.scene import SceneJudge
from faithful_rl.types import FAILURES, Reason, Score, SentenceVerdict


@dataclass(slots=True)
class Usage:
    """Counters since the backend was built; they only grow."""

    calls: int = 0  # of the judge's model, failed ones included
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cache_hits: int = 0  # verdicts that came from the cache
    shared: int = 0  # verdicts that came from an equal question that was already on its way


class JudgeFailure(RuntimeError):
    """The judge could not measure. `reason` is one of `types.FAILURES`; `retryable`: another replica, or this one later, may do better;
    `retry_after`: seconds after which a judge that is only busy asks to be asked again, None for every other failure."""

    def __init__(self, reason: Reason, message: str, retryable: bool = True, retry_after: float | None = None) -> None:
        if reason not in FAILURES:
            raise ValueError(f"a JudgeFailure's reason is one of {', '.join(sorted(one.name for one in FAILURES))}, got {reason!r}")
        super().__init__(message)
        self.reason = reason
        self.retryable = retryable
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[JudgeFailure], tuple[Reason, str, bool, float | None]]:
        """Exceptions travel between processes by their constructor's arguments, which are more than the message here."""
        return type(self), (self.reason, str(self), self.retryable, self.retry_after)


class JudgeBackend(Protocol):
    """One judge. Never raises for what a policy wrote; raises `JudgeFailure` when it could not measure.

    `deadline` is in seconds from the call. An unscored `Score` says that asking again would not help (an image that cannot be decoded).
    """

    async def consistency(self, request: JudgeRequest, deadline: float) -> Score:
        """R_C: 1.0 when the reasoning entails the answer, else 0.0; or unscored."""
        ...

    async def grounding(self, request: JudgeRequest, deadline: float) -> list[SentenceVerdict] | Score:
        """One verdict per non-trivial sentence of the reasoning, in order; or an unscored `Score`."""
        ...

    async def start(self) -> None:
        """Load, start servers, check the endpoint. Raises ConfigError for what a user can correct."""
        ...

    async def close(self) -> None:
        """End what `start` began; safe to call again, and without `start`."""
        ...

    async def healthy(self) -> bool:
        """Whether a question asked now would have a chance."""
        ...

    def version(self) -> str:
        """16 hexadecimal digits of everything that can change a verdict: kind, model, prompts, decoding, mode."""
        ...

    def usage(self) -> Usage:
        """The counters, as they are now."""
        ...


class SceneBackend:
    """Exact verdicts from the known scene (`faithful_rl.judges.scene`). Its version changes with the source text of its rules."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        options.refuse_unknown(settings, ("cache",), "scene")
        self._judge = SceneJudge()
        self._usage = Usage()
        home = Path(__file__).parent
        rules = [*sorted(home.glob("scene*.py")), home.parent / "rewards" / "sentences.py"]
        self._version = hashlib.sha256(b"\0".join(file.read_bytes() for file in rules)).hexdigest()[:16]

    async def consistency(self, request: JudgeRequest, deadline: float) -> Score:
        self._usage.calls += 1
        return self._judge.consistency(request)

    async def grounding(self, request: JudgeRequest, deadline: float) -> list[SentenceVerdict] | Score:
        self._usage.calls += 1
        return self._judge.grounding(request)

    async def start(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to end."""

    async def healthy(self) -> bool:
        return True

    def version(self) -> str:
        return self._version

    def usage(self) -> Usage:
        return self._usage


def _openai(settings: Mapping[str, Any]) -> JudgeBackend:
    from faithful_rl.judges.openai_chat import build_openai_judge

    return build_openai_judge(settings)


def _fake(settings: Mapping[str, Any]) -> JudgeBackend:
    from faithful_rl.judges.fake import build_fake

    return build_fake(settings)


def _vllm(settings: Mapping[str, Any]) -> JudgeBackend:
    # By name: the judges' core must not import the pool, whose servers are vLLM's.
    module = options.require("faithful_rl.judge_pool.vllm_server", "backend vllm")
    backend: JudgeBackend = module.VllmBackend(settings)
    return backend


def _classifier(settings: Mapping[str, Any]) -> JudgeBackend:
    # By name: the consistency model is built on the judges' core, not the other way round.
    module = options.require("faithful_rl.crm.backend", "backend classifier")
    backend: JudgeBackend = module.ClassifierBackend(settings)
    return backend


BACKENDS: dict[str, Callable[[Mapping[str, Any]], JudgeBackend]] = {
    "classifier": _classifier,
    "fake": _fake,
    "openai": _openai,
    "scene": SceneBackend,
    "vllm": _vllm,
}


def build_backend(settings: Mapping[str, Any]) -> JudgeBackend:
    """The backend named `settings["backend"]`, not yet started. Further names can be put into `BACKENDS`.

    Raises:
        ConfigError: the name is missing or unknown, or a key of the backend is wrong.
    """
    name = settings.get("backend")
    if not isinstance(name, str) or name not in BACKENDS:
        found = "nothing" if name is None else repr(name)
        raise ConfigError("backend", found, f"one of {', '.join(sorted(BACKENDS))}", "Set the judge's backend.")
    return BACKENDS[name](settings)
